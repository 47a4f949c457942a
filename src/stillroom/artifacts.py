"""Files that stages read and write: whole or not at all, and the same bytes for the same content.

A writer works under a temporary name beside its target; the target appears by a rename once everything is on
disk. JSON is canonical: keys in the order in which the writer gives them, UTF-8, no spaces to argue about.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from stillroom.errors import InputError

UNLOCKABLE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""what file systems of clusters say that know no locks"""


@contextmanager
def atomic_write(path: Path, *, alone: bool = False) -> Iterator[BinaryIO]:
    """Open `path` for writing bytes; it gets its final name only if the block ends without an exception.

    alone: for a file that is written for long; raises InputError where another run is writing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with _claimed(temporary, path) if alone else temporary.open("wb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that meets a full disk names no file
        raise


def _claimed(temporary: Path, path: Path) -> BinaryIO:
    """Open for writing and reading, as the only one for so long; what a dead run left is thrown away."""
    while True:
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666), "w+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            what, hint = "another run is writing it", "wait for that run, or stop it"
            raise InputError(what, where=str(path), hint=hint) from None
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                file.truncate()
                return file
        file.close()  # just now another run gave it its final name


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it replaces `path` only if the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write one JSON value a line and return how many; dataclasses are written field by field."""
    count = 0
    with atomic_write(path) as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) and skip blank lines.

    Raises InputError, naming the line, where the file is absent or a line is not a JSON object.
    """
    with open_input(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputError(f"not valid JSON ({error})", where=f"{path}:{number}") from None
            if not isinstance(row, dict):
                raise InputError("a JSON object was expected", where=f"{path}:{number}")
            yield number, row


def open_input(path: Path) -> BufferedReader:
    """Open a file that must exist."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, indented, for people and for `dvc metrics`."""
    with atomic_write(path) as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_json(path: Path) -> Any:
    """Read one JSON document. Raises InputError where it is absent or malformed."""
    with open_input(path) as file:
        try:
            return orjson.loads(file.read())
        except orjson.JSONDecodeError as error:
            raise InputError(f"not valid JSON ({error})", where=str(path)) from None


def sha256(value: bytes | str | Path) -> str:
    """Hex SHA-256 of bytes, of a text's UTF-8, or of a file's content (streamed)."""
    if isinstance(value, Path):
        with open_input(value) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def canonical_json(value: Any) -> bytes:
    """One spelling for one value: sorted keys, UTF-8, no whitespace. The form that keys are hashed from."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
