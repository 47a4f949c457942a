import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import chunk, pair

from stillroom.artifacts import write_jsonl
from stillroom.errors import InputError
from stillroom.raft import pairs
from stillroom.raft.review import Decisions, decided, read, reviewed, write
from stillroom.teacher.prompts import cot_answer

EDITED = cot_answer("It is cold.", "cold")


def decisions(*given):
    return Decisions({decision.pair: decision for decision in given})


def test_a_decision_is_about_a_text_and_a_question_wherever_they_stand():
    moved = replace(pair("r1"), id="other", chunk=replace(chunk("r1"), id="x#9", document="x", title="X"))
    made = decisions(decided(pair("r1"), "drop"))
    assert made.status(moved) == "dropped"
    assert made.status(replace(moved, question="Why?")) == "undecided"
    assert made.status(replace(moved, chunk=replace(moved.chunk, text="Other."))) == "undecided"
    spaced = replace(moved.chunk, text=moved.chunk.text.replace(" ", "\n"))
    assert made.status(replace(moved, chunk=spaced)) == "dropped"


def test_what_becomes_of_a_pair():
    first = pair("r1")
    other = replace(first, cot_answer=cot_answer("It is cold.", "another"))
    keep, drop = decisions(decided(first, "keep")), decisions(decided(first, "drop"))
    edit = decisions(decided(first, "keep", "Is it cold?", EDITED))
    assert [d.status(first) for d in (Decisions(), keep, drop, edit)] == [
        "undecided",
        "kept",
        "dropped",
        "edited",
    ]
    assert [d.status(other) for d in (Decisions(), keep, drop, edit)] == [
        "undecided",
        "changed",
        "dropped",
        "edited",
    ]
    assert (keep.applied(first), keep.applied(other), drop.applied(first)) == (first, other, None)
    assert edit.applied(first) == replace(first, question="Is it cold?", cot_answer=EDITED)
    reworded = decisions(decided(first, "keep", "Which code?"))
    assert reworded.applied(first) == replace(first, question="Which code?")
    assert (reworded.status(other), reworded.applied(other)) == ("changed", other)


def test_an_edited_answer_must_quote_its_passage(tmp_path):
    path = tmp_path / "raft.jsonl"
    write(path, decisions(decided(pair("r1"), "keep", None, cot_answer("It is hot.", "hot"))))
    with pytest.raises(InputError, match=r"raft\.jsonl:1: new_answer: quote not in chunk\n.*raft review"):
        read(path).applied(pair("r1"))


def test_the_benchmark_may_hold_only_what_a_person_kept(tmp_path):
    path = tmp_path / "pairs.jsonl"
    given = [pair("r1"), pair("r2", "eval"), pair("r3", "eval"), pair("r4", "eval"), pair("r5")]
    write_jsonl(path, map(pairs.row, given))
    assert list(pairs.read_pairs(path)) == given
    made = decisions(decided(given[1], "keep"), decided(given[3], "drop"), decided(given[4], "drop"))
    counts = Counter()
    assert list(reviewed(path, made, False, counts)) == [given[0], given[1], given[2]]
    assert list(reviewed(path, made, True)) == [given[0], given[1]]
    assert counts == {
        ("train", "undecided"): 1,
        ("train", "dropped"): 1,
        ("eval", "kept"): 1,
        ("eval", "undecided"): 1,
        ("eval", "dropped"): 1,
    }


def test_decisions_about_pairs_that_are_gone_are_reported_and_kept(tmp_path):
    path = tmp_path / "raft.jsonl"
    gone, there = decided(pair("r1"), "drop"), decided(pair("r2"), "keep")
    write(path, decisions(gone, there))
    assert read(path).stale([there.pair]) == [gone]
    assert read(path).stale(iter([gone.pair, there.pair])) == []


TEXTS = st.text(max_size=8)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["keep", "drop"]), st.none() | TEXTS, TEXTS)), st.randoms())
def test_the_file_is_the_same_in_whatever_order_they_were_made(tmp_path_factory, given, random):
    path = tmp_path_factory.mktemp("review") / "raft.jsonl"
    made = [decided(pair(f"r{n}", document=d), k, q, None, note) for n, (d, k, q, note) in enumerate(given)]
    write(path, decisions(*made))
    first = path.read_bytes()
    random.shuffle(made)
    write(path, decisions(*made))
    assert path.read_bytes() == first
    assert read(path) == decisions(*made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "maybe"}, r"raft\.jsonl:2: `decision` must be keep or drop, not 'maybe'"),
        ({"time": 1}, "unknown key 'time'"),
        ({"note": None}, "texts were expected"),
        ({"new_answer": 3}, "texts were expected"),
        ({}, "a second decision about"),
    ],
)
def test_a_line_that_is_no_decision_is_named(tmp_path, change, message):
    path = tmp_path / "raft.jsonl"
    write(path, decisions(decided(pair("r1"), "keep")))
    line = json.loads(path.read_text())
    path.write_text(path.read_text() + json.dumps(line | change) + "\n")
    with pytest.raises(InputError, match=message):
        read(path)


def test_no_file_is_no_decision(tmp_path):
    assert read(tmp_path / "raft.jsonl") == {}
