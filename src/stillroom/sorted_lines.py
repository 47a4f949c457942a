r"""Lines that come in any order and are read in the order of their keys; memory does not grow with them.

    with SortedLines() as lines:             with sorted_file(path) as file:
        lines.add("b", b"…\n")                   file.add("b", b"…\n")
        file.writelines(lines)                   file.lines()

They stand in a temporary SQLite database, which has no name: no kill leaves it behind. Of a file, only the
lines that come too late to be written at once.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from stillroom.artifacts import atomic_write
from stillroom.errors import InputError, StillroomError

CACHE = 16 << 10
"""KiB of pages held in memory"""


class SortedLines:
    """One line per key. Raises StillroomError where the disk is full. source: of the records, for errors."""

    def __init__(self, source: Path | None = None) -> None:
        self._source = source

    def __enter__(self) -> SortedLines:
        self._database = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE}", "temp_store=FILE"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE lines (key TEXT NOT NULL UNIQUE, line BLOB NOT NULL)")
        self._database.execute("BEGIN")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, key: str, line: bytes) -> None:
        """Keep a line. Raises InputError where the key has one."""
        try:
            with _full_disk():
                self._database.execute("INSERT INTO lines VALUES (?, ?)", (key, line))
        except sqlite3.IntegrityError:
            where = str(self._source) if self._source else None
            raise InputError(f"two records have the id {key!r}", where=where) from None

    def __iter__(self) -> Iterator[bytes]:
        with _full_disk():
            yield from (line for (line,) in self._database.execute("SELECT line FROM lines ORDER BY key"))


class SortedFile:
    """A file with one line for each key, in the order of the keys. Made by `sorted_file`."""

    def __init__(self, file: BinaryIO, keys: SortedLines) -> None:
        self._file, self._keys = file, keys
        self._last = ""
        self._late = False

    def add(self, key: str, line: bytes) -> None:
        """Keep a line: written at once where no greater key came before. Raises InputError where the key has
        one."""
        if key > self._last:
            self._keys.add(key, b"")
            self._file.write(line)
            self._last = key
        else:
            self._keys.add(key, line)
            self._late = True

    def lines(self) -> Iterator[bytes]:
        """All lines, in order, from a file that is on the disk; nothing can be added any more."""
        self.merge()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.seek(0)
        yield from self._file

    def merge(self) -> None:
        """Bring what came late to its place."""
        if self._late:
            with _moved(self._file) as written:
                self._file.writelines(late or written.readline() for late in self._keys)
            self._late = False


@contextmanager
def sorted_file(path: Path, source: Path | None = None) -> Iterator[SortedFile]:
    """A file to fill in any order; it gets its name only where the block ends well.

    source: of the records, for errors. Raises InputError where another run is writing the file,
    StillroomError where the temporary directory is full.
    """
    with atomic_write(path, alone=True) as file, SortedLines(source) as keys:
        made = SortedFile(file, keys)
        yield made
        made.merge()


@contextmanager
def _moved(file: BinaryIO) -> Iterator[BinaryIO]:
    """What a file holds, to read; the file itself is empty then."""
    with tempfile.TemporaryFile() as copy:
        file.seek(0)
        with _full_disk():
            shutil.copyfileobj(file, copy)
        copy.seek(0)
        file.seek(0)
        file.truncate()
        yield copy


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        hint = "free some space in the temporary directory, or set TMPDIR to another"
        raise StillroomError(str(error), hint=hint) from None
