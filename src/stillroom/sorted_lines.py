"""Lines that come in any order and are read in the order of their keys; memory does not grow with them.

    with SortedLines() as lines:
        lines.add("b", b"…\n")
        file.writelines(lines)

They stand in a temporary SQLite database, which has no name: no kill leaves it behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

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


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        hint = "free some space in the temporary directory, or set SQLITE_TMPDIR"
        raise StillroomError(str(error), hint=hint) from None
