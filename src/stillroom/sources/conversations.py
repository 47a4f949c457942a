"""Records of conversation dumps, whatever their shape ──▶ Conversations, and the records that are none.

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
from stillroom.sources import (
    airoboros,
    alpaca,
    dolphin,
    guanaco,
    oasst,
    oasst_messages,
    oig,
    openai_messages,
    platypus,
    sharegpt,
    turn_lists,
)
from stillroom.sources.adapter import Adapter, Dropped, Unfit
from stillroom.sources.dumps import Broken, Raw, Record, parsed, raw_records

ADAPTERS: tuple[Adapter, ...] = (
    sharegpt.ADAPTER,
    openai_messages.ADAPTER,
    oasst.ADAPTER,
    oasst_messages.ADAPTER,
    alpaca.ADAPTER,
    platypus.ADAPTER,
    airoboros.ADAPTER,
    dolphin.ADAPTER,
    guanaco.ADAPTER,
    oig.ADAPTER,
    turn_lists.ADAPTER,
)
SNIFFED = 50
"""records of which one must have a known shape"""
OnMalformed = Literal["skip", "stop"]


def raw_conversations(path: Path) -> Iterator[Raw]:
    """The records of one dump, not yet parsed: `conversation_of` can be asked in another process.

    Raises InputError where the file cannot be read, or none of its first records is JSON of a known shape.
    """
    records = raw_records(path)
    first = list(itertools.islice(records, SNIFFED))
    found = [parsed(raw) for raw in first]
    values = [record.value for record in found if isinstance(record, Record)]
    if any(map(oasst_messages.is_row, values)):
        return oasst_messages.joined(itertools.chain(first, records))
    if not values and (broken := [record for record in found if isinstance(record, Broken)]):
        where = f"{path}: record {broken[0].number} at byte {broken[0].offset}"
        hint = "a dump is one JSON array (.json), or one record a line (.json, .jsonl, .ndjson)"
        raise InputError(broken[0].error, where=where, hint=hint)
    if first and not any(adapter.fits(value) for value in values for adapter in ADAPTERS):
        known = ", ".join(adapter.name for adapter in ADAPTERS)
        raise InputError("conversations of an unknown shape", where=str(path), hint=f"known shapes: {known}")
    return itertools.chain(first, records)


def conversation_of(raw: Raw, name: str, on_malformed: OnMalformed) -> Conversation | Dropped:
    """The conversation in one record of the file `name`.

    A malformed record is Dropped, or with `stop` raises InputError naming file, record and offset.
    """
    record = parsed(raw)
    try:
        return _converted(record, name)
    except Unfit as unfit:
        if unfit.reason == "malformed" and on_malformed == "stop":
            where = f"{name}: record {raw.number} at byte {raw.offset}"
            hint = "mend it, or set extract.on_malformed to skip"
            raise InputError(unfit.detail, where=where, hint=hint) from None
        place = f"{name}#{raw.number}"
        detail = f"{place} at byte {raw.offset}: {unfit.detail}"
        return Dropped(_named(record) or place, unfit.reason, detail)


def _converted(record: Record | Broken, name: str) -> Conversation:
    if isinstance(record, Broken):
        raise Unfit(record.error)
    adapter = next((adapter for adapter in ADAPTERS if adapter.fits(record.value)), None)
    if adapter is None:
        raise Unfit("no conversation of a known shape")
    given, messages = adapter.read(record.value)
    identifier = own_id(given) or content_id(adapter.name, messages)
    return Conversation(identifier, adapter.name, tuple(messages), {"file": name, "record": record.number})


def _named(record: Record | Broken) -> str:
    value = record.value if isinstance(record, Record) else None
    return own_id(value.get("id")) if isinstance(value, dict) else ""


def own_id(given: object) -> str:
    """The dump's id as a text; empty where it has none that can be used."""
    usable = isinstance(given, str | int) and not isinstance(given, bool)
    return str(given).strip() if usable else ""


def content_id(source: str, messages: list[Message]) -> str:
    """An id that the same content has everywhere."""
    return f"{source}-{sha256(canonical_json(messages))[:16]}"
