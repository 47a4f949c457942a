"""Training records that hold a part of a benchmark's samples: n-gram overlap on normalised words.

protected texts ──▶ build ──▶ index on disk ──▶ Index.matches(records' texts) ──▶ the worst match of each

As GPT-3 (arXiv:2005.14165, appendix C) with n = 13: one shared run of n words is enough; with a `share`, that
part of a passage's runs must be there, as 8-grams are used elsewhere. Long texts are judged by passages, so
that one chapter of a tested book is found. A text shorter than n words is looked for whole. Runs that several
books, questions or documents of a benchmark have in common, as licences and formulas are, tell of none.

The index is a sorted array of 64-bit hashes, mapped into memory: processes share its pages.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from stillroom.artifacts import read_jsonl, write_jsonl
from stillroom.mixing.ngrams import Hashes, Texts
from stillroom.mixing.protected import Protected
from stillroom.params import Settings

PASSAGE = 512
"""words of the passages that a long text is judged by"""
COMMON = 3
"""groups of a benchmark that have a run in common: it is a formula"""
SIEVE = 16
"""places of the sieve for every hash: one in so many absent ones is looked up for nothing"""

Owners = np.ndarray[Any, np.dtype[np.int32]]
"""for each run the number of its passage"""


class Decontamination(Settings):
    """What makes a record one that a benchmark tests."""

    ngram: int = Field(default=13, ge=1)
    """words of a run; case and punctuation aside"""
    shortest: int = Field(default=8, ge=1)
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
    passages: list[Passage] = []
    found: dict[int, list[tuple[Hashes, Owners]]] = {}
    for text in texts:
        for length, runs in passages_of(text, settings):
            owner = np.full(len(runs), len(passages), np.int32)
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


def passages_of(text: Protected, settings: Decontamination) -> Iterator[tuple[int, Hashes]]:
    """(words of a run, the distinct runs of a passage), passage by passage."""
    words = Texts([text.text])
    length = min(settings.ngram, len(words))
    if length < settings.shortest:
        return
    *_, (_, _, runs) = words.runs(length)
    for start in range(0, len(runs), PASSAGE):
        yield length, np.unique(runs[start : start + PASSAGE])


def telling(runs: Hashes, owners: Owners, passages: Sequence[Passage]) -> tuple[Hashes, Owners]:
    """Runs and their passages sorted by run, without a benchmark's runs that COMMON groups of it share."""
    benchmarks = _numbered([p.benchmark for p in passages])[owners]
    groups = _numbered([(p.benchmark, p.group) for p in passages])[owners]
    order = np.lexsort((owners, groups, benchmarks, runs))
    runs, owners, benchmarks, groups = runs[order], owners[order], benchmarks[order], groups[order]
    changes = (runs[1:] != runs[:-1]) | (benchmarks[1:] != benchmarks[:-1])
    firsts = np.flatnonzero(np.r_[True, changes])
    new = np.r_[True, changes | (groups[1:] != groups[:-1])]
    common = np.add.reduceat(new, firsts, dtype=np.int64) >= COMMON
    kept = ~np.repeat(common, np.diff(np.r_[firsts, len(runs)]))
    return runs[kept], owners[kept]


def _numbered(names: Sequence[Hashable]) -> Owners:
    """Equal names get the same number."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int32)


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
                np.asarray(np.load(path.with_name(path.name.replace("runs", name)), mmap_mode="r"))
                for name in ("runs", "owners", "sieve")
            )
            for path in folder.glob("*.runs.npy")
        }
        self._longest = max(self._tables, default=0)

    def matches(self, records: Sequence[Sequence[str]]) -> list[Match | None]:
        """The worst match of each record, given by its texts."""
        flat = [text for texts in records for text in texts]
        words = Texts(flat)
        record_of = np.repeat(np.arange(len(records)), [len(texts) for texts in records])
        hits: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        for length, places, runs in words.runs(self._longest):
            for at, run, passage in self._shared(length, runs):
                record = int(record_of[words.owner[places[at]]])
                hits.setdefault((record, passage), {}).setdefault(run, (int(places[at]), length))
        return self._worst(hits, words, len(records))

    def _shared(self, length: int, runs: Hashes) -> Iterator[tuple[int, int, int]]:
        """(place among `runs`, hash, passage) of the runs that a passage has."""
        if not len(self._tables.get(length, ((),))[0]):
            return
        table, owners, mask = self._tables[length]
        bits = len(mask).bit_length() - 1
        candidates = np.flatnonzero(mask[runs >> np.uint64(64 - bits)])
        candidates = candidates[np.argsort(runs[candidates])]  # neighbours are looked up together
        starts = np.searchsorted(table, runs[candidates])
        there = np.flatnonzero(table[np.minimum(starts, len(table) - 1)] == runs[candidates])
        for at, start in zip(candidates[there].tolist(), starts[there].tolist(), strict=True):
            run = runs[at]
            for place in itertools.takewhile(lambda n: table[n] == run, range(start, len(table))):  # noqa: B023
                yield at, int(run), int(owners[place])

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
