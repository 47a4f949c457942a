"""Chapters of books with their summaries, BookSum-like.

data/raw/chapters ──▶ {"book": "Emma", "i": 3, "chapter": "Mr. Woodhouse was …", "summary": "…"} ──▶ Chapter

Source of the shape: BookSum (Kryściński et al. 2021, arXiv:2105.08209), joined to plain records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stillroom.errors import InputError
from stillroom.sources.rows import field, read_rows


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter, `number` as the source counts, with one summary of it."""

    book: str
    number: int
    text: str
    summary: str


def read_chapters(folder: Path) -> Iterator[Chapter]:
    """Yield the chapters of a folder of JSON files. Raises InputError naming file, line and field."""
    for where, row in read_rows(folder):
        number = row.get("i")
        if not isinstance(number, int):
            raise InputError(f"`i` must be the chapter's number (got {number!r})", where=where)
        texts = [field(row, name, where).strip() for name in ("book", "chapter", "summary")]
        yield Chapter(texts[0], number, texts[1], texts[2])
