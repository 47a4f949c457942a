"""Work spread over processes; its results come in the order of the work, whatever the number of processes.

items ──▶ in_order(make, items, processes) ──▶ (item, work(item)), item by item

`make` builds the function that does the work, once in each process. Only a few items a process are under way
at a time, so memory is bounded however many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from stillroom.errors import StillroomError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 3
"""items a process that are under way or done and not yet fetched"""

_work: Callable[[Any], Any]
"""what this worker process does"""


def available() -> int:
    """Cores that this process may use: its affinity, and what Snakemake grants a rule (OMP_NUM_THREADS)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(granted)) if granted.isdecimal() and int(granted) else cores


def in_order(
    make: Callable[[], Callable[[T], R]], items: Iterable[T], processes: int
) -> Generator[tuple[T, R]]:
    """Yield each item with its result, in the order of the items. One process: this one.

    An exception of the work is raised here, at its item's turn. Raises StillroomError where a process dies.
    Close the iterator where it is not read to its end: that ends the processes.
    """
    if processes == 1:
        work = make()
        for item in items:
            yield item, work(item)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start, initargs=(make,))
    try:
        yield from _through(pool, items, AHEAD * processes)
    except BrokenProcessPool:
        hint = "Memory may have run out: fewer processes need less."
        raise StillroomError("a worker process was killed", hint=hint) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _through(pool: ProcessPoolExecutor, items: Iterable[T], ahead: int) -> Iterator[tuple[T, Any]]:
    """Keep the pool busy with `ahead` items, and hand the oldest one's result on."""
    waiting: deque[tuple[T, Future[Any]]] = deque()
    for item in items:
        with _interrupts_later():  # the first item starts the processes
            waiting.append((item, pool.submit(_call, item)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back: processes started here inherit that, so it stays the parent's to handle."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    """In a new worker process: the parent's death ends this one too."""
    global _work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = make()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _call(item: Any) -> Any:
    return _work(item)
