import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stillroom.draws import held_out, rank
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


def test_files_of_the_chat_have_shares_of_their_own(paths):
    chat = [replace(r, meta={"file": f"{n % 3}.jsonl"}) for n, r in enumerate(records("chat", 90))]
    put(paths, chat=chat, mqa=records("mqa", 30))
    weights = {"chat": 3, "booksum": 0, "mqa": 1}
    mix.run(paths, params(weights=weights, chat_files={"0.*": 4}, weights_by="examples", total=80, epochs=2))
    train, _, metrics = results(paths)
    assert Counter(r.meta.get("file") for r in train) == {
        "0.jsonl": 40,
        "1.jsonl": 10,
        "2.jsonl": 10,
        None: 20,
    }
    assert {r.meta["origin"] for r in train} == {"chat", "mqa"}
    first = metrics["sources"]["chat/0.jsonl"]
    assert (first["target_share"], first["examples"], first["distinct_examples"]) == (0.5, 40, 30)


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


def removed(paths):
    return [json.loads(line) for line in paths.removed.read_bytes().splitlines()]


def chat(id, text, answer="yes", origin="chat", **meta):
    return Conversation(id, origin, (Message("user", text), Message("assistant", answer)), meta)


def words(start, count=40):
    return " ".join(f"w{n}" for n in range(start, start + count))


def test_almost_equal_questions_of_a_later_source_go(paths):
    first = [chat("chat-1", words(0)), chat("chat-2", words(0) + " more"), chat("chat-3", words(100))]
    later = [
        chat("raft-1", words(0).upper() + "?", "another answer", "raft"),
        chat("raft-2", words(100, 30), origin="raft"),
        chat("raft-3", words(300), origin="raft"),
        chat("raft-4", words(300) + " again", origin="raft"),
    ]
    put(paths, chat=first, raft=later)
    weights = {"chat": 1, "booksum": 0, "mqa": 0, "raft": 1}
    mix.run(paths, params(weights=weights, weights_by="examples"))
    _, _, metrics = results(paths)
    assert removed(paths) == [
        {
            "id": "raft-1",
            "origin": "raft",
            "reason": "near_duplicate",
            "match": "chat-1",
            "detail": "shares 1.00 of the runs of 5 words",
        }
    ]
    assert metrics["duplicates"] == {"raft in chat": {"equal": 0, "almost_equal": 1}}
    assert metrics["sources"]["raft"]["near_duplicates"] == 1
    mix.run(paths, params(weights=weights, near_duplicates={"threshold": 0.7}))
    assert [row["id"] for row in removed(paths)] == ["raft-1", "raft-2"]
    mix.run(paths, params(weights=weights, near_duplicates=None))
    assert removed(paths) == []


def test_equal_records_are_counted_by_pair_of_sources(paths):
    put(
        paths,
        chat=[chat("chat-1", words(0)), chat("chat-2", words(0))],
        mqa=[chat("mqa-1", words(50)), chat("mqa-2", words(0))],
        raft=[chat("raft-1", words(50))],
    )
    mix.run(paths, params(weights={"chat": 1, "mqa": 1, "raft": 1, "booksum": 0}))
    assert results(paths)[2]["duplicates"] == {
        "chat in chat": {"equal": 1, "almost_equal": 0},
        "mqa in chat": {"equal": 1, "almost_equal": 0},
        "raft in mqa": {"equal": 1, "almost_equal": 0},
    }


def test_what_a_benchmark_tests_goes_and_is_named(paths):
    (paths.benchmarks / "pg19/emma.txt").write_text(words(0, 2000))
    question = "who was it that wrote the song of the hills"
    asked = chat("q-020", f"Documents\n\nQuestion: {question}", group="q", question=question)
    write_conversations(paths.benchmarks / "mqa/eval.jsonl", [asked])
    put(
        paths,
        chat=[
            chat("chat-1", "Quote it.", f"Well: {words(500, 13).title()}!"),
            chat("chat-2", words(500, 12)),
            chat("chat-3", f"{question}?"),
            chat("chat-4", f"{question}?"),
            chat("chat-5", "Documents\n\nQuestion: another one"),
        ],
    )
    weights = {"chat": 1, "booksum": 0, "mqa": 0}
    mix.run(paths, params(weights=weights))
    train, _, metrics = results(paths)
    assert [record.id for record in train] == ["chat-2", "chat-5"]
    rows = removed(paths)
    assert [(row["id"], row["reason"], row["match"]) for row in rows] == [
        ("chat-1", "contaminated", "pg19/emma"),
        ("chat-3", "contaminated", "mqa/q-020"),
        ("chat-4", "contaminated", "mqa/q-020"),
    ]
    assert rows[0]["detail"] == f"0.20% of a passage: {words(500, 13)}"
    assert rows[1]["detail"] == f"100.00% of a passage: {question}"
    assert metrics["contaminated"] == {"chat": {"mqa": 2, "pg19": 1}}
    mix.run(paths, params(weights=weights, decontamination=None))
    assert len(results(paths)[0]) == 4


def test_temperature_evens_the_sources_out(paths):
    put(paths, chat=records("chat", 400), mqa=records("mqa", 100))
    weights = {"chat": 1, "mqa": 1, "booksum": 1}
    mix.run(paths, params(weights_by="examples", weights=weights, temperature=2, total=90))
    train, _, metrics = results(paths)
    assert Counter(r.meta["origin"] for r in train) == {"chat": 60, "mqa": 30}
    assert metrics["sources"]["chat"]["target_share"] == round(2 / 3, 6)


def test_the_draws_are_those_of_the_project(paths):
    put(paths, chat=records("chat", 90, group=3), mqa=records("mqa", 50))
    weights = {"chat": 1, "mqa": 1, "booksum": 0}
    settings = {"weights": weights, "weights_by": "examples", "seed": 7}
    mix.run(paths, params(validation_share=0.1, total=20, most={"mqa": 40}, **settings))
    train, validation, _ = results(paths)
    order = sorted((f"mqa-{n:04}" for n in range(50)), key=lambda id: rank(7, id))[:40]
    held = held_out(order, 0.1, 7, at_least=0) | held_out((f"chat{n}" for n in range(30)), 0.1, 7, at_least=0)
    assert {r.meta.get("group", r.id) for r in validation} == held
    assert {r.id for r in train if r.source == "mqa"} == set([id for id in order if id not in held][:10])


def oracle(sizes, target):
    """How many records are taken, one after the other and over again, to come as near as they can."""
    reached, count = 0, 0
    for size in cycle(sizes):
        if reached + size / 2 > target + 1e-6:
            return count
        reached, count = reached + size, count + 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 400))
@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_target_is_reached_as_nearly_as_whole_records_allow(paths, lengths, total):
    rows = [chat(f"c{n:02}", "x" * length) for n, length in enumerate(lengths)]
    put(paths, chat=[Conversation(r.id, r.source, (*r.messages, Message("user", r.id)), {}) for r in rows])
    mix.run(paths, params(weights={"chat": 1, "booksum": 0, "mqa": 0}, total=200 + total, epochs=9))
    train, _, metrics = results(paths)
    extra = len("[INST]\n\n[/INST]\n\nyes[INST]\nc00\n[/INST]\n\n") + 2
    sizes = {row.id: length + extra for row, length in zip(rows, lengths, strict=True)}
    order = sorted(sizes, key=lambda id: rank(42, id))
    most = min(200 + total, 9 * sum(sizes.values()))
    assert metrics["tokens"] == sum(sizes[r.id.partition("~")[0]] for r in train)
    assert len(train) == oracle([sizes[id] for id in order], most)


def test_any_number_of_processes_gives_the_same_bytes(paths, monkeypatch):
    put(paths, chat=records("chat", 120, 30), mqa=records("mqa", 80, 200))
    outs = []
    for small in (1 << 30, 1):
        monkeypatch.setattr(mix, "SMALL", small)
        monkeypatch.setattr(mix.processes, "available", lambda: 2)
        monkeypatch.setattr("stillroom.mixing.scan.CHUNK", 10_000)
        mix.run(paths, params(validation_share=0.1))
        files = (paths.mixture / "train.jsonl", paths.mixture / "validation.jsonl", paths.metrics)
        outs.append([file.read_bytes() for file in files])
    assert outs[0] == outs[1]


DYING = """
import itertools, os, signal
from pathlib import PosixPath
from stillroom.stages import mix

copied = mix.copied


def dying(*arguments):
    yield from itertools.islice(copied(*arguments), 50)
    os.kill(os.getpid(), signal.SIGKILL)


mix.copied = dying
"""


def test_a_kill_leaves_nothing_that_looks_finished(paths):
    put(paths, chat=records("chat", 100))
    done = subprocess.run([sys.executable, "-c", f"{DYING}mix.run(mix.{paths!r}, mix.Params())"], check=False)
    assert done.returncode == -signal.SIGKILL
    scratch = paths.mixture.with_name(".mix.partial")
    assert scratch.exists()
    assert not paths.mixture.exists()
    mix.run(paths, params(weights={"chat": 1}))
    assert results(paths)[2]["examples"] == 100
    assert not scratch.exists()


def test_a_name_is_one_records(paths):
    put(paths, chat=[*records("chat", 2), chat("chat-0000~2", "another")])
    with pytest.raises(InputError, match=r"'chat-0000~2'"):
        mix.run(paths, params(weights={"chat": 1, "booksum": 0, "mqa": 0}, epochs=2))


DATA = Path(__file__).resolve().parents[3] / "shared/data"


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
def test_real_chapters_of_a_tested_book_are_found(paths):
    with (DATA / "chapters/chapters.jsonl").open("rb") as file:
        chapters = [json.loads(line) for line in file]
    books = sorted({row["book"] for row in chapters})
    (paths.benchmarks / "pg19/tested.txt").write_text(
        "\n".join(row["chapter"] for row in chapters if row["book"] == books[0])
    )
    rows = [
        chat(f"b{n:02}", f"{row['chapter']}\n\nSummarise it.", row["summary"], "booksum", group=row["book"])
        for n, row in enumerate(chapters)
    ]
    put(paths, booksum=rows)
    mix.run(paths, params(weights={"chat": 0, "booksum": 1, "mqa": 0}, decontamination={"share": 0.05}))
    gone = {row["id"] for row in removed(paths)}
    assert gone == {row.id for row in rows if row.meta["group"] == books[0]}
