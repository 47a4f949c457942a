"""The stage on a small Llama with random weights; perplexity against transformers' own loss."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillroom.benchmarks.pg19 import Pg19, windows
from stillroom.errors import InputError, ParamsError
from stillroom.params import Endpoint
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages import evaluate

TEXT = "The ferry to Little Larrow leaves at nine. Naïve gulls follow it; the lamp burns all night. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 96 positions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    path = tmp_path_factory.mktemp("models") / "base"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        path
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture
def checkout(folder, tmp_path, monkeypatch):
    """A working folder with the model and empty benchmark sets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/base").symlink_to(folder)
    for name in ("pg19", "booksum", "mqa", "raft"):
        (tmp_path / "data/benchmarks" / name).mkdir(parents=True)
    return tmp_path


def params(**blocks):
    return evaluate.Params(seed=42, chat_format="inst", batch_tokens=512, **blocks)


def examine(benchmark, **blocks):
    """Run the item and read what it wrote: metrics and samples."""
    paths = evaluate.Paths("base", benchmark)
    evaluate.run(paths, params(**blocks))
    samples = [json.loads(line) for line in paths.samples.read_text().splitlines()]
    return json.loads(paths.metrics.read_text()), samples


def questions(checkout, name, *records):
    write_conversations(checkout / f"data/benchmarks/{name}/eval.jsonl", records)


def asked(id, text, **meta):
    return Conversation(id, "test", (Message("user", text), Message("assistant", "gold")), meta)


def reference_nll(folder, ids, length):
    """Σ NLL by transformers' loss, one window at a time."""
    model, total = AutoModelForCausalLM.from_pretrained(folder), 0.0
    for start in range(0, len(ids) - 1, length):
        window = torch.tensor([ids[start : start + length + 1]])
        with torch.inference_mode():
            total += model(window, labels=window).loss.item() * (window.shape[1] - 1)
    return total


def test_perplexity_is_that_of_transformers(checkout, folder):
    text = TEXT * 6
    (checkout / "data/benchmarks/pg19/a.txt").write_text(text)
    metrics, [sample] = examine("pg19", pg19=Pg19(lengths=[16, 64]))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids = [0, *tokenizer.encode(text, add_special_tokens=False)]
    for length in (16, 64):
        expected = reference_nll(folder, ids, length)
        assert sample["scores"][f"nll@{length}"] == pytest.approx(expected, rel=1e-5)
        byte = math.exp(expected / len(text.encode()))
        assert metrics["byte_perplexity"][str(length)] == pytest.approx(byte, rel=1e-5)
    assert metrics["headline"]["name"] == "byte perplexity at 64 tokens"
    assert metrics["headline"]["value"] == metrics["byte_perplexity"]["64"]
    assert metrics["tokens"] == len(ids) - 1
    assert metrics["bytes"] == len(text.encode())
    assert metrics["words"] == len(text.split())


def test_lengths_beyond_the_positions_are_left_out_and_short_books_skipped(checkout):
    for name, times in {"long": 30, "short": 1}.items():
        (checkout / f"data/benchmarks/pg19/{name}.txt").write_text(TEXT * times)
    metrics, samples = examine("pg19", pg19=Pg19(lengths=[32, 128]))
    assert set(metrics["byte_perplexity"]) == {"32"}
    assert (metrics["n"], metrics["skipped"]) == (1, 1)
    assert [s["status"] for s in samples] == ["scored", "skipped"]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("targets", [1, 7, 8, 100])
def test_windows_count_every_target_once(targets, overlap):
    counted = []
    for start, end, first in windows(targets, 8, overlap):
        assert 0 <= start <= first < end
        assert end - start <= 8
        counted += range(first, end)
    assert counted == list(range(targets))


def test_sliding_windows_see_more(checkout):
    (checkout / "data/benchmarks/pg19/a.txt").write_text(TEXT * 8)
    disjoint, _ = examine("pg19", pg19=Pg19(lengths=[32]))
    sliding, _ = examine("pg19", pg19=Pg19(lengths=[32], overlap=0.5))
    assert disjoint["tokens"] == sliding["tokens"]
    assert disjoint["headline"]["value"] != sliding["headline"]["value"]


def test_questions_are_answered_scored_and_counted(checkout):
    questions(
        checkout,
        "mqa",
        asked("q1-2", "Which day?", answers=["Saturday"], documents=2, gold_index=1, group="q1"),
        asked("q2-2", TEXT * 20, answers=["blue"], documents=2, gold_index=0, group="q2"),
        asked("q3-2", "What?", answers=["the"], documents=2, gold_index=0, group="q3"),
    )
    metrics, samples = examine("mqa", mqa={"max_tokens": 8})
    assert (metrics["n"], metrics["skipped"], metrics["failed"]) == (1, 1, 1)
    assert [s["status"] for s in samples] == ["scored", "skipped", "failed"]
    assert samples[0]["prompt"] == "[INST]\nWhich day?\n[/INST]\n\n"
    assert "over-length" in samples[1]["note"]
    assert samples[1]["output"] is None
    assert set(metrics["curves"]) == {"documents", "position"}
    assert set(metrics["curves"]["documents"]) == {"2"}


@pytest.mark.parametrize("name", ["booksum", "raft"])
def test_other_question_benchmarks_run(checkout, name):
    questions(
        checkout,
        name,
        *(asked(f"r{i}", f"Say {i}", answer="gold", book="b", refusal=False) for i in range(3)),
    )
    metrics, samples = examine(name, **{name: {"max_tokens": 4, "limit": 2}})
    assert metrics["n"] == len(samples) == 2
    assert metrics["cut"] <= 2


def test_an_instruction_answered_as_by_the_reference_is_a_draw(checkout, monkeypatch):
    monkeypatch.setenv("STILLROOM_CACHE", str(checkout / "cache"))
    questions(checkout, "raft", asked("r", "Say it.", answer="gold", refusal=False))
    _, [same] = examine("raft", raft={"max_tokens": 4})
    (checkout / "data/benchmarks/alpaca_eval").mkdir()
    rows = [{"instruction": "Say it.", "output": same["output"]}, {"instruction": TEXT * 20, "output": "No."}]
    (checkout / "data/benchmarks/alpaca_eval/set.json").write_text(json.dumps(rows))
    nowhere = Endpoint(base_url="http://127.0.0.1:9/v1")
    block = {"max_tokens": 4, "judge": {"model": "judge"}}
    metrics, samples = examine("alpaca_eval", endpoint=nowhere, alpaca_eval=block)
    assert (metrics["n"], metrics["skipped"], metrics["win_rate"], metrics["n_draws"]) == (1, 1, 50, 1)
    assert [s["status"] for s in samples] == ["scored", "skipped"]


@pytest.mark.parametrize("name", ["pg19", "booksum", "mqa", "raft"])
def test_a_benchmark_without_data_says_so(checkout, name):
    metrics, samples = examine(name)
    assert metrics["n"] == 0
    assert metrics["headline"].get("value") is None
    assert samples == []


def test_same_inputs_same_bytes_and_no_use_of_other_blocks(checkout):
    questions(checkout, "raft", asked("r", "Say", answer="gold", refusal=False))
    paths = evaluate.Paths("base", "raft")
    outs = []
    for other in (10, 20):
        evaluate.run(paths, params(raft={"max_tokens": 4}, mqa={"max_tokens": other}))
        outs.append([p.read_bytes() for p in (paths.metrics, paths.samples, paths.label)])
    assert outs[0] == outs[1]


def test_the_label_follows_data_and_settings(checkout):
    def label(limit=1):
        evaluate.run(evaluate.Paths("base", "raft"), params(raft={"max_tokens": 4, "limit": limit}))
        return json.loads(evaluate.Paths("base", "raft").label.read_text())

    questions(checkout, "raft", asked("r", "Say", refusal=False, answer="gold"))
    first = label()
    assert label() == first
    assert label(limit=2)["settings"] != first["settings"]
    questions(checkout, "raft", asked("r", "Say it", refusal=False, answer="gold"))
    changed = label()
    assert changed["data"] != first["data"]
    assert changed["model"] == first["model"]


def test_bad_input_is_named(checkout):
    with pytest.raises(ParamsError, match="no benchmark"):
        evaluate.run(evaluate.Paths("base", "pg20"), params())
    with pytest.raises(InputError, match="no such model"):
        evaluate.run(evaluate.Paths("other", "pg19"), params())
    (checkout / "data/benchmarks/pg19/a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        examine("pg19")
    questions(checkout, "mqa", asked("r", "Say"))
    with pytest.raises(InputError, match=r"meta\.answers"):
        examine("mqa")
    assert not evaluate.Paths("base", "mqa").metrics.exists()
