"""The records that flow between stages: one JSON object a line, sorted by id, keys in the order given here.

{"id": "sg-12", "source": "sharegpt", "messages": [{"role": "user", "content": "Why is the sky blue?"},
 {"role": "assistant", "content": "Because …"}], "meta": {"turns": [{"key": "9f…", "finish_reason": "stop"}]}}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from stillroom.artifacts import read_jsonl, write_jsonl
from stillroom.errors import InputError

Role = Literal["system", "user", "assistant"]
ROLES = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, with where they came from.

    `source` names the dataset (sharegpt, booksum, mqa, raft, …); `meta` holds provenance, JSON values only.
    """

    id: str
    source: str
    messages: tuple[Message, ...]
    meta: dict[str, Any] = field(default_factory=dict)


def conversation(row: dict[str, Any], where: str) -> Conversation:
    """Build a Conversation from its JSON object. Raises InputError naming `where` and the field."""
    try:
        messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
        record = Conversation(row["id"], row["source"], messages, row.get("meta", {}))
    except KeyError as error:
        raise InputError(f"not a conversation record: `{error.args[0]}` is missing", where=where) from None
    except TypeError:
        what = "not a conversation record: `messages` must be a list of {role, content}"
        raise InputError(what, where=where) from None
    if not isinstance(record.id, str) or not record.id:
        raise InputError("`id` must be a non-empty string", where=where)
    for message in messages:
        if message.role not in ROLES or not isinstance(message.content, str):
            raise InputError(f"bad message in record {record.id!r}: {message}", where=where)
    return record


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Stream the conversations of a JSON Lines file. Raises InputError with file and line."""
    for number, row in read_jsonl(path):
        yield conversation(row, f"{path}:{number}")


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Write conversations sorted by id, whole or not at all; return how many.

    Raises InputError on a duplicate id: an id names one record in every stage.
    """
    rows = sorted(conversations, key=lambda c: c.id)
    for first, second in pairwise(rows):
        if first.id == second.id:
            raise InputError(f"two records have the id {first.id!r}", where=str(path))
    return write_jsonl(path, rows)
