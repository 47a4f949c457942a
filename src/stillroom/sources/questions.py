"""Questions with answers and the passage that holds them; passages that do not.

data/raw/questions ──▶ {"question", "answers": […], "ctxs": [{"title", "text", "isgold"}]} ──▶ Question
data/raw/passages  ──▶ {"title", "text"} ──▶ Passage

Natural Questions as Lost in the Middle publishes it (Liu et al. 2023, arXiv:2307.03172): the gold passage
alone, or among its own distractors. Gold is the passage with `isgold`, else the one at `gold_index`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.artifacts import sha256
from stillroom.errors import InputError
from stillroom.sources.rows import field, read_rows
from stillroom.squad import normalise


@dataclass(frozen=True, slots=True)
class Passage:
    """A short text with the title of the page that it is from."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its right answers, the passage that holds one, and passages that came with it."""

    id: str
    text: str
    answers: tuple[str, ...]
    gold: Passage
    others: tuple[Passage, ...]


def read_questions(folder: Path, dropped: Counter[str]) -> Iterator[Question]:
    """Yield the questions of a folder of JSON files; `dropped` counts those left out, by reason.

    Reasons: `no_answer` (none that is more than articles and punctuation), `no_gold` (no gold passage),
    `gold_without_answer`. Raises InputError naming file, line and field.
    """
    for where, row in read_rows(folder):
        question = _question(row, where, dropped)
        if question:
            yield question


def read_passages(folder: Path) -> Iterator[Passage]:
    """Yield the passages of a folder of JSON files. Raises InputError naming file, line and field."""
    for where, row in read_rows(folder):
        yield _passage(row, where)


def holds(text: str, answers: tuple[str, ...]) -> bool:
    """Whether a text holds one of the answers, both normalised: the benchmark's own test."""
    said = normalise(text)
    return any(normalise(answer) in said for answer in answers)


def _question(row: dict[str, Any], where: str, dropped: Counter[str]) -> Question | None:
    text = field(row, "question", where).strip()
    answers = tuple(answer for answer in _texts(row, "answers", where) if normalise(answer))
    passages = [_passage(ctx, where) for ctx in _objects(row, "ctxs", where)]
    gold = _gold_index(row, len(passages))
    if not answers:
        dropped["no_answer"] += 1
    elif gold is None:
        dropped["no_gold"] += 1
    elif not holds(f"{passages[gold].title} {passages[gold].text}", answers):
        dropped["gold_without_answer"] += 1
    else:
        others = tuple(p for i, p in enumerate(passages) if i != gold)
        return Question(sha256(text)[:12], text, answers, passages[gold], others)
    return None


def _gold_index(row: dict[str, Any], count: int) -> int | None:
    """Where the gold passage stands among the `ctxs`."""
    marked = [i for i, ctx in enumerate(row["ctxs"]) if ctx.get("isgold")]
    stated = row.get("gold_index")
    if marked:
        return marked[0]
    return stated if isinstance(stated, int) and 0 <= stated < count else None


def _passage(row: dict[str, Any], where: str) -> Passage:
    title = row.get("title")
    return Passage(title.strip() if isinstance(title, str) else "", field(row, "text", where).strip())


def _texts(row: dict[str, Any], name: str, where: str) -> list[str]:
    values = row.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"`{name}` must be a list of texts", where=where)
    return values


def _objects(row: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    values = row.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"`{name}` must be a list of objects", where=where)
    return values
