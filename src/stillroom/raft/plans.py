"""An example before it is written: a question, and the passages that stand beside it."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.raft.pairs import Chunk, Pair
from stillroom.teacher.prompts import ANSWER_TAG

REFUSED = "The documents do not hold the answer."
REFUSAL = f"None of the documents answers this question.\n{ANSWER_TAG} {REFUSED}"
"""what the student learns to say where the oracle was taken away and it must not guess"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What stands beside a question: `others` in the order in which they are used, the oracle at `place`."""

    pair: Pair
    others: tuple[Chunk, ...]
    oracle: bool
    """whether it is shown"""
    refusal: bool
    place: float
    """of the oracle, from 0 to 1"""
    few: bool = False
    """whether fewer distractors are to be had than were wanted"""

    @property
    def most(self) -> int:
        """Passages that there are to show."""
        return len(self.others) + self.oracle

    def context(self, count: int) -> list[Chunk]:
        """`count` passages, the oracle among them where it is shown."""
        if not self.oracle:
            return list(self.others[:count])
        shown = list(self.others[: count - 1])
        shown.insert(int(self.place * count), self.pair.chunk)
        return shown

    @property
    def cot_answer(self) -> str:
        """What the student learns to say."""
        return REFUSAL if self.refusal else self.pair.cot_answer

    @property
    def answer(self) -> str:
        """The part after the tag."""
        return REFUSED if self.refusal else self.pair.answer
