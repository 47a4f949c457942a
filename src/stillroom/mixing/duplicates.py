"""Records that are there twice: equal ones anywhere, almost equal ones across sources. The first stays.

Catalogue ──▶ exact(…), near(…) ──▶ removed records, with the one that each is like

Equal means all messages; almost equal means the human turns, as `extract` compares them, and only between
sources: several answers to one question are wanted (`distill.samples`), the same question in two sources is
not. Of every band only the first record that has it is a candidate, so a crowd of likes costs one each.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stillroom.cleaning.likeness import Likeness, Shingles, jaccard
from stillroom.mixing.catalogue import Catalogue, Removed, fetched
from stillroom.mixing.scan import read

EXACT = """
    INSERT INTO removed
    SELECT twin.n, 'duplicate', first.id, 'the same messages'
    FROM (SELECT n, min(n) OVER (PARTITION BY digest) AS first FROM live) twin
    JOIN records first ON first.n = twin.first WHERE twin.n <> twin.first
"""
REMEMBERED = 64
"""candidates whose shingles stay in memory: up to 2 MB each of the longest records"""
CANDIDATES = """
    SELECT own.n, any_value(own.origin), any_value(own.start), list(DISTINCT firsts.n)
    FROM live own JOIN bands USING (n) JOIN firsts USING (key) WHERE own.origin = ?
    GROUP BY own.n ORDER BY own.n
"""
FIRSTS = """
    INSERT INTO firsts
    SELECT key, min(n) FROM bands JOIN live USING (n) ANTI JOIN firsts USING (key)
    WHERE origin = ? GROUP BY key
"""


def exact(catalogue: Catalogue) -> None:
    """Remove records whose messages an earlier one has."""
    catalogue.database.execute(EXACT)


def near(catalogue: Catalogue, likeness: Likeness, files: Mapping[str, Path]) -> None:
    """Remove records whose human turns are like those of one of an earlier source, which stays."""
    catalogue.database.execute("CREATE TABLE firsts (key BIGINT, n INTEGER)")
    for origin in files:
        catalogue.remove(_like(catalogue, likeness, files, origin))
        catalogue.flush()
        catalogue.database.execute(FIRSTS, [origin])


def _like(
    catalogue: Catalogue, likeness: Likeness, files: Mapping[str, Path], origin: str
) -> Iterator[Removed]:
    """The records of a source that are like one of those before it."""

    @functools.lru_cache(REMEMBERED)
    def earlier(n: int) -> tuple[str, Shingles]:
        [(own, start)] = catalogue.rows("SELECT origin, start FROM records WHERE n = ?", [n])
        record = read(files[own], start)
        return record.id, likeness.shingles(record.messages)

    def verdict(mine: Shingles, candidates: Iterable[int]) -> tuple[str, str] | None:
        for identifier, theirs in map(earlier, sorted(candidates)):
            if (share := jaccard(mine, theirs)) >= likeness.threshold:
                return identifier, f"shares {share:.2f} of the runs of {likeness.ngram} words"
        return None

    for n, own, start, candidates in fetched(catalogue.database.cursor().execute(CANDIDATES, [origin])):
        if found := verdict(likeness.shingles(read(files[own], start).messages), candidates):
            yield Removed(n, "near_duplicate", *found)
