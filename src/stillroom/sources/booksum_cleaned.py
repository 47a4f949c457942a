"""BookSum cleaned: one row for each chapter, with all its summaries.

    {"bid": 158, "book_title": "Emma", "chapter_id": "Chapter 3",
     "text": "Mr. Woodhouse was fond of society …",
     "summary": [{"source": "gradesaver", "text": "Emma meets …", "analysis": null},
                 {"source": "shmoop", "text": "A new friend …", "analysis": null}],
     "is_aggregate": false}

Of whole books the title stands in `title`. The files' names (chapters/train.jsonl, …) tell the split.

Source: huggingface.co/datasets/ubaada/booksum-complete-cleaned; licence: see its card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillroom.sources.booksum import gutenberg, paragraphs
from stillroom.sources.chapter import Chapter, ChapterAdapter, Row, split_in_name


def fits(record: dict[str, Any]) -> bool:
    """A row with a book's number, a text and a list of summaries."""
    return "bid" in record and "text" in record and isinstance(record.get("summary"), list)


def read(row: Row) -> Iterator[Chapter]:
    """A chapter for each of the row's summaries."""
    text, section = row.text("text"), row.value.get("chapter_id")
    for told in row.value["summary"]:
        known = told if isinstance(told, dict) else {}
        yield Chapter(
            text,
            paragraphs(known.get("text")),
            row.text("book_title", "title"),
            section="" if section is None else str(section),
            gutenberg=gutenberg(row),
            split=split_in_name(row.file),
            source=str(known.get("source") or ""),
        )


ADAPTER = ChapterAdapter("BookSum cleaned", fits, read)
