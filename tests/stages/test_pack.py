import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from stillroom import chat_format
from stillroom.artifacts import write_jsonl
from stillroom.errors import InputError
from stillroom.records import Conversation, Message
from stillroom.stages import pack


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
