"""Conversations whose human turns are almost those of another one: MinHash proposes, exact Jaccard decides.

cleaned conversations with their bands (`likeness`) ──▶ candidates ──▶ Jaccard ≥ threshold

Only conversations that pass are remembered, so what goes is always like one that passed, and a crowd of likes
costs one lookup each.
"""

from __future__ import annotations

import functools

import orjson

from stillroom.cleaning.duplicates import Check
from stillroom.cleaning.likeness import Likeness, Shingles, jaccard
from stillroom.cleaning.scratch import Cleaned, Place, Scratch
from stillroom.records import Message

REMEMBERED = 64
"""candidates whose shingles stay in memory: up to 2 MB each of the longest conversations"""


def near(scratch: Scratch, likeness: Likeness) -> Check:
    """Says so of a conversation that is like an earlier one which passed, and of which and how much."""
    scratch.database.execute("CREATE TABLE bands (key INTEGER PRIMARY KEY, start INTEGER, length INTEGER)")
    count, _ = likeness.banding
    marks = ",".join("?" * count)
    select = f"SELECT DISTINCT start, length FROM bands WHERE key IN ({marks}) ORDER BY start"
    rows = ",".join(f"(?{n}, ?{count + 1}, ?{count + 2})" for n in range(1, count + 1))
    insert = f"INSERT OR IGNORE INTO bands VALUES {rows}"

    @functools.lru_cache(REMEMBERED)
    def read(place: Place) -> tuple[str, Shingles]:
        row = orjson.loads(scratch.read(place))
        return row["id"], likeness.shingles([Message(**message) for message in row["messages"]])

    def check(conversation: Cleaned, place: Place) -> str | None:
        candidates = scratch.database.execute(select, conversation.bands).fetchall()
        mine = read(place)[1] if candidates else None
        for candidate in candidates:
            identifier, theirs = read(candidate)
            if mine and (share := jaccard(mine, theirs)) >= likeness.threshold:
                return f"shares {share:.2f} of the runs of {likeness.ngram} words with {identifier}"
        scratch.database.execute(insert, (*conversation.bands, *place))
        return None

    return check
