"""ShareGPT: who spoke stands in `from`, what was said in `value`.

{"id": "QWJhYvA_0", "conversations": [
    {"from": "human", "value": "Why is the sky blue?"},
    {"from": "gpt", "value": "<p>Because air scatters blue light.</p>"}]}
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message, Role
from stillroom.sources.adapter import Adapter, Unfit, turns

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
}


def fits(record: Any) -> bool:
    """An object with a list of `conversations`."""
    return isinstance(record, dict) and isinstance(record.get("conversations"), list)


def read(record: Any) -> tuple[object, list[Message]]:
    """Id and messages of a record."""
    if not fits(record):
        raise Unfit("no list of `conversations`")
    return record.get("id"), turns(record["conversations"], "from", "value", ROLES)


ADAPTER = Adapter("sharegpt", fits, read)
