"""Open-Platypus: Alpaca's fields, and in `data_source` the data set that a question was taken from.

{"input": "", "output": "The sum is 5050.", "instruction": "Sum the numbers from 1 to 100.",
 "data_source": "MATH/PRM-800K"}

Source: huggingface.co/datasets/garage-bAInd/Open-Platypus; licence: that of each `data_source`.
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Adapter, Unfit
from stillroom.sources.instructions import exchange, instructs, joined, text


def fits(record: Any) -> bool:
    """An object with an `instruction` and a `data_source`."""
    return instructs(record) and "data_source" in record


def read(record: Any) -> tuple[object, list[Message]]:
    """No id in the data; the one turn with its answer."""
    if not fits(record):
        raise Unfit("no `instruction` with a `data_source`")
    question = joined(record["instruction"], text(record, "input"))
    return record.get("id"), exchange("", question, record, "output")


ADAPTER = Adapter("platypus", fits, read)
