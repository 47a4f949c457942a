"""What is remembered of the records so far, on disk: memory does not grow with their number.

The cleaned lines stand in a spool file in the order in which they came; SQLite holds where each one stands,
what was dropped, and the tables of the checks that compare records (duplicates, near_duplicates): a lookup or
two per record, by key, for which it is the better tool than a database of columns.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stillroom.errors import StillroomError
from stillroom.sources.adapter import Dropped

CACHE = 48 << 10
"""KiB of pages that SQLite holds in memory"""
TABLES = """
    CREATE TABLE kept (id TEXT, start INTEGER, length INTEGER, turns INTEGER, characters INTEGER);
    CREATE TABLE dropped (id TEXT, reason TEXT, detail TEXT);
    BEGIN;
"""

Place = tuple[int, int]
"""where a line stands in the spool: its first byte, and its length"""


class Cleaned(NamedTuple):
    """A conversation after the steps that look at it alone."""

    id: str
    line: bytes
    """of the output file"""
    turns: int
    """the human's"""
    characters: int
    """of the human turns"""
    digest: bytes
    """of system message and human turns"""
    bands: tuple[int, ...] = ()
    """of the MinHash signature, where near-duplicates are looked for"""


class Scratch:
    """The spool and the database of one run. `database` is for the checks that keep tables of their own."""

    def __init__(self, folder: Path) -> None:
        self._spool = (folder / "lines.jsonl").open("w+b")
        self._end = self._readable = 0
        self.database = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
        for setting in (
            "journal_mode=OFF",
            "synchronous=OFF",
            "locking_mode=EXCLUSIVE",
            f"cache_size=-{CACHE}",
        ):
            self.database.execute(f"PRAGMA {setting}")
        self.database.executescript(TABLES)

    def write(self, line: bytes) -> Place:
        """Add a line to the spool."""
        self._spool.write(line)
        place = self._end, len(line)
        self._end += len(line)
        return place

    def read(self, place: Place) -> bytes:
        """A line of the spool."""
        start, length = place
        if start + length > self._readable:
            self._spool.flush()
            self._readable = self._end
        return os.pread(self._spool.fileno(), length, start)

    def lines(self, order: str) -> Iterator[tuple[str, bytes]]:
        """(id, line) of the kept records, in the order of a column: `id`, or `start` as they came."""
        rows = self.database.execute(f"SELECT id, start, length FROM kept ORDER BY {order}")
        return ((identifier, self.read((start, length))) for identifier, start, length in rows)

    def keep(self, conversation: Cleaned, place: Place) -> None:
        """Note a conversation that passed every check."""
        row = (conversation.id, *place, conversation.turns, conversation.characters)
        self.database.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?)", row)

    def drop(self, record: Dropped) -> None:
        """Note a record that goes no further."""
        row = (record.id, record.reason, record.detail)
        self.database.execute("INSERT INTO dropped VALUES (?, ?, ?)", row)

    def draw(self, count: int, rank: Callable[[str], str]) -> None:
        """Keep the `count` conversations that rank first by their ids, and drop the others as `sample`."""
        execute = self.database.execute
        self.database.create_function("rank_of", 1, rank, deterministic=True)
        execute("CREATE TABLE drawn AS SELECT start FROM kept ORDER BY rank_of(id), start LIMIT ?", (count,))
        others = "FROM kept WHERE start NOT IN (SELECT start FROM drawn)"
        what = f"not among the {count} drawn"
        execute(f"INSERT INTO dropped SELECT id, 'sample', ? {others}", (what,))
        execute(f"DELETE {others}")

    def holds(self, identifier: str) -> bool:
        """Whether a conversation with that id is kept."""
        return self.database.execute("SELECT 1 FROM kept WHERE id = ?", (identifier,)).fetchone() is not None

    def named(self, detail: str) -> Place | None:
        """The place of the kept conversation whose id ends the text, as a duplicate's detail does."""
        query = (
            "SELECT start, length FROM kept WHERE substr(?, -length(id) - 1) = ' ' || id ORDER BY length(id)"
        )
        found: list[Place] = self.database.execute(query, (detail,)).fetchall()
        return found[-1] if found else None

    def dropped(self) -> Iterator[Dropped]:
        """What was dropped, sorted."""
        rows = self.database.execute("SELECT id, reason, detail FROM dropped ORDER BY id, reason, detail")
        return (Dropped(*row) for row in rows)

    def reasons(self) -> dict[str, int]:
        """How many records were dropped for each reason."""
        query = "SELECT reason, count(*) FROM dropped GROUP BY reason ORDER BY reason"
        return dict(self.database.execute(query).fetchall())

    def totals(self) -> tuple[int, int, int]:
        """Conversations, human turns and their characters."""
        query = "SELECT count(*), ifnull(sum(turns), 0), ifnull(sum(characters), 0) FROM kept"
        count, turns, characters = self.database.execute(query).fetchone()
        return count, turns, characters

    def close(self) -> None:
        """Close both files."""
        self.database.close()
        self._spool.close()


@contextmanager
def scratch(folder: Path) -> Iterator[Scratch]:
    """An empty Scratch in a folder of its own, which goes with it; so does what a killed run left there.

    Raises StillroomError where the database fails, as on a full disk.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        made = Scratch(folder)
        try:
            yield made
        finally:
            made.close()
    except sqlite3.Error as error:
        raise StillroomError(str(error), where=str(folder), hint="Free some space and run again.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
