"""Against Google's rouge-score, whose values are to be met exactly."""

import random

from hypothesis import example, given, settings
from hypothesis import strategies as some
from rouge_score.rouge_scorer import RougeScorer

from stillroom.benchmarks import rouge

SCORER = RougeScorer(list(rouge.TYPES), use_stemmer=True)
TEXTS = some.lists(
    some.sampled_from(
        [
            "cat",
            "Cats",
            "running",
            "ran",
            "ponies",
            "42",
            "the",
            "\n",
            "—",
            "naïve",
            "x-ray.",
            "\N{KELVIN SIGN}ΑΣ9",
        ]
    ),
    max_size=40,
).map(" ".join)


def expected(target, prediction):
    return {kind: score.fmeasure for kind, score in SCORER.score(target, prediction).items()}


@settings(max_examples=300)
@given(TEXTS, TEXTS)
@example("a a", "a b\na")  # which of two equal tokens is taken decides
@example("a a", "b a c c\na\nc a c")  # the same token is taken twice
def test_values_are_those_of_rouge_score(target, prediction):
    assert rouge.rouge(target, prediction) == expected(target, prediction)


def test_long_texts():
    draw = random.Random(7)
    words = [f"w{i}" for i in range(60)]
    target, prediction = ("\n".join(" ".join(draw.choices(words, k=60)) for _ in range(5)) for _ in range(2))
    assert rouge.rouge(target, prediction) == expected(target, prediction)


def test_empty_sides_score_nothing():
    for pair in [("", "a"), ("a", ""), ("", ""), ("…", "…")]:
        assert set(rouge.rouge(*pair).values()) == {0.0}
