"""The stage on a small Llama with random weights; perplexity against transformers' own loss."""

import json
import math
import os
import shutil
import signal
from functools import partial, partialmethod
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillroom.benchmarks import findings, pg19
from stillroom.benchmarks.pg19 import Pg19, windows
from stillroom.errors import InputError, ModelError, ParamsError
from stillroom.inference.generate import Generator
from stillroom.params import Endpoint
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages import evaluate

GIVEN = {"max_tokens": 4, "contexts": ["given"], "instructed": []}
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
    for name in ("pg19", "booksum", "mqa", "longeval", "raft"):
        (tmp_path / "data/benchmarks" / name).mkdir(parents=True)
    return tmp_path


def params(**blocks):
    return evaluate.Params(seed=42, chat_format="inst", batch_tokens=512, **blocks)


def examine(benchmark, model="base", **blocks):
    """Run the item and read what it wrote: metrics and samples."""
    paths = evaluate.Paths(model, benchmark)
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
    block = GIVEN if name == "raft" else {"max_tokens": 4}
    metrics, samples = examine(name, **{name: block | {"limit": 2}})
    assert metrics["n"] == len(samples) == 2
    assert metrics["cut"] <= 2


def test_an_instruction_answered_as_by_the_reference_is_a_draw(checkout, monkeypatch):
    monkeypatch.setenv("STILLROOM_CACHE", str(checkout / "cache"))
    questions(checkout, "raft", asked("r", "Say it.", answer="gold", refusal=False))
    _, [same] = examine("raft", raft=GIVEN)
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
        evaluate.run(paths, params(raft=GIVEN, mqa={"max_tokens": other}))
        outs.append([p.read_bytes() for p in (paths.metrics, paths.samples, paths.label)])
    assert outs[0] == outs[1]


def test_the_label_follows_data_and_settings(checkout):
    def label(limit=1):
        evaluate.run(evaluate.Paths("base", "raft"), params(raft=GIVEN | {"limit": limit}))
        return json.loads(evaluate.Paths("base", "raft").label.read_text())

    questions(checkout, "raft", asked("r", "Say", refusal=False, answer="gold"))
    first = label()
    assert label() == first
    assert first["libraries"]["torch"] in torch.__version__
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


DRAWN = {"temperature": 1.5, "top_p": 0.9}


def many_questions(checkout, count=9):
    """MQA's set, of all lengths; the last two ask the same."""
    texts = [f"{(TEXT * 2)[: 126 * i // count]} Which {i}?" for i in range(count - 1)]
    records = (
        asked(f"q{i:02}", text, answers=["x"], documents=2, gold_index=0)
        for i, text in enumerate([*texts, texts[-1]])
    )
    questions(checkout, "mqa", *records)


@pytest.mark.parametrize("sampling", [None, DRAWN], ids=["greedy", "drawn"])
def test_answers_do_not_depend_on_the_batch(checkout, sampling):
    many_questions(checkout)
    block, found = {"max_tokens": 12, "sampling": sampling}, []
    for batch_tokens in (1, 200, 10_000):
        paths = evaluate.Paths("base", "mqa")
        evaluate.run(
            paths, evaluate.Params(seed=42, chat_format="inst", batch_tokens=batch_tokens, mqa=block)
        )
        found.append(paths.samples.read_bytes())
    assert found[0] == found[1] == found[2]


def test_a_drawn_answer_is_its_questions_own(checkout):
    many_questions(checkout)
    block = {"max_tokens": 12, "sampling": DRAWN}
    outputs = {s["id"]: s["output"] for s in examine("mqa", mqa=block)[1]}
    few = examine("mqa", mqa={**block, "limit": 3})[1]
    assert len(few) == 3
    assert all(s["output"] == outputs[s["id"]] for s in few)
    greedy = [s["output"] for s in examine("mqa", mqa={"max_tokens": 12})[1]]
    assert greedy != list(outputs.values())
    paths = evaluate.Paths("base", "mqa")
    evaluate.run(paths, evaluate.Params(seed=43, chat_format="inst", mqa=block))
    assert outputs != {row["id"]: row["output"] for row in map(json.loads, paths.samples.open())}


def set_up(checkout, benchmark):
    """Something to examine, and its settings."""
    if benchmark == "pg19":
        for name in ("a", "b", "c"):
            (checkout / f"data/benchmarks/pg19/{name}.txt").write_text(TEXT * 6)
        return {"pg19": {"lengths": [16, 64]}}
    many_questions(checkout, 15)
    return {"mqa": {"max_tokens": 12, "sampling": DRAWN}}


def outs(paths):
    return paths.samples, paths.label, paths.metrics


def die(checkout, benchmark, given, adds, share):
    """Examine, and kill this process when this share of the next finding after `adds` has been written."""
    os.chdir(checkout)
    write, left = os.write, adds

    def dying(file, data):
        nonlocal left
        left -= 1
        if left < 0:
            write(file, data[: int(share * len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data)

    findings.os.write = dying
    evaluate.run(evaluate.Paths("base", benchmark), given)


@pytest.fixture
def computed(monkeypatch):
    """A mark for each batch of answers, and for each book's perplexity, that is computed."""
    marks = []
    for place, name in ((Generator, "finish"), (pg19, "score")):
        function = getattr(place, name)
        marking = partial(lambda function, *given: marks.append(1) or function(*given), function)
        monkeypatch.setattr(place, name, partialmethod(marking) if place is Generator else marking)
    return marks


@pytest.mark.parametrize(("benchmark", "share", "kept"), [("mqa", 0.5, 2), ("mqa", 1.0, 3), ("pg19", 0.5, 2)])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    checkout, monkeypatch, computed, benchmark, share, kept
):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "training")
    from forked import server

    blocks, paths = set_up(checkout, benchmark), evaluate.Paths("base", benchmark)
    given = evaluate.Params(seed=42, chat_format="inst", batch_tokens=200, **blocks)
    evaluate.run(paths, given)
    whole, all_of_it = [path.read_bytes() for path in outs(paths)], len(computed)
    shutil.rmtree(checkout / "reports")
    process = server().Process(target=die, args=(checkout, benchmark, given, 2, share))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (checkout / "reports").exists()
    [work] = (checkout / ".stillroom/work").iterdir()
    assert (work / findings.FILE).stat().st_size
    computed.clear()
    evaluate.run(paths, given)
    assert [path.read_bytes() for path in outs(paths)] == whole
    assert len(computed) == all_of_it - kept > 0
    assert not work.exists()


def test_what_was_found_under_other_settings_is_not_used(checkout):
    many_questions(checkout)
    paths, given = evaluate.Paths("base", "mqa"), params(mqa={"max_tokens": 8})
    benchmark, work = given.mqa, []
    for other in (given, params(mqa={"max_tokens": 9}), params(mqa={"max_tokens": 8, "limit": 3})):
        work.append(evaluate.identity(paths, evaluate.label(paths, other.mqa, other), other))
    (checkout / "data/benchmarks/mqa/eval.jsonl").write_text("")
    work.append(evaluate.identity(paths, evaluate.label(paths, benchmark, given), given))
    work.append(
        evaluate.identity(evaluate.Paths("base", "raft"), evaluate.label(paths, benchmark, given), given)
    )
    assert len(set(work)) == len(work)


def test_answers_that_fail_are_counted(checkout, monkeypatch):
    many_questions(checkout)
    forward = Generator._forward

    def forgetful(self, ids, mask, cache):
        if mask.shape[1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids, mask, cache)

    monkeypatch.setattr(Generator, "_forward", forgetful)
    metrics, samples = examine("mqa", mqa={"max_tokens": 8})
    failed = [s for s in samples if s["status"] == "failed"]
    assert metrics["failed"] == len(failed) > 0
    assert metrics["n"] == len(samples) - len(failed) > 0
    assert all("out of memory" in s["note"] and s["output"] is None for s in failed)


def test_retrieval_tests_are_asked_at_their_lengths(checkout):
    metrics, samples = examine(
        "longeval", longeval={"lines": [2, 400], "pairs": [2], "cases": 2, "max_tokens": 4}
    )
    assert len(samples) == 6
    assert metrics["n"] + metrics["skipped"] == 6
    assert metrics["skipped"] >= 2
    assert metrics["headline"]["name"] == "accuracy" or not metrics["n"]


@pytest.fixture
def adapter(checkout, folder):
    """A peft folder without a tokenizer, and the same model with the adapter folded in."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    model.base_model.model.config.name_or_path = "models/base"
    model.save_pretrained(checkout / "models/adapter")
    written = json.loads((checkout / "models/adapter/adapter_config.json").read_text())
    written["base_model_name_or_path"] = "models/base"
    (checkout / "models/adapter/adapter_config.json").write_text(json.dumps(written))
    base = AutoModelForCausalLM.from_pretrained(folder)
    merged = PeftModel.from_pretrained(base, checkout / "models/adapter").merge_and_unload()
    merged.save_pretrained(checkout / "models/merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, checkout / "models/merged")
    return checkout / "models/adapter"


def test_an_adapter_is_examined_with_its_base(checkout, adapter):
    many_questions(checkout)
    outputs = {}
    for model in ("base", "adapter", "merged"):
        outputs[model] = [s["output"] for s in examine("mqa", model, mqa={"max_tokens": 12})[1]]
    assert outputs["adapter"] == outputs["merged"] != outputs["base"]
    label, base = (json.loads(evaluate.Paths(m, "mqa").label.read_text()) for m in ("adapter", "base"))
    assert label["base_model"] == base["model"] != label["model"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name, hint in {"owner/name": "no folder here", "": "without `base_model_name_or_path`"}.items():
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        with pytest.raises(ModelError, match=hint):
            examine("mqa", "adapter")
