"""How alike two conversations' human turns are, and a signature by which the like find each other.

human turns ──▶ shingles (runs of n words) ──▶ MinHash signature ──▶ bands;  two sets of shingles ──▶ Jaccard

Two conversations are candidates where a band of their signatures is equal. The bands are as tall as they can
be while a pair at the threshold still shares one with a probability of RECALL. Conversations with different
system messages are never alike.

The banding: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from stillroom.records import Message

RECALL = 0.99
"""probability that a pair exactly at the threshold becomes a candidate; above it the rest soon does too"""
SEED = 42
"""of the MinHash permutations; it moves only which pairs below RECALL are missed"""
UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""scripts without spaces between words: each character counts as a word"""
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
PUNCTUATION = {code: " " for code in range(128) if not WORD.match(chr(code))}

Shingles = tuple[str, frozenset[str]]
"""the system message, and the shingles of the human turns"""


@dataclass(frozen=True)
class Likeness:
    """What counts as almost the same: shingles of `ngram` words, a Jaccard similarity of `threshold`."""

    threshold: float
    ngram: int
    permutations: int

    def shingles(self, messages: Sequence[Message]) -> Shingles:
        """Runs of `ngram` words, case and punctuation aside; a shorter text is one shingle."""
        return _system(messages), frozenset(self._runs(messages))

    def _runs(self, messages: Sequence[Message]) -> list[str]:
        """The shingles as they come; some perhaps more than once."""
        words = [word for m in messages if m.role == "user" for word in words_of(m.content.lower())]
        runs = zip(*(words[i:] for i in range(self.ngram)), strict=False)
        return list(map(" ".join, runs)) or [" ".join(words)]

    @functools.cached_property
    def banding(self) -> tuple[int, int]:
        """Bands, and rows of each: the most rows with a recall of RECALL at the threshold."""
        for rows in range(self.permutations, 1, -1):
            bands = self.permutations // rows
            if 1 - (1 - self.threshold**rows) ** bands >= RECALL:
                return bands, rows
        return self.permutations, 1

    def bands(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """A key for each band of the signature; of numbers Python's hash is the same in all processes."""
        from rensa import RMinHash

        sketch = RMinHash(num_perm=self.permutations, seed=SEED)
        sketch.update(self._runs(messages))
        count, rows = self.banding
        values = sketch.digest()
        salt = zlib.crc32(_system(messages).encode())
        return tuple(hash((salt, n, *values[n * rows : (n + 1) * rows])) for n in range(count))


def _system(messages: Sequence[Message]) -> str:
    return "".join(m.content for m in messages if m.role == "system")


def words_of(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return text.translate(PUNCTUATION).split() if text.isascii() else WORD.findall(text)


def jaccard(first: Shingles, second: Shingles) -> float:
    """Shared shingles as a part of all; 0 for different system messages."""
    if first[0] != second[0]:
        return 0.0
    return len(first[1] & second[1]) / len(first[1] | second[1])
