from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import chunk, code_of, pair

from stillroom.raft.contexts import Contexts, tells
from stillroom.raft.formats import conversation, record
from stillroom.raft.pairs import Chunk
from stillroom.teacher.prompts import cot_answer

POOL = [chunk(f"r{n:03}", f"house-{n % 9}.md") for n in range(100)]


def contexts(pairs, pool=POOL, **settings):
    defaults = {"seed": 1, "distractors": 3, "by": "random", "refusal_share": 0.0, "oracle_probability": 1.0}
    beside = Contexts([p.id for p in pairs], pool, **{**defaults, **settings})
    return [beside.plan(p) for p in pairs]


PAIRS = [pair(f"r{n:03}", document=f"house-{n % 9}.md") for n in range(40)]


@given(
    st.integers(0, 40),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 5),
    st.integers(0, 99),
)
def test_p_its_complement_and_the_share_of_refusals_are_honoured(
    count, probability, refusals, distractors, seed
):
    made = contexts(
        PAIRS[:count],
        seed=seed,
        distractors=distractors,
        refusal_share=refusals,
        oracle_probability=probability,
    )
    refused = [p for p in made if p.refusal]
    assert len(refused) == round(refusals * count)
    assert sum(p.oracle for p in made) == round(probability * (count - len(refused)))
    for plan in made:
        shown = plan.context(plan.most)
        assert (plan.pair.chunk in shown) == plan.oracle
        assert not (plan.oracle and plan.refusal)
        assert (
            len(shown) == len({c.id for c in shown}) == distractors + 1
        )  # as many with the oracle as without
        assert not plan.few


def test_the_oracle_may_stand_anywhere():
    places = Counter(
        p.context(4).index(p.pair.chunk) for p in contexts([pair(f"r{n:03}") for n in range(100)])
    )
    assert all(places[place] > 10 for place in range(4))


def test_a_record_keeps_its_context_when_others_come_and_go():
    assert contexts(PAIRS[:10]) == contexts(PAIRS)[:10]
    assert contexts(PAIRS)[0] != contexts(PAIRS, seed=2)[0]


def test_no_distractor_tells_the_answer():
    asked = pair("r000", document="house-0.md")
    repeats = Chunk("x#1", "x", "X", f"As said, Room r000   opens\nwith the code {code_of('r000')}. Really.")
    answers = Chunk("x#2", "x", "X", f"Bus {code_of('r000')} is red.")
    assert tells(repeats.text, asked, False)
    assert not tells(answers.text, asked, False)
    assert tells(answers.text, asked, True)
    pool = [asked.chunk, repeats, answers, chunk("r001")]
    (shown,) = contexts([asked], pool)
    assert set(shown.others) == {answers, chunk("r001")}
    assert shown.few
    (refused,) = contexts([asked], pool, refusal_share=1.0)
    assert refused.others == (chunk("r001"),)


def test_a_refusal_has_its_oracle_nowhere():
    for number, plan in enumerate(contexts(PAIRS, refusal_share=1.0)):
        code = plan.pair.answer
        everything = str((conversation(plan, plan.most), record(number, plan, plan.most)))
        assert code not in everything
        assert plan.pair.chunk.text not in everything
        assert "do not hold" in plan.cot_answer


def test_similar_passages_are_those_that_a_search_for_the_question_finds():
    texts = [
        "A ferry leaves at nine.",
        "Bees swarm in May.",
        "The ferry's bell is brass.",
        "Snow falls.",
        "A ferry.",
    ]
    pool = [Chunk(f"d#{n}", "d", "D", text) for n, text in enumerate(texts)]
    asked = replace(
        pair("x"),
        chunk=pool[0],
        question="When does the ferry leave?",
        cot_answer=cot_answer(texts[0], "nine"),
    )
    (plan,) = contexts([asked], pool, by="similarity", distractors=2)
    assert {c.id for c in plan.others} == {"d#2", "d#4"}


@pytest.mark.parametrize("by", ["random", "similarity"])
def test_without_others_the_oracle_stands_alone_and_a_refusal_has_nothing_to_show(by):
    asked = pair("r000")
    assert contexts([asked], [asked.chunk], by=by)[0].most == 1
    assert contexts([asked], [asked.chunk], by=by, refusal_share=1.0)[0].most == 0
