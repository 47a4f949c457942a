r"""OIG, as OpenChatKit trains on it: one text with marked turns.

{"text": "<human>: Why is the sky blue?\n<bot>: Because air scatters blue light.", "metadata": {}}
"""

from __future__ import annotations

import re
from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Adapter, Unfit

TURN = re.compile(r"^\s*<(human|bot)>:", re.MULTILINE)


def fits(record: Any) -> bool:
    """An object whose `text` has a human's turn."""
    return isinstance(record, dict) and isinstance(record.get("text"), str) and "<human>:" in record["text"]


def read(record: Any) -> tuple[object, list[Message]]:
    """No id in the data; what stands before the first marker is a system message."""
    if not fits(record):
        raise Unfit("no `text` with `<human>:`")
    before, *parts = TURN.split(record["text"])
    messages = [Message("system", before.strip())] if before.strip() else []
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        messages.append(Message("user" if speaker == "human" else "assistant", text.strip()))
    return record.get("id"), messages


ADAPTER = Adapter("oig", fits, read)
