"""A dump of JSON values, of any size ──▶ its records one by one, broken ones among them by name.

JSON arrays and JSON Lines (told apart by the name's ending and the first character), Parquet; gzip and
Zstandard. Memory is bounded by the largest record. A broken record does not end the reading:

    [{"a": 1}, {"a": }, {"a": 3}]  ──▶  Record(1, 1, {"a": 1})  Broken(2, 11, "…")  Record(3, 20, {"a": 3})
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from stillroom.errors import InputError

CHUNK = 1 << 20
LARGEST_RECORD = 1 << 26
"""bytes; a longer record means that a quote or bracket is missing"""
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet")
SINGLY_ESCAPED = rb'"(?:[^"]*+"(?<=[^\\]\\"))*+[^"]*+(?<!\\)"'
"""a string in which no quote follows two backslashes: quotes alone are looked for, which is much faster"""
STRING = rb'(?:%b|"[^"\\]*+(?:\\.[^"\\]*+)*+")' % SINGLY_ESCAPED
FLAT_OBJECT = rb"\{[^][{}\"]*+(?:%b[^][{}\"]*+)*+\}" % STRING
TOKEN = re.compile(rb'%b|%b|["\[\]{},]' % (FLAT_OBJECT, STRING), re.DOTALL)
"""a whole object that holds no other, a whole string, or a character that opens, closes or separates; a lone
quote is a string without end"""


class Raw(NamedTuple):
    """A record before it is parsed: its number (from 1), byte offset in the uncompressed file, and bytes."""

    number: int
    offset: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A JSON value: its number (from 1) and byte offset in the uncompressed file."""

    number: int
    offset: int
    value: Any


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that is not JSON."""

    number: int
    offset: int
    error: str


def dump_files(folder: Path) -> list[Path]:
    """The dump files of a folder, sorted. Raises InputError on a file of another ending, or a dead link."""
    paths = sorted(p for p in folder.rglob("*") if not p.is_dir() and not p.name.startswith("."))
    for path in paths:
        if ending(path) not in ENDINGS:
            hint = f"expected {', '.join(ENDINGS)}, also with {' or '.join(COMPRESSED)}"
            raise InputError("not a dump of conversations", where=str(path), hint=hint)
        if not path.exists():
            raise InputError(f"a link to {path.readlink()}, which is not there", where=str(path))
    return paths


def ending(path: Path) -> str:
    """`.jsonl` of `a.jsonl.gz`."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def read_dump(path: Path) -> Iterator[Record | Broken]:
    """Stream the records of a file. Raises InputError where it cannot be read or decompressed."""
    return map(parsed, raw_records(path))


def objects(paths: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and record, JSON object) of every record. Raises InputError where one is something else."""
    for path in paths:
        for record in read_dump(path):
            where = f"{path}: record {record.number}"
            if isinstance(record, Broken):
                raise InputError(record.error, where=where)
            if not isinstance(record.value, dict):
                raise InputError("an object was expected", where=where)
            yield where, record.value


def raw_records(path: Path) -> Iterator[Raw]:
    """Split a file into records without parsing them, which `parsed` can do in another process.

    Raises InputError where the file cannot be read or decompressed.
    """
    if ending(path) == ".parquet":
        yield from _parquet(path)
        return
    try:
        with path.open("rb") as raw, plain(raw, path) as file:
            start = file.peek(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
            array = ending(path) == ".json" and start == b"["
            for number, (offset, text) in enumerate(_elements(file) if array else _lines(file), 1):
                yield Raw(number, offset, text)
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error})", where=str(path)) from None


def parsed(raw: Raw) -> Record | Broken:
    """The value of a record, or what is wrong with its JSON."""
    try:
        return Record(raw.number, raw.offset, orjson.loads(raw.text))
    except orjson.JSONDecodeError as error:
        return Broken(raw.number, raw.offset, f"not valid JSON ({error})")


def plain(file: io.BufferedReader, path: Path) -> io.BufferedReader:
    """The file's content, decompressed where its name says so."""
    kind = COMPRESSED.get(path.suffix)
    if kind is None:
        return file
    import pyarrow  # 40 MB that most workers of extract do without

    return io.BufferedReader(pyarrow.input_stream(file, compression=kind), CHUNK)


def _lines(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while line := file.readline(LARGEST_RECORD):
        if text := line.removeprefix(b"\xef\xbb\xbf" if offset == 0 else b"").strip():
            yield offset, text
        offset += len(line)


def _elements(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """The elements of one JSON array, with their offsets. A cut-off end is the last, broken element."""
    buffer = b""
    base = position = start = depth = 0
    while chunk := file.read(max(CHUNK, len(buffer) - start)):  # doubling: a long record costs linear time
        buffer = buffer[start:] + chunk
        base, position, start = base + start, position - start, 0
        if len(buffer) > LARGEST_RECORD:
            break
        for match in TOKEN.finditer(buffer, position):
            token = match[0]
            if token in b"[{":
                depth += 1
                start = match.end() if depth == 1 else start
            elif token in b"]}":
                depth -= 1
            elif token == b'"':
                break
            position = match.end()
            if depth == 0 or (depth == 1 and token == b","):
                if text := buffer[start : match.start()].strip():
                    yield base + start, text
                start = position
            if depth == 0:
                if rest := (buffer[position:] + file.read(CHUNK)).strip():
                    yield base + position, rest
                return
    yield from _cut_off(base + start, buffer[start:].strip())


def _cut_off(offset: int, tail: bytes) -> Iterator[tuple[int, bytes]]:
    """The last element of an array without an end; where it is whole, a broken one after it says so."""
    if tail:
        yield offset, tail
    if not tail or isinstance(parsed(Raw(0, offset, tail)), Record):
        yield offset + len(tail), b""


def _parquet(path: Path) -> Iterator[Raw]:
    """The rows of a table as JSON."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(1000) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Raw(number, 0, orjson.dumps(row, default=str))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"not a Parquet file ({error})", where=str(path)) from None
