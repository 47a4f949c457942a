"""Runs of words as 64-bit numbers, many texts at a time.

texts ──▶ normalised words, as bytes end to end ──▶ a hash per word ──▶ for every length a hash per position

All hashes are polynomials modulo 2^64, so that those of all words come out of one running sum over the bytes,
and those of all runs up to n words out of n multiplications. They are the same in every process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stillroom.cleaning.likeness import PUNCTUATION, words_of

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

SPACE, BORDER = b" "[0], b"\n"[0]
"""between words, and between texts"""
FACTOR = 0x9E3779B97F4A7C15
"""of the polynomials; odd, so that it has an inverse"""
INVERSE = pow(FACTOR, -1, 1 << 64)
VALUES: Hashes = np.random.Generator(np.random.PCG64(42)).integers(1 << 63, size=256, dtype=np.uint64)
"""of the bytes"""


class Texts:
    """The words of some texts; no run of words leaves its text."""

    def __init__(self, texts: Sequence[str]) -> None:
        spelled = [normalised(text) for text in texts]
        self._bytes = b"\n".join(spelled)
        data = np.frombuffer(self._bytes, np.uint8)
        inside = (data != SPACE) & (data != BORDER)
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        self._starts: Ints = edges[::2]
        self._ends: Ints = edges[1::2]
        lengths = np.array([len(text) + 1 for text in spelled], dtype=np.int64)
        self.owner: Ints = np.searchsorted(np.cumsum(lengths), self._starts, "right")
        """of each word: the place of its text"""
        last = np.searchsorted(self.owner, self.owner, "right")
        self._left: Ints = last - np.arange(len(last))
        self._hashes = self._hashed(data)

    def __len__(self) -> int:
        """Words of all texts."""
        return len(self._starts)

    def runs(self, longest: int) -> Iterator[tuple[int, Ints, Hashes]]:
        """(length, position, hash) of the runs of 1, 2, … `longest` words."""
        found = self._hashes
        for length in range(1, min(longest, len(self)) + 1):
            if length > 1:
                found = found[:-1] * np.uint64(FACTOR) + self._hashes[length - 1 :]
            places = np.flatnonzero(self._left[: len(found)] >= length)
            yield length, places, found[places]

    def spelled(self, place: int, length: int) -> str:
        """A run as words."""
        text = self._bytes[self._starts[place] : self._ends[place + length - 1]]
        return " ".join(text.decode("utf-8", "surrogatepass").split())

    def _hashed(self, data: np.ndarray[Any, np.dtype[np.uint8]]) -> Hashes:
        """The polynomial of each word's bytes, scrambled: runs are polynomials of it with the same factor."""
        size = len(data)
        sums = np.zeros(size + 1, np.uint64)
        np.cumsum(VALUES[data] * powers(FACTOR, size), out=sums[1:])
        words = (sums[self._ends] - sums[self._starts]) * powers(INVERSE, size)[self._starts]
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # splitmix64
            words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
        return words


def normalised(text: str) -> bytes:
    """The words of a text (`likeness.words_of`) with spaces between them."""
    text = text.lower()
    if text.isascii():
        return text.translate(PUNCTUATION).encode()
    return " ".join(words_of(text)).encode("utf-8", "surrogatepass")


def powers(factor: int, count: int) -> Hashes:
    """1, factor, factor², …"""
    return _powers(factor, max(20, count.bit_length()))[:count]


@functools.cache
def _powers(factor: int, bits: int) -> Hashes:
    table = np.full(1 << bits, factor, np.uint64)
    table[0] = 1
    return np.cumprod(table)
