"""OpenAI's fine-tuning shape, and that of most newer chat data sets: `messages` with `role` and `content`.

{"messages": [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": [{"type": "text", "text": "Why is the sky blue?"}]},
    {"role": "assistant", "content": "Scattering."}]}

Sources and licences: a shape, not a data set; e.g. UltraChat 200k (MIT), no_robots (CC BY-NC 4.0). A
conversation in which tools are called or answer, or with a part that is not text, is dropped.
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message, Role
from stillroom.sources.adapter import Adapter, Unfit, turns, with_system

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def fits(record: Any) -> bool:
    """An object with a list of `messages`."""
    return isinstance(record, dict) and isinstance(record.get("messages"), list)


def read(record: Any) -> tuple[object, list[Message]]:
    """Id (`id` or `prompt_id`) and messages of a record."""
    if not fits(record):
        raise Unfit("no list of `messages`")
    rows = [_plain(row) for row in record["messages"]]
    messages = with_system(record, turns(rows, "role", "content", ROLES))
    return record.get("id", record.get("prompt_id")), messages


def _plain(row: Any) -> Any:
    """A message whose content is one text: parts are joined, calls of tools are refused."""
    if not isinstance(row, dict):
        return row
    if row.get("tool_calls") or row.get("function_call"):
        raise Unfit("a turn calls a tool: it cannot be asked again", "tool_turns")
    content = row.get("content")
    if not isinstance(content, list):
        return row
    if any(not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in content):
        raise Unfit("a turn has a part that is not text", "not_text")
    return {**row, "content": "".join(part["text"] for part in content)}


ADAPTER = Adapter("messages", fits, read)
