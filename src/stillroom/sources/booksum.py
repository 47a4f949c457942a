"""BookSum as its authors publish it: alignments of chapters and summaries, their texts in files beside them.

    {"bid": "158", "is_aggregate": true, "source": "gradesaver",
     "chapter_path": "all_chapterized_books/158-chapters/chapters_1_to_3.txt",
     "summary_path": "finished_summaries/gradesaver/Emma/section_0_part_0.txt",
     "book_id": "Emma.chapters 1-3", "summary_id": "section 1: chapters 1-3"}

`bid` is the book's number at Project Gutenberg. A chapter is plain text; a summary is JSON,
{"name": "Chapters 1-3", "url": "https://…", "summary": ["Emma …", "Mr. Elton …"], "analysis": […]}, its
`summary` a list of paragraphs or, before the last cleaning script, one text with <PARAGRAPH> between them.
Whole books are aligned in the same way, with `book_path` and `title`. The files' names tell the split.

Source: github.com/salesforce/booksum, alignments/*/*.jsonl (Kryściński et al. 2021, arXiv:2105.08209);
licence: BSD-3-Clause, for research; the summaries belong to the sites that they are from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import orjson

from stillroom.sources.chapter import Chapter, ChapterAdapter, Row, split_in_name
from stillroom.sources.texts import TextMissing

PARAGRAPH = "<PARAGRAPH>"


def fits(record: dict[str, Any]) -> bool:
    """A row of an alignment file; or a summary's own file that is named like a table, as overview.json is."""
    aligned = "summary_path" in record and bool({"chapter_path", "book_path"} & record.keys())
    return (aligned and "chapter" not in record) or is_summary(record)


def is_summary(record: dict[str, Any]) -> bool:
    """A file that alignments name: nothing to read by itself."""
    return {"name", "summary", "analysis"} <= record.keys() <= {"name", "summary", "analysis", "url"}


def read(row: Row) -> Iterator[Chapter]:
    """The chapter that a row aligns. Raises TextMissing where one of its two texts cannot be had."""
    if is_summary(row.value):
        return
    summary_path = row.text("summary_path")
    text = row.texts.read(row.text("chapter_path", "book_path"), row.path)
    try:
        told = orjson.loads(row.texts.read(summary_path, row.path))
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict):
        raise TextMissing(f"the summary {summary_path!r} is not a JSON object")
    book, section = title_and_section(row)
    yield Chapter(
        text.strip(),
        paragraphs(told.get("summary")),
        book,
        section=section,
        gutenberg=gutenberg(row),
        split=split_in_name(row.file),
        source=row.text("source"),
        url=str(told.get("url") or ""),
    )


def title_and_section(row: Row) -> tuple[str, str]:
    """`Emma` and `chapters 1-3`: a summary's folder is the title, which begins `book_id`.

    A title or a section may hold full stops itself (`Hamlet.act 1.scene 2`).
    """
    named = row.text("book_id")
    folder = PurePosixPath(row.text("summary_path")).parent.name
    title = row.text("title") or folder or named.partition(".")[0]
    whole = named.lower().startswith(f"{title}.".lower())
    return title, named[len(title) + 1 :] if whole else row.text("summary_id")


def gutenberg(row: Row) -> str:
    """The book's number at Project Gutenberg; empty where there is none."""
    value = row.value.get("bid")
    return str(value).strip() if isinstance(value, str | int) else ""


def paragraphs(summary: Any) -> str:
    """A summary's paragraphs with blank lines between them; empty where it is neither list nor text."""
    parts = summary.split(PARAGRAPH) if isinstance(summary, str) else summary
    if not isinstance(parts, list):
        return ""
    return "\n\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


ADAPTER = ChapterAdapter("BookSum's alignments", fits, read)
