"""The spool: what a run was told and has not yet committed, so that no kill loses it.

row, intent ──▶ Spool ──▶ responses.duckdb.spool-PID-N ──▶ replay ──▶ rows into the cache, a word on the rest

One `os.write` puts a frame into the kernel's hands, where the end of the process does not touch it. A frame
is a magic number that no UTF-8 text contains, kind, length, CRC-32, payload: behind a damaged one the next
whole one is found again. The writer holds a lock on its file for life; a file without a lock is a dead run's.

Kinds: `R` a row (JSON), `I` a request about to be sent (its key), `W` a request that came back without an
answer (its key).
"""

from __future__ import annotations

import fcntl
import glob
import itertools
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson

from stillroom.errors import InputError

ROW, INTENT, WITHDRAWN = KINDS = (b"R", b"I", b"W")
MAGIC = b"\xff\xfeSR"
HEADER = struct.Struct("<4scII")
"""magic, kind, bytes of the payload, CRC-32 of kind and payload"""
ROTATE_BYTES = 8 << 20
"""a spool longer than this, and than four times what is still open in it, is started anew with that"""


class Spool:
    """The spool of one run; its methods may be called from any thread. Raises InputError on a full disk."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._rows: dict[str, bytes] = {}
        self._open_bytes = 0
        self._intents: set[str] = set()
        self._size = 0
        self._path, self._file = _create(database)

    def row(self, key: str, row: bytes) -> None:
        """Note an answer that came: JSON, with its `key`."""
        framed = frame(ROW, row)
        with self._lock:
            self._append(framed)
            self._open_bytes += len(framed) - len(self._rows.get(key, b""))
            self._rows[key] = framed
            self._intents.discard(key)

    def intend(self, key: str) -> None:
        """Note that a request is about to be sent."""
        with self._lock:
            self._append(frame(INTENT, key.encode()))
            self._intents.add(key)

    def withdraw(self, key: str) -> None:
        """Note that a request came back without an answer."""
        with self._lock:
            self._append(frame(WITHDRAWN, key.encode()))
            self._intents.discard(key)

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the rows of these keys: they are committed."""
        with self._lock:
            for key in keys:
                self._open_bytes -= len(self._rows.pop(key, b""))
            if not self._rows and not self._intents:
                self._empty()
            elif self._size > max(ROTATE_BYTES, 4 * self._open_bytes):
                self._rotate()

    def close(self) -> None:
        """Remove the file, unless it holds rows that could not be committed: the next run takes those."""
        with self._lock:
            if not self._rows:
                self._path.unlink(missing_ok=True)
            os.close(self._file)

    def _append(self, framed: bytes) -> None:
        try:
            written = os.write(self._file, framed)
        except OSError as error:
            raise self._full(error.strerror) from None
        if written < len(framed):
            os.ftruncate(self._file, self._size)
            raise self._full("No space left on device")
        self._size += written

    def _empty(self) -> None:
        os.ftruncate(self._file, 0)
        self._size = 0

    def _rotate(self) -> None:
        """Start a new file with what is open. Killed between, both files are replayed: no harm."""
        old_path, old_file = self._path, self._file
        self._path, self._file = _create(self._database)
        self._size = 0
        kept = [*self._rows.values(), *(frame(INTENT, key.encode()) for key in self._intents)]
        try:
            self._append(b"".join(kept))
        except InputError:
            self._path.unlink()
            os.close(self._file)
            self._path, self._file, self._size = old_path, old_file, os.fstat(old_file).st_size
            raise
        old_path.unlink()
        os.close(old_file)

    def _full(self, reason: str | None) -> InputError:
        hint = "free some space and run again; what was answered before is kept"
        return InputError(f"an answer cannot be kept ({reason})", where=str(self._path), hint=hint)


def frame(kind: bytes, payload: bytes) -> bytes:
    """Header and payload."""
    return HEADER.pack(MAGIC, kind, len(payload), _crc(kind, payload)) + payload


def frames(data: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """All whole frames as (kind, payload), and how many bytes belong to none."""
    whole: list[tuple[bytes, bytes]] = []
    place = lost = 0
    while place < len(data):
        if found := _frame_at(data, place):
            whole.append(found)
            place += HEADER.size + len(found[1])
        else:
            following = data.find(MAGIC, place + 1)
            following = len(data) if following < 0 else following
            lost += following - place
            place = following
    return whole, lost


def replay(database: Path, commit: Callable[[Sequence[bytes]], object]) -> None:
    """Commit the rows in the spools of dead runs, remove those files, and say what else was in them.

    The caller holds the database, so that nobody else replays. A damaged spool is kept under another name.
    """
    with ExitStack() as locked:
        dead = [path for path in spools(database) if locked.enter_context(_if_dead(path))]
        contents = [frames(path.read_bytes()) for path in dead]
        rows, in_flight = _sum_up(frame for whole, _ in contents for frame in whole)
        if rows:
            commit(list(rows.values()))
        for path, (_, lost) in zip(dead, contents, strict=True):
            _set_aside(path, lost)
    if in_flight:
        print(
            f"response cache: {len(in_flight):,} requests were in flight when a run was killed: "
            "they may have been billed",
            file=sys.stderr,
        )


def spools(database: Path) -> list[Path]:
    """The spools beside a database, of live and of dead runs."""
    return sorted(database.parent.glob(f"{glob.escape(database.name)}.spool-*"))


def _sum_up(whole: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, bytes], set[str]]:
    """The first row of every key, and the keys of requests that got neither answer nor refusal."""
    rows: dict[str, bytes] = {}
    in_flight: set[str] = set()
    for kind, payload in whole:
        if kind == ROW:
            rows.setdefault(orjson.loads(payload)["key"], payload)
        elif kind == INTENT:
            in_flight.add(payload.decode())
        else:
            in_flight.discard(payload.decode())
    return rows, in_flight - rows.keys()


def _set_aside(path: Path, lost: int) -> None:
    """Remove a replayed spool, or keep it for a look where bytes of it could not be read."""
    if not lost:
        path.unlink()
        return
    kept = path.with_name(path.name.replace(".spool-", ".damaged-spool-"))
    path.rename(kept)
    print(f"response cache: {lost:,} bytes of a killed run's spool are damaged: see {kept}", file=sys.stderr)


@contextmanager
def _if_dead(path: Path) -> Iterator[bool]:
    """Whether the run that wrote a spool is dead; if so, the spool is locked meanwhile."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(file) and _is_at(file, path)
    finally:
        os.close(file)


def _create(database: Path) -> tuple[Path, int]:
    """A new spool, locked; no other process takes it for a dead one's."""
    database.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        path = database.with_name(f"{database.name}.spool-{os.getpid()}-{number}")
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError:
            continue
        if _lock(file) and _is_at(file, path):
            return path, file
        os.close(file)
    raise AssertionError("numbers do not end")


def _lock(file: int) -> bool:
    """Lock an open file until it is closed, if nobody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file still has that name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _frame_at(data: bytes, place: int) -> tuple[bytes, bytes] | None:
    """The whole frame that starts there."""
    if len(data) < place + HEADER.size:
        return None
    magic, kind, length, crc = HEADER.unpack_from(data, place)
    payload = data[place + HEADER.size : place + HEADER.size + length]
    if magic == MAGIC and kind in KINDS and len(payload) == length and _crc(kind, payload) == crc:
        return kind, payload
    return None


def _crc(kind: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(kind))
