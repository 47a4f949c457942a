"""ShareGPT: who spoke stands in `from`, what was said in `value`, the turns in `conversations` or `items`.

{"id": "QWJhYvA_0", "conversations": [
    {"from": "human", "value": "Why is the sky blue?"},
    {"from": "gpt", "value": "<p>Because air scatters blue light.</p>"}]}

Source: sharegpt.com's pages as users collected them (e.g. ShareGPT_Vicuna_unfiltered); licence: none stated.
Many later data sets have the same shape and their own licences; some keep the system prompt in `system`.
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message, Role
from stillroom.sources.adapter import Adapter, Unfit, turns, with_system

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
    """An object with a list of `conversations` or `items`."""
    return isinstance(record, dict) and isinstance(_rows(record), list)


def read(record: Any) -> tuple[object, list[Message]]:
    """Id and messages of a record."""
    if not fits(record):
        raise Unfit("no list of `conversations`")
    return record.get("id"), with_system(record, turns(_rows(record), "from", "value", ROLES))


def _rows(record: dict[str, Any]) -> Any:
    return record.get("conversations", record.get("items"))


ADAPTER = Adapter("sharegpt", fits, read)
