"""BookSum as one table: the alignments with their texts, one row for each summary of a chapter.

    {"bid": 158, "is_aggregate": true, "source": "gradesaver",
     "chapter_path": "all_chapterized_books/158-chapters/chapters_1_to_3.txt",
     "summary_path": "finished_summaries/gradesaver/Emma/section_0_part_0.txt",
     "book_id": "Emma.chapters 1-3", "summary_id": "section 1: chapters 1-3",
     "content": null, "summary": "{\\"name\\": \\"Chapters 1-3\\", \\"summary\\": \\"Emma …\\"}",
     "chapter": "Emma Woodhouse, handsome, clever …", "chapter_length": 8412.0,
     "summary_name": "Chapters 1-3", "summary_url": "https://…", "summary_text": "Emma …",
     "summary_analysis": "", "summary_length": 310.0, "analysis_length": 0.0}

The files' names (train.csv, dev.csv, test.csv) tell the split. Without `summary_text`, the JSON text or the
plain one in `summary` does.

Source: huggingface.co/datasets/kmfoda/booksum and what is made of it (pszemraj/booksum-short, …); licence:
BSD-3-Clause.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from stillroom.sources.booksum import gutenberg, paragraphs, title_and_section
from stillroom.sources.chapter import Chapter, ChapterAdapter, Row, split_in_name


def fits(record: dict[str, Any]) -> bool:
    """A row with the chapter's text and its book's id."""
    return "book_id" in record and "chapter" in record and bool({"summary_text", "summary"} & record.keys())


def read(row: Row) -> Iterator[Chapter]:
    """The chapter of a row."""
    told = _told(row.value.get("summary"))
    book, section = title_and_section(row)
    yield Chapter(
        row.text("chapter"),
        paragraphs(row.text("summary_text") or told.get("summary")),
        book,
        section=section,
        gutenberg=gutenberg(row),
        split=split_in_name(row.file),
        source=row.text("source"),
        url=row.text("summary_url") or str(told.get("url") or ""),
    )


def _told(summary: Any) -> dict[str, Any]:
    """What the column `summary` says: an object, its JSON, or the text alone."""
    if isinstance(summary, str):
        try:
            told = orjson.loads(summary)
        except orjson.JSONDecodeError:
            told = None
        return told if isinstance(told, dict) else {"summary": summary}
    return summary if isinstance(summary, dict) else {}


ADAPTER = ChapterAdapter("BookSum's table", fits, read)
