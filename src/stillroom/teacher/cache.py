"""The response cache: every answer that was ever paid for, durable before anyone uses it.

request keys ──▶ Cache.find_many ──▶ {key: Kept}
Row ──▶ Cache.store: spool, then commit ──▶ the row that counts     (`stillroom cache stats|show|export|…`)

One DuckDB file, `responses.duckdb`, under STILLROOM_CACHE (default: the user's cache directory), shared by
all projects and runs of a user. A row's key is the SHA-256 of its `request`, so a row proves itself.

An answer is in the run's spool before `store` returns (see `stillroom.teacher.spool`). Each run has one
thread that commits in groups, keeps the file open while nobody else wants it, and lets go in turn with others
that do. Where two runs bought the same answer, the first to commit counts for both.
"""

from __future__ import annotations

import queue
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import duckdb
import orjson

from stillroom.artifacts import atomic_write
from stillroom.errors import InputError, StillroomError
from stillroom.teacher.cache_file import (
    BYTES,
    COLUMNS,
    KEYS,
    PORTABLE,
    TEACHER,
    Kept,
    Row,
    check_snapshot,
    default_path,
    hand_over,
    insert,
    one,
    opened,
    translated,
    wanted,
)
from stillroom.teacher.spool import Spool

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["Cache", "Kept", "Row", "default_path"]

COMMIT_SECONDS = 0.1
"""how long a row waits for others to share its commit"""
COMMIT_ROWS = 512
"""most rows of one commit"""
HOLD_SECONDS = 0.100
"""how long a run keeps the file at least, where others wait and it has work"""
POLL_SECONDS = 0.02
"""between two looks, without work, at whether others wait"""
IDLE_SECONDS = 1.0
"""without work for so long, the file is closed"""
SORT_BYTES = 32 << 20
"""of rows that are sorted at a time and make a row group of a snapshot; DuckDB needs several times as much"""

T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True, slots=True)
class TeacherUse:
    """What the cache holds of one teacher."""

    teacher: str
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """of the answers whose price was known; None: of none"""
    bytes: int
    """of requests, answers and responses, before compression"""
    oldest: float | None
    """seconds since 1970; None: all came by import"""
    newest: float | None


class Cache:
    """The cache of one run: `with Cache() as cache`. Its methods may be called from any thread.

    Outside of `with`, all but `store`, `intend` and `withdraw` work too, each opening the file for itself.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        self._work: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="response cache")
        self._closing = False
        self._before = array("Q")
        self._since: set[str] = set()

    def __enter__(self) -> Cache:
        self._do(self._read_keys)
        self._spool = Spool(self.path)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what was handed in, close the file."""
        self._work.put(None)
        self._thread.join()
        self._spool.close()

    def __contains__(self, key: str) -> bool:
        """Whether the answer is there, as far as this run knows; the file itself is not asked."""
        prefix = int(key[:16], 16)
        place = bisect_left(self._before, prefix)
        return key in self._since or (place < len(self._before) and self._before[place] == prefix)

    def find_many(self, keys: Iterable[str]) -> dict[str, Kept]:
        """What is kept of those keys that are there, in one query."""
        found = self._do(lambda connection: _select(connection, ", ".join(Kept._fields), keys))
        return {values[0]: Kept(*values) for values in found}

    def store(self, row: Row) -> Future[Row]:
        """Keep a row: no kill loses it from here on. The result comes with the commit, and is the row that
        counts: an earlier one of the same key, if any.

        Raises InputError where the disk is full.
        """
        line = orjson.dumps(row)
        self._spool.row(row.key, line)
        task = _Store(row, line, Future())
        self._work.put(task)
        return task.future

    def intend(self, key: str) -> None:
        """Note that a request is about to be sent, so that a kill can be told from one that never was."""
        self._spool.intend(key)

    def withdraw(self, key: str) -> None:
        """Note that a request came back without an answer, or was given up."""
        self._spool.withdraw(key)

    def export(self, keys: Iterable[str], path: Path) -> int:
        """Write the rows of `keys` as Parquet, sorted, byte for byte the same on every machine.

        Raises InputError where a key is not in the cache.
        """
        return self._do(lambda connection: _export(connection, sorted(set(keys)), path))

    def keys(self, teacher: str | None = None) -> list[str]:
        """Every key in the file, or a teacher's: its name, or a pattern with * and ?."""
        query = f"SELECT key FROM responses WHERE ? IS NULL OR {TEACHER} = ? OR {TEACHER} GLOB ? ORDER BY key"
        found = self._do(lambda connection: connection.execute(query, [teacher] * 3).fetchall())
        return [key for (key,) in found]

    def show(self, prefix: str) -> Row:
        """The one row whose key starts so. Raises InputError where there is none, or several."""
        query = f"SELECT {COLUMNS} FROM responses WHERE starts_with(key, ?) ORDER BY key LIMIT 2"
        found = self._do(lambda connection: connection.execute(query, [prefix.lower()]).fetchall())
        if len(found) != 1:
            what = "several answers' keys start so" if found else "no answer's key starts so"
            hint = "give more of the key" if found else "keys are in meta.turns of the stages' outputs"
            raise InputError(what, where=f"{self.path}: {prefix}", hint=hint)
        return Row(*found[0])

    def import_parquet(self, path: Path) -> int:
        """Take over a snapshot's rows that are not yet here; return how many.

        Raises InputError where the file is no snapshot, or a row's key is not the hash of its request.
        """

        def take(connection: Connection) -> int:
            check_snapshot(connection, path)
            if count := _import(connection, path):
                self._read_keys(connection)
            return count

        return self._do(take)

    def stats(self) -> dict[str, int]:
        """Answers, tokens and bytes in the file."""
        by_teacher = self.teachers()
        names = ("answers", "prompt_tokens", "completion_tokens")
        totals = {name: sum(getattr(teacher, name) for teacher in by_teacher) for name in names}
        return {**totals, "bytes": self.path.stat().st_size}

    def teachers(self) -> list[TeacherUse]:
        """What there is of each teacher, by name."""
        query = (
            f"SELECT {TEACHER} AS teacher, count(*), sum(prompt_tokens)::BIGINT, "
            f"sum(completion_tokens)::BIGINT, sum(cost), sum({BYTES})::BIGINT, "
            "min(time), max(time) FROM responses GROUP BY teacher ORDER BY teacher"
        )
        return [TeacherUse(*row) for row in self._do(lambda c: c.execute(query).fetchall())]

    def usage_since(self, endpoint: str, moment: float) -> tuple[int, int]:
        """Requests and tokens that all runs used at an endpoint since a moment (seconds since 1970)."""
        query = (
            "SELECT count(*), coalesce(sum(prompt_tokens + completion_tokens), 0)::BIGINT "
            "FROM responses WHERE endpoint = ? AND time >= ?"
        )
        requests, tokens = self._do(lambda c: c.execute(query, [endpoint, moment]).fetchall()[0])
        return requests, tokens

    def record_batch(self, batch: str, endpoint: str, requests: Sequence[tuple[str, str]]) -> None:
        """Note a batch that the endpoint has taken: its id there, and (key, request) of what it asks."""

        def record(connection: Connection) -> None:
            columns = [[key for key, _ in requests], [request for _, request in requests]]
            asked = "SELECT $1, unnest($2::VARCHAR[]), unnest($3::VARCHAR[])"
            connection.begin()
            connection.execute("INSERT INTO batches VALUES (?, ?, 'open', ?)", [batch, endpoint, time.time()])
            connection.execute(f"INSERT INTO batch_requests {asked}", [batch, *columns])
            connection.commit()

        self._do(record)

    def open_batches(self, endpoint: str) -> list[str]:
        """Ids of the batches that are not closed, oldest first."""
        query = "SELECT id FROM batches WHERE state = 'open' AND endpoint = ? ORDER BY created, id"
        return [batch for (batch,) in self._do(lambda c: c.execute(query, [endpoint]).fetchall())]

    def batch_requests(self, batch: str) -> list[tuple[str, str]]:
        """(key, request) of what a batch that is not closed asks, in the order recorded."""
        query = "SELECT key, request FROM batch_requests WHERE batch = ? ORDER BY rowid"
        return self._do(lambda c: c.execute(query, [batch]).fetchall())

    def keys_in_batches(self, endpoint: str) -> set[str]:
        """Keys of all that the batches ask that are not closed."""
        query = (
            "SELECT key FROM batch_requests JOIN batches ON batch = id WHERE state = 'open' AND endpoint = ?"
        )
        return {key for (key,) in self._do(lambda c: c.execute(query, [endpoint]).fetchall())}

    def close_batch(self, batch: str, state: str) -> None:
        """Note that nothing more will come of a batch; `state` is the endpoint's word for how it ended."""

        def close(connection: Connection) -> None:
            connection.begin()
            connection.execute("UPDATE batches SET state = ? WHERE id = ?", [state, batch])
            connection.execute("DELETE FROM batch_requests WHERE batch = ?", [batch])
            connection.commit()

        self._do(close)

    def _read_keys(self, connection: Connection) -> None:
        """Which keys the file holds: 8 bytes a key, one scan."""
        found = connection.execute("SELECT ('0x' || key[:16])::UBIGINT AS prefix FROM responses ORDER BY 1")
        self._before = array("Q", found.fetchnumpy()["prefix"].tobytes())

    def _do(self, function: Callable[[Connection], T]) -> T:
        """Call with the connection: in the thread that has it, else with one of its own."""
        if not self._thread.is_alive():
            with opened(self.path) as connection:
                return function(connection)
        task: _Call[T] = _Call(function, Future())
        self._work.put(task)
        return task.future.result()

    def _serve(self) -> None:
        """The thread: wait for work, open the file, do all that comes, let go."""
        while batch := self._batch(None):
            try:
                with opened(self.path) as connection:
                    self._hold(connection, batch)
            except (StillroomError, OSError) as error:
                for task in batch:
                    _settle(task.future, error)

    def _hold(self, connection: Connection, batch: list[_Task]) -> None:
        """Work until others have waited long enough, or there has been nothing to do for long enough."""
        began = worked = time.monotonic()
        while True:
            if batch:
                self._apply(connection, batch)
                worked = time.monotonic()
            now = time.monotonic()
            due = now - began > HOLD_SECONDS or not batch
            if due and wanted(self.path):
                return hand_over(connection, self.path)
            if now - worked > IDLE_SECONDS or self._closing:
                return
            batch[:] = self._batch(POLL_SECONDS)

    def _batch(self, patience: float | None) -> list[_Task]:
        """The next tasks; empty after `patience` seconds without any (None: for ever), or at the end."""
        batch: list[_Task] = []
        with suppress(queue.Empty):
            while not self._closing and len(batch) < COMMIT_ROWS:
                task = self._work.get(block=not batch, timeout=patience)
                if task is None:
                    self._closing = True
                    break
                if not batch and isinstance(task, _Store):
                    time.sleep(COMMIT_SECONDS)
                batch.append(task)
        return batch

    def _apply(self, connection: Connection, batch: Sequence[_Task]) -> None:
        """Commit the batch's rows, then answer its questions."""
        stores = [task for task in batch if isinstance(task, _Store)]
        if stores:
            self._commit(connection, stores)
        for task in batch:
            if isinstance(task, _Call):
                task.run(connection, self.path)

    def _commit(self, connection: Connection, stores: Sequence[_Store]) -> None:
        """Commit rows, and tell each who stored one which row counts."""
        new: dict[str, _Store] = {}
        for task in stores:
            new.setdefault(task.row.key, task)
        if insert(connection, [task.line for task in new.values()]) < len(new):
            counts = {values[0]: Row(*values) for values in _select(connection, COLUMNS, new)}
        else:
            counts = {key: task.row for key, task in new.items()}
        self._since.update(new)
        self._spool.forget(new)
        for task in stores:
            _settle(task.future, counts[task.row.key])


@dataclass(frozen=True, slots=True)
class _Store:
    """A row to commit, and who waits for it."""

    row: Row
    line: bytes
    """the row as JSON"""
    future: Future[Row]


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """Something to do with the connection, and who waits for it."""

    function: Callable[[Connection], T]
    future: Future[T]

    def run(self, connection: Connection, path: Path) -> None:
        """Do it; a failure is the caller's alone."""
        try:
            with translated(path):
                _settle(self.future, self.function(connection))
        except Exception as error:
            _settle(self.future, error)


_Task = _Store | _Call[Any]


def _settle(future: Future[Any], result: object) -> None:
    """Give a future its result or exception; one that was given up or has one stays as it is."""
    with suppress(InvalidStateError):
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def _select(connection: Connection, columns: str, keys: Iterable[str]) -> list[tuple[Any, ...]]:
    """Columns of the rows of those keys that are there."""
    query = f"SELECT {columns} FROM responses SEMI JOIN {KEYS} USING (key)"
    return connection.execute(query, [list(keys)]).fetchall()


def _export(connection: Connection, keys: Sequence[str], path: Path) -> int:
    """Write the rows of sorted keys as Parquet, sorting and holding no more at a time than fits."""
    from pyarrow.parquet import ParquetWriter

    connection.execute(f"CREATE OR REPLACE TEMP TABLE wanted AS {KEYS}", [keys])
    size = "count(*), coalesce(sum(strlen(request) + strlen(text)), 0)::BIGINT"
    query = f"SELECT {size} FROM responses SEMI JOIN wanted USING (key)"
    count, size_in_bytes = map(int, connection.execute(query).fetchall()[0])
    if count != len(keys):
        raise InputError(f"{len(keys) - count} answers are not in the cache")
    with (
        atomic_write(path) as file,
        ParquetWriter(
            file, _sorted(connection, []).schema, compression="zstd", use_dictionary=["finish_reason"]
        ) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        writing = pool.submit(int)  # nothing yet
        for some in _split(keys, size_in_bytes // SORT_BYTES + 1):
            table = _sorted(connection, some)
            writing.result()
            writing = pool.submit(writer.write_table, table)
        writing.result()
    return count


def _sorted(connection: Connection, keys: Sequence[str]) -> Table:
    """The rows of a run of the table `wanted`."""
    among = f"key BETWEEN '{keys[0]}' AND '{keys[-1]}'" if keys else "false"
    wanted = f"(SELECT key FROM wanted WHERE {among})"
    query = f"SELECT {PORTABLE} FROM responses SEMI JOIN {wanted} USING (key) WHERE {among} ORDER BY key"
    return connection.sql(query).to_arrow_table()


def _split(keys: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Runs of keys, as even as they can be."""
    ends = [len(keys) * n // parts for n in range(parts + 1)]
    return [keys[start:end] for start, end in pairwise(ends)]


def _import(connection: Connection, path: Path) -> int:
    """Insert a snapshot's rows that are not yet there; of a snapshot without any, only the keys are read."""
    source = "FROM read_parquet(?) AS coming ANTI JOIN responses USING (key)"
    try:
        if not one(connection.execute(f"SELECT count(*) {source}", [str(path)])):
            return 0
        wrong = connection.execute(
            f"SELECT key {source} WHERE sha256(request) <> key LIMIT 1", [str(path)]
        ).fetchall()
        if wrong:
            raise InputError(f"row {wrong[0][0]} does not match its request", where=str(path))
        insert = f"INSERT INTO responses ({PORTABLE}) SELECT {PORTABLE} {source}"
        return int(one(connection.execute(insert, [str(path)])))
    except duckdb.InvalidInputException as error:
        what = str(error).splitlines()[0]
        raise InputError(f"not a snapshot of answers ({what})", where=str(path)) from None
