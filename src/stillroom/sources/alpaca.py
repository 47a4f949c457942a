"""Alpaca, GPTeacher, Platypus: one instruction, perhaps an input, and the answer as `output` or `response`.

    {"instruction": "Translate to German.", "input": "Good night", "output": "Gute Nacht"}

The input follows the instruction after a blank line.
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Adapter, Unfit

ANSWERS = ("output", "response")


def fits(record: Any) -> bool:
    """An object with an `instruction`."""
    return isinstance(record, dict) and isinstance(record.get("instruction"), str)


def read(record: Any) -> tuple[object, list[Message]]:
    """Id, where there is one, and the one turn with its answer."""
    if not fits(record):
        raise Unfit("no text in `instruction`")
    context = record.get("input") or ""
    answer = next((record[name] for name in ANSWERS if record.get(name) is not None), None)
    if not isinstance(context, str) or not isinstance(answer, str | None):
        raise Unfit("`input` and the answer must be texts")
    question = "\n\n".join(text for text in (record["instruction"], context) if text.strip())
    messages = [Message("user", question)]
    return record.get("id"), messages if answer is None else [*messages, Message("assistant", answer)]


ADAPTER = Adapter("alpaca", fits, read)
