"""OpenAssistant's table of messages: a row a message, the rows of a tree one after another.

[{"message_id": "a", "parent_id": null, "message_tree_id": "a", "role": "prompter", "text": "How do …?"},
 {"message_id": "b", "parent_id": "a", "message_tree_id": "a", "role": "assistant", "text": "No.", "rank": 1},
 {"message_id": "c", "parent_id": "a", "message_tree_id": "a", "role": "assistant", "text": "So.", "rank": 0}]

`joined` makes one record of the rows of a tree; it is read like the trees published beside the table.

Source: huggingface.co/datasets/OpenAssistant/oasst1 and oasst2, Parquet files and `*.messages.jsonl.gz`;
licence: Apache-2.0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Adapter, Unfit, turns
from stillroom.sources.dumps import Raw, Record, parsed
from stillroom.sources.oasst import ROLES, best_path


def is_row(value: Any) -> bool:
    """Whether a value is a row of the table."""
    return isinstance(value, dict) and {"message_id", "parent_id", "message_tree_id", "text"} <= value.keys()


def joined(rows: Iterable[Raw]) -> Iterator[Raw]:
    """One record, an array, for the rows of each tree; what is no row is passed on."""
    for tree, group in itertools.groupby(rows, _tree):
        if tree is None:
            yield from group
            continue
        first, *others = group
        yield first._replace(text=b"[" + b",".join(row.text for row in (first, *others)) + b"]")


def fits(record: Any) -> bool:
    """A list of rows."""
    return isinstance(record, list) and bool(record) and all(map(is_row, record))


def read(record: Any) -> tuple[object, list[Message]]:
    """Id of the tree and the messages of its best path."""
    if not fits(record):
        raise Unfit("no list of messages with `message_tree_id` and `parent_id`")
    if not all(
        isinstance(row["message_id"], str) and isinstance(row["parent_id"], str | None) for row in record
    ):
        raise Unfit("a message's `message_id` or `parent_id` is not a text")
    nodes: dict[str, dict[str, Any]] = {row["message_id"]: {**row, "replies": []} for row in record}
    for node in nodes.values():
        if node["parent_id"] in nodes:
            nodes[node["parent_id"]]["replies"].append(node)
    root = next((node for node in nodes.values() if node["parent_id"] is None), None)
    if root is None:
        raise Unfit("the tree's first message is missing: the rows of a tree must follow one another")
    return root["message_tree_id"], turns(best_path(root), "role", "text", ROLES)


def _tree(raw: Raw) -> str | None:
    record = parsed(raw)
    value = record.value if isinstance(record, Record) else None
    return str(value["message_tree_id"]) if value is not None and is_row(value) else None


ADAPTER = Adapter("oasst_messages", fits, read)
