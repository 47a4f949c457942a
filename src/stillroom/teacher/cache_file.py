"""The file of the response cache: its rows, its schema from every version on, and who may open it when.

responses.duckdb (any version), spools of dead runs ──▶ opened ──▶ a connection to the present schema

DuckDB opens a file in one process at a time. Two lock files beside it make an orderly queue of that:
whoever wants the file holds `.queue` while waiting for `.lock`, so that the one who has it sees that someone
waits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import platformdirs
from filelock import FileLock, Timeout

from stillroom.errors import InputError
from stillroom.teacher import spool

FILE = "responses.duckdb"
LOCK_SECONDS = 120.0
"""the most that a run waits for another one to let go of the file"""
POLL_SECONDS = 0.005
"""between two looks at a lock that another process holds"""
WAL_BYTES = "64MB"
"""the write-ahead log may grow so far before DuckDB pauses to merge it; it also does so at every close"""
HAND_OVER_BYTES = 4 << 20
"""a longer one is merged even where others wait: whoever opens the file next has to read it"""
MEMORY, MEMORY_OF_ANSWER = 384 << 20, 200
"""DuckDB's share in bytes, and more for each answer's key in the index; the rest is spilled to disk"""


@dataclass(frozen=True, slots=True)
class Row:
    """One answered turn; the fields are the table's columns. From `served_model` on: null after an import."""

    key: str
    """SHA-256 of `request`, in hex"""
    request: str
    """canonical JSON of what the teacher saw, and the sample index"""
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    served_model: str | None = None
    """which model the endpoint says answered"""
    fingerprint: str | None = None
    """the response's system_fingerprint"""
    request_id: str | None = None
    """the response's x-request-id, for a question to the vendor"""
    response_id: str | None = None
    """the response's own id"""
    endpoint: str | None = None
    """base URL, without user or password"""
    seconds: float | None = None
    """from sending to having the answer, last attempt only"""
    attempts: int | None = None
    cost: float | None = None
    """money, in the currency of the price table of that time"""
    time: float | None = None
    """when it came, seconds since 1970"""
    response: str | None = None
    """the whole response as JSON, without the answer's text"""


class Kept(NamedTuple):
    """What a run needs of a row: not the request, which it has, nor where the answer came from."""

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


COLUMNS = ", ".join(f.name for f in fields(Row))
PORTABLE = "key, request, text, finish_reason, prompt_tokens, completion_tokens"
"""the columns of a snapshot: the same answers give the same bytes, whoever bought them and when"""
TEACHER = "coalesce(TRY(request->>'$.teacher'), '?')"
"""SQL: the teacher that a row is from"""
BYTES = "(strlen(request) + strlen(text) + coalesce(strlen(response), 0))"
"""SQL: the size of a row, before compression"""
KEYS = "(SELECT unnest($1::VARCHAR[]) AS key)"
"""SQL: the table of the keys that are given as a list"""
_TYPES = {"str": "VARCHAR", "int": "INTEGER", "float": "DOUBLE"}
_STRUCT = {f.name: _TYPES[str(f.type).removesuffix(" | None")] for f in fields(Row)}
_INSERT = (
    f"INSERT INTO responses ({COLUMNS}) SELECT {', '.join(f'row.{name}' for name in _STRUCT)} FROM "
    f"(SELECT unnest(from_json($1, '{json.dumps([_STRUCT])}')) AS row) ON CONFLICT DO NOTHING"
)


def default_path() -> Path:
    """Where the cache lies: STILLROOM_CACHE, or the user's cache directory."""
    folder = os.environ.get("STILLROOM_CACHE") or platformdirs.user_cache_dir("stillroom")
    return Path(folder) / FILE


def create_responses(connection: duckdb.DuckDBPyConnection) -> None:
    """Version 1."""
    connection.execute(
        "CREATE TABLE responses (key VARCHAR PRIMARY KEY, request VARCHAR NOT NULL, text VARCHAR NOT NULL, "
        "finish_reason VARCHAR NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
        "provenance VARCHAR)"
    )


def split_provenance(connection: duckdb.DuckDBPyConnection) -> None:
    """Version 2: a column for each thing that version 1 kept together as JSON."""
    connection.execute("ALTER TABLE responses RENAME TO version_1")
    connection.execute(
        "CREATE TABLE responses (key VARCHAR PRIMARY KEY, request VARCHAR NOT NULL, text VARCHAR NOT NULL, "
        "finish_reason VARCHAR NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
        "served_model VARCHAR, fingerprint VARCHAR, request_id VARCHAR, response_id VARCHAR, "
        "endpoint VARCHAR, seconds DOUBLE, attempts INTEGER, cost DOUBLE, time DOUBLE, response VARCHAR)"
    )
    connection.execute(
        "INSERT INTO responses SELECT key, request, text, finish_reason, prompt_tokens, completion_tokens, "
        "provenance->>'$.response.model', provenance->>'$.response.system_fingerprint', "
        "provenance->>'$.request_id', provenance->>'$.response.id', provenance->>'$.endpoint', "
        "(provenance->>'$.seconds')::DOUBLE, (provenance->>'$.attempts')::INTEGER, NULL, "
        "(provenance->>'$.time')::DOUBLE, (provenance->'$.response')::VARCHAR FROM version_1"
    )
    connection.execute("DROP TABLE version_1")


def create_batches(connection: duckdb.DuckDBPyConnection) -> None:
    """Version 3: the batches that an endpoint works on, and what they ask."""
    connection.execute(
        "CREATE TABLE batches (id VARCHAR PRIMARY KEY, endpoint VARCHAR NOT NULL, state VARCHAR NOT NULL, "
        "created DOUBLE NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE batch_requests (batch VARCHAR NOT NULL, key VARCHAR NOT NULL, request VARCHAR NOT NULL)"
    )


MIGRATIONS = (create_responses, split_provenance, create_batches)
"""MIGRATIONS[n] brings a file from version n to n + 1; new ones are added at the end, none is ever edited."""


def migrate(connection: duckdb.DuckDBPyConnection, version: int = len(MIGRATIONS)) -> None:
    """Bring the schema up to a version, each step in a transaction. Raises InputError on a newer file."""
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY)")
    present = one(connection.execute("SELECT count(*) FROM migrations"))
    if present > len(MIGRATIONS):
        raise InputError(
            f"written by a newer stillroom (schema {present}, this one knows {len(MIGRATIONS)})",
            hint="update stillroom, or set STILLROOM_CACHE to another folder",
        )
    for number, step in enumerate(MIGRATIONS[present:version], present + 1):
        connection.begin()
        step(connection)
        connection.execute("INSERT INTO migrations VALUES (?)", [number])
        connection.commit()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The right to the cache file, for one process at a time; others wait their turn.

    Raises InputError after LOCK_SECONDS, and where the folder cannot be written.
    """
    lock = FileLock(f"{path}.lock", poll_interval=POLL_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.queue", timeout=LOCK_SECONDS, poll_interval=POLL_SECONDS):
            lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise InputError(
            "another run holds the response cache", where=str(path), hint="wait for it"
        ) from None
    except OSError as error:
        what = f"the response cache cannot be written ({error.strerror})"
        raise InputError(what, where=str(path), hint="set STILLROOM_CACHE to a folder of yours") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The cache file, held alone, in the present schema, with what dead runs left in their spools.

    Raises InputError where the file is damaged or another program keeps it open.
    """
    with held(path), translated(path), connected(path) as connection:
        migrate(connection)
        take_over(connection, path)
        yield connection


def take_over(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Commit what dead runs left in their spools."""
    spool.replay(path, lambda rows: insert(connection, rows))


def connected(path: Path) -> duckdb.DuckDBPyConnection:
    """A connection; raises DuckDB's own errors."""
    connection = duckdb.connect(str(path), config={"threads": 1, "wal_autocheckpoint": WAL_BYTES})
    rows = "SELECT coalesce(sum(estimated_size), 0)::BIGINT FROM duckdb_tables()"
    share = MEMORY + MEMORY_OF_ANSWER * int(one(connection.execute(rows)))
    connection.execute(f"SET memory_limit = '{share}B'")
    return connection


def wanted(path: Path) -> bool:
    """Whether someone waits for the file."""
    try:
        with FileLock(f"{path}.queue", timeout=0):
            return False
    except Timeout:
        return True


def hand_over(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Before a close for somebody who waits: leave the write-ahead log unmerged while it is short."""
    wal = Path(f"{path}.wal")
    if wal.is_file() and wal.stat().st_size < HAND_OVER_BYTES:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")


def insert(connection: duckdb.DuckDBPyConnection, rows: Iterable[bytes]) -> int:
    """Commit rows, given as JSON, of different keys, except where the key is there already; return how many
    were new."""
    # DuckDB parses JSON without holding up Python's other threads; lists of values hold them up
    return int(one(connection.execute(_INSERT, [f"[{b','.join(rows).decode()}]"])))


def one(found: duckdb.DuckDBPyConnection) -> Any:
    """The only value of a result."""
    return found.fetchall()[0][0]


def check_snapshot(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Raise InputError where a file is not a snapshot of answers."""
    if not path.is_file():
        raise InputError("no such file", where=str(path))
    try:
        connection.execute(f"SELECT {PORTABLE} FROM read_parquet(?) LIMIT 0", [str(path)]).fetchall()
    except duckdb.Error as error:
        what = str(error).splitlines()[0]
        raise InputError(f"not a snapshot of answers ({what})", where=str(path)) from None


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """DuckDB's errors as ours, naming the file."""
    try:
        yield
    except duckdb.Error as error:
        what, hint = _explained(str(error).splitlines()[0])
        raise InputError(what, where=str(path), hint=hint) from None
    except InputError as error:
        raise InputError(error.what, where=error.where or str(path), hint=error.hint) from None


def _explained(text: str) -> tuple[str, str]:
    """What an error of DuckDB means, and the way out."""
    if "No space left" in text:
        return "the disk is full", "free some space and run again; what was answered is kept"
    if "Out of Memory" in text:
        return f"not enough memory ({text})", "the response cache itself is sound"
    if "lock on file" in text:
        return f"another program has the response cache open ({text})", "close it and run again"
    if "Permission denied" in text or "ead-only" in text:
        return f"the response cache cannot be written ({text})", "set STILLROOM_CACHE to a folder of yours"
    if "version number" in text:
        return f"written by another version of DuckDB ({text})", "update stillroom, or set STILLROOM_CACHE"
    return (
        f"the response cache cannot be read ({text})",
        "`stillroom cache repair` saves what can be read; `stillroom cache import` refills from snapshots",
    )
