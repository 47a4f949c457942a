"""Passages of a collection, whatever the shape of their files ──▶ Passages with their addresses.

JSON Lines, a JSON array or Parquet of objects with `text`, and `title` where there is one:

    {"title": "Aaron", "text": "Aaron was a prophet, high priest, and the brother of Moses …"}

Tables with a header and tab stops between the columns `text` and `title`, as DPR publishes Wikipedia in
passages of 100 words (psgs_w100.tsv; github.com/facebookresearch/DPR; CC BY-SA 3.0):

    id  text                                                        title
    1   "Aaron was a prophet, high priest, and the brother of …"    Aaron

Also compressed, and mixed in one folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from stillroom.errors import InputError
from stillroom.sources.dumps import COMPRESSED, ENDINGS, LARGEST_RECORD, Broken, ending, plain, read_dump
from stillroom.sources.question import Origin, Passage, Record, one_line, passage

TABLE = ".tsv"


def read_passages(folder: Path) -> Iterator[tuple[Origin, Passage]]:
    """Yield the passages of a folder, file by file. Raises InputError naming file and record."""
    for path, file in listed(folder, (*ENDINGS, TABLE)):
        found = rows(path) if ending(path) == TABLE else (passage(record) for record in records(path))
        for number, text in enumerate(found, 1):
            yield Origin(file, number), text


def listed(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """The files of a folder, sorted, with their names: the folder's own and the path below it.

    Raises InputError where there is no folder, or a file's ending is none of these.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), hint="run the stage that makes it first")
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if ending(path) not in endings:
            hint = f"expected {', '.join(endings)}, also with {' or '.join(COMPRESSED)}"
            raise InputError("a file of an unknown kind", where=str(path), hint=hint)
        yield path, path.relative_to(folder.parent).as_posix()


def records(path: Path) -> Iterator[Record]:
    """The objects of a dump. Raises InputError where one is broken, or no object."""
    for record in read_dump(path):
        where = f"{path}: record {record.number}"
        if isinstance(record, Broken):
            raise InputError(record.error, where=where)
        if not isinstance(record.value, dict):
            raise InputError("a JSON object was expected", where=where)
        yield Record(where, record.value)


def rows(path: Path) -> Iterator[Passage]:
    """The passages of a table. Raises InputError naming the line, or where the header lacks a column."""
    csv.field_size_limit(LARGEST_RECORD)
    with path.open("rb") as raw, plain(raw, path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.DictReader(lines, delimiter="\t", strict=True)
        try:
            if not {"text", "title"} <= set(reader.fieldnames or ()):
                raise csv.Error("the first line must name the columns `text` and `title`")
            for row in reader:
                if None in row or None in row.values():
                    raise csv.Error("not as many columns as the first line")
                if not row["text"].strip():
                    raise csv.Error("`text` is empty")
                yield Passage(one_line(row["title"]), one_line(row["text"]))
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            raise InputError(f"not a table ({error})", where=f"{path}:{reader.line_num}") from None
