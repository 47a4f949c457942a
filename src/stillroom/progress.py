"""Progress of a long stage: a live bar in a terminal, plain lines at intervals elsewhere (logs, CI).

    distill ━━━━━━━━━━━━━━━━━╸━━━━━━━━━  64% 57,600/90,000 conversations 212/s 2:33
      198,720 answers · 31 % cached · 61.2M + 18.4M tokens · 20.22 of 50.00

Counting costs well under a microsecond: the display asks for the state when it draws, ten times a second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeAlias, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

PLAIN_SECONDS = 10.0
"""between two plain lines"""

T = TypeVar("T")
Note: TypeAlias = str | Callable[[], str]
"""a short live text, or what makes it when it is shown: "loss 2.31", "80 % cached · 12K tokens" """


class Tracker:
    """Counts finished units, with a note on how things stand; prints a plain line now and then."""

    def __init__(self, title: str, total: int | None, unit: str, every: float = PLAIN_SECONDS) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._note: Note = ""
        self._start = time.monotonic()
        self._every, self._due = every, self._start + every

    def advance(self, count: int = 1, note: Note | None = None) -> None:
        """Count `count` more units; replace the note where one is given."""
        self.done += count
        if note is not None:
            self._note = note
        if time.monotonic() >= self._due:
            self.line(self.note)

    @property
    def note(self) -> str:
        """The note as it reads now."""
        return self._note if isinstance(self._note, str) else self._note()

    def line(self, note: str) -> None:
        """Print one plain line: `train: 120/600 steps, 8.1/s, 0:59 left, loss 2.31`."""
        now = time.monotonic()
        self._due = now + self._every
        rate = self.done / max(now - self._start, 1e-9)
        count = f"{counted(self.done, self.total)} {self.unit}"
        ahead = max(0, (self.total or 0) - self.done)
        left = f"{clock(ahead / rate)} left" if ahead and rate else ""
        said = ", ".join(part for part in (count, per_second(rate), left, note) if part)
        print(f"{self.title}: {said}", file=sys.stderr, flush=True)


class _Bar(Progress):
    """A tracker's bar over the whole width, and its note below."""

    def __init__(self, tracker: Tracker, console: Console) -> None:
        self._tracker = tracker
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            _Figures(Column(no_wrap=True)),
        )
        super().__init__(*columns, console=console, expand=True)
        self._shown = self.add_task(tracker.title, total=tracker.total, unit=tracker.unit)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What rich draws, as things stand now."""
        if self.tasks:  # rich draws once before there are any
            self.update(self._shown, completed=self._tracker.done)
            yield self.make_tasks_table(self.tasks)
            yield Text(f"  {self._tracker.note}", style="dim", no_wrap=True, overflow="ellipsis")


class _Figures(ProgressColumn):
    """Share, count, rate, time left."""

    def render(self, task: Task) -> Text:
        total = int(task.total) if task.total else None
        share = f"{task.percentage:.0f}%" if total else ""
        done = f"{counted(int(task.completed), total)} {task.fields['unit']}"
        left = "" if task.time_remaining is None else clock(task.time_remaining)
        parts = (share, done, per_second(task.finished_speed or task.speed or 0.0), left)
        return Text(" ".join(part for part in parts if part))


def counted(done: int, total: int | None) -> str:
    """`57,600/90,000`, or `57,600` of nobody knows how many."""
    return f"{done:,}/{total:,}" if total else f"{done:,}"


def per_second(rate: float) -> str:
    """`8.1/s`, `212/s`, `34.1M/s`; `2.4/min`."""
    if 0 < rate < 1:
        return f"{rate * 60:.1f}/min"
    return f"{rate:.1f}/s" if rate < 100 else f"{short(rate)}/s"


def short(number: float) -> str:
    """A count in few characters: 950, 1,234, 12.3K, 4.56M, 1.20G.

    >>> short(12_345), short(4_560_000)
    ('12.3K', '4.56M')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= max(size, 1e4):
            value = number / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    return f"{number:,.0f}"


def clock(seconds: float) -> str:
    """`2:33`, `1:02:33`, `2 days, 4:00:00`."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")


@contextmanager
def track(title: str, total: int | None = None, unit: str = "records") -> Iterator[Tracker]:
    """Show the progress of the block on standard error.

    A work list without a known length has total None: count and rate are shown, no time left.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        tracker = Tracker(title, total, unit)
        yield tracker
        tracker.line("done")
        return
    tracker = Tracker(title, total, unit, every=float("inf"))
    with _Bar(tracker, console):
        yield tracker


def tracked(units: Iterable[T], title: str, total: int | None = None, unit: str = "records") -> Iterator[T]:
    """The units, with the progress of whoever takes them; see `track`."""
    with track(title, total, unit) as tracker:
        for item in units:
            yield item
            tracker.advance()
