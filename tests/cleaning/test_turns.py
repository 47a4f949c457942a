import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.cleaning.turns import alternating, cut_at_empty, without_answers, without_last_question
from stillroom.records import Message

ROLES = {"s": "system", "u": "user", "a": "assistant"}


def turns(shape):
    """`s u a`: a message of each role, numbered; a dash is an empty one: `u a-`."""
    return tuple(
        Message(ROLES[word[0]], " \n" if word.endswith("-") else f"{word} {i}")
        for i, word in enumerate(shape.split())
    )


def shape(messages):
    return " ".join(m.role[0] for m in messages)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("u a u a", "u a u a"),
        ("u a- u a", "u"),
        ("u a u- a", "u a"),
        ("u-", ""),
        ("s- u a", "u a"),
        ("s u", "s u"),
    ],
)
def test_a_conversation_is_cut_at_its_first_empty_turn(before, after):
    assert shape(cut_at_empty(turns(before))) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("u a u", "u a u"),
        ("a a u a", "u a"),
        ("s a u a", "s u a"),
        ("u u u", "u u u"),
        ("s u", "s u"),
        ("a", ""),
    ],
)
def test_leading_answers_go_and_human_turns_may_stand_alone(before, after):
    assert shape(alternating(turns(before))) == after


@pytest.mark.parametrize("before", ["u u a", "u a a u", "u s a", "s s u a", "u a s u"])
def test_what_does_not_alternate_is_named(before):
    assert isinstance(alternating(turns(before)), str)


def test_the_place_is_named():
    assert alternating(turns("u a u u a")) == "turns 3 and 4 are both the user's"


def test_endings():
    assert shape(without_last_question(turns("u a u a u"))) == "u a u a"
    assert shape(without_answers(turns("s u a u a"))) == "s u u"


@given(st.booleans(), st.integers(1, 6), st.booleans())
def test_what_alternates_already_is_unchanged(system, pairs, open_end):
    conversation = turns(("s " if system else "") + "u a " * pairs + ("u" if open_end else ""))
    assert alternating(conversation) == conversation
    assert cut_at_empty(conversation) == conversation


@given(st.text("sua", max_size=9).map(" ".join))
def test_what_comes_out_alternates_or_is_a_complaint(order):
    result = alternating(turns(order))
    if not isinstance(result, str):
        assert re.fullmatch(r"s?(u*|(ua)+u?)", shape(result).replace(" ", ""))
