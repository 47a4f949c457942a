"""What every reader of conversations shares: its form, and what it says about records that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stillroom.records import Message, Role


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that goes no further: its id, the reason by name, and what exactly."""

    id: str
    reason: str
    detail: str


class Unfit(Exception):
    """A record that cannot become a conversation; `reason` is `malformed`, or says what kind it is."""

    def __init__(self, detail: str, reason: str = "malformed") -> None:
        super().__init__(detail)
        self.detail, self.reason = detail, reason


@dataclass(frozen=True)
class Adapter:
    """One shape of conversation dumps.

    fits: whether a JSON value has the shape.  read: its id, where it has one, and its messages; raises Unfit.
    """

    name: str
    fits: Callable[[Any], bool]
    read: Callable[[Any], tuple[object, list[Message]]]


def turns(rows: Iterable[Any], role_key: str, text_key: str, roles: dict[str, Role]) -> list[Message]:
    """Messages from a list of objects. Raises Unfit on unknown roles, non-texts and tools' turns."""
    messages = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise Unfit(f"turn {number} is not an object")
        speaker, text = row.get(role_key), row.get(text_key)
        if speaker in ("tool", "function", "function_call", "observation"):
            raise Unfit(f"turn {number} is a tool's: it cannot be asked again", "tool_turns")
        if not isinstance(speaker, str) or speaker not in roles:
            raise Unfit(f"turn {number}: unknown `{role_key}` {speaker!r}")
        if not isinstance(text, str | None):
            raise Unfit(f"turn {number}: `{text_key}` is not a text")
        messages.append(Message(roles[speaker], text or ""))
    return messages


def with_system(record: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """The messages after the system prompt that stands in a field of its own, where there is one.

    Raises Unfit where it is not a text. Messages that open with a system prompt keep it.
    """
    prompt = next((record[name] for name in ("system", "system_prompt") if record.get(name)), "")
    if not isinstance(prompt, str):
        raise Unfit("the system prompt is not a text")
    opened = bool(messages) and messages[0].role == "system"
    return messages if opened or not prompt.strip() else [Message("system", prompt), *messages]


def marked(text: str, marker: re.Pattern[str], roles: dict[str, Role]) -> Iterator[Message]:
    """The turns of one text, split at markers whose group 1 is the role; before the first is the system's."""
    before, *parts = marker.split(text)
    if before.strip():
        yield Message("system", before.strip())
    for speaker, turn in zip(parts[::2], parts[1::2], strict=True):
        yield Message(roles[speaker], turn.strip())
