"""The response cache: every answer that was ever paid for, durable before anyone uses it.

request key ──▶ Cache.find ──▶ Row, or nothing
Row ──▶ Cache.store ──▶ the row that counts, committed     (`stillroom cache stats|import|export`)

One DuckDB file, `responses.duckdb`, under STILLROOM_CACHE (default: the user's cache directory), shared by
all projects and runs of a user. A row's key is the SHA-256 of its `request`, so a row proves itself.

DuckDB opens a file in one process at a time. So each run has one thread that opens the file when there is
work, commits in groups, and lets go when there is none or when another process waits: nobody holds the file
while waiting for a network. Where two runs bought the same answer, the first to commit counts for both.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import platformdirs
import pyarrow as pa
from filelock import FileLock, Timeout

from stillroom.errors import InputError, StillroomError

FILE = "responses.duckdb"
COMMIT_SECONDS = 0.010
"""the most that a row waits for others to share its commit"""
COMMIT_ROWS = 64
"""rows that end that wait early"""
IDLE_SECONDS = 0.050
"""without work for so long, the file is closed for others"""
LOCK_SECONDS = 120.0
"""the most that a run waits for another one to let go of the file"""
PORTABLE = "key, request, text, finish_reason, prompt_tokens, completion_tokens"
"""the columns of a snapshot: the same answers give the same bytes, whoever bought them and when"""


@dataclass(frozen=True, slots=True)
class Row:
    """One answered turn; the fields are the table's columns."""

    key: str
    """SHA-256 of `request`, in hex"""
    request: str
    """canonical JSON of what the teacher saw, and the sample index"""
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    provenance: str | None = None
    """JSON: the response without its text, endpoint, seconds, attempts, time; null where it came by import"""


COLUMNS = ", ".join(f.name for f in fields(Row))


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


MIGRATIONS = (create_responses,)
"""MIGRATIONS[n] brings a file from version n to n + 1; new ones are added at the end, none is ever edited."""


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring the schema up to date, each step in a transaction. Raises InputError on a newer file."""
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY)")
    version = _one(connection.execute("SELECT count(*) FROM migrations"))
    if version > len(MIGRATIONS):
        raise InputError(
            f"written by a newer stillroom (schema {version}, this one knows {len(MIGRATIONS)})",
            hint="update stillroom, or set STILLROOM_CACHE to another folder",
        )
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        connection.begin()
        step(connection)
        connection.execute("INSERT INTO migrations VALUES (?)", [number])
        connection.commit()


@contextmanager
def opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The cache file, held alone; others wait their turn in order.

    Raises InputError where the file is damaged or another program keeps it open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock", poll_interval=0.005)
    try:
        with FileLock(f"{path}.queue", timeout=LOCK_SECONDS, poll_interval=0.005):
            lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise InputError(
            "another run holds the response cache", where=str(path), hint="wait for it"
        ) from None
    try:
        with _translated(path), duckdb.connect(str(path), config={"threads": 1}) as connection:
            migrate(connection)
            yield connection
    finally:
        lock.release()


def wanted(path: Path) -> bool:
    """Whether someone waits for the file."""
    try:
        with FileLock(f"{path}.queue", timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """DuckDB's errors as ours, naming the file."""
    try:
        yield
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        if "No space left" in text:
            what, hint = "the disk is full", "free some space and run again; what was committed is kept"
        elif "lock" in text.lower():
            what, hint = f"another program has the response cache open ({text})", "close it and run again"
        else:
            what = f"the response cache cannot be read ({text})"
            hint = (
                "move the file away, or set STILLROOM_CACHE; `stillroom cache import` refills from snapshots"
            )
        raise InputError(what, where=str(path), hint=hint) from None
    except InputError as error:
        raise InputError(error.what, where=error.where or str(path), hint=error.hint) from None


class Cache:
    """The cache of one run: `with Cache() as cache`. Its methods may be called from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        self._work: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="response cache")
        self._closing = False
        self._before = np.empty(0, np.uint64)
        self._since: set[str] = set()

    def __enter__(self) -> Cache:
        self.refresh()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what was handed in, close the file."""
        self._work.put(None)
        self._thread.join()

    def refresh(self) -> None:
        """Read which keys the file holds: 8 bytes a key, one scan."""
        with opened(self.path) as connection:
            found = connection.execute(
                "SELECT ('0x' || key[:16])::UBIGINT AS prefix FROM responses ORDER BY 1"
            )
            self._before = found.fetchnumpy()["prefix"].astype(np.uint64)

    def __contains__(self, key: str) -> bool:
        """Whether the answer is there; the file itself is not asked."""
        prefix = np.uint64(int(key[:16], 16))
        place = int(np.searchsorted(self._before, prefix))
        return key in self._since or (place < len(self._before) and self._before[place] == prefix)

    def find(self, key: str) -> Future[Row | None]:
        """The row of a key, read together with all others that are wanted at the moment."""
        return self._submit(key)

    def store(self, row: Row) -> Future[Row | None]:
        """Commit a row; the result is the row that counts: an earlier one of the same key, if any."""
        return self._submit(row)

    def export(self, keys: Iterable[str], path: Path) -> int:
        """Write the rows of `keys` as Parquet, sorted, byte for byte the same on every machine.

        Raises InputError where a key is not in the cache.
        """
        wanted_keys = sorted(set(keys))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        try:
            with opened(self.path) as connection:
                connection.register("wanted", _table(wanted_keys))
                rows = connection.sql(
                    f"SELECT {PORTABLE} FROM responses SEMI JOIN wanted USING (key) ORDER BY key"
                )
                rows.write_parquet(str(temporary), compression="zstd")
                count = int(
                    _one(connection.execute("SELECT count(*) FROM read_parquet(?)", [str(temporary)]))
                )
            if count != len(wanted_keys):
                raise InputError(
                    f"{len(wanted_keys) - count} answers are not in the cache", where=str(self.path)
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return count

    def keys(self) -> list[str]:
        """Every key in the file."""
        with opened(self.path) as connection:
            return [key for (key,) in connection.execute("SELECT key FROM responses ORDER BY key").fetchall()]

    def import_parquet(self, path: Path) -> int:
        """Take over a snapshot's rows that are not yet here; return how many.

        Raises InputError where a row's key is not the hash of its request.
        """
        if not path.is_file():
            raise InputError("no such file", where=str(path))
        with opened(self.path) as connection:
            try:
                connection.execute(
                    f"CREATE TEMP TABLE coming AS SELECT {PORTABLE} FROM read_parquet(?)", [str(path)]
                )
            except duckdb.Error as error:
                raise InputError(f"not a snapshot of answers ({error})", where=str(path)) from None
            wrong = connection.execute(
                "SELECT key FROM coming WHERE sha256(request) <> key LIMIT 1"
            ).fetchall()
            if wrong:
                raise InputError(f"row {wrong[0][0]} does not match its request", where=str(path))
            insert = f"INSERT INTO responses ({PORTABLE}) SELECT * FROM coming ON CONFLICT DO NOTHING"
            count = int(_one(connection.execute(insert)))
        self.refresh()
        return count

    def stats(self) -> dict[str, int]:
        """Answers, tokens and bytes in the file."""
        with opened(self.path) as connection:
            sums = "coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)"
            found = connection.execute(f"SELECT count(*), {sums} FROM responses")
            answers, prompt, completion = map(int, found.fetchall()[0])
        size = self.path.stat().st_size
        return {"answers": answers, "prompt_tokens": prompt, "completion_tokens": completion, "bytes": size}

    def _submit(self, wish: str | Row) -> Future[Row | None]:
        task = _Task(wish, Future())
        self._work.put(task)
        return task.future

    def _serve(self) -> None:
        """The thread: wait for work, open the file, do all that comes, let go."""
        while batch := self._batch(None):
            try:
                with opened(self.path) as connection:
                    while batch:
                        self._apply(connection, batch)
                        batch = [] if wanted(self.path) else self._batch(IDLE_SECONDS)
            except (StillroomError, OSError) as error:
                for task in batch:
                    task.future.set_exception(error)

    def _batch(self, patience: float | None) -> list[_Task]:
        """The next tasks; empty after `patience` seconds without any (None: for ever), or at the end."""
        batch: list[_Task] = []
        deadline = None if patience is None else time.monotonic() + patience
        while not self._closing and len(batch) < COMMIT_ROWS:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                task = self._work.get(timeout=left)
            except queue.Empty:
                break
            if task is None:
                self._closing = True
                break
            if not batch:
                deadline = time.monotonic() + COMMIT_SECONDS
            batch.append(task)
        return batch

    def _apply(self, connection: duckdb.DuckDBPyConnection, batch: list[_Task]) -> None:
        """Commit the batch's rows, then tell every task the row that counts."""
        new = {task.wish.key: task.wish for task in batch if isinstance(task.wish, Row)}
        found: dict[str, Row] = {}
        if new:
            connection.register("batch", _rows_table(new.values()))
            count = _one(
                connection.execute("INSERT INTO responses SELECT * FROM batch ON CONFLICT DO NOTHING")
            )
            self._since.update(new)
            found = new if count == len(new) else {}
        missing = [task.key for task in batch if task.key not in found]
        if missing:
            connection.register("wanted", _table(missing))
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM responses SEMI JOIN wanted USING (key)"
            ).fetchall()
            found = found | {row[0]: Row(*row) for row in rows}
        for task in batch:
            task.future.set_result(found.get(task.key))


@dataclass(frozen=True, slots=True)
class _Task:
    """A key to find or a row to store, and who waits for it."""

    wish: str | Row
    future: Future[Row | None]

    @property
    def key(self) -> str:
        return self.wish.key if isinstance(self.wish, Row) else self.wish


def _table(keys: list[str]) -> pa.Table:
    return pa.table({"key": pa.array(keys, pa.string())})


def _rows_table(rows: Iterable[Row]) -> pa.Table:
    columns = zip(*map(astuple, rows), strict=True)
    types = (pa.string(), pa.string(), pa.string(), pa.string(), pa.int32(), pa.int32(), pa.string())
    names = [f.name for f in fields(Row)]
    return pa.table([pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=names)


def _one(found: duckdb.DuckDBPyConnection) -> Any:
    """The only value of a result."""
    return found.fetchall()[0][0]
