"""OpenAssistant trees: a prompt, ranked replies, replies to them; the best-ranked path is the conversation.

    {"message_tree_id": "054e…", "prompt": {"role": "prompter", "text": "How do I …?", "replies": [
        {"role": "assistant", "text": "First …", "rank": 0, "replies": [
            {"role": "prompter", "text": "And then?", "replies": []}]},
        {"role": "assistant", "text": "It depends.", "rank": 1, "replies": []}]}}

Deleted messages are not followed; unranked replies come after ranked ones, in the file's order.

Source: huggingface.co/datasets/OpenAssistant/oasst1 and oasst2, files `*.trees.jsonl.gz`; licence:
Apache-2.0. The table of messages that is published beside them: oasst_messages.
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message, Role
from stillroom.sources.adapter import Adapter, Unfit, turns

ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}


def fits(record: Any) -> bool:
    """An object with a `prompt` that may have `replies`."""
    return isinstance(record, dict) and isinstance(record.get("prompt"), dict) and "text" in record["prompt"]


def read(record: Any) -> tuple[object, list[Message]]:
    """Id of the tree and the messages of its best path."""
    if not fits(record):
        raise Unfit("no `prompt` with a text")
    return record.get("message_tree_id"), turns(best_path(record["prompt"]), "role", "text", ROLES)


def best_path(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The message and the best-ranked of the replies, of the replies to it, and so on."""
    path = [node]
    while replies := [reply for reply in _replies(path[-1]) if not reply.get("deleted")]:
        path.append(min(replies, key=_rank))
    return path


def _replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise Unfit("`replies` is not a list of messages")
    return replies


def _rank(reply: dict[str, Any]) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, int | float) else float("inf")


ADAPTER = Adapter("oasst", fits, read)
