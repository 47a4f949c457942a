"""Sources by weight into one mixture.

data/interim/{distilled,booksum,mqa,raft}.jsonl ──▶ mix ──▶ data/processed/mixture/{train,validation}.jsonl

    stillroom mix

The texts are read twice and never held: once to count tokens, once to copy the chosen records to their
places. Exact repeats are removed across sources. Validation holds whole groups (a conversation, book,
question or document), unweighted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, canonical_json, open_input, sha256, write_json, write_jsonl
from stillroom.chat_format import ChatFormat, Tokenizer, encode_stream, load_tokenizer
from stillroom.draws import held_out, rank
from stillroom.errors import InputError
from stillroom.params import Block, Settings
from stillroom.progress import track
from stillroom.records import Conversation, conversation

ORIGINS = ("chat", "booksum", "mqa", "raft")
"""what may be mixed; of equal records the one of the earlier origin stays"""

Unit = Literal["tokens", "examples"]


class Weights(Settings):
    """Shares of the mixture, in any scale."""

    chat: float = Field(default=0.5, ge=0)
    """distilled conversations"""
    booksum: float = Field(default=0.25, ge=0)
    """chapter summaries"""
    mqa: float = Field(default=0.25, ge=0)
    """questions over many documents"""
    raft: float = Field(default=0.0, ge=0)
    """questions about the user's own documents"""

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not any(self.model_dump().values()):
            raise ValueError("every weight is 0")
        return self


class Caps(Settings):
    """Most records of a source, before weighting; null takes all."""

    chat: int | None = Field(default=None, ge=1)
    """distilled conversations"""
    booksum: int | None = Field(default=None, ge=1)
    """chapter summaries"""
    mqa: int | None = Field(default=None, ge=1)
    """questions over many documents"""
    raft: int | None = Field(default=None, ge=1)
    """questions about the user's own documents"""


class Params(Block):
    """The `mix` block of params.yaml."""

    common_keys = ("seed", "chat_format")

    seed: int = 42
    """of the held-out groups and of what is taken first"""
    chat_format: str = "inst"
    """the format in which tokens are counted"""
    weights: Weights = Weights()
    """shares of the sources"""
    unit: Unit = "tokens"
    """what the shares are shares of"""
    total: int | None = Field(default=None, ge=1)
    """size of the mixture in that unit; null takes as much as the scarcest source allows"""
    max_repeats: float = Field(default=1.0, ge=1)
    """how often a source may be used whole (its epochs); 2.5 is twice and half of it a third time"""
    caps: Caps = Caps()
    """most records of each source"""
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    """share of each source's groups that validate (books, questions, documents, conversations)"""


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    chat: Path = Path("data/interim/distilled.jsonl")
    booksum: Path = Path("data/interim/booksum.jsonl")
    mqa: Path = Path("data/interim/mqa.jsonl")
    raft: Path = Path("data/interim/raft.jsonl")
    base: Path = Path("models/base")
    mixture: Path = Path("data/processed/mixture")
    metrics: Path = Path("reports/metrics/mix.json")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept in memory of a record: where it lies, and what choosing needs."""

    origin: str
    id: str
    group: str
    digest: bytes
    """of the messages: equal records have equal ones"""
    tokens: int
    offset: int
    """of its line, in bytes"""

    def size(self, unit: Unit) -> int:
        """How much of the mixture it is."""
        return self.tokens if unit == "tokens" else 1


@dataclass(frozen=True, slots=True)
class Choice:
    """A record in the mixture; `copy` counts from 1."""

    entry: Entry
    copy: int

    @property
    def id(self) -> str:
        """The record's own id, `id~2` where it is repeated."""
        return self.entry.id if self.copy == 1 else f"{self.entry.id}~{self.copy}"


@dataclass(frozen=True)
class Mixture:
    """Chosen records; what each source's weight asks for, and what it can give, in the mixture's unit."""

    choices: list[Choice]
    targets: dict[str, float]
    stock: dict[str, float]


def run(paths: Paths, params: Params) -> None:
    """Write the mixture and its report. Raises InputError on a bad record or if there is nothing to mix."""
    files = {origin: getattr(paths, origin) for origin in ORIGINS}
    chat, tokenizer = chat_format.get(params.chat_format), load_tokenizer(paths.base)
    dropped: Counter[str] = Counter()
    entries = capped(list(distinct(scan(files, chat, tokenizer), dropped)), params, dropped)
    held = validation_groups(entries, params)
    train = chosen([e for e in entries if (e.origin, e.group) not in held], params)
    if not train.choices:
        raise InputError(
            "there is nothing to mix: every source with a weight is empty",
            where=", ".join(str(files[origin]) for origin in shares(params)),
            hint="give a weight in mix.weights to a source that has records",
        )
    weighted = [e for e in entries if e.origin in shares(params) and (e.origin, e.group) in held]
    validation = sorted((Choice(entry, 1) for entry in weighted), key=lambda choice: choice.id)
    with atomic_directory(paths.mixture) as folder:
        write_jsonl(folder / "train.jsonl", copied(train.choices, files))
        write_jsonl(folder / "validation.jsonl", copied(validation, files))
    report = metrics(entries, train, validation, dropped, params)
    state(report, params)
    write_json(paths.metrics, report)


def scan(files: dict[str, Path], chat: ChatFormat, tokenizer: Tokenizer) -> Iterator[Entry]:
    """Every record of every source, with its tokens counted."""
    with track("mix", unit="records") as progress:
        for origin, path in files.items():
            offsets: list[int] = []
            for n, (record, encoded) in enumerate(encode_stream(chat, tokenizer, _read(path, offsets))):
                digest = sha256(canonical_json([[m.role, m.content] for m in record.messages]))
                group = str(record.meta.get("group", record.id))
                tokens = len(encoded.ids)
                yield Entry(origin, record.id, group, bytes.fromhex(digest[:32]), tokens, offsets[n])
                progress.advance()


def distinct(entries: Iterable[Entry], dropped: Counter[str]) -> Iterator[Entry]:
    """The first of equal records, and records that have an id of their own.

    Raises InputError where records of two sources share an id.
    """
    seen: set[bytes] = set()
    ids: dict[str, str] = {}
    for entry in entries:
        if entry.id in ids:
            both = f"{ids[entry.id]} and {entry.origin}"
            raise InputError(f"two records have the id {entry.id!r}", where=both)
        ids[entry.id] = entry.origin
        if entry.digest in seen:
            dropped[f"duplicate_{entry.origin}"] += 1
            continue
        seen.add(entry.digest)
        yield entry


def capped(entries: Sequence[Entry], params: Params, dropped: Counter[str]) -> list[Entry]:
    """At most so many records of each source as its cap says, drawn by the seed."""
    kept = []
    for origin in ORIGINS:
        own = shuffled((e for e in entries if e.origin == origin), params.seed)
        cap = getattr(params.caps, origin)
        kept += own[:cap]
        dropped[f"capped_{origin}"] += len(own) - len(own[:cap])
    return kept


def validation_groups(entries: Iterable[Entry], params: Params) -> set[tuple[str, str]]:
    """(origin, group) of what validates: the share of each source's groups, none where it is under a half."""
    groups: dict[str, set[str]] = {}
    for entry in entries:
        groups.setdefault(entry.origin, set()).add(entry.group)
    return {
        (origin, group)
        for origin, own in groups.items()
        for group in held_out(own, params.validation_share, params.seed, at_least=0)
    }


def chosen(entries: Sequence[Entry], params: Params) -> Mixture:
    """Choose records of every source by weight, sorted by id.

    A source gives what its weight asks for, at most `max_repeats` times all it has. Without a total, the
    mixture is as large as it can be with every source that has records giving its whole share.
    """
    wanted = shares(params)
    sources = {origin: [e for e in entries if e.origin == origin] for origin in wanted}
    stock = {o: params.max_repeats * sum(e.size(params.unit) for e in own) for o, own in sources.items()}
    scarcest = min((stock[o] / share for o, share in wanted.items() if stock[o]), default=0.0)
    total = scarcest if params.total is None else float(params.total)
    targets = {origin: share * total for origin, share in wanted.items()}
    choices = [
        choice
        for origin, own in sources.items()
        for choice in taken(shuffled(own, params.seed), min(targets[origin], stock[origin]), params.unit)
    ]
    return Mixture(sorted(choices, key=lambda choice: choice.id), targets, stock)


def shares(params: Params) -> dict[str, float]:
    """The sources with a weight, as shares that add up to 1."""
    given = {origin: weight for origin, weight in params.weights.model_dump().items() if weight}
    return {origin: weight / sum(given.values()) for origin, weight in given.items()}


def taken(entries: Sequence[Entry], target: float, unit: Unit) -> Iterator[Choice]:
    """Records in order, again and again, until the target is reached as nearly as whole records allow."""
    reached = 0
    for number, entry in enumerate(cycle(entries)):
        size = entry.size(unit)
        if reached + size / 2 > target + 1e-6:
            return
        yield Choice(entry, 1 + number // len(entries))
        reached += size


def shuffled(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """In an order that the seed and the ids decide."""
    return sorted(entries, key=lambda entry: rank(seed, entry.id))


def copied(choices: Iterable[Choice], files: dict[str, Path]) -> Iterator[Conversation]:
    """The chosen records, read at their places, with `meta.origin`."""
    with ExitStack() as stack:
        opened = {origin: stack.enter_context(open_input(path)) for origin, path in files.items()}
        for choice in choices:
            file = opened[choice.entry.origin]
            file.seek(choice.entry.offset)
            record = conversation(orjson.loads(file.readline()), str(files[choice.entry.origin]))
            meta = {**record.meta, "origin": choice.entry.origin}
            yield Conversation(choice.id, record.source, record.messages, meta)


def metrics(
    entries: Sequence[Entry],
    train: Mixture,
    validation: Sequence[Choice],
    dropped: Counter[str],
    params: Params,
) -> dict[str, Any]:
    """Per source: what there was, what its weight asked for and what it got, by tokens and by examples."""
    used = [choice.entry for choice in train.choices]
    tokens = sum(entry.tokens for entry in used)
    sources = {}
    for origin, share in shares(params).items():
        own = [entry for entry in used if entry.origin == origin]
        available = [entry for entry in entries if entry.origin == origin]
        sources[origin] = {
            "available_examples": len(available),
            "available_tokens": sum(entry.tokens for entry in available),
            "examples": len(own),
            "tokens": sum(entry.tokens for entry in own),
            "target_share": round(share, 6),
            "share_of_examples": round(len(own) / len(used), 6),
            "share_of_tokens": round(sum(entry.tokens for entry in own) / tokens, 6),
            "target": round(train.targets[origin]),
            "shortfall": max(0, round(train.targets[origin] - train.stock[origin])),
            "distinct_examples": len({entry.id for entry in own}),
            "duplicates": dropped[f"duplicate_{origin}"],
            "capped": dropped[f"capped_{origin}"],
        }
    return {
        "unit": params.unit,
        "examples": len(used),
        "tokens": tokens,
        "validation_examples": len(validation),
        "validation_tokens": sum(choice.entry.tokens for choice in validation),
        "sources": sources,
        "lengths": summary.lengths([entry.tokens for entry in used]),
    }


def state(report: dict[str, Any], params: Params) -> None:
    """Say on standard error what each source was to give, gave and lacked."""
    measure = "share_of_tokens" if params.unit == "tokens" else "share_of_examples"
    for origin, source in report["sources"].items():
        line = (
            f"mix: {origin}: {source['target_share']:.1%} of {params.unit} wanted, "
            f"{source[measure]:.1%} reached, "
            f"{source['examples']:,} examples of {source['available_examples']:,}"
        )
        if source["shortfall"]:
            line += f"; {source['shortfall']:,} {params.unit} short (mix.max_repeats, mix.weights)"
        print(line, file=sys.stderr)


def _read(path: Path, offsets: list[int]) -> Iterator[Conversation]:
    """Stream a file's records and note where each begins."""
    with open_input(path) as file:
        offset = 0
        for number, line in enumerate(file, 1):
            if not line.isspace():
                offsets.append(offset)
                yield conversation(_parsed(line, f"{path}:{number}"), f"{path}:{number}")
            offset += len(line)


def _parsed(line: bytes, where: str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error})", where=where) from None
