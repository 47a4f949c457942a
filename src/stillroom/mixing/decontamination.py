"""Training records that hold a part of a benchmark's samples: n-gram overlap on normalised words.

protected texts ──▶ build ──▶ index on disk ──▶ Index.matches(records' texts) ──▶ the worst match of each

As GPT-3 (arXiv:2005.14165, appendix C) with n = 13: one shared run of n words is enough; with a `share`, that
part of a passage's runs must be there, as 8-grams are used elsewhere. Long texts are judged by passages, so
that one chapter of a tested book is found. A text shorter than n words is looked for whole. Runs that several
books, questions or documents of a benchmark have in common, as licences and formulas are, tell of none.

The index is a sorted array of 64-bit hashes, mapped into memory: processes share its pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from stillroom.artifacts import read_jsonl, write_jsonl
from stillroom.mixing.ngrams import Hashes, Ints, Texts, WordHashes
from stillroom.mixing.protected import Protected
from stillroom.params import Settings

PASSAGE = 512
"""words of the passages that a long text is judged by"""
COMMON = 3
"""groups of a benchmark that have a run in common: it is a formula"""
SIEVE = 16
"""bits of the sieve for every hash: one in so many absent ones is looked up for nothing"""


class Decontamination(Settings):
    """What makes a record one that a benchmark tests."""

    ngram: int = Field(default=13, ge=1)
    """words of a run; case and punctuation aside"""
    shortest: int = Field(default=7, ge=1)
    """a shorter tested text is looked for whole if it has so many words; with fewer it is not looked for"""
    share: float = Field(default=0.0, ge=0, le=1)
    """part of a tested passage's runs that a record must hold; 0: one run is enough"""

    @model_validator(mode="after")
    def _shortest_first(self) -> Decontamination:
        if self.shortest > self.ngram:
            raise ValueError("shortest must be at most ngram")
        return self


class Match(NamedTuple):
    """What a record shares with a benchmark."""

    benchmark: str
    sample: str
    share: float
    """of the passage's runs"""
    ngram: str
    """the first shared run"""


class Passage(NamedTuple):
    """A passage of a protected text."""

    benchmark: str
    sample: str
    group: str
    runs: int


def build(texts: Iterable[Protected], settings: Decontamination, folder: Path) -> int:
    """Write the index into a folder; return how many runs it holds."""
    hashes = WordHashes()
    passages: list[Passage] = []
    found: dict[int, list[tuple[Hashes, Ints]]] = {}
    for text in texts:
        for length, runs in passages_of(text, settings, hashes):
            owner = np.full(len(runs), len(passages), np.int64)
            found.setdefault(length, []).append((runs, owner))
            passages.append(Passage(text.benchmark, text.sample, text.group, len(runs)))
    count = 0
    for length, parts in sorted(found.items()):
        all_runs, all_owners = map(np.concatenate, zip(*parts, strict=True))
        runs, owners = telling(all_runs, all_owners, passages)
        count += len(runs)
        for name, table in (("runs", runs), ("owners", owners), ("sieve", sieve(runs))):
            np.save(folder / f"{length}.{name}.npy", table)
    write_jsonl(folder / "passages.jsonl", (passage._asdict() for passage in passages))
    return count


def passages_of(
    text: Protected, settings: Decontamination, hashes: WordHashes
) -> Iterator[tuple[int, Hashes]]:
    """(words of a run, the distinct runs of a passage), passage by passage."""
    words = Texts([text.text], hashes)
    length = min(settings.ngram, len(words.words))
    if length < settings.shortest:
        return
    *_, (_, _, runs) = words.runs(length)
    for start in range(0, len(runs), PASSAGE):
        yield length, np.unique(runs[start : start + PASSAGE])


def telling(runs: Hashes, owners: Ints, passages: Sequence[Passage]) -> tuple[Hashes, Ints]:
    """Runs and their passages sorted by run, without the runs of COMMON groups or more."""
    order = np.lexsort((owners, runs))
    runs, owners = runs[order], owners[order]
    names = dict.fromkeys((p.benchmark, p.group) for p in passages)
    numbers = {name: number for number, name in enumerate(names)}
    groups = np.array([numbers[p.benchmark, p.group] for p in passages])[owners]
    new = np.ones(len(runs), np.bool_)  # the first of a (run, group); owners of a group come together
    new[1:] = (runs[1:] != runs[:-1]) | (groups[1:] != groups[:-1])
    firsts = np.flatnonzero(np.r_[True, runs[1:] != runs[:-1]])
    common = np.add.reduceat(new, firsts, dtype=np.int64) >= COMMON
    kept = ~np.repeat(common, np.diff(np.r_[firsts, len(runs)]))
    return runs[kept], owners[kept]


def sieve(hashes: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where the first bits of a hash lead to False, it is not among these."""
    bits = max(8, min(28, (SIEVE * len(hashes)).bit_length()))
    table = np.zeros(1 << bits, np.bool_)
    table[hashes >> np.uint64(64 - bits)] = True
    return table


class Index:
    """An index on disk."""

    def __init__(self, folder: Path, settings: Decontamination) -> None:
        self._settings = settings
        self._passages = [Passage(**row) for _, row in read_jsonl(folder / "passages.jsonl")]
        self._tables = {
            int(path.name.partition(".")[0]): tuple(
                np.load(path.with_name(path.name.replace("runs", name)), mmap_mode="r")
                for name in ("runs", "owners", "sieve")
            )
            for path in folder.glob("*.runs.npy")
        }
        self._longest = max(self._tables, default=0)
        self._hashes = WordHashes()

    def matches(self, records: Sequence[Sequence[str]]) -> list[Match | None]:
        """The worst match of each record, given by its texts."""
        flat = [text for texts in records for text in texts]
        words = Texts(flat, self._hashes)
        record_of = np.repeat(np.arange(len(records)), [len(texts) for texts in records])
        hits: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        for length, places, runs in words.runs(self._longest):
            for at, run, passage in self._shared(length, runs):
                record = int(record_of[words.owner[places[at]]])
                hits.setdefault((record, passage), {}).setdefault(run, (int(places[at]), length))
        return self._worst(hits, words, len(records))

    def _shared(self, length: int, runs: Hashes) -> Iterator[tuple[int, int, int]]:
        """(place among `runs`, hash, passage) of the runs that a passage has."""
        if length not in self._tables:
            return
        table, owners, mask = self._tables[length]
        bits = len(mask).bit_length() - 1
        candidates = np.flatnonzero(mask[runs >> np.uint64(64 - bits)])
        starts = np.searchsorted(table, runs[candidates], "left")
        ends = np.searchsorted(table, runs[candidates], "right")
        for at, start, end in zip(candidates, starts, ends, strict=True):
            for passage in owners[start:end]:
                yield int(at), int(runs[at]), int(passage)

    def _worst(
        self, hits: dict[tuple[int, int], dict[int, tuple[int, int]]], words: Texts, count: int
    ) -> list[Match | None]:
        """Of each record the passage of which it holds most; of equal ones the first."""
        worst: list[Match | None] = [None] * count
        for (record, number), runs in sorted(hits.items()):
            passage = self._passages[number]
            share = len(runs) / passage.runs
            held = worst[record]
            if share < self._settings.share or (held is not None and held.share >= share):
                continue
            place, length = min(runs.values())
            worst[record] = Match(
                passage.benchmark, passage.sample, round(share, 4), words.spelled(place, length)
            )
        return worst
