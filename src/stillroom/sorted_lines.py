r"""Lines that come in any order and are read in the order of their keys; memory does not grow with them.

    with SortedLines() as lines:                      with sorted_files(records, texts) as files:
        lines.add("b", b"…\n")                            files.add("b", b"…\n", b"…\n")
        file.writelines(lines)

They stand in a temporary SQLite database, which has no name: no kill leaves it behind. Of files, only the
lines that come too late to be written at once.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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


class SortedFiles:
    """JSON Lines files with one line for each key, in the order of the keys. Made by `sorted_files`."""

    def __init__(self, files: Sequence[BinaryIO], keys: SortedLines) -> None:
        self._files, self._keys = files, keys
        self._last = ""
        self._late = False

    def add(self, key: str, *lines: bytes) -> None:
        """Keep a line for each file: written at once where no greater key came before.

        Raises InputError where the key has lines.
        """
        if key > self._last:
            self._keys.add(key, b"")
            self._last = key
            for file, line in zip(self._files, lines, strict=True):
                file.write(line)
        else:
            self._keys.add(key, b"".join(lines))
            self._late = True

    def merge(self) -> None:
        """Bring what came late to its place, and all to the disk; nothing can be added afterwards."""
        with ExitStack() as stack:
            written = [stack.enter_context(_moved(file)) for file in self._files if self._late]
            for late in self._keys if self._late else ():
                lines = late.splitlines(keepends=True) or [file.readline() for file in written]
                for file, line in zip(self._files, lines, strict=True):
                    file.write(line)
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def sorted_files(*paths: Path, source: Path | None = None) -> Iterator[SortedFiles]:
    """Files to fill in any order; they get their names, after `merge`, only where the block ends well.

    source: of the records, for errors. Raises InputError where another run is writing one of them,
    StillroomError where the temporary directory is full.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_write(path, alone=True)) for path in paths]
        yield SortedFiles(files, stack.enter_context(SortedLines(source)))


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
