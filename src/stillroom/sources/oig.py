r"""OIG, as OpenChatKit trains on it: one text with marked turns.

{"text": "<human>: Why is the sky blue?\n<bot>: Because air scatters blue light.", "metadata": {}}

Source: huggingface.co/datasets/laion/OIG; licence: Apache-2.0 (its parts: see their sources).
"""

from __future__ import annotations

import re
from typing import Any

from stillroom.records import Message, Role
from stillroom.sources.adapter import Adapter, Unfit, marked

MARKER = re.compile(r"^\s*<(human|bot)>:", re.MULTILINE)
ROLES: dict[str, Role] = {"human": "user", "bot": "assistant"}


def fits(record: Any) -> bool:
    """An object whose `text` has a human's turn, at its beginning or after a background."""
    text = record.get("text") if isinstance(record, dict) else None
    return isinstance(text, str) and "<human>:" in text and not text.lstrip().startswith("### Human:")


def read(record: Any) -> tuple[object, list[Message]]:
    """No id in the data; what stands before the first marker is a system message."""
    if not fits(record):
        raise Unfit("no `text` with `<human>:`")
    return record.get("id"), list(marked(record["text"], MARKER, ROLES))


ADAPTER = Adapter("oig", fits, read)
