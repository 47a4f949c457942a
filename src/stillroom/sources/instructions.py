"""What Alpaca and its relatives share: records of one instruction and its answer, read field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Unfit


def instructs(record: Any) -> bool:
    """Whether a value is an object with an `instruction`."""
    return isinstance(record, dict) and isinstance(record.get("instruction"), str)


def text(record: Mapping[str, Any], *names: str) -> str:
    """The first of the fields that is there; empty where none is. Raises Unfit where it is not a text."""
    name = next((name for name in names if record.get(name) is not None), names[0])
    value = record.get(name, "")
    if not isinstance(value, str | None):
        raise Unfit(f"`{name}` is not a text")
    return value or ""


def exchange(system: str, question: str, record: Mapping[str, Any], answer: str) -> list[Message]:
    """System prompt, where there is one, question, and the answer in the field, where the record has it."""
    messages = [Message("system", system)] if system.strip() else []
    messages.append(Message("user", question))
    if record.get(answer) is not None:
        messages.append(Message("assistant", text(record, answer)))
    return messages


def joined(*parts: str) -> str:
    """The parts with a blank line between them, empty ones left out."""
    return "\n\n".join(part for part in parts if part.strip())
