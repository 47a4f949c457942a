"""A folder of conversation dumps, whatever their shape ──▶ Conversations, and the records that are none.

The shape of a file is told from its first records; see the adapters for worked examples. A new shape is a
file here and an entry in ADAPTERS. A conversation keeps the dump's id, or gets one from its content.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from stillroom.artifacts import canonical_json, sha256
from stillroom.errors import InputError
from stillroom.records import Conversation, Message
from stillroom.sources import alpaca, oasst, oig, openai_messages, sharegpt, turn_lists
from stillroom.sources.adapter import Adapter, Dropped, Unfit
from stillroom.sources.dumps import Broken, Record, dump_files, read_dump

ADAPTERS: tuple[Adapter, ...] = (
    sharegpt.ADAPTER,
    openai_messages.ADAPTER,
    oasst.ADAPTER,
    alpaca.ADAPTER,
    oig.ADAPTER,
    turn_lists.ADAPTER,
)
SNIFFED = 50
"""records that decide on a file's shape"""


def read_folder(folder: Path, on_malformed: Literal["skip", "stop"]) -> Iterator[Conversation | Dropped]:
    """Stream all conversations of a folder's dumps, files in the order of their names.

    Malformed records come as Dropped, or with `stop` raise InputError naming file, record and offset. Raises
    InputError where a file has no known shape.
    """
    for path in dump_files(folder):
        yield from read_file(path, path.relative_to(folder).as_posix(), on_malformed)


def read_file(
    path: Path, name: str, on_malformed: Literal["skip", "stop"]
) -> Iterator[Conversation | Dropped]:
    """Stream the conversations of one dump; `name` is what records say about where they came from."""
    records = read_dump(path)
    first = list(itertools.islice(records, SNIFFED))
    adapter = sniff([r.value for r in first if isinstance(r, Record)], path) if first else ADAPTERS[0]
    for record in itertools.chain(first, records):
        found = _converted(record, adapter, name)
        if isinstance(found, Dropped) and found.reason == "malformed" and on_malformed == "stop":
            where = f"{path}: record {record.number} at byte {record.offset}"
            raise InputError(found.detail, where=where, hint="mend it, or set extract.on_malformed to skip")
        yield found


def sniff(values: list[object], path: Path) -> Adapter:
    """The adapter that fits most of the values. Raises InputError where none fits any."""
    best = max(ADAPTERS, key=lambda adapter: sum(map(adapter.fits, values)))
    if not any(map(best.fits, values)):
        known = ", ".join(adapter.name for adapter in ADAPTERS)
        raise InputError("conversations of an unknown shape", where=str(path), hint=f"known shapes: {known}")
    return best


def _converted(record: Record | Broken, adapter: Adapter, name: str) -> Conversation | Dropped:
    place = f"{name}#{record.number}"
    if isinstance(record, Broken):
        return Dropped(place, "malformed", f"byte {record.offset}: {record.error}")
    try:
        given, messages = adapter.read(record.value)
    except Unfit as unfit:
        given = record.value.get("id") if isinstance(record.value, dict) else None
        return Dropped(own_id(given) or place, unfit.reason, f"{place}: {unfit.detail}")
    meta = {"file": name, "record": record.number}
    identifier = own_id(given) or content_id(adapter.name, messages)
    return Conversation(identifier, adapter.name, tuple(messages), meta)


def own_id(given: object) -> str:
    """The dump's id as a text; empty where it has none that can be used."""
    return str(given).strip() if isinstance(given, str | int) else ""


def content_id(source: str, messages: list[Message]) -> str:
    """An id that the same content has everywhere."""
    return f"{source}-{sha256(canonical_json(messages))[:16]}"
