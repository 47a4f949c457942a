"""Decisions by way of a spreadsheet: a row a pair, in a CSV file.

pairs, decisions ──▶ save ──▶ FILE.csv ──▶ (a person fills in `decision`) ──▶ load ──▶ decisions
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from stillroom.artifacts import atomic_write
from stillroom.errors import InputError
from stillroom.raft import review
from stillroom.raft.answers import fault
from stillroom.raft.pairs import Pair
from stillroom.raft.review import Decision, Decisions

SHOWN = ("pair", "side", "status", "document", "title", "passage", "question", "answer")
FILLED = ("decision", "new_question", "new_answer", "note")
"""decision: keep, drop or nothing; new_answer: the whole answer, with its quotation and tag"""


def save(path: Path, pairs: Iterable[Pair], decisions: Decisions) -> None:
    """Write every pair with what was decided about it, in UTF-8 with a byte order mark for Excel."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="", write_through=True)
        rows = csv.writer(text)
        rows.writerow((*SHOWN, *FILLED))
        for pair in pairs:
            made, chunk = decisions.get(pair.identity), pair.chunk
            seen = (pair.identity, pair.side, decisions.status(pair), chunk.document, chunk.title, chunk.text)
            filled = [getattr(made, name) or "" if made else "" for name in FILLED]
            rows.writerow((*seen, pair.question, pair.cot_answer, *filled))
        text.detach()


def load(path: Path, pairs: Iterable[Pair]) -> list[Decision]:
    """The decisions of a file, about these pairs. Raises InputError naming the line."""
    known = {pair.identity: pair for pair in pairs}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := {"pair", *FILLED} - set(rows.fieldnames or ()):
                raise InputError(f"no column {min(missing)!r}", where=str(path))
            return [_decision(row, known, f"{path}:{rows.line_num}") for row in rows if row["decision"]]
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file in UTF-8 ({error})", where=str(path)) from None


def _decision(row: dict[str, str], known: dict[str, Pair], where: str) -> Decision:
    """The decision of a row."""
    what, pair = row["decision"].strip().lower(), known.get(row["pair"])
    if pair is None:
        raise InputError(f"no pair {row['pair']!r}", where=where, hint="export again: the pairs have changed")
    if what not in ("keep", "drop"):
        raise InputError(f"`decision` must be keep, drop or empty, not {what!r}", where=where)
    new = (row["new_question"] or "").strip() or None, (row["new_answer"] or "").strip() or None
    if new[1] and (wrong := fault(new[1], "stop", pair.chunk.text)):
        raise InputError(f"new_answer: {wrong.replace('_', ' ')}", where=where)
    return review.decided(pair, "keep" if what == "keep" else "drop", *new, note=row["note"] or "")
