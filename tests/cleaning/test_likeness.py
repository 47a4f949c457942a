import random

import pytest

from stillroom.cleaning.likeness import Likeness, jaccard
from stillroom.records import Message

LIKENESS = Likeness(threshold=0.8, ngram=5, permutations=128)


def asked(*texts, system=""):
    return [Message("system", system), *(Message("user", text) for text in texts)]


@pytest.fixture(scope="module")
def pairs():
    """A text of 120 words, and the same one with one to four words changed anywhere, a hundred times."""
    draw = random.Random(42)
    made = []
    for number in range(100):
        words = [f"w{draw.randrange(10**6)}" for _ in range(120)]
        other = list(words)
        for place in draw.sample(range(120), 1 + number % 4):
            other[place] = "changed"
        made.append((asked(" ".join(words)), asked(" ".join(other))))
    return made


def test_conversations_above_the_threshold_share_a_band(pairs):
    like = [p for p in pairs if jaccard(*map(LIKENESS.shingles, p)) >= LIKENESS.threshold]
    found = [set(LIKENESS.bands(one)) & set(LIKENESS.bands(other)) for one, other in like]
    assert len(like) > 30
    assert sum(map(bool, found)) >= 0.99 * len(like)


def test_unlike_conversations_share_none(pairs):
    firsts = [set(LIKENESS.bands(one)) for one, _ in pairs]
    assert len(set().union(*firsts)) == sum(map(len, firsts))


def test_bands_are_those_of_the_set_of_shingles():
    thrice, five_times = asked("A, b c d e " * 3), asked("a b c d e " * 2, "a b c d e " * 3)
    assert len(LIKENESS.shingles(thrice)[1]) == 5
    assert LIKENESS.shingles(thrice) == LIKENESS.shingles(five_times)
    assert LIKENESS.bands(thrice) == LIKENESS.bands(five_times)


def test_another_system_message_makes_other_bands():
    one, other = (LIKENESS.bands(asked("a b c d e f", system=system)) for system in "xy")
    assert not set(one) & set(other)
