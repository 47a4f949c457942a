"""Alpaca, GPTeacher, Dolly: an instruction, perhaps an input (Dolly: `context`), and the answer.

    {"instruction": "Translate to German.", "input": "Good night", "output": "Gute Nacht"}

The input follows the instruction after a blank line; the answer is `output` or `response`. Later data sets of
the shape have a `system` prompt too, and in `history` the [question, answer] pairs that came before.

Sources and licences: Stanford Alpaca (CC BY-NC 4.0), GPTeacher (MIT), databricks-dolly-15k (CC BY-SA 3.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillroom.records import Message
from stillroom.sources import airoboros, dolphin, platypus
from stillroom.sources.adapter import Adapter, Unfit, with_system
from stillroom.sources.instructions import exchange, instructs, joined, text

RELATIVES = (airoboros.fits, dolphin.fits, platypus.fits)


def fits(record: Any) -> bool:
    """An object with an `instruction`, of none of the relatives' shapes."""
    return instructs(record) and not any(other(record) for other in RELATIVES)


def read(record: Any) -> tuple[object, list[Message]]:
    """Id, where there is one, and the turn with its answer, after what came before."""
    if not instructs(record):
        raise Unfit("no text in `instruction`")
    question = joined(record["instruction"], text(record, "input", "context"))
    answer = "response" if record.get("output") is None else "output"
    messages = [*_history(record.get("history") or []), *exchange("", question, record, answer)]
    return record.get("id"), with_system(record, messages)


def _history(pairs: Any) -> Iterator[Message]:
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise Unfit("`history` is not a list of pairs of texts")
        yield Message("user", pair[0])
        yield Message("assistant", pair[1])


ADAPTER = Adapter("alpaca", fits, read)
