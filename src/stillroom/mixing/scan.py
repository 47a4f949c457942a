"""Every record of the sources, in the form in which records are compared and chosen: no texts, only figures.

{source}.jsonl ──▶ chunks of lines ──▶ Scanner, in worker processes ──▶ ids, groups, digests, tokens, places,
                                                                     signatures, benchmark matches

A chunk is a range of bytes, which the worker reads for itself: nothing but figures goes between processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from stillroom import chat_format
from stillroom.artifacts import canonical_json, open_input
from stillroom.chat_format import codec, encode_rows, load_tokenizer
from stillroom.cleaning.likeness import Likeness
from stillroom.errors import InputError
from stillroom.mixing.decontamination import Decontamination, Index, Match
from stillroom.records import Conversation, conversation
from stillroom.tokenising import Words

CHAT = "chat"
"""the source that is made of many data sets"""
CHUNK = 1 << 20
"""bytes of lines that a worker gets at a time"""


class Chunk(NamedTuple):
    """Whole lines of a source's file, from one byte to another."""

    origin: str
    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class Scan:
    """What is found out about a record."""

    base: Path
    """folder of the tokenizer"""
    chat_format: str
    likeness: Likeness | None
    """with it, signatures are made"""
    index: Path | None
    """folder of the benchmarks' index"""
    decontamination: Decontamination | None
    by_file: bool
    """whether records of one source are told apart by the input file that `extract` took them from"""
    processes: int

    def scanner(self) -> Scanner:
        """What a worker does."""
        return Scanner(self)


@dataclass
class Columns:
    """Figures of a chunk's records, in their order."""

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    """the source, or `source/file`"""
    digests: list[bytes] = field(default_factory=list)
    """of the messages: equal records have equal ones"""
    tokens: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """of the lines, in bytes of the file"""
    bands: list[tuple[int, ...]] = field(default_factory=list)
    matches: list[Match | None] = field(default_factory=list)


def chunks(files: Mapping[str, Path]) -> Iterator[Chunk]:
    """The files in their order, some CHUNK bytes at a time. Raises InputError where one is absent."""
    for origin, path in files.items():
        with open_input(path) as file:
            end = os.fstat(file.fileno()).st_size
            start = 0
            while start < end:
                file.seek(min(start + CHUNK, end))
                file.readline()
                yield Chunk(origin, path, start, stop := file.tell())
                start = stop


class Scanner:
    """Reads chunks. Raises InputError, naming the line, on what is no record."""

    def __init__(self, scan: Scan) -> None:
        if scan.processes > 1:  # the processes share the cores already
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._by_file = scan.by_file
        self._chat = chat_format.get(scan.chat_format)
        self._tokenizer = load_tokenizer(scan.base)
        self._words = Words(codec(self._tokenizer))
        self._likeness = scan.likeness
        self._index = Index(scan.index, scan.decontamination) if scan.index and scan.decontamination else None

    def __call__(self, chunk: Chunk) -> Columns:
        """The figures of a chunk's records."""
        columns = Columns()
        records = list(_records(chunk, columns.starts))
        for record in records:
            columns.ids.append(record.id)
            columns.groups.append(str(record.meta.get("group", record.id)))
            file = record.meta.get("file") if self._by_file and chunk.origin == CHAT else None
            columns.parts.append(f"{CHAT}/{file}" if file else chunk.origin)
            columns.digests.append(digest(record))
        messages = [record.messages for record in records]
        rows = encode_rows(self._chat, self._tokenizer, messages, self._words)
        columns.tokens += np.diff(rows.bounds).tolist()
        if self._likeness:
            columns.bands += (self._likeness.bands(record.messages) for record in records)
        if self._index:
            columns.matches += self._index.matches([[m.content for m in r.messages] for r in records])
        return columns


def digest(record: Conversation) -> bytes:
    """16 bytes that records with the same messages share."""
    spelled = canonical_json([[m.role, m.content] for m in record.messages])
    return hashlib.blake2b(spelled, digest_size=16).digest()


def read(path: Path, start: int) -> Conversation:
    """The record of the line that begins there, which was read before."""
    with open_input(path) as file:
        file.seek(start)
        return conversation(orjson.loads(file.readline()), str(path))


def _records(chunk: Chunk, starts: list[int]) -> Iterator[Conversation]:
    """A chunk's records; where their lines start is added to `starts`."""
    with open_input(chunk.path) as file:
        file.seek(start := chunk.start)
        while start < chunk.stop:
            line = file.readline()
            if not line.isspace():
                starts.append(start)
                yield _record(line, chunk.path, start)
            start += len(line)


def _record(line: bytes, path: Path, start: int) -> Conversation:
    """Build the record of a line; which one it is, is only counted for an error."""
    try:
        return conversation(orjson.loads(line), "")
    except orjson.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error})", where=_where(path, start)) from None
    except InputError as error:
        raise InputError(error.what, where=_where(path, start), hint=error.hint) from None


def _where(path: Path, start: int) -> str:
    """`path:line` of a line that begins there."""
    with path.open("rb") as file:
        lines = 1
        while left := start - file.tell():
            lines += file.read(min(left, CHUNK)).count(b"\n")
    return f"{path}:{lines}"
