"""Raw conversation dumps, cleaned, down to what the teacher will be asked.

data/raw/conversations ──▶ extract ──▶ conversations.jsonl, extract-dropped.jsonl

    stillroom extract

Records stream through the cleaning steps in the order of `steps`. A step changes a conversation or drops it;
what is dropped is listed with the step's name as the reason and what exactly was wrong.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from stillroom.artifacts import sha256, write_json, write_jsonl
from stillroom.cleaning import duplicates, filters, markup, turns
from stillroom.errors import InputError
from stillroom.params import Block
from stillroom.progress import track
from stillroom.records import Conversation, Message, write_conversations
from stillroom.sources.adapter import Dropped
from stillroom.sources.conversations import read_folder

Step = Callable[[Conversation], Conversation | str]
"""gives the cleaned conversation, or says why it is dropped"""
StepName = Literal[
    "html_to_markdown",
    "copy_code",
    "page_residue",
    "empty_turns",
    "alternation",
    "boilerplate",
    "language",
    "length",
    "duplicate_ids",
    "duplicate_turns",
]
VENDOR_NOTICES = [
    r"as an ai (language )?model",
    r"(developed|trained|created|made) by openai",
    r"help\.openai\.com|openai'?s? (content|usage) polic",
    r"knowledge cutoff",
    r"too many requests in 1 hour",
    r"there was an error generating a response",
    r"^\s*network error\s*$",
]


class Params(Block):
    """Settings of `extract`."""

    common_keys = ("seed",)

    seed: int = 42
    """of the sample"""
    keep: Literal["human", "all"] = "human"
    """human: only the human turns, for a teacher to answer; all: the original answers too"""
    steps: list[StepName] = list(get_args(StepName))
    """cleaning steps, in their order; one that is not listed is off"""
    boilerplate: list[str] = VENDOR_NOTICES
    """regular expressions; a conversation with an answer that matches one is dropped"""
    languages: list[str] = ["english"]
    """of the human turns; empty: any"""
    min_characters: int = 1
    """of a conversation's human turns together"""
    max_characters: int = 100_000
    """of a conversation's human turns together"""
    sample: int | None = None
    """how many conversations to draw; null: all"""
    on_malformed: Literal["skip", "stop"] = "skip"
    """what becomes of a record that cannot be read: listed with the dropped ones, or the end of the stage"""


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    raw: Path = Path("data/raw/conversations")
    conversations: Path = Path("data/interim/conversations.jsonl")
    dropped: Path = Path("reports/samples/extract-dropped.jsonl")
    metrics: Path = Path("reports/metrics/extract.json")


@dataclass
class Tally:
    """What happened to the records: how many each step changed, and what was dropped."""

    records: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)


def run(paths: Paths, params: Params) -> None:
    """Clean all dumps of the folder. Raises InputError on a file of unknown shape, or a broken record."""
    if not paths.raw.is_dir():
        raise InputError("no such folder", where=str(paths.raw), hint="run first: stillroom fetch")
    tally = Tally()
    with track("extract") as tracker:

        def counted() -> Iterator[Conversation | Dropped]:
            for record in read_folder(paths.raw, params.on_malformed):
                tracker.advance()
                yield record

        kept = list(sampled(cleaned(counted(), params, tally), params, tally))
    write_conversations(paths.conversations, kept)
    write_jsonl(paths.dropped, sorted(tally.dropped, key=lambda d: (d.id, d.reason, d.detail)))
    write_json(paths.metrics, metrics(kept, tally))


def cleaned(
    records: Iterable[Conversation | Dropped], params: Params, tally: Tally
) -> Iterator[Conversation]:
    """The conversations that pass every step; the tally gets the rest."""
    chain = [(name, step(name, params)) for name in params.steps]
    for record in records:
        tally.records += 1
        result = record if isinstance(record, Dropped) else clean(record, chain, tally.changed)
        if isinstance(result, Dropped):
            tally.dropped.append(result)
        else:
            ending = turns.without_answers if params.keep == "human" else turns.without_last_question
            yield replace(result, messages=ending(result.messages))


def clean(
    conversation: Conversation, chain: Iterable[tuple[str, Step]], changed: Counter[str]
) -> Conversation | Dropped:
    """Take one conversation through the steps."""
    if not _has_human_turn(conversation):
        return Dropped(
            conversation.id, "no_human_turn", f"{len(conversation.messages)} turns, none a human's"
        )
    for name, step in chain:
        result = step(conversation)
        if isinstance(result, str):
            return Dropped(conversation.id, name, result)
        if not _has_human_turn(result):
            return Dropped(conversation.id, name, "no human turn is left")
        changed[name] += result.messages != conversation.messages
        conversation = result
    return conversation


def step(name: StepName, params: Params) -> Step:
    """A fresh step of that name, with its settings."""
    roles = ("user", "system") if params.keep == "human" else ("user", "system", "assistant")
    match name:
        case "html_to_markdown":
            return _on_texts(lambda m: markup.html_to_markdown(m.content), roles)
        case "copy_code":
            return _on_texts(lambda m: markup.copy_code(m.content), roles)
        case "page_residue":
            return _on_texts(lambda m: markup.page_residue(m.content, whole=m.role == "user"), roles)
        case "empty_turns":
            return lambda c: replace(c, messages=turns.cut_at_empty(c.messages))
        case "alternation":
            return _alternation
        case "boilerplate":
            return _unless(_on_messages(filters.boilerplate(params.boilerplate)))
        case "language":
            return _unless(_on_messages(filters.language(params.languages)))
        case "length":
            return _unless(_on_messages(filters.length(params.min_characters, params.max_characters)))
        case "duplicate_ids":
            return _unless(duplicates.same_id())
        case "duplicate_turns":
            return _unless(duplicates.same_turns())


def sampled(conversations: Iterable[Conversation], params: Params, tally: Tally) -> Iterator[Conversation]:
    """`params.sample` conversations, drawn by the hash of seed and id: more input moves few of them."""
    if params.sample is None:
        yield from conversations
        return
    ranked = [(sha256(f"{params.seed}:{c.id}"), c) for c in conversations]
    drawn = heapq.nsmallest(params.sample, ranked, key=lambda pair: pair[0])
    last = drawn[-1][0] if drawn else ""
    for rank, conversation in ranked:
        if rank <= last:
            yield conversation
        else:
            tally.dropped.append(Dropped(conversation.id, "sample", f"not among the {params.sample} drawn"))


def metrics(kept: list[Conversation], tally: Tally) -> dict[str, Any]:
    """Counts of what came in, what each step changed or dropped, and what is left."""
    human = [m.content for c in kept for m in c.messages if m.role == "user"]
    return {
        "records": tally.records,
        "conversations": len(kept),
        "human_turns": len(human),
        "characters": sum(map(len, human)),
        "dropped": dict(sorted(Counter(d.reason for d in tally.dropped).items())),
        "changed": dict(sorted((+tally.changed).items())),
    }


def _has_human_turn(conversation: Conversation) -> bool:
    return any(m.role == "user" for m in conversation.messages)


def _on_texts(change: Callable[[Message], str], roles: tuple[str, ...]) -> Step:
    """A step that changes the text of every message of the roles."""

    def apply(conversation: Conversation) -> Conversation:
        messages = [replace(m, content=change(m)) if m.role in roles else m for m in conversation.messages]
        return replace(conversation, messages=tuple(messages))

    return apply


def _on_messages(check: filters.Filter) -> Callable[[Conversation], str | None]:
    return lambda conversation: check(conversation.messages)


def _unless(check: Callable[[Conversation], str | None]) -> Step:
    """A step that drops what the check has something to say about."""
    return lambda conversation: check(conversation) or conversation


def _alternation(conversation: Conversation) -> Conversation | str:
    result = turns.alternating(conversation.messages)
    return result if isinstance(result, str) else replace(conversation, messages=result)
