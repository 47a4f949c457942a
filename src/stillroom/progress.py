"""Progress of a long stage: a live bar in a terminal, plain lines at intervals elsewhere (logs, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_SECONDS = 10.0
"""between two plain lines"""


class Tracker:
    """Counts finished units and shows count, rate, time left and a note.

    `note` is a short live text, e.g. "loss 2.31" or "cache 80 % · 12K tokens".
    """

    def __init__(self, title: str, total: int | None, unit: str, bar: Progress | None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._bar = bar
        self._task = bar.add_task(title, total=total, note="", unit=unit) if bar else None
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units; replace the note where one is given."""
        self.done += count
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)
            if note is not None:
                self._bar.update(self._task, note=note)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            self.line(note)

    def line(self, note: str | None = None) -> None:
        """Print one plain line: `train: 120/600 steps, 8.1/s, 59 s left, loss 2.31`."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / elapsed
        count = f"{self.done:,}" + (f"/{self.total:,}" if self.total else "")
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total and rate else ""
        extra = f", {note}" if note else ""
        print(f"{self.title}: {count} {self.unit}, {rate:.1f}/s{left}{extra}", file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} {task.fields['unit']}/s", style="progress.data.speed")


@contextmanager
def track(title: str, total: int | None = None, unit: str = "records") -> Iterator[Tracker]:
    """Show the progress of the block on standard error.

    A work list without a known length has total None: count and rate are shown, no time left.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        tracker = Tracker(title, total, unit, None)
        yield tracker
        tracker.line("done")
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield Tracker(title, total, unit, bar)
