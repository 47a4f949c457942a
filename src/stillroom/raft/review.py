"""What a person decided about pairs of question and answer: a small file in git.

data/review/raft.jsonl ──▶ Decisions ──▶ pairs kept, edited or dropped

One decision a line, sorted by the pair's identity (the passage's text and the question), without times: two
people's decisions merge, and a pair that comes back after a regeneration finds its own. A decision whose pair
is gone is stale: it stays in the file and is reported.

{"pair": "0f3a…", "document": "a.md", "question": "Who?", "answer": "Ada", "decision": "keep",
 "new_question": null, "new_answer": null, "note": ""}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from stillroom.artifacts import read_jsonl, write_jsonl
from stillroom.errors import InputError
from stillroom.raft.answers import fault
from stillroom.raft.pairs import Pair, Side, read_pairs
from stillroom.teacher.replies import spaced

Status = Literal["undecided", "kept", "edited", "dropped", "changed"]
"""changed: it was kept with another answer, and is to be looked at again"""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a pair."""

    pair: str
    """Pair.identity"""
    document: str
    question: str
    answer: str
    """document, question and short answer as they were seen"""
    decision: Literal["keep", "drop"]
    new_question: str | None = None
    new_answer: str | None = None
    """what a person wrote instead; the answer with its quotation and tag"""
    note: str = ""
    where: str = field(default="", compare=False)
    """file and line, for errors"""


def decided(
    pair: Pair,
    decision: Literal["keep", "drop"],
    new_question: str | None = None,
    new_answer: str | None = None,
    note: str = "",
) -> Decision:
    """A decision about a pair as it is now."""
    seen = (pair.identity, pair.chunk.document, pair.question, pair.answer)
    return Decision(*seen, decision, new_question, new_answer, note)


class Decisions(dict[str, Decision]):
    """Decisions by pair."""

    def status(self, pair: Pair) -> Status:
        """What became of a pair."""
        decision = self.get(pair.identity)
        if decision is None:
            return "undecided"
        if decision.decision == "drop":
            return "dropped"
        if decision.new_answer is None and _same(decision.answer) != _same(pair.answer):
            return "changed"
        return "kept" if decision.new_answer is None and decision.new_question is None else "edited"

    def applied(self, pair: Pair) -> Pair | None:
        """The pair as it was edited, None where it was dropped.

        Raises InputError where the edited answer does not quote the passage.
        """
        status, decision = self.status(pair), self.get(pair.identity)
        if decision is None or status == "dropped":
            return None if decision else pair
        made = edited(pair, decision)
        if decision.new_answer and (wrong := fault(decision.new_answer, "stop", pair.chunk.text)):
            raise InputError(
                f"new_answer: {wrong.replace('_', ' ')}",
                where=decision.where,
                hint="edit the pair again: stillroom raft review",
            )
        return made if status == "edited" else pair

    def stale(self, present: Iterable[str]) -> list[Decision]:
        """The decisions whose pair is not among these."""
        gone = self.keys() - set(present)
        return [self[pair] for pair in sorted(gone)]


def edited(pair: Pair, decision: Decision) -> Pair:
    """The pair with what a person wrote instead."""
    question, answer = decision.new_question or pair.question, decision.new_answer or pair.cot_answer
    return replace(pair, question=question, cot_answer=answer)


def read(path: Path) -> Decisions:
    """The decisions of a file; none where it is absent. Raises InputError naming the line."""
    decisions = Decisions()
    for number, row in read_jsonl(path) if path.exists() else ():
        where = f"{path}:{number}"
        decision = parsed(row, where)
        if decision.pair in decisions:
            raise InputError(f"a second decision about {decision.pair!r}", where=where, hint="delete one")
        decisions[decision.pair] = decision
    return decisions


def parsed(row: dict[str, Any], where: str) -> Decision:
    """A decision of a JSON object or a line of CSV. Raises InputError."""
    names = [item.name for item in fields(Decision) if item.name != "where"]
    if unknown := row.keys() - set(names):
        raise InputError(f"unknown key {min(unknown)!r}", where=where)
    try:
        decision = Decision(**row, where=where)
    except TypeError as error:
        raise InputError(f"not a decision: {error}", where=where) from None
    if decision.decision not in ("keep", "drop"):
        raise InputError(f"`decision` must be keep or drop, not {decision.decision!r}", where=where)
    texts = [getattr(decision, name) for name in names if name not in ("new_question", "new_answer")]
    edits = [text for text in (decision.new_question, decision.new_answer) if text is not None]
    if not all(isinstance(text, str) for text in (*texts, *edits)):
        raise InputError("texts were expected", where=where)
    return decision


def write(path: Path, decisions: Decisions) -> None:
    """Write the decisions, sorted."""
    rows = ({k: v for k, v in asdict(decisions[p]).items() if k != "where"} for p in sorted(decisions))
    write_jsonl(path, rows)


def reviewed(
    path: Path, decisions: Decisions, kept_only: bool, counts: Counter[tuple[Side, Status]] | None = None
) -> Iterator[Pair]:
    """The pairs of a file that are used, as they were edited; counts what was decided about each.

    kept_only: of the held-out pairs, only those that a person kept.
    """
    for pair in read_pairs(path):
        status = decisions.status(pair)
        if counts is not None:
            counts[pair.side, status] += 1
        made = decisions.applied(pair)
        if made and (status in ("kept", "edited") or pair.side == "train" or not kept_only):
            yield made


def _same(text: str) -> str:
    return spaced(text).casefold()
