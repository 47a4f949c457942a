"""Passages that look right and are wrong.

question ──▶ Distractors.of(question, count) ──▶ the passages most alike to it that hold none of its answers
"""

from __future__ import annotations

from collections.abc import Collection as Container
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from stillroom.collection import Collection
from stillroom.draws import rng
from stillroom.questionnaire import Question
from stillroom.retrieval import Index
from stillroom.sources.question import Passage
from stillroom.squad import normalise

CANDIDATES = 20
"""passages looked at for each distractor that is wanted"""
RUN = 5
"""words that follow one another"""
COPIED = 0.3
"""share of the runs of two passages, of the shorter one's, that makes them nearly copies"""


class Shown(NamedTuple):
    """A passage in a prompt, its address, and its score where it was searched for (0 where it was drawn)."""

    passage: Passage
    where: str
    score: float | None = None


class Distractors:
    """Finds them in a collection. `seed` draws where too few passages share a word with a question."""

    def __init__(self, passages: Collection, index: Index, seed: int) -> None:
        self._passages, self._index, self._seed = passages, index, seed

    def of(self, question: Question, count: int, banned: Container[int] = frozenset()) -> list[Shown]:
        """At most `count` passages: those that came with the question, then by BM25, then drawn.

        None is banned, holds an answer, says what another one says, or is nearly a copy of the gold one.
        """
        avoid = [normalise(answer) for answer in question.avoid]
        gold = self._passages[question.gold]
        copied, seen = _runs(gold), {normalise(gold.whole)}

        def fits(shown: Shown) -> bool:
            said = normalise(shown.passage.whole)
            wrong = said in seen or any(answer in said for answer in avoid)
            seen.add(said)
            return not wrong and not _shares(_runs(shown.passage), copied)

        candidates = (
            self.shown(place, score)
            for place, score in self._candidates(question, count)
            if place not in banned
        )
        return list(islice(filter(fits, candidates), count))

    def shown(self, place: int, score: float | None = None) -> Shown:
        """A passage of the collection."""
        return Shown(self._passages[place], self._passages.where(place), score)

    def _candidates(self, question: Question, count: int) -> Iterator[tuple[int, float | None]]:
        """Places with their scores, each once; searched for more deeply only where the first do not do."""
        seen = dict.fromkeys(question.others)
        yield from ((place, None) for place in question.others)
        for depth in (count + count // 4 + 10, CANDIDATES * (count + 1)):
            hits = self._index.hits(question.text, depth)
            yield from (hit for hit in hits if hit.place not in seen)
            seen |= dict.fromkeys(hit.place for hit in hits)
            if len(hits) < depth:
                break
        start = rng(self._seed, "mqa", question.id, "others").randrange(len(self._passages))
        for step in range(min(CANDIDATES * count, len(self._passages))):
            place = (start + step) % len(self._passages)
            if place not in seen:
                yield place, 0.0


def _runs(passage: Passage) -> frozenset[tuple[str, ...]]:
    """The runs of a passage's text; a page's title, which all its passages have, is not of them."""
    words = normalise(passage.text).split()
    return frozenset(zip(*(words[start:] for start in range(RUN)), strict=False))


def _shares(own: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> bool:
    """Whether two texts have so many runs in common that one is nearly a copy of the other, or of a part."""
    return len(own & other) > COPIED * min(len(own), len(other))
