"""`stillroom extract --explain ID`: what each step does to one record, and why it stays or goes.

The whole extraction runs once more, into a scratch folder and no output: whether a record is a duplicate, or
drawn for the sample, is decided by the others.
"""

from __future__ import annotations

import difflib
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson

from stillroom.cleaning.scratch import Cleaned, Scratch, scratch
from stillroom.errors import InputError
from stillroom.records import Conversation, Message
from stillroom.sources.adapter import Dropped
from stillroom.sources.conversations import conversation_of
from stillroom.sources.dumps import Raw
from stillroom.stages import extract

Found = tuple[str, Raw, Cleaned | Dropped]
"""file, record, and what became of it"""
WIDTH = 100
"""most characters of an excerpt"""
LEAD = 20
"""of them before the first change"""


def explain(identifier: str, raw: Path, params: extract.Params, workers: int | None = None) -> Iterator[str]:
    """Lines about every record with the id, or at `file#number`. Raises InputError where there is none."""
    params = params.model_copy(update={"on_malformed": "skip"})
    with tempfile.TemporaryDirectory() as folder, scratch(Path(folder) / "extract") as kept:
        with extract.shown(raw) as progress:
            records = extract.extracted(raw, params, kept, extract.Tally(), workers, progress)
            with closing(records):
                found = [r for r in records if identifier in (r[2].id, f"{r[0]}#{r[1].number}")]
        extract.sample(kept, params)
        if not found:
            hint = "ids are those of extract's outputs; the fifth record of a.jsonl is also a.jsonl#5"
            raise InputError(f"no record has the id {identifier!r}", where=str(raw), hint=hint)
        for record in found:
            yield from about(record, kept, params)


def about(found: Found, kept: Scratch, params: extract.Params) -> Iterator[str]:
    """Lines about one record: its steps, then those that compare it with others, then the end."""
    name, record, outcome = found
    yield f"{outcome.id}  ({name}, record {record.number} at byte {record.offset})"
    cleaner = extract.Cleaner(params)
    result = conversation_of(record, name, "skip")
    if isinstance(result, Conversation):
        for step, before, after in cleaner.effects(result):
            yield from effect(step, before, after)
            result = after
    if isinstance(result, Conversation):
        finished = cleaner.finished(result)
        if isinstance(finished, Cleaned):
            messages = tuple(Message(**m) for m in orjson.loads(finished.line)["messages"])
            yield from effect(f"keep: {params.keep}", result, Conversation(result.id, "", messages))
            yield from compared(outcome, kept, params)
    yield from end(outcome, kept)


def effect(step: str, before: Conversation, after: Conversation | Dropped) -> Iterator[str]:
    """What a step did."""
    if isinstance(after, Dropped):
        yield f"  {step:<18} dropped: {after.detail}"
    elif after.messages == before.messages:
        yield f"  {step:<18} -"
    else:
        yield f"  {step:<18} changed"
        yield from difference(before.messages, after.messages)


def difference(before: tuple[Message, ...], after: tuple[Message, ...]) -> Iterator[str]:
    """Excerpts of the turns that are gone, and of those whose text is another, from where it begins to be."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, start, stop, from_, to in matcher.get_opcodes():
        old, new = list(enumerate(before[start:stop], start + 1)), list(after[from_:to])
        if kind == "equal":
            continue
        for number, message in old[: len(old) - len(new)]:
            yield f"    turn {number} ({message.role}) - {excerpt(message.content)}"
        for (number, message), other in zip(old[len(old) - len(new) :], new, strict=False):
            at = common(message.content, other.content)
            yield f"    turn {number} ({message.role}) - {excerpt(message.content, at)}"
            yield f"    turn {number} ({message.role}) + {excerpt(other.content, at)}"


def common(first: str, second: str) -> int:
    """Characters with which both texts begin."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in same)


def excerpt(text: str, at: int = 0) -> str:
    """The text around a position, on one line."""
    start = max(0, at - LEAD)
    cut = text[start : start + WIDTH]
    return f"{'…' if start else ''}{cut!r}{'…' if start + WIDTH < len(text) else ''}"


def compared(outcome: Cleaned | Dropped, kept: Scratch, params: extract.Params) -> Iterator[str]:
    """The steps that looked at the records before, up to the one that dropped this one."""
    for step in (name for name in params.steps if name in extract.COMPARING):
        if isinstance(outcome, Dropped) and outcome.reason == step:
            yield f"  {step:<18} dropped: {outcome.detail}"
            yield from twin(outcome, kept)
            return
        yield f"  {step:<18} -"


def twin(outcome: Dropped, kept: Scratch) -> Iterator[str]:
    """The human turns of the conversation that a duplicate is one of, where that one is kept."""
    place = kept.named(outcome.detail)
    for message in orjson.loads(kept.read(place))["messages"] if place else ():
        if message["role"] == "user":
            yield f"    there: {excerpt(message['content'])}"


def end(outcome: Cleaned | Dropped, kept: Scratch) -> Iterator[str]:
    """The verdict."""
    if isinstance(outcome, Dropped):
        yield f"dropped: {outcome.reason}: {outcome.detail}"
    elif kept.holds(outcome.id):
        yield f"kept: {outcome.characters:,} characters in human turns: {outcome.turns}"
    else:
        yield "dropped: sample: not among those drawn"
