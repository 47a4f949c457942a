"""Chapters of books with their summaries, whatever the shape of their rows.

data/raw/chapters ──▶ rows, each read by the adapter that its shape asks for ──▶ Chapters, and what is none

JSON Lines, a JSON array, Parquet, CSV, also compressed; a folder may mix them. Texts that alignment files
name lie beside them (`texts`). A new shape is a file here and an entry in ADAPTERS, whose files hold worked
examples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from stillroom.errors import InputError
from stillroom.sources import booksum, booksum_cleaned, booksum_table, chapter_records, long_data
from stillroom.sources.adapter import Dropped
from stillroom.sources.chapter import Chapter, ChapterAdapter, Row
from stillroom.sources.dumps import COMPRESSED, ENDINGS, LARGEST_RECORD, Broken, ending, plain, read_dump
from stillroom.sources.texts import TextMissing, Texts

ADAPTERS: tuple[ChapterAdapter, ...] = (
    chapter_records.ADAPTER,
    booksum.ADAPTER,
    booksum_table.ADAPTER,
    booksum_cleaned.ADAPTER,
    long_data.ADAPTER,
)
TABLES = (*ENDINGS, ".csv")
TEXT_FOLDERS = {"all_chapterized_books", "finished_summaries"}
"""BookSum's; what lies in them is read when a row names it"""
OnMissingText = Literal["stop", "skip"]


def read_chapters(folder: Path, on_missing_text: OnMissingText = "stop") -> Iterator[Chapter | Dropped]:
    """Yield the chapters of a folder, file by file, and what is left out: `missing_text`, `empty`.

    Raises InputError, naming file and record, on what is no chapter, and with `stop` on a missing text.
    """
    texts = Texts(folder)
    paths = files(folder)
    for path in paths:
        name = path.relative_to(folder).as_posix()
        for number, value in rows(path) if ending(path) in TABLES else ():
            row = Row(f"{path}: record {number}", path, name, value, texts)
            try:
                for chapter in adapter_of(row).read(row):
                    yield replace(chapter, file=name) if chapter.text and chapter.summary else empty(row)
            except TextMissing as missing:
                if on_missing_text == "stop":
                    hint = f"put it below {folder}, or set booksum.on_missing_text to skip"
                    raise InputError(str(missing), where=row.where, hint=hint) from None
                yield Dropped(row.where, "missing_text", str(missing))
    if not texts.asked and any(ending(path) == ".txt" for path in paths):
        hint = "add the alignment files that name them, or give chapters and summaries in one table"
        raise InputError("texts that no row names", where=str(folder), hint=hint)


def files(folder: Path) -> list[Path]:
    """Tables and texts, sorted. Raises InputError where there is no folder, or a file is neither."""
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), hint="run the stage that makes it first")
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    outside = [p for p in found if not TEXT_FOLDERS.intersection(p.relative_to(folder).parts[:-1])]
    for path in outside:
        if ending(path) not in (*TABLES, ".txt"):
            hint = f"expected {', '.join(TABLES)}, also with {' or '.join(COMPRESSED)}, or texts (.txt)"
            raise InputError("not a table of chapters", where=str(path), hint=hint)
    return outside


def adapter_of(row: Row) -> ChapterAdapter:
    """The adapter of a row's shape. Raises InputError where it has none."""
    found = next((adapter for adapter in ADAPTERS if adapter.fits(row.value)), None)
    if found is None:
        hint = f"known shapes: {'; '.join(adapter.name for adapter in ADAPTERS)}"
        what = f"a chapter of an unknown shape (fields: {', '.join(row.value)})"
        raise InputError(what, where=row.where, hint=hint)
    return found


def empty(row: Row) -> Dropped:
    """A row whose chapter or summary has no text."""
    return Dropped(row.where, "empty", "no text in the chapter or in the summary")


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of a table. Raises InputError where one is broken or not an object."""
    if ending(path) == ".csv":
        yield from enumerate(csv_rows(path), 1)
        return
    for record in read_dump(path):
        where = f"{path}: record {record.number}"
        if isinstance(record, Broken):
            raise InputError(record.error, where=where)
        if not isinstance(record.value, dict):
            raise InputError("a JSON object was expected", where=where)
        yield record.number, record.value


def csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file with a header. Raises InputError, naming the line, where one does not fit it."""
    csv.field_size_limit(LARGEST_RECORD)
    with path.open("rb") as raw, plain(raw, path) as file:
        reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise csv.Error("not as many fields as the header")
                yield row
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            where = f"{path}:{reader.line_num}"
            raise InputError(f"not valid CSV ({error})", where=where) from None
