"""A folder of conversation dumps, whatever their shape ──▶ Conversations, and the records that are none.

Each record's shape is told from itself; see the adapters for worked examples. A new shape is a file
here and an entry in ADAPTERS. A conversation keeps the dump's id, or gets one from its content.
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
from stillroom.sources.dumps import Broken, Raw, Record, dump_files, parsed, raw_records

ADAPTERS: tuple[Adapter, ...] = (
    sharegpt.ADAPTER,
    openai_messages.ADAPTER,
    oasst.ADAPTER,
    alpaca.ADAPTER,
    oig.ADAPTER,
    turn_lists.ADAPTER,
)
SNIFFED = 50
"""records of which one must have a known shape"""
UNKNOWN = "no conversation of a known shape"
OnMalformed = Literal["skip", "stop"]


def read_folder(folder: Path, on_malformed: OnMalformed) -> Iterator[Conversation | Dropped]:
    """Stream all conversations of a folder's dumps, files in the order of their names.

    Malformed records come as Dropped, or with `stop` raise InputError naming file, record and offset. Raises
    InputError where a file has no known shape.
    """
    for path in dump_files(folder):
        yield from read_file(path, path.relative_to(folder).as_posix(), on_malformed)


def read_file(path: Path, name: str, on_malformed: OnMalformed) -> Iterator[Conversation | Dropped]:
    """Stream the conversations of one dump; `name` is what records say about where they came from."""
    return (conversation_of(raw, name, on_malformed) for raw in raw_conversations(path))


def raw_conversations(path: Path) -> Iterator[Raw]:
    """The records of one dump, not yet parsed: `conversation_of` can be asked in another process.

    Raises InputError where the file cannot be read, or none of its first records has a known shape.
    """
    records = raw_records(path)
    first = list(itertools.islice(records, SNIFFED))
    values = [record.value for record in map(parsed, first) if isinstance(record, Record)]
    if first and not any(adapter.fits(value) for value in values for adapter in ADAPTERS):
        known = ", ".join(adapter.name for adapter in ADAPTERS)
        raise InputError("conversations of an unknown shape", where=str(path), hint=f"known shapes: {known}")
    return itertools.chain(first, records)


def conversation_of(raw: Raw, name: str, on_malformed: OnMalformed) -> Conversation | Dropped:
    """The conversation in one record of the file `name`.

    A malformed record is Dropped, or with `stop` raises InputError naming file, record and offset.
    """
    found = _converted(parsed(raw), name)
    if isinstance(found, Dropped) and found.reason == "malformed" and on_malformed == "stop":
        where = f"{name}: record {raw.number} at byte {raw.offset}"
        raise InputError(found.detail, where=where, hint="mend it, or set extract.on_malformed to skip")
    return found


def _converted(record: Record | Broken, name: str) -> Conversation | Dropped:
    place = f"{name}#{record.number}"
    if isinstance(record, Broken):
        return Dropped(place, "malformed", f"byte {record.offset}: {record.error}")
    adapter = next((adapter for adapter in ADAPTERS if adapter.fits(record.value)), None)
    given = record.value.get("id") if isinstance(record.value, dict) else None
    if adapter is None:
        return Dropped(own_id(given) or place, "malformed", f"{place} at byte {record.offset}: {UNKNOWN}")
    try:
        given, messages = adapter.read(record.value)
    except Unfit as unfit:
        detail = f"{place} at byte {record.offset}: {unfit.detail}"
        return Dropped(own_id(given) or place, unfit.reason, detail)
    meta = {"file": name, "record": record.number}
    identifier = own_id(given) or content_id(adapter.name, messages)
    return Conversation(identifier, adapter.name, tuple(messages), meta)


def own_id(given: object) -> str:
    """The dump's id as a text; empty where it has none that can be used."""
    return str(given).strip() if isinstance(given, str | int) else ""


def content_id(source: str, messages: list[Message]) -> str:
    """An id that the same content has everywhere."""
    return f"{source}-{sha256(canonical_json(messages))[:16]}"
