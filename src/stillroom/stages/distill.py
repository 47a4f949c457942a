"""Human turns, answered by the teacher in order: distillation.

conversations.jsonl ──▶ distill ──▶ distilled.jsonl, instructions.jsonl, distill-answers.parquet

    stillroom distill

Each human turn is asked in the context of the turns before it and the teacher's own answers to them; all
conversations are in flight together, through the response cache. A conversation ends before the first turn
without a usable answer; the complete turns before it are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillroom import chat_format
from stillroom.artifacts import write_json, write_jsonl
from stillroom.params import Block, Endpoint, Sampling, Teacher
from stillroom.records import Conversation, Message, read_conversations, write_conversations
from stillroom.teacher import snapshot
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker
from stillroom.teacher.requests import Answer, Dialogue, Request


class Params(Block):
    """Settings of `distill`."""

    common_keys = ("seed", "chat_format", "teacher")
    shared_blocks = ("endpoint",)

    seed: int = 42
    """seed of the teacher's sampling; sent with every request, and part of its key"""
    chat_format: str = "inst"
    """format of instructions.jsonl, and of the prompt where the teacher's api is `completions`"""
    teacher: Teacher = Teacher()
    """the model that answers"""
    endpoint: Endpoint = Endpoint()
    """how it is reached"""
    answers: Literal["teacher", "original"] = "teacher"
    """`original` passes the input's own answers through and asks nobody (extract.keep must be `all`)"""
    system: str | None = None
    """system prompt of conversations that have none"""
    on_truncated: Literal["keep", "drop"] = "drop"
    """what becomes of an answer cut at max_tokens; either way the conversation ends with it"""
    sampling: Sampling = Sampling()
    """how answers are drawn"""


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    conversations: Path = Path("data/interim/conversations.jsonl")
    teacher: Path = Path("models/teacher")
    distilled: Path = Path("data/interim/distilled.jsonl")
    instructions: Path = Path("data/interim/instructions.jsonl")
    answers: Path = Path("data/interim/distill-answers.parquet")
    metrics: Path = Path("reports/metrics/distill.json")


@dataclass(frozen=True)
class Outcome:
    """A conversation as far as it was answered, and how every answer that was wanted ended."""

    conversation: Conversation
    finish_reasons: tuple[str, ...]


def run(paths: Paths, params: Params) -> None:
    """Answer every conversation and write the three outs and the metrics.

    Raises EndpointError where the teacher cannot be asked; what was answered stays in the response cache.
    """
    chat = chat_format.get(params.chat_format)
    conversations = read_conversations(paths.conversations)
    with Cache() as cache:
        if params.answers == "original":
            outcomes = [original(c) for c in conversations]
            used: list[str] = []
        else:
            snapshot.restore(paths.answers, cache)
            outcomes, used = ask(list(conversations), paths.teacher, params, chat, cache)
        snapshot.write(paths.answers, cache, used)
    answered = sorted((o.conversation for o in outcomes if o.conversation.messages), key=lambda c: c.id)
    write_conversations(paths.distilled, answered)
    write_jsonl(paths.instructions, ({"text": chat.text(c.messages)} for c in answered))
    write_json(paths.metrics, metrics(outcomes))


def ask(
    conversations: Sequence[Conversation],
    folder: Path,
    params: Params,
    chat: chat_format.ChatFormat,
    cache: Cache,
) -> tuple[list[Outcome], list[str]]:
    """Replay all conversations together; return the outcomes, in order, and the keys of the answers used."""
    outcomes: dict[int, Outcome] = {}
    with Asker(params.teacher, params.endpoint, folder, chat, cache, params.seed, "distill") as asker:
        asker.run(
            lambda: (replay(c, params) for c in conversations),
            outcomes.__setitem__,
            total=len(conversations),
        )
        return [outcomes[index] for index in range(len(conversations))], asker.used()


def replay(conversation: Conversation, params: Params) -> Dialogue[Outcome]:
    """Ask the human turns in order, each after the answers to those before it."""
    history = opening(conversation.messages, params.system)
    turns: list[dict[str, Any]] = []
    reasons: list[str] = []
    for message in conversation.messages:
        if message.role != "user":
            continue
        asked = (*history, message)
        answer = yield Request(asked, params.sampling)
        reasons.append(verdict(answer))
        if not usable(answer, params):
            break
        history = (*asked, Message("assistant", answer.text.strip()))
        turns.append(turn(answer))
        if answer.finish_reason == "length":
            break
    messages = history if turns else ()
    meta = {**conversation.meta, "turns": turns}
    return Outcome(Conversation(conversation.id, conversation.source, messages, meta), tuple(reasons))


def opening(messages: Iterable[Message], system: str | None) -> tuple[Message, ...]:
    """The system message that a conversation starts with: its own, else the one given."""
    own = tuple(m for m in messages if m.role == "system")
    return own or ((Message("system", system),) if system else ())


def verdict(answer: Answer) -> str:
    """How an answer ended: its finish reason, or `empty` where it says nothing."""
    return answer.finish_reason if answer.text.strip() or answer.finish_reason != "stop" else "empty"


def usable(answer: Answer, params: Params) -> bool:
    """Whether an answer may be trained on: said something, to its end, or was cut and may be."""
    allowed = ("stop", "length") if params.on_truncated == "keep" else ("stop",)
    return bool(answer.text.strip()) and answer.finish_reason in allowed


def turn(answer: Answer) -> dict[str, Any]:
    """What `meta.turns` says about an answer."""
    return {
        "key": answer.key,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
    }


def original(conversation: Conversation) -> Outcome:
    """A conversation with the answers that it came with, up to its last answer."""
    messages = conversation.messages
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    reasons = tuple("original" for m in messages if m.role == "assistant")
    unasked = {"key": None, "finish_reason": "original", "prompt_tokens": 0, "completion_tokens": 0}
    meta = {**conversation.meta, "turns": [unasked] * len(reasons)}
    return Outcome(Conversation(conversation.id, conversation.source, messages, meta), reasons)


def metrics(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts of what was answered and of what was kept. Whether an answer was cached is not among them."""
    kept = [o.conversation for o in outcomes if o.conversation.messages]
    turns = [t for c in kept for t in c.meta["turns"]]
    reasons = Counter(reason for o in outcomes for reason in o.finish_reasons)
    return {
        "conversations": len(kept),
        "unanswered_conversations": len(outcomes) - len(kept),
        "turns": len(turns),
        "prompt_tokens": sum(t["prompt_tokens"] for t in turns),
        "completion_tokens": sum(t["completion_tokens"] for t in turns),
        "finish_reasons": dict(sorted(reasons.items())),
    }
