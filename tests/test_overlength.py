import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.overlength import parted, split, trimmed
from stillroom.records import Message


def measure(messages):
    """A token a character, and two for every turn."""
    return sum(2 + len(message.content) for message in messages)


ROLES = st.lists(st.sampled_from(["system", "user", "user", "assistant", "assistant"]), max_size=12)
TALKS = ROLES.flatmap(
    lambda roles: st.tuples(*(st.builds(Message, st.just(role), st.text("ab", max_size=9)) for role in roles))
)


@given(TALKS, st.integers(1, 60))
def test_every_exchange_is_in_one_part_and_in_order_or_too_long_alone(messages, limit):
    system, exchanges = parted(messages)
    assert [*system, *(m for exchange in exchanges for m in exchange)] == list(messages)
    parts, lost = split(messages, limit, measure)
    assert all(measure(part) <= limit for part in parts)
    assert all(part[: len(system)] == system for part in parts)
    fitting = [exchange for exchange in exchanges if measure([*system, *exchange]) <= limit]
    assert [m for part in parts for m in part[len(system) :]] == [m for own in fitting for m in own]
    assert lost == len(exchanges) - len(fitting)


@given(TALKS, st.integers(1, 60))
def test_parts_are_as_few_as_filling_in_order_makes(messages, limit):
    system, exchanges = parted(messages)
    expected, held = [], []
    for exchange in exchanges:
        if measure([*system, *exchange]) > limit:
            expected, held = [*expected, held], []
            continue
        if measure([*system, *held, *exchange]) > limit:
            expected, held = [*expected, held], []
        held = [*held, *exchange]
    expected = [[*system, *part] for part in [*expected, held] if part]
    assert split(messages, limit, measure)[0] == expected


def talk(*contents):
    return [Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


def test_a_part_begins_with_a_users_turn_behind_the_system_prompt():
    system = Message("system", "s")
    messages = [system, *talk("aa", "AA", "bb", "BB", "cc", "CC")]
    parts, lost = split(messages, 19, measure)
    assert parts == [[system, *talk("aa", "AA", "bb", "BB")], [system, *talk("cc", "CC")]]
    assert lost == 0
    assert split(talk("aa", "A" * 20, "bb", "BB"), 19, measure) == ([talk("bb", "BB")], 1)


@given(st.text("abc ", min_size=1, max_size=80), st.integers(1, 90))
def test_trimming_keeps_both_ends_of_the_longest_user_text_and_everything_else(text, limit):
    messages = [Message("system", "s"), *talk("q", "no", text + "longest", "answer")]
    short = trimmed(messages, limit, measure)
    rest = measure(messages) - len(text + "longest")
    if short is None:
        assert limit < rest + len("\n[…]\n") + 3
        return
    assert measure(short) <= limit
    assert short[:3] + short[4:] == messages[:3] + messages[4:]
    if short != messages:
        head, _, tail = short[3].content.partition("\n[…]\n")
        assert messages[3].content.startswith(head)
        assert messages[3].content.endswith(tail)
        assert abs(len(head) - len(tail)) <= 1
        assert limit - measure(short) <= 4


@pytest.mark.parametrize("messages", [[], [Message("assistant", "no user")]])
def test_nothing_can_be_trimmed_without_a_users_text(messages):
    assert trimmed(messages, 1, measure) is None
