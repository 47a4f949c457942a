"""A person goes through pairs in the terminal: a key keeps or drops, an editor changes.

pairs, decisions ──▶ Session.run ──▶ data/review/raft.jsonl, written after every key

It begins at the first pair without a decision, so that it goes on where it stopped.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import tempfile
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from stillroom.raft import quotations, review
from stillroom.raft.answers import fault
from stillroom.raft.pairs import Pair
from stillroom.raft.review import Decisions
from stillroom.teacher.prompts import ANSWER_TAG
from stillroom.teacher.replies import quotes, spaced

HELP = "k keep   d drop   e edit   n note   u undo   s skip   b back   q quit"
CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")
"""a document must not speak to the terminal"""
QUESTION, ANSWER = "Question:", "Answer:"
CUT = "──────── nothing below this line is read ────────"
OPEN = ("undecided", "changed")


@dataclass
class Session:
    """Pairs in view, and where the person is."""

    pairs: Sequence[Pair]
    decisions: Decisions
    path: Path
    """of the decisions"""
    console: Console = field(default_factory=lambda: Console(highlight=False))
    place: int = 0
    before: list[int] = field(default_factory=list)
    """places seen, the last one last"""
    notes: dict[str, str] = field(default_factory=dict)
    """of pairs that are not decided yet"""
    drafts: dict[str, str] = field(default_factory=dict)
    """what was written for a pair, from which its next edit goes on"""
    message: str = ""

    def run(self) -> None:
        """Ask about one pair after the other until there is none without a decision, or the person quits."""
        first = self._next(-1)
        self.place = first if first < len(self.pairs) else 0
        keys: dict[str, Callable[[], None]] = {
            "k": self._keep,
            "d": self._drop,
            "e": self._edit,
            "n": self._note,
            "u": self._undo,
            "s": self._skip,
            "b": self._back,
        }
        with _keyboard() as pressed:
            while self.place < len(self.pairs):
                self._show()
                key = pressed()
                self.message = ""
                if key in ("q", ""):
                    break
                keys.get(key, self._unknown)()
        self.console.print(self.summary())

    def summary(self) -> str:
        """`12 of 40 decided (10 kept, 1 edited, 1 dropped) in data/review/raft.jsonl`."""
        found = [self.decisions.status(pair) for pair in self.pairs]
        parts = [f"{found.count(s)} {s}" for s in ("kept", "edited", "dropped", "changed") if s in found]
        decided = sum(status not in OPEN for status in found)
        return f"{decided} of {len(found)} decided ({', '.join(parts) or 'none yet'}) in {self.path}"

    @property
    def pair(self) -> Pair:
        """The pair that is shown."""
        return self.pairs[self.place]

    # --- what a key does ---

    def _keep(self) -> None:
        if self.decisions.status(self.pair) == "edited":
            self._go(self._next(self.place))  # as it is shown
        else:
            self._record(review.decided(self.pair, "keep", note=self._noted()))

    def _drop(self) -> None:
        self._record(review.decided(self.pair, "drop", note=self._noted()))

    def _edit(self) -> None:
        """Change question and answer: in the editor that the environment names, else line by line."""
        pair, old = self.pair, self.decisions.get(self.pair.identity)
        now = review.edited(pair, old) if old else pair
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if editor:
            draft = self.drafts.get(pair.identity) or written(now)
            try:
                draft = self.drafts[pair.identity] = _edited(draft, editor)
                question, answer = parsed(draft)
            except (OSError, subprocess.CalledProcessError, ValueError) as error:
                self.message = f"not taken: {error}"
                return
        else:
            question, short = _line("Question", now.question), _line("Answer", now.answer)
            answer = f"{now.cot_answer.rpartition(ANSWER_TAG)[0]}{ANSWER_TAG} {short}"
        if wrong := fault(answer, "stop", pair.chunk.text):
            self.message = f"not taken: {wrong.replace('_', ' ')}"
        elif (question, answer) == (pair.question, pair.cot_answer):
            self.message = "nothing was changed"
        else:
            new = (
                question if question != pair.question else None,
                answer if answer != pair.cot_answer else None,
            )
            self._record(review.decided(pair, "keep", *new, note=self._noted()))

    def _note(self) -> None:
        identity, note = self.pair.identity, _line("Note", self._noted())
        if decision := self.decisions.get(identity):
            self._save(replace(decision, note=note))
        else:
            self.notes[identity] = note

    def _undo(self) -> None:
        """Take the pair's decision back."""
        if self.decisions.pop(self.pair.identity, None):
            review.write(self.path, self.decisions)

    def _skip(self) -> None:
        self._go(self.place + 1)

    def _back(self) -> None:
        if self.before:
            self.place = self.before.pop()
        else:
            self.message = "this is where you began"

    def _unknown(self) -> None:
        self.message = f"keys: {HELP}"

    # --- steps ---

    def _noted(self) -> str:
        decision = self.decisions.get(self.pair.identity)
        return decision.note if decision else self.notes.get(self.pair.identity, "")

    def _record(self, decision: review.Decision) -> None:
        self._save(decision)
        self._go(self._next(self.place))

    def _save(self, decision: review.Decision) -> None:
        self.decisions[decision.pair] = decision
        review.write(self.path, self.decisions)

    def _go(self, place: int) -> None:
        self.before.append(self.place)
        self.place = place

    def _next(self, place: int) -> int:
        """The next place whose pair has no decision; beyond the last where there is none."""
        places = range(place + 1, len(self.pairs))
        return next((p for p in places if self.decisions.status(self.pairs[p]) in OPEN), len(self.pairs))

    # --- the screen ---

    def _show(self) -> None:
        self.console.clear()
        self.console.print(screen(self.pair, self.decisions, f"{self.place + 1}/{len(self.pairs)}"))
        if note := self._noted():
            self.console.print(Text(f"Note: {_safe(note)}", style="italic"))
        self.console.print(Text(_safe(self.message) or HELP, style="yellow" if self.message else "dim"))


def screen(pair: Pair, decisions: Decisions, place: str) -> Group:
    """A pair as it is shown: the passage with its quotation marked, the question, the answer."""
    status, decision = decisions.status(pair), decisions.get(pair.identity)
    shown = review.edited(pair, decision) if decision and status == "edited" else pair
    passage = Text(_safe(pair.chunk.text))
    for quote in quotes(shown.cot_answer):
        for start, end in quotations.found(quote, pair.chunk.text) or ():
            passage.stylize("reverse", start, end)
    reasoning, _, short = shown.cot_answer.rpartition(ANSWER_TAG)
    lines = [Text(_safe(shown.question), style="bold"), Text(_safe(reasoning.strip()), style="dim")]
    was = f" (you kept: {decision.answer})" if decision and status == "changed" else ""
    return Group(
        Rule(Text(f"{place} · {pair.side} · {status}{_safe(was)}")),
        Panel(passage, title=Text(_safe(f"{pair.chunk.title} — {pair.chunk.id}")), title_align="left"),
        *lines,
        Text(f"{ANSWER_TAG} {_safe(short.strip())}", style="bold green"),
    )


def written(pair: Pair) -> str:
    """A pair as the text that a person edits."""
    head = f"{QUESTION} {pair.question}\n\n{ANSWER}\n{pair.cot_answer}\n"
    return f"{head}\n{CUT}\nThe answer quotes this, and ends with `{ANSWER_TAG} …`:\n\n{pair.chunk.text}\n"


def parsed(text: str) -> tuple[str, str]:
    """Question and answer of an edited text. Raises ValueError where one is missing."""
    above = text.partition(CUT)[0]
    head, found, answer = above.partition(f"\n{ANSWER}")
    question = spaced(head.strip().removeprefix(QUESTION))
    if not found or not head.lstrip().startswith(QUESTION) or not question or not answer.strip():
        raise ValueError(f"the lines `{QUESTION} …` and `{ANSWER}`, each with a text, must stay")
    return question, answer.strip()


def _edited(text: str, editor: str) -> str:
    """The text after the person has saved it. Raises CalledProcessError or OSError where the editor fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.md"
        path.write_text(text, encoding="utf-8")
        with _lines():
            subprocess.run([*shlex.split(editor), str(path)], check=True)
        return path.read_text(encoding="utf-8")


def _line(prompt: str, current: str) -> str:
    """A line that the person types or changes; Ctrl-D leaves it as it was."""
    import readline

    readline.set_startup_hook(lambda: readline.insert_text(current))
    try:
        with _lines():
            return spaced(input(f"{prompt}: "))
    except EOFError:
        return current
    finally:
        readline.set_startup_hook(None)


def _safe(text: str) -> str:
    """A text without control characters, as long as before."""
    return text.translate(CONTROL)


@contextmanager
def _keyboard() -> Iterator[Callable[[], str]]:
    """Keys as they are pressed, without Return; `` at the end of the input. Arrows are s and b."""
    fd = sys.stdin.fileno()
    usual = termios.tcgetattr(fd)

    def pressed() -> str:
        key = os.read(fd, 1)
        if key == b"\x1b" and select.select([fd], [], [], 0.05)[0]:
            return {b"[C": "s", b"[D": "b"}.get(os.read(fd, 8), "?")
        return "" if key == b"\x04" else key.decode("utf-8", "replace").lower()

    tty.setcbreak(fd, termios.TCSADRAIN)
    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, usual)


@contextmanager
def _lines() -> Iterator[None]:
    """The terminal as programs expect it, in the midst of `_keyboard`."""
    fd = sys.stdin.fileno()
    now = termios.tcgetattr(fd)
    usual = list(now)
    usual[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(fd, termios.TCSADRAIN, usual)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, now)
