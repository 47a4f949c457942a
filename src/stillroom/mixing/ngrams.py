"""Runs of words as 64-bit numbers, many texts at a time.

texts ──▶ normalised words ──▶ word hashes, end to end ──▶ for every length a hash per position

The hash of a run is a polynomial of its words' hashes, so that the runs of every length up to n come out of
one pass of n multiplications over the array. Hashes are the same in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stillroom.cleaning.likeness import words_of

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""odd, so that no bits are lost by multiplying"""
MOST_WORDS = 1 << 20
"""words whose hashes are remembered; rarer ones are hashed each time"""


class WordHashes(dict[str, int]):
    """The first 8 bytes of a word's BLAKE2b."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = int.from_bytes(digest, "little")
        if len(self) < MOST_WORDS:
            self[word] = value
        return value


class Texts:
    """Normalised words of some texts, end to end; no run of words leaves its text."""

    def __init__(self, texts: Sequence[str], hashes: WordHashes) -> None:
        words = [words_of(text.lower()) for text in texts]
        self.words = [word for text in words for word in text]
        lengths = np.array([len(text) for text in words], dtype=np.int64)
        ends = np.cumsum(lengths)
        self.starts: Ints = ends - lengths
        self.owner: Ints = np.repeat(np.arange(len(texts)), lengths)
        """of each word: the place of its text"""
        self._left: Ints = np.repeat(ends, lengths) - np.arange(len(self.words))
        self._hashes: Hashes = np.fromiter(map(hashes.__getitem__, self.words), np.uint64, len(self.words))

    def runs(self, longest: int) -> Iterator[tuple[int, Ints, Hashes]]:
        """(length, position, hash) of the runs of 1, 2, … `longest` words."""
        found = self._hashes
        for length in range(1, min(longest, len(self.words)) + 1):
            if length > 1:
                found = found[:-1] * FACTOR + self._hashes[length - 1 :]
            places = np.flatnonzero(self._left[: len(found)] >= length)
            yield length, places, found[places]

    def spelled(self, place: int, length: int) -> str:
        """A run as words."""
        return " ".join(self.words[place : place + length])
