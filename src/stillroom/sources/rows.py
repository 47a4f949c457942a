"""A folder of JSON files ──▶ rows with their addresses, whatever the spelling of the files.

JSON Lines (.jsonl, .ndjson), one JSON array (.json), each also gzipped (.gz).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import orjson

from stillroom.errors import InputError

LINES = (".jsonl", ".ndjson")


def read_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line` or `file[index]`, object) of every JSON file of the folder, sorted by name.

    Raises InputError where the folder is absent, a file is of another type, or a row is not a JSON object.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), hint="run the stage that makes it first")
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        if kind in LINES:
            yield from _lines(path)
        elif kind == ".json":
            yield from _array(path)
        else:
            raise InputError("not a JSON file", where=str(path), hint="expected .jsonl or .json, or with .gz")


def field(row: dict[str, Any], name: str, where: str) -> str:
    """A field that must be a string with text. Raises InputError naming row and field."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"`{name}` must be a text (got {_excerpt(value)})", where=where)
    return value


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _open(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield f"{path}:{number}", _object(_parsed(line, f"{path}:{number}"), f"{path}:{number}")
        except (gzip.BadGzipFile, EOFError) as error:
            raise InputError(f"the gzip file is damaged ({error})", where=str(path)) from None


def _array(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _open(path) as file:
        try:
            rows = _parsed(file.read(), str(path))
        except (gzip.BadGzipFile, EOFError) as error:
            raise InputError(f"the gzip file is damaged ({error})", where=str(path)) from None
    if not isinstance(rows, list):
        raise InputError("a JSON array was expected", where=str(path))
    for index, row in enumerate(rows):
        yield f"{path}[{index}]", _object(row, f"{path}[{index}]")


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _parsed(text: bytes, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error})", where=where) from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError("a JSON object was expected", where=where)
    return row


def _excerpt(value: Any) -> str:
    return repr(value)[:60]
