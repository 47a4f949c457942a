"""Human turns, answered by the teacher in order: distillation.

conversations.jsonl ──▶ distill ──▶ distilled.jsonl, instructions.jsonl with its card, distill-answers.parquet

    stillroom distill

Each human turn is asked in the context of the turns before it and the teacher's own answers to them; all
conversations are in flight together, through the response cache. Every answer is judged (truncated, refused,
…: `stillroom.teacher.verdicts`). A conversation ends before the first turn without a usable answer; the
complete turns before it are kept. Conversations are streamed: memory does not grow with their number.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

from stillroom import chat_format
from stillroom.artifacts import atomic_write, write_json, write_jsonl
from stillroom.errors import InputError
from stillroom.params import Block, Endpoint, Sampling, Settings, Teacher
from stillroom.records import Conversation, Message, read_conversations
from stillroom.reporting import cards
from stillroom.sorted_lines import SortedLines, sorted_file
from stillroom.summary import lengths
from stillroom.teacher import snapshot, verdicts
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker
from stillroom.teacher.requests import Dialogue, Request
from stillroom.teacher.verdicts import Policies, Reply


class Card(Settings):
    """What the data set's card says and the code cannot know."""

    title: str = "Distilled conversations"
    """heading"""
    languages: list[str] = []
    """ISO 639 codes of the conversations' languages; empty: not stated"""
    license: str = "other"
    """the Hugging Face hub's word for the licence that the data may be passed on under"""


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
    samples: int = Field(default=1, ge=1)
    """conversations made of each one, by drawing other answers; the second and later have ids `…#1`, `…#2`"""
    policies: Policies = Policies()
    """what becomes of answers that are not complete"""
    sampling: Sampling = Sampling()
    """how answers are drawn"""
    card: Card = Card()
    """of instructions.jsonl"""

    @model_validator(mode="after")
    def _more_room(self) -> Params:
        """A retry must have more room than the answer that was cut."""
        room, first = self.policies.retry_max_tokens, self.sampling.max_tokens
        if self.policies.truncated == "retry" and room is not None and room <= first:
            raise ValueError(f"policies.retry_max_tokens must exceed sampling.max_tokens, {first}")
        return self


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    conversations: Path = Path("data/interim/conversations.jsonl")
    teacher: Path = Path("models/teacher")
    distilled: Path = Path("data/interim/distilled.jsonl")
    instructions: Path = Path("data/interim/instructions.jsonl")
    card: Path = Path("data/interim/instructions.md")
    answers: Path = Path("data/interim/distill-answers.parquet")
    metrics: Path = Path("reports/metrics/distill.json")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A conversation as far as it was answered."""

    conversation: Conversation
    judged: tuple[tuple[str, str], ...]
    """verdict on every answer that was given, and what became of it"""
    ended: str | None = None
    """the verdict on the answer that it ended with before its last turn, or because of which it lacks one"""


def run(paths: Paths, params: Params) -> None:
    """Answer every conversation; write the outs, the card and the metrics.

    Raises InputError on a malformed record or an id that two of them have, EndpointError where the teacher
    cannot be asked; what was answered stays in the response cache.
    """
    chat = chat_format.get(params.chat_format)
    tally = Tally()
    with sorted_file(paths.distilled, paths.conversations) as records, Cache() as cache:

        def done(_: int, outcome: Outcome) -> None:
            tally.add(outcome)
            if outcome.conversation.messages:
                line = orjson.dumps(outcome.conversation, option=orjson.OPT_APPEND_NEWLINE)
                records.add(outcome.conversation.id, line)

        used = answer(paths, params, chat, cache, done)
        if params.answers == "original" and tally.lost and not tally.turns:
            hint = "set extract.keep to all, then: stillroom extract"
            raise InputError("no conversation has an answer", where=str(paths.conversations), hint=hint)
        with ThreadPoolExecutor(1) as pool:
            saved = pool.submit(snapshot.write, paths.answers, cache, used)
            write_jsonl(paths.instructions, texts(records.lines(), chat))
            saved.result()
    found = metrics(tally, paths.answers)
    with atomic_write(paths.card) as file:
        file.write(card(params, found, tally).encode())
    write_json(paths.metrics, found)
    print(f"distill: {summary(found)}", file=sys.stderr)


def answer(
    paths: Paths,
    params: Params,
    chat: chat_format.ChatFormat,
    cache: Cache,
    done: Callable[[int, Outcome], None],
) -> list[str]:
    """Hand every conversation's outcome to `done`; return the keys of the answers that were used."""
    count = counted(paths.conversations)
    if params.answers == "original":
        for index, conversation in enumerate(read_conversations(paths.conversations)):
            done(index, original(conversation))
        return []
    if params.samples > 1 and params.sampling.temperature == 0:
        print("distill: warning: at temperature 0 all samples are likely to be the same", file=sys.stderr)
    snapshot.restore(paths.answers, cache)
    with Asker(params.teacher, params.endpoint, paths.teacher, chat, cache, params.seed, "distill") as asker:
        asker.run(dialogues(paths.conversations, params), done, total=count * params.samples)
        return asker.used()


def counted(path: Path) -> int:
    """How many conversations there are. Raises InputError on a malformed one and on two with one id: before
    anything is paid for."""
    count = 0
    with SortedLines(path) as ids:
        for record in read_conversations(path):
            ids.add(record.id, b"")
            count += 1
    return count


def dialogues(path: Path, params: Params) -> Callable[[], Iterator[Dialogue[Outcome]]]:
    """What makes the dialogues of a file, one for each sample of each conversation, whenever it is called."""
    samples = range(params.samples)
    return lambda: (replay(made, params, sample) for made in read_conversations(path) for sample in samples)


def replay(conversation: Conversation, params: Params, sample: int = 0) -> Dialogue[Outcome]:
    """Ask the human turns in order, each after the answers to those before it."""
    history = opening(conversation.messages, params.system)
    turns: list[dict[str, Any]] = []
    judged: list[tuple[str, str]] = []
    ended = None
    for message in conversation.messages:
        if message.role != "user":
            continue
        asked = (*history, message)
        request = Request(asked, params.sampling, sample)
        reply = yield from verdicts.ask(request, params.policies, params.samples)
        judged += reply.judged
        if reply.kept:
            history = (*asked, Message("assistant", reply.answer.text.strip()))
            turns.append(turn(reply))
        if reply.ends:
            ended = reply.verdict
            break
    made = named(conversation, params.samples, sample)
    meta = {**made.meta, "turns": turns}
    return Outcome(replace(made, messages=history if turns else (), meta=meta), tuple(judged), ended)


def opening(messages: Iterable[Message], system: str | None) -> tuple[Message, ...]:
    """The system message that a conversation starts with: its own, else the one given."""
    own = tuple(m for m in messages if m.role == "system")
    return own or ((Message("system", system),) if system else ())


def named(conversation: Conversation, samples: int, sample: int) -> Conversation:
    """One of several samples: with an id of its own, and in the group of the first, so that none validates
    what another has taught."""
    if samples == 1:
        return conversation
    group = conversation.meta.get("group", conversation.id)
    identifier = f"{conversation.id}#{sample}" if sample else conversation.id
    return replace(conversation, id=identifier, meta={**conversation.meta, "sample": sample, "group": group})


def turn(reply: Reply) -> dict[str, Any]:
    """What `meta.turns` says about an answer."""
    return {
        "key": reply.answer.key,
        "finish_reason": reply.answer.finish_reason,
        "verdict": reply.verdict,
        "prompt_tokens": reply.answer.prompt_tokens,
        "completion_tokens": reply.answer.completion_tokens,
    }


def original(conversation: Conversation) -> Outcome:
    """A conversation with the answers that it came with, up to its last answer."""
    messages = conversation.messages
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    count = sum(m.role == "assistant" for m in messages)
    unasked = {
        "key": None,
        "finish_reason": "original",
        "verdict": "original",
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }
    meta = {**conversation.meta, "turns": [unasked] * count}
    ended = None if len(messages) == len(conversation.messages) else "unanswered"
    return Outcome(
        replace(conversation, messages=messages, meta=meta), (("original", "kept"),) * count, ended
    )


def texts(records: Iterable[bytes], chat: chat_format.ChatFormat) -> Iterator[dict[str, str]]:
    """The conversations of lines of JSON as texts, in the seed's form."""
    for record in records:
        messages = [Message(**message) for message in orjson.loads(record)["messages"]]
        yield {"text": chat.text(messages)}


@dataclass
class Tally:
    """What is counted, conversation by conversation, in any order."""

    judged: Counter[tuple[str, str]] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    """verdicts that ended conversations early"""
    lost: Counter[str] = field(default_factory=Counter)
    """verdicts that left nothing of a conversation"""
    sources: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    turns: array[int] = field(default_factory=lambda: array("Q"))
    answers: array[int] = field(default_factory=lambda: array("Q"))
    conversations: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, outcome: Outcome) -> None:
        """Count a conversation. Its length is what the teacher counted at its last turn."""
        turns = outcome.conversation.meta["turns"]
        self.judged.update(outcome.judged)
        if not turns:
            self.lost[outcome.ended or "no human turn"] += 1
            return
        if outcome.ended:
            self.cut[outcome.ended] += 1
        source = self.sources[outcome.conversation.source]
        source.update({"conversations": 1, "turns": len(turns)})
        for key in ("prompt_tokens", "completion_tokens"):
            source[key] += sum(t[key] for t in turns)
        self.turns.append(len(turns))
        self.answers.extend(t["completion_tokens"] for t in turns)
        self.conversations.append(turns[-1]["prompt_tokens"] + turns[-1]["completion_tokens"])


def metrics(tally: Tally, answers: Path) -> dict[str, Any]:
    """Counts of what was kept and of what was bought for it, in this run or before."""
    kept: Counter[str] = sum(tally.sources.values(), Counter())
    names = ("conversations", "turns", "prompt_tokens", "completion_tokens")
    judged: dict[str, dict[str, int]] = {}
    for (verdict, fate), count in sorted(tally.judged.items()):
        judged.setdefault(verdict, {})[fate] = count
    return {
        **{name: kept[name] for name in names},
        "unanswered_conversations": tally.lost.total(),
        "answers": judged,
        "conversations_cut": dict(sorted(tally.cut.items())),
        "conversations_lost": dict(sorted(tally.lost.items())),
        **snapshot.bought(answers),
        "turns_of_conversation": lengths(tally.turns),
        "tokens_of_answer": lengths(tally.answers),
        "tokens_of_conversation": lengths(tally.conversations),
    }


def summary(found: dict[str, Any]) -> str:
    """`188 conversations, 303 turns; ended early: 8 truncated; lost: 3 empty`, from the metrics."""

    def counted(what: str, counts: dict[str, int]) -> str:
        return f"; {what}: {', '.join(f'{n:,} {verdict}' for verdict, n in counts.items())}" if counts else ""

    made = f"{found['conversations']:,} conversations, {found['turns']:,} turns"
    early, lost = found["conversations_cut"], found["conversations_lost"]
    return f"{made}{counted('ended early', early)}{counted('lost', lost)}"


def card(params: Params, found: dict[str, Any], tally: Tally) -> str:
    """The data set's card."""
    asked = params.answers == "teacher"
    return cards.dataset_card(
        title=params.card.title,
        languages=params.card.languages,
        license=params.card.license,
        data_file=Paths.instructions.name,
        metrics=found,
        sources={name: dict(counts) for name, counts in sorted(tally.sources.items())},
        teacher=params.teacher.model_dump() if asked else None,
        settings={
            "chat_format": params.chat_format,
            **({"seed": params.seed} if asked else {}),
            **params.model_dump(include={"system", "samples", "sampling", "policies"} if asked else set()),
        },
    )
