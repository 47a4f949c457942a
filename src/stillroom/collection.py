"""Passages on disk, each distinct one once, in an order that depends on nothing but their content.

passages ──▶ Collection.add ──▶ settle ──▶ places 0, 1, …: passages, and where they came from

The texts stand in a file and are read as they are asked for; a passage costs 50 bytes of memory. A place is
the rank of the passage's digest: shuffled or renamed files move none, and neighbours have nothing in common.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.sources.question import Origin, Passage

Places = np.ndarray[Any, np.dtype[np.int64]]
DIGEST = 16
"""bytes"""
BETWEEN = "\n"
"""title and text, which are one line each"""


class Collection:
    """Takes passages in, then gives them by place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """for what goes with the collection"""
        self._file = (folder / "passages.txt").open("w+b")
        self._ends = array("q", [0])
        self._digests = bytearray()
        self._origins = array("q")
        self._files: list[str] = []
        self._numbers: Places = np.zeros(0, dtype=np.int64)

    def add(self, passage: Passage, origin: Origin) -> int:
        """Take a passage in, and return its number, from which `settle` tells its place."""
        content = BETWEEN.join(passage).encode()
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))
        self._digests += hashlib.sha256(content).digest()[:DIGEST]
        if origin.file not in self._files[-1:]:
            self._files.append(origin.file)
        self._origins.extend((len(self._files) - 1, origin.record))
        return len(self._ends) - 2

    def settle(self) -> Places:
        """Put the passages into their order, equal ones once, and return the place of every number."""
        self._file.flush()
        digests = np.frombuffer(self._digests, dtype=">u8").reshape(-1, 2)
        order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones stay as they came
        new = np.ones(len(order), dtype=bool)
        new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
        self._numbers = order[new]
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.cumsum(new) - 1
        self._digests = bytearray()
        return places

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> Passage:
        number = int(self._numbers[place])
        start, end = self._ends[number], self._ends[number + 1]
        return Passage(*os.pread(self._file.fileno(), end - start, start).decode().split(BETWEEN))

    def where(self, place: int) -> str:
        """The passage's address, `file:record`; of one that stands in several places, the first found."""
        number = 2 * int(self._numbers[place])
        return f"{self._files[self._origins[number]]}:{self._origins[number + 1]}"

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Wholes:
    """What is searched of a collection's passages."""

    def __init__(self, passages: Collection) -> None:
        self._passages = passages

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, place: int) -> str:
        return self._passages[place].whole


@contextmanager
def collection(folder: Path) -> Iterator[Collection]:
    """An empty collection in a folder of its own, which goes with it, as does what a killed run left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        made = Collection(folder)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
