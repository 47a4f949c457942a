import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillroom import chat_format
from stillroom.artifacts import write_jsonl
from stillroom.errors import InputError
from stillroom.records import Conversation, Message
from stillroom.stages import pack
from stillroom.training.rows import PackedRows, rewrite

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paths(tmp_path, base):
    (tmp_path / "mixture").mkdir()
    return pack.Paths(
        mixture=tmp_path / "mixture", base=base, packed=tmp_path / "packed", metrics=tmp_path / "pack.json"
    )


def talk(n, words=None, turns=2):
    draw = random.Random(n)
    messages = []
    for turn in range(turns):
        size = words or draw.randint(1, 12)
        messages += [
            Message("user", f"question {n}.{turn} " + "why " * size),
            Message("assistant", f"answer {n}.{turn} é" + " so" * draw.randint(1, 9)),
        ]
    return Conversation(f"c{n:04}", "sharegpt", tuple(messages), {"origin": "chat"})


def put(paths, train, validation=()):
    write_jsonl(paths.mixture / "train.jsonl", train)
    write_jsonl(paths.mixture / "validation.jsonl", validation)


def rows(paths, split="train"):
    return pq.read_table(paths.packed / f"{split}.parquet").to_pylist()


def split(row):
    """(record id, ids, labels) of each document of a row."""
    bounds = row["cu_seqlens"]
    for name, start, end in zip(row["documents"], bounds[:-1], bounds[1:], strict=True):
        yield name, row["input_ids"][start:end], row["labels"][start:end]


def test_every_record_stands_whole_in_one_row(paths, base):
    talks = {c.id: c for c in map(talk, range(60))}
    put(paths, talks.values(), [talk(100)])
    pack.run(paths, pack.Params(context_length=700))
    tokenizer = chat_format.load_tokenizer(base)
    found = {}
    for row in rows(paths):
        assert row["cu_seqlens"][0] == 0
        assert row["cu_seqlens"][-1] == len(row["input_ids"]) == len(row["labels"]) <= 700
        found |= {name: tokenizer.decode(ids) for name, ids, _ in split(row)}
    expected = {
        id: "<s>" + "".join(f"[INST]\n{u.content}\n[/INST]\n\n{a.content}</s>" for u, a in pairs(c))
        for id, c in talks.items()
    }
    assert found == expected
    assert [name for row in rows(paths, "validation") for name in row["documents"]] == ["c0100"]


def pairs(conversation):
    turns = conversation.messages
    return zip(turns[::2], turns[1::2], strict=True)


def test_labels_are_the_answers_and_their_ends_shifted_within_the_document(paths, base):
    talks = {c.id: c for c in map(talk, range(40))}
    put(paths, talks.values())
    pack.run(paths, pack.Params(context_length=700))
    tokenizer = chat_format.load_tokenizer(base)
    for row in rows(paths):
        for name, ids, labels in split(row):
            assert labels[-1] == -100
            assert all(label in (-100, following) for label, following in zip(labels, ids[1:], strict=False))
            said = "".join(f"{a.content}</s>" for _, a in pairs(talks[name]))
            assert tokenizer.decode([label for label in labels if label != -100]) == said


def test_figures_are_those_of_the_rows(paths):
    put(paths, map(talk, range(60)), [talk(100)])
    pack.run(paths, pack.Params(context_length=700))
    train, metrics = rows(paths), json.loads(paths.metrics.read_bytes())["train"]
    info = json.loads((paths.packed / "info.json").read_bytes())
    tokens = sum(len(row["input_ids"]) for row in train)
    loss = sum(label != -100 for row in train for label in row["labels"])
    assert (metrics["rows"], metrics["tokens"], metrics["loss_tokens"]) == (len(train), tokens, loss)
    assert metrics["density"] == round(tokens / (700 * len(train)), 6)
    assert metrics["fewest_rows_possible"] <= len(train)
    assert metrics["tokens_by_origin"] == {"chat": tokens}
    assert info["context_length"] == 700
    assert (info["rows"], info["tokens"], info["vocab_size"]) == (len(train), tokens, 258)
    assert info["validation_rows"] == 1
    assert 0 <= info["pad_token_id"] < 258


def test_what_cannot_be_trained_on_is_refused_and_counted(paths):
    silent = Conversation("silent", "x", (Message("user", "Hello?"),), {})
    put(paths, [*map(talk, range(9)), silent, talk(99, words=300)])
    pack.run(paths, pack.Params(context_length=700))
    dropped = json.loads(paths.metrics.read_bytes())["train"]["dropped"]
    assert dropped == {"no_answer": 1, "too_long": 1, "exchanges_too_long": 0}
    assert "silent" not in {name for row in rows(paths) for name in row["documents"]}
    put(paths, [silent])
    with pytest.raises(InputError, match="no record can be trained on"):
        pack.run(paths, pack.Params(context_length=700))
    assert len(rows(paths)) > 0


def test_trimming_cuts_the_context_and_never_an_answer(paths, base):
    story = "Once " + "é upon a time " * 200 + "Summarize."
    long = Conversation("long", "x", (Message("user", story), Message("assistant", "It ends well.")), {})
    hopeless = Conversation("hopeless", "x", (Message("user", "Hi"), Message("assistant", "no " * 400)), {})
    put(paths, [long, hopeless, talk(1)])
    pack.run(paths, pack.Params(context_length=700, over_length="trim"))
    metrics = json.loads(paths.metrics.read_bytes())["train"]
    assert (metrics["trimmed"], metrics["dropped"]["too_long"]) == (1, 1)
    found = {name: (ids, labels) for row in rows(paths) for name, ids, labels in split(row)}
    ids, labels = found["long"]
    tokenizer = chat_format.load_tokenizer(base)
    text = tokenizer.decode(ids)
    assert 650 < len(ids) <= 700
    assert text.startswith("<s>[INST]\nOnce é upon")
    assert "\n[…]\n" in text
    assert text.endswith("time Summarize.\n[/INST]\n\nIt ends well.</s>")
    assert tokenizer.decode([label for label in labels if label != -100]) == "It ends well.</s>"


def test_rows_come_in_the_seeds_order_and_the_same_bytes(paths):
    put(paths, map(talk, range(80)))
    outs = []
    for seed in (1, 1, 2):
        pack.run(paths, pack.Params(seed=seed, context_length=700))
        outs.append((paths.packed / "train.parquet").read_bytes())
        names = sorted(tuple(row["documents"]) for row in rows(paths))
        assert len(names) == len(set(names))
    assert outs[0] == outs[1] != outs[2]


def test_row_groups_are_bounded(monkeypatch, paths):
    monkeypatch.setattr(pack, "ROW_GROUP_TOKENS", 2000)
    put(paths, map(talk, range(60)))
    pack.run(paths, pack.Params(context_length=700))
    file = pq.ParquetFile(paths.packed / "train.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert len(sizes) > 3
    assert max(sizes) <= 2000 // 600 + 1


def test_nothing_else_is_left_in_the_folder(paths):
    put(paths, map(talk, range(5)))
    pack.run(paths, pack.Params(context_length=700))
    files = ["info.json", "train.parquet", "validation.parquet"]
    assert sorted(p.name for p in paths.packed.iterdir()) == files
    assert sorted(p.name for p in paths.packed.parent.iterdir()) == ["mixture", "pack.json", "packed"]


def test_targets_of_two_documents():
    ids, learn = np.array([5, 6, 7, 8, 9], np.int32), np.array([0, 0, 1, 0, 1], bool)
    assert pack.targets(ids, learn).tolist() == [-100, 7, -100, 9, -100]
    assert pack.targets(ids, learn).dtype == np.int32


def test_a_whole_text_learns_every_token_but_a_documents_first(paths):
    put(paths, [talk(n) for n in range(9)])
    pack.run(paths, pack.Params(context_length=700, whole_text=["chat"]))
    for row in rows(paths):
        for _, ids, labels in split(row):
            assert labels == [*ids[1:], -100]
    train = json.loads(paths.metrics.read_text())["train"]
    assert train["loss_tokens"] == train["tokens"] - 9


def test_a_long_conversation_is_split_before_user_turns_and_no_exchange_is_lost(paths, base):
    system = Message("system", "Be brief.")
    long = Conversation("long", "x", (system, *talk(7, words=60, turns=8).messages), {"origin": "chat"})
    hopeless = Conversation("hopeless", "x", (Message("user", "Hi"), Message("assistant", "no " * 400)), {})
    put(paths, [long, hopeless, talk(1)])
    pack.run(paths, pack.Params(context_length=700, over_length="split"))
    tokenizer = chat_format.load_tokenizer(base)
    parts = [(ids, labels) for row in rows(paths) for name, ids, labels in split(row) if name == "long"]
    texts = [tokenizer.decode(ids) for ids, _ in parts]
    assert len(texts) > 2
    assert all(text.startswith("<s>[INST]\nBe brief.\n\nquestion 7.") for text in texts)
    texts.sort(key=lambda text: text.partition("question 7.")[2])
    said = "".join(text.removeprefix("<s>").replace("Be brief.\n\n", "") for text in texts)
    assert said == "".join(
        f"[INST]\n{u.content}\n[/INST]\n\n{a.content}</s>"
        for u, a in pairs(replace(long, messages=long.messages[1:]))
    )
    answers = {tokenizer.decode([label for label in labels if label != -100]) for _, labels in parts}
    assert sum(answer.count("</s>") for answer in answers) == 8
    train = json.loads(paths.metrics.read_bytes())["train"]
    assert (train["split"], train["dropped"]["too_long"]) == (1, 1)


def test_an_exchange_that_fits_no_row_is_counted(paths):
    long = Conversation("long", "x", (*talk(2, turns=1).messages, *talk(3, words=300, turns=1).messages), {})
    put(paths, [long, talk(1)])
    pack.run(paths, pack.Params(context_length=700, over_length="split"))
    metrics = json.loads(paths.metrics.read_bytes())
    assert metrics["train"]["dropped"] == {"no_answer": 0, "too_long": 0, "exchanges_too_long": 1}
    assert metrics["sources"]["x"]["exchanges_too_long"] == 1


def test_processes_change_no_byte(paths, monkeypatch):
    monkeypatch.setattr(pack, "BATCH_BYTES", 3000)
    monkeypatch.setattr(pack, "SMALL", 2000)
    put(paths, [talk(n, words=300 if n % 9 == 5 else None) for n in range(50)], [talk(100)])
    outs = []
    for workers in (1, 2):
        pack.run(paths, pack.Params(context_length=700, over_length="split"), workers)
        files = [*sorted(paths.packed.iterdir()), paths.metrics]
        outs.append([path.read_bytes() for path in files])
    assert outs[0] == outs[1]


def test_a_bad_line_is_named_and_leaves_nothing(paths):
    put(paths, map(talk, range(3)))
    with (paths.mixture / "train.jsonl").open("ab") as file:
        file.write(b'\n{"id": \n')
    with pytest.raises(InputError, match="not valid JSON") as caught:
        pack.run(paths, pack.Params(context_length=700))
    assert caught.value.where.endswith("train.jsonl:5")
    assert not paths.packed.exists()


def test_figures_by_origin_are_those_of_the_rows(paths):
    book = Conversation("book", "booksum", talk(3).messages, {"origin": "booksum"})
    put(paths, [*map(talk, range(20)), book, talk(99, words=300)])
    pack.run(paths, pack.Params(context_length=700, whole_text=["booksum"]))
    metrics = json.loads(paths.metrics.read_bytes())
    found = {"chat": [], "booksum": []}
    for row in rows(paths):
        for name, ids, labels in split(row):
            found["booksum" if name == "book" else "chat"].append((len(ids), sum(x != -100 for x in labels)))
    for origin, documents in found.items():
        tokens, learned = (sum(column) for column in zip(*documents, strict=True))
        source = metrics["sources"][origin]
        assert (source["documents"], source["tokens"]) == (len(documents), tokens)
        assert (source["loss_tokens"], source["loss_share"]) == (learned, round(learned / tokens, 6))
        bins = metrics[f"documents_by_tokens.{origin}"]
        assert sum(bins.values()) == len(documents)
        for top, number in bins.items():
            assert number == sum(int(top) / 2 < length <= int(top) for length, _ in documents)
    assert metrics["sources"]["chat"]["too_long"] == 1


def test_the_tokenizers_own_template_packs_what_it_renders(paths, base, tmp_path):
    tokenizer = chat_format.load_tokenizer(base)
    tokenizer.chat_template = chat_format.get("inst").jinja()
    tokenizer.save_pretrained(tmp_path / "own")
    put(paths, map(talk, range(9)))
    outs = []
    for own, name in ((base, "inst"), (tmp_path / "own", "tokenizer")):
        pack.run(replace(paths, base=own), pack.Params(context_length=700, chat_format=name))
        outs.append((paths.packed / "train.parquet").read_bytes())
    assert outs[0] == outs[1]


def test_training_maps_the_rows_and_does_not_load_them(paths, tmp_path):
    put(paths, [talk(n, words=90) for n in range(300)])
    pack.run(paths, pack.Params(context_length=2000))
    rewrite(paths.packed / "train.parquet", tmp_path / "train.arrow", 258)
    before = pa.total_allocated_bytes()
    packed = PackedRows(tmp_path / "train.arrow")
    batch = packed.collate([0, len(packed) - 1])
    assert pa.total_allocated_bytes() - before < 0.05 * (tmp_path / "train.arrow").stat().st_size
    expected = rows(paths)
    assert batch.input_ids[0].tolist() == expected[0]["input_ids"] + expected[-1]["input_ids"]
    assert batch.labels.tolist() == expected[0]["labels"] + expected[-1]["labels"]


@pytest.mark.real_data
def test_real_conversations_and_chapters_are_packed_whole_with_their_answers(paths, base):
    shared = ROOT.parent / "shared" / "data"
    if not shared.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    names = {"human": "user", "gpt": "assistant"}
    dump = json.loads((shared / "sharegpt" / "dummy_conversation.json").read_bytes())
    records = [
        Conversation(
            f"s{n}",
            "sharegpt",
            tuple(Message(names[t["from"]], t["value"]) for t in row["conversations"]),
            {"origin": "chat"},
        )
        for n, row in enumerate(dump[:200])
    ]
    for n, line in enumerate((shared / "chapters" / "chapters.jsonl").read_text().splitlines()[:8]):
        row = json.loads(line)
        turns = (Message("user", row["chapter"]), Message("assistant", row["summary"]))
        records.append(Conversation(f"b{n}", "booksum", turns, {"origin": "booksum"}))
    put(paths, records)
    pack.run(paths, pack.Params(context_length=65536, over_length="trim"))
    tokenizer = chat_format.load_tokenizer(base)
    known = {record.id: record for record in records}
    seen = set()
    for row in rows(paths):
        for name, _, labels in split(row):
            seen.add(name)
            said = [m.content for m in known[name].messages if m.role == "assistant"]
            spaced = "".join(f"{chat_format.FORMATS['inst'].escape(answer)}</s>" for answer in said)
            assert tokenizer.decode([label for label in labels if label != -100]) == spaced
    answered = {r.id for r in records if any(m.role == "assistant" for m in r.messages)}
    assert seen == answered
