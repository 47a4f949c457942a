"""Plain records: a book, the chapter's number, its text and a summary of it.

    {"book": "Emma", "i": 3, "chapter": "Mr. Woodhouse was fond of society …", "summary": "Emma meets …"}

`title` does for `book`, `number` or `chapter_number` for `i`, `text` for `chapter`. Who wrote the summary may
stand in `source`, where it was found in `url`, and in `split` the side (train, validation, test) on which its
publication puts the chapter.

Source: one's own chapters; licence: theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillroom.errors import InputError
from stillroom.sources.chapter import Chapter, ChapterAdapter, Row, split_in_row

BOOK, NUMBER, TEXT = ("book", "title"), ("i", "number", "chapter_number"), ("chapter", "text")


def fits(record: dict[str, Any]) -> bool:
    """An object with a book and a chapter, of none of the other shapes."""
    listed = isinstance(record.get("summary"), list)
    other = listed or _named(record, ("completion", "book_id", "summary_path"))
    return _named(record, BOOK) and _named(record, TEXT) and not other


def read(row: Row) -> Iterator[Chapter]:
    """The chapter. Raises InputError where a field is missing or of the wrong type."""
    texts = {names[0]: row.text(*names) for names in (BOOK, TEXT, ("summary",))}
    for name, text in texts.items():
        if not text:
            raise InputError(f"`{name}` must be a text", where=row.where)
    yield Chapter(
        texts["chapter"],
        texts["summary"],
        texts["book"],
        _number(row),
        split=split_in_row(row),
        source=row.text("source"),
        url=row.text("url"),
    )


def _number(row: Row) -> int:
    """The chapter's number; of a CSV file it is a text."""
    value = next((row.value[name] for name in NUMBER if name in row.value), None)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int):
        raise InputError(f"`i` must be the chapter's number (got {value!r})", where=row.where)
    return value


def _named(record: dict[str, Any], names: tuple[str, ...]) -> bool:
    return any(name in record for name in names)


ADAPTER = ChapterAdapter("book, i, chapter, summary", fits, read)
