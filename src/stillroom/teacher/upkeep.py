"""Upkeep of the response cache: what may go, what a damaged file still holds.

cache file ──▶ prune ──▶ cache file without the rows of a choice, and without the space that they took
damaged cache file ──▶ repair ──▶ cache file with all that can be read; the damaged one is kept beside it

Both write a new file beside the old one and rename it at the end: a kill leaves the old one.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from stillroom.errors import InputError
from stillroom.teacher.cache_file import (
    BYTES,
    MIGRATIONS,
    PORTABLE,
    TEACHER,
    check_snapshot,
    connected,
    create_batches,
    held,
    migrate,
    one,
    opened,
    take_over,
    translated,
)

VECTOR = 2048
"""rows that DuckDB reads at a time: where one is unreadable, so are they all, except one by one by key"""
BATCHES_VERSION = 1 + MIGRATIONS.index(create_batches)


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows to remove: those that meet every condition that is set."""

    teacher: str | None = None
    """of this teacher; a pattern with * and ? too"""
    before: float | None = None
    """bought before that moment, seconds since 1970; rows without a time, from an import, do not count"""
    not_in: Sequence[Path] = ()
    """in none of these snapshots"""


@dataclass(frozen=True, slots=True)
class Sum:
    """What rows come to."""

    answers: int
    tokens: int
    cost: float
    """of the rows whose price is known"""
    bytes: int
    """of requests, answers and responses, before compression"""


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair found."""

    answers: int
    """in the cache now"""
    unreadable: int = 0
    """rows that were seen and could not be read; where the file does not open at all, none were seen"""
    kept: Path | None = None
    """where the damaged file is; None: there was no damage"""


def would_go(path: Path, choice: Choice) -> Sum:
    """What `prune` would remove. Raises InputError where the choice is empty or a file is no snapshot."""
    with opened(path) as connection:
        return _choose(connection, choice)


def prune(path: Path, choice: Choice) -> Sum:
    """Remove the chosen rows and give their space back; return what they came to.

    Raises InputError where the choice is empty or a file is no snapshot.
    """
    with held(path), translated(path), _fresh(path) as fresh:
        with connected(fresh) as connection:
            migrate(connection)
        with connected(path) as connection:
            migrate(connection)
            take_over(connection, path)
            gone = _choose(connection, choice)
            connection.execute(f"ATTACH '{_quoted(fresh)}' AS fresh")
            connection.execute(
                "INSERT INTO fresh.responses SELECT * FROM responses ANTI JOIN chosen USING (key)"
            )
            for table in ("batches", "batch_requests"):
                connection.execute(f"INSERT INTO fresh.{table} SELECT * FROM {table}")
            connection.execute("DETACH fresh")
        if gone.answers:
            fresh.replace(path)
    return gone


def repair(path: Path) -> Repair:
    """Replace a damaged cache file by one with all rows that can be read; the damaged one is kept.

    Rows of dead runs' spools are taken over too. Raises InputError where there is no file.
    """
    if not path.is_file():
        raise InputError("no such file", where=str(path))
    with held(path):
        if (answers := _intact(path)) is not None:
            return Repair(answers)
        kept = _free_name(path)
        wal = Path(f"{path}.wal")
        with _fresh(path) as fresh:
            saved = _salvage(path, fresh)
            if saved is None and wal.is_file():
                wal.rename(f"{kept}.wal")
                saved = _salvage(path, fresh)
            path.rename(kept)
            if wal.is_file():
                wal.rename(f"{kept}.wal")
            if saved is not None:
                fresh.replace(path)
    there, readable = saved or (0, 0)
    with opened(path) as connection:
        answers = int(one(connection.execute("SELECT count(*) FROM responses")))
    return Repair(answers, there - readable, kept)


def _choose(connection: duckdb.DuckDBPyConnection, choice: Choice) -> Sum:
    """The chosen keys as the temporary table `chosen`, and what they come to."""
    conditions: list[str] = []
    values: list[object] = []
    if choice.teacher is not None:
        conditions.append(f"({TEACHER} = ? OR {TEACHER} GLOB ?)")
        values += [choice.teacher, choice.teacher]
    if choice.before is not None:
        conditions.append("time < ?")
        values.append(choice.before)
    for snapshot in choice.not_in:
        check_snapshot(connection, snapshot)
        conditions.append("key NOT IN (SELECT key FROM read_parquet(?))")
        values.append(str(snapshot))
    if not conditions:
        raise InputError("nothing says which answers may go", hint="--teacher, --older-than or --not-in")
    chosen = f"SELECT key FROM responses WHERE {' AND '.join(conditions)}"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE chosen AS {chosen}", values)
    sums = (
        "count(*), coalesce(sum(prompt_tokens + completion_tokens), 0)::BIGINT, coalesce(sum(cost), 0), "
        f"coalesce(sum({BYTES}), 0)::BIGINT"
    )
    query = f"SELECT {sums} FROM responses SEMI JOIN chosen USING (key)"
    return Sum(*connection.execute(query).fetchall()[0])


@contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """A name for a new cache file beside another one; removed at the end, unless it was renamed."""
    fresh = path.with_name(f".{path.name}.fresh")
    remains = [fresh, Path(f"{fresh}.wal")]
    for file in remains:
        file.unlink(missing_ok=True)
    try:
        yield fresh
    finally:
        for file in remains:
            file.unlink(missing_ok=True)


def _intact(path: Path) -> int | None:
    """How many rows a file holds, or None where a column or the index cannot be read."""
    try:
        with connected(path) as connection:
            migrate(connection)
            connection.begin()
            for table in ("responses", "batches", "batch_requests"):  # every column
                connection.execute(f"SELECT bit_xor(hash(t)) FROM {table} t").fetchall()
            same = "SELECT key, '', '', '', 0, 0 FROM responses"  # the whole index
            connection.execute(f"INSERT INTO responses ({PORTABLE}) {same} ON CONFLICT DO NOTHING")
            connection.rollback()
            take_over(connection, path)
            return int(one(connection.execute("SELECT count(*) FROM responses")))
    except duckdb.Error as error:
        print(f"response cache: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def _salvage(path: Path, fresh: Path) -> tuple[int, int] | None:
    """Copy what can be read to a new file; return how many rows there were and how many came over.

    None where the damaged file does not even open. A row of which only the provenance is damaged comes over
    without it.
    """
    fresh.unlink(missing_ok=True)
    with connected(fresh) as connection:
        try:
            connection.execute(f"ATTACH '{_quoted(path)}' AS damaged (READ_ONLY)")
            end = int(one(connection.execute("SELECT coalesce(max(rowid) + 1, 0) FROM damaged.responses")))
            version = int(one(connection.execute("SELECT count(*) FROM damaged.migrations")))
        except duckdb.Error:
            return None
        migrate(connection, version)
        for start in range(0, end, VECTOR):
            _copy(connection, start, start + VECTOR)
        if version >= BATCHES_VERSION:
            _copy_batches(connection)
        return end, int(one(connection.execute("SELECT count(*) FROM responses")))


def _copy(connection: duckdb.DuckDBPyConnection, start: int, end: int) -> None:
    """Copy the rows of a range: together, else each by its key, else together without provenance."""
    try:
        _copy_where(connection, "*", "rowid >= ? AND rowid < ?", [start, end])
    except duckdb.Error:
        try:
            query = "SELECT key FROM damaged.responses WHERE rowid >= ? AND rowid < ?"
            keys = connection.execute(query, [start, end]).fetchall()
        except duckdb.Error:
            with suppress(duckdb.Error):
                _copy_where(connection, PORTABLE, "rowid >= ? AND rowid < ?", [start, end])
            return
        _copy_by_key(connection, [key for (key,) in keys])


def _copy_by_key(connection: duckdb.DuckDBPyConnection, keys: Sequence[str]) -> None:
    """Copy rows by way of the index, which reads the blocks of one row alone."""
    readable: dict[str, list[tuple[object, ...]]] = {"*": [], PORTABLE: []}
    for key in keys:
        for columns, rows in readable.items():
            with suppress(duckdb.Error):
                query = f"SELECT {columns} FROM damaged.responses WHERE key = ?"
                rows += connection.execute(query, [key]).fetchall()
                break
    connection.begin()
    for columns, rows in readable.items():
        if rows:
            target = "" if columns == "*" else f"({columns})"
            places = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO responses {target} VALUES ({places})", rows)
    connection.commit()


def _copy_where(
    connection: duckdb.DuckDBPyConnection, columns: str, condition: str, values: list[object]
) -> None:
    """Copy the rows of a condition. Keys are not read but computed: they may be what is damaged."""
    target = "" if columns == "*" else f"({columns})"
    source = f"SELECT {columns} FROM damaged.responses WHERE {condition}"
    connection.execute(
        f"INSERT INTO responses {target} SELECT * REPLACE (sha256(request) AS key) FROM ({source}) "
        "ON CONFLICT DO NOTHING",
        values,
    )


def _copy_batches(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        for table in ("batches", "batch_requests"):
            connection.execute(f"INSERT INTO {table} SELECT * FROM damaged.{table}")
    except duckdb.Error:
        print("response cache: the list of open batches cannot be read", file=sys.stderr)


def _free_name(path: Path) -> Path:
    """Where a damaged file goes."""
    names = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
