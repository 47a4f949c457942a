"""How answers to questions are scored: normalisation, MQA, RAFT, BookSum, the choice of questions."""

import pytest

from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.base import Sample
from stillroom.benchmarks.booksum import BookSum
from stillroom.benchmarks.mqa import Mqa, best_subspan_em
from stillroom.benchmarks.raft import Raft, tagged
from stillroom.benchmarks.subject import Reply, Subject
from stillroom.chat_format import get
from stillroom.errors import InputError
from stillroom.records import Conversation, Message
from stillroom.squad import normalise
from stillroom.stages.evaluate import Params


def record(id="r", answer="gold", **meta):
    messages = (Message("user", "question"), Message("assistant", answer))
    return Conversation(id, "test", messages, meta)


def test_every_benchmark_has_its_block():
    blocks = {n: f.annotation for n, f in Params.model_fields.items() if n in BENCHMARKS}
    assert blocks == BENCHMARKS
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.title
        assert benchmark.definition.endswith(".")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat's hat.", "cats hat"),
        ("an A, the!", ""),
        ("Theatre and another", "theatre and another"),
        ("naïve—90", "naïve—90"),
        ("a\tb\nc", "b c"),
    ],
)
def test_squad_normalisation(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("output", "gold", "expected"),
    [
        ("It is the far side, of course.", ["far side"], 1.0),
        ("I do not know.\nfar side", ["far side"], 0.0),
        ("ninety", ["90", "Ninety"], 1.0),
        ("", ["90"], 0.0),
    ],
)
def test_best_subspan(output, gold, expected):
    assert best_subspan_em(output, gold) == expected


def test_mqa_refuses_gold_that_always_matches():
    assert Mqa().gold(record(answers=["The", "...", "the moon"])) == ["the moon"]
    assert Mqa().gold(record(answers=["a"])) == []
    with pytest.raises(InputError, match=r"meta\.answers"):
        Mqa().gold(record())


@pytest.mark.parametrize(("index", "documents", "place"), [(0, 20, 0), (19, 20, 100), (9, 20, 50), (0, 1, 0)])
def test_mqa_places_the_gold_document(index, documents, place):
    scores = Mqa().score(record(documents=documents, gold_index=index), "gold", ["gold"])
    assert scores == {"accuracy": 1.0, "documents": documents, "position": place}


class Answering(Subject):
    """Says the records' answers, as a model does that `max_tokens` stops."""

    def prompt(self, messages):
        return messages[-1].content

    def answers(self, prompts, sampling, seeds, title):
        return [Reply(text, "length") for text in ("Saturd", "Answer: Saturday\nLong Answer: The ferr")]


def test_mqa_counts_an_answer_as_cut_where_the_line_that_is_scored_is(tmp_path):
    asked = [record(id, answers=["Saturday"], documents=2, gold_index=0) for id in "ab"]
    found = Mqa().ask(asked, Answering(tmp_path, get("inst"), 64, seed=1))
    assert [(s.scores["accuracy"], s.scores["cut"]) for s in found] == [(0.0, 1.0), (1.0, 0.0)]


def raft(output, refusal=False):
    return Raft().score(record(answer="x", refusal=refusal), output, ["every Saturday"])


def test_raft_takes_the_answer_behind_the_tag():
    assert tagged("<ANSWER>: no, wait <ANSWER>: Saturday ") == "Saturday"
    assert tagged("Saturday") is None
    assert raft("It says so. <ANSWER>: Every  Saturday.")["exact_match"] == 1.0
    assert raft("Every Saturday") == {"exact_match": 0.0, "rouge_l": 1.0, "tagged": 0.0, "refused": 0.0}
    assert raft("<ANSWER>: Saturday")["exact_match"] == 0.0


def test_raft_counts_refusals():
    refusal = "<ANSWER>: The documents do not hold the answer."
    assert raft(refusal)["refused"] == 1.0
    assert raft(refusal, refusal=True) == {"right_refusal": 1.0}
    assert raft("<ANSWER>: Saturday", refusal=True) == {"right_refusal": 0.0}


def test_raft_precision_is_over_what_was_answered():
    scores = [
        {"exact_match": 1, "refused": 0},
        {"exact_match": 0, "refused": 0},
        {"exact_match": 0, "refused": 1},
    ]
    samples = [Sample(str(i), str(i), "", "", (), s) for i, s in enumerate(scores)]
    details = Raft.details([*samples, Sample("z", "z", "", "", (), {"right_refusal": 1.0})])
    assert details["refused"] == pytest.approx(1 / 3)
    assert details["precision"] == pytest.approx((1 / 3) / (2 / 3))
    assert details["right_refusal"] == 1.0


def test_booksum_groups_by_book_and_counts_chapters():
    records = [record(f"{book}-{i}", group=book) for book in "ab" for i in range(4)]
    booksum = BookSum(limit=3)
    chosen = booksum.chosen(records, seed=1)
    assert len(chosen) == 3
    assert [r.id for r in chosen] == sorted(r.id for r in chosen)
    assert booksum.group(records[0]) == "a"


def test_choice_follows_the_seed_not_the_order():
    records = [record(f"q{i}-{n}", group=f"q{i}") for i in range(20) for n in (5, 10)]
    mqa = Mqa(limit=4)
    chosen = mqa.chosen(records, 1)
    assert chosen == mqa.chosen(records[::-1], 1)
    assert chosen != mqa.chosen(records, 2)
    assert len(chosen) == 8
    assert len({mqa.group(r) for r in chosen}) == 4
