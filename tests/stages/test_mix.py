import json
from collections import Counter

import pytest
from pydantic import ValidationError

from stillroom.errors import InputError
from stillroom.mixing.protected import BENCHMARKS
from stillroom.records import Conversation, Message, read_conversations, write_conversations
from stillroom.stages import mix

ORIGINS = ("chat", "booksum", "mqa", "raft")


@pytest.fixture
def paths(tmp_path, base):
    files = {origin: tmp_path / f"{origin}.jsonl" for origin in ORIGINS}
    for path in files.values():
        path.write_bytes(b"")
    for benchmark in BENCHMARKS:
        (tmp_path / "benchmarks" / benchmark).mkdir(parents=True)
    return mix.Paths(
        **files,
        benchmarks=tmp_path / "benchmarks",
        base=base,
        mixture=tmp_path / "mixture",
        removed=tmp_path / "removed.jsonl",
        metrics=tmp_path / "mix.json",
    )


def records(origin, count, words=10, group=None):
    return [
        Conversation(
            f"{origin}-{n:04}",
            "sharegpt" if origin == "chat" else origin,
            (Message("user", f"{origin} {n} " + "word " * words), Message("assistant", "é yes")),
            {} if group is None else {"group": f"{origin}{n // group}"},
        )
        for n in range(count)
    ]


def put(paths, **sources):
    for origin, rows in sources.items():
        write_conversations(getattr(paths, origin), rows)


def results(paths):
    train = list(read_conversations(paths.mixture / "train.jsonl"))
    validation = list(read_conversations(paths.mixture / "validation.jsonl"))
    return train, validation, json.loads(paths.metrics.read_bytes())


def params(**settings):
    return mix.Params(**{"validation_share": 0, **settings})


def test_shares_by_tokens_are_reached_within_a_record(paths):
    put(paths, chat=records("chat", 300, 5), booksum=records("booksum", 60, 90), mqa=records("mqa", 200, 30))
    mix.run(paths, params())
    train, _, metrics = results(paths)
    tokens = Counter()
    for record in train:
        text = f"[INST]\n{record.messages[0].content}\n[/INST]\n\n{record.messages[1].content}"
        tokens[record.meta["origin"]] += len(text.encode()) + 2
    assert sum(tokens.values()) == metrics["tokens"]
    for origin, share in (("chat", 0.5), ("booksum", 0.25), ("mqa", 0.25)):
        assert abs(tokens[origin] - share * metrics["tokens"]) < 700
        assert metrics["sources"][origin]["tokens"] == tokens[origin]
        assert metrics["sources"][origin]["share_of_tokens"] == round(tokens[origin] / metrics["tokens"], 6)
        assert metrics["sources"][origin]["shortfall"] == 0


def test_shares_by_examples_and_a_total(paths):
    put(paths, chat=records("chat", 300), booksum=records("booksum", 60, 90), mqa=records("mqa", 200))
    mix.run(paths, params(weights_by="examples", total=100))
    train, _, metrics = results(paths)
    assert Counter(r.meta["origin"] for r in train) == {"chat": 50, "booksum": 25, "mqa": 25}
    assert metrics["examples"] == 100


def test_the_scarcest_source_sets_the_size_and_repeats_stretch_it(paths):
    put(paths, chat=records("chat", 300), mqa=records("mqa", 20))
    weights = {"chat": 3, "booksum": 0, "mqa": 1}
    mix.run(paths, params(weights_by="examples", weights=weights))
    assert Counter(r.meta["origin"] for r in results(paths)[0]) == {"chat": 60, "mqa": 20}
    mix.run(paths, params(weights_by="examples", weights=weights, epochs=2.5))
    train, _, metrics = results(paths)
    assert Counter(r.meta["origin"] for r in train) == {"chat": 150, "mqa": 50}
    copies = Counter(r.id.partition("~")[0] for r in train if r.meta["origin"] == "mqa")
    assert sorted(copies.values()) == [2] * 10 + [3] * 10
    assert {r.id.partition("~")[2] for r in train} == {"", "2", "3"}
    assert metrics["sources"]["mqa"]["distinct_examples"] == 20
    assert [r.id for r in train] == sorted(r.id for r in train)


def test_a_shortfall_is_stated(paths, capsys):
    put(paths, chat=records("chat", 300), mqa=records("mqa", 10))
    weights = {"chat": 1, "booksum": 1, "mqa": 2}
    mix.run(paths, params(weights_by="examples", weights=weights, total=100))
    train, _, metrics = results(paths)
    assert Counter(r.meta["origin"] for r in train) == {"chat": 25, "mqa": 10}
    found = metrics["sources"]
    assert (found["mqa"]["target"], found["mqa"]["shortfall"]) == (50, 40)
    assert (found["booksum"]["target"], found["booksum"]["shortfall"]) == (25, 25)
    assert found["chat"]["shortfall"] == 0
    assert "mqa: 50.0% of examples wanted, 28.6% reached, 10 examples of 10; 40 examples short" in (
        capsys.readouterr().err
    )


def test_validation_holds_whole_groups_once(paths):
    put(
        paths,
        chat=records("chat", 100),
        mqa=records("mqa", 90, group=3),
        booksum=records("booksum", 40, group=20),
    )
    mix.run(paths, params(validation_share=0.1, epochs=3))
    train, validation, metrics = results(paths)
    groups = [{r.meta.get("group", r.id.partition("~")[0]) for r in side} for side in (train, validation)]
    assert groups[0] & groups[1] == set()
    assert Counter(r.meta["origin"] for r in validation) == {"chat": 10, "mqa": 9}
    assert not any("~" in r.id for r in validation)
    assert metrics["validation_examples"] == 19


def test_equal_records_are_one_across_sources(paths):
    twice = records("chat", 20)
    copies = [Conversation(f"raft-{n}", "raft", r.messages, {}) for n, r in enumerate(twice[:5])]
    put(paths, chat=twice, raft=[*copies, *records("raft", 15)])
    mix.run(paths, params(weights_by="examples", weights={"chat": 1, "booksum": 0, "mqa": 0, "raft": 1}))
    train, _, metrics = results(paths)
    texts = [tuple(m.content for m in r.messages) for r in train]
    assert len(set(texts)) == len(texts) == 30
    assert metrics["sources"]["raft"]["duplicates"] == 5
    assert metrics["sources"]["raft"]["available_examples"] == 15


def test_caps_limit_a_source(paths):
    put(paths, chat=records("chat", 300), booksum=records("booksum", 60))
    weights = {"chat": 1, "booksum": 1, "mqa": 0}
    mix.run(paths, params(weights_by="examples", weights=weights, most={"booksum": 10}))
    train, _, metrics = results(paths)
    assert Counter(r.meta["origin"] for r in train) == {"chat": 10, "booksum": 10}
    assert metrics["sources"]["booksum"]["capped"] == 50


def test_records_are_copied_whole(paths):
    rows = records("chat", 7)
    messages = (Message("system", 'a\n"b'), *rows[3].messages)
    rows[3] = Conversation("chat-0003", "oasst", messages, {"k": [1, None]})
    put(paths, chat=rows)
    mix.run(paths, params())
    assert results(paths)[0] == [
        Conversation(r.id, r.source, r.messages, {**r.meta, "origin": "chat"}) for r in rows
    ]


def test_the_choice_is_the_seeds(paths):
    put(paths, chat=records("chat", 200), mqa=records("mqa", 100))
    outs, weights = [], {"chat": 1, "mqa": 1, "booksum": 0}
    for seed in (1, 1, 2):
        mix.run(paths, params(seed=seed, weights_by="examples", total=50, weights=weights))
        outs.append((paths.mixture / "train.jsonl").read_bytes())
    assert outs[0] == outs[1] != outs[2]


def test_nothing_to_mix_is_an_error_and_leaves_nothing(paths):
    put(paths, raft=records("raft", 5))
    with pytest.raises(InputError, match="nothing to mix"):
        mix.run(paths, params())
    assert not paths.mixture.exists()


@pytest.mark.parametrize("weights", [{"chatt": 1}, {"chat": -1}, {"chat": 0, "booksum": 0, "mqa": 0}])
def test_impossible_weights(weights):
    with pytest.raises(ValidationError):
        params(weights=weights)


def test_an_id_names_one_record(paths):
    put(paths, chat=records("chat", 3), mqa=[Conversation("chat-0001", "mqa", (Message("user", "x"),), {})])
    with pytest.raises(InputError, match="'chat-0001'"):
        mix.run(paths, params())


def test_a_torn_line_is_named(paths):
    put(paths, chat=records("chat", 3))
    paths.mqa.write_bytes(b'{"id": "x"\n')
    with pytest.raises(InputError, match=r"mqa\.jsonl:1: not valid JSON"):
        mix.run(paths, params())
