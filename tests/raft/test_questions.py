import json
import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stillroom.raft.questions import Listing, listed, sameness

PLAIN = [
    "Is it 8B or 70B?",
    "3.5 or 4?",
    "1984. Who wrote it?",
    "2 / 3 or 1 / 12 cup?",
    "'tis true?",
    "What is *args?",
    'Who asked "why?"',
    'Which of "a" and "b"?',
    '"A" or "B", which?',
    "“A” or “B”?",
    "What does __init__ do?",
    "Q. Horatius Flaccus was who?",
    "Q-learning: what is it?",
    "Question marks: where do they go?",
    "-1 or 1?",
    "`x` or `y`?",
    "O'Neill's 'rules': what are they?",
    "¿Qué es esto?",
    "这是什么？",
]
"""questions that begin or end like something else"""

DRESSES = [
    "{}",
    "  {}  ",
    "- {}",
    "* {}",
    "• {}",
    "- [ ] {}",
    "### {}",
    "1. {}",
    "1) {}",
    "(1) {}",
    "1\\. {}",
    "1: {}",
    "Q1: {}",
    "Q 1. {}",
    "Question 1: {}",
    "Question: {}",
    "**1.** {}",
    "**Q1:** {}",
    "**Question 1**: {}",
    "* 1. {}",
    "**{}**",
    "1. **{}**",
    "**1. {}**",
    '"{}"',
    '"{}",',
    "1. “{}”",
    "«{}»",
    "`{}`",
    '1. **"{}"**',
    "\u200b{}\ufeff",
]


@pytest.mark.parametrize("dress", DRESSES)
def test_dress_goes_and_text_stays(dress):
    assert [only(dress.format(question)) for question in PLAIN] == PLAIN


def only(line):
    """The one question of a reply."""
    (question,) = listed(line, 9).questions
    return question


WORD = st.text(string.ascii_letters + string.digits + "éß8B+#-/.,'_:;%$()", min_size=1, max_size=8)


@given(st.lists(WORD, min_size=1, max_size=6), st.sampled_from(DRESSES))
def test_any_question_that_is_bare_comes_back_whole(words, dress):
    question = " ".join(words) + "?"
    assume(listed(question, 9).questions == (question,))
    assert only(dress.format(question)) == question


@given(
    st.text(
        st.characters(exclude_characters="\\", exclude_categories=["Cs"]) | st.sampled_from("Qq1.*\"'-"),
        max_size=40,
    )
)
def test_nothing_but_dress_is_taken_off(text):
    line = f"{' '.join(text.split())}?"
    for question in listed(line, 9).questions:
        assert question in line
        left = re.sub("question|query|q", "", line.replace(question, "", 1), flags=re.IGNORECASE)
        assert not any(c.isalpha() for c in left)


GPT = """Here are 5 questions that the passage answers:

1. **What does `torchtune` train?**
2. Is it 8B or 70B?
3. "Who wrote it?"

4) What is **LoRA**?
5. What is *the* difference between "full" and "LoRA"?\u0020\u0020

Would you like me to write more?"""

LLAMA = """Sure! Here are the questions:
* Q1: When was it written?
* Q2: When was it  Written ?
* Q3: Where?"""


def test_real_replies():
    assert listed(GPT, 9) == Listing(
        (
            "What does `torchtune` train?",
            "Is it 8B or 70B?",
            "Who wrote it?",
            "What is **LoRA**?",
            'What is *the* difference between "full" and "LoRA"?',
        ),
        not_questions=2,
    )
    assert listed(LLAMA, 1) == Listing(("When was it written?",), not_questions=1, repeated=1, surplus=1)
    assert listed("1. Who?\n2. Why?\n3. who?", 5).questions == ("Who?", "Why?")
    assert listed("1. What is A? 2. What is B? 3. What is C?", 5).questions == tuple(
        f"What is {c}?" for c in "ABC"
    )
    assert listed("", 5) == Listing(())


@pytest.mark.parametrize(
    "shape",
    [
        json.dumps,
        lambda qs: json.dumps(qs, indent=2),
        lambda qs: f"```json\n{json.dumps({'questions': [{'question': q} for q in qs]})}\n```\nDone.",
        lambda qs: json.dumps({str(i): q for i, q in enumerate(qs)}),
        lambda qs: "[\n" + "".join(f"  {json.dumps(q, ensure_ascii=False)},\n" for q in qs) + '  "cut',
    ],
)
def test_json_is_read_also_where_it_is_cut(shape):
    assert listed(shape(PLAIN), 99).questions == tuple(PLAIN)


def test_a_number_is_numbering_only_beside_its_neighbours():
    assert listed("3. Liga or 2. Liga?\nWho won?", 5).questions == ("3. Liga or 2. Liga?", "Who won?")
    assert listed("1. 2. or 3. Liga?\n2. Who won?", 5).questions == ("2. or 3. Liga?", "Who won?")


@given(
    st.lists(st.sampled_from([*PLAIN, "(2) or (3)?"]), unique=True),
    st.sampled_from(["{n}. {q}", "{n}) **{q}**", "Q{n}: {q}", "- {q}", "{q}"]),
)
def test_a_list_of_questions_comes_back(questions, dress):
    reply = "\n".join(dress.format(n=n, q=q) for n, q in enumerate(questions, 1))
    assert list(listed(reply, 99).questions) == questions


def test_equal_questions_are_those_that_ask_the_same_words():
    assert sameness("What is the “learning rate”?") == sameness("what  is a LEARNING rate")
    different = [
        "What is C?",
        "What is C++?",
        "What is C#?",
        "Is 3.5 it?",
        "Is 35 it?",
        "Is -1 it?",
        "Is 1 it?",
        "What is vitamin A?",
        "What is vitamin?",
    ]
    assert len({sameness(q) for q in different}) == len(different)
