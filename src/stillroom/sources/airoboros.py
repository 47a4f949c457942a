"""airoboros 2.x: an instruction with its category, often a system prompt, and the response.

{"instruction": "What would you do on a day off?", "response": "I would paint the harbour.",
 "system": "You are Ana, a painter.", "category": "roleplay", "skip_prompt_formatting": false}

Source: huggingface.co/datasets/jondurbin/airoboros-2.2.1; licence: `other` (made with
OpenAI's models, whose terms apply).
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Adapter, Unfit
from stillroom.sources.instructions import exchange, instructs, text

OWN = {"system", "category", "skip_prompt_formatting"}
ALPACAS = {"input", "context", "output"}


def fits(record: Any) -> bool:
    """An object with `instruction`, `response` and a field that only airoboros has beside them."""
    if not instructs(record) or "response" not in record:
        return False
    return not OWN.isdisjoint(record) and ALPACAS.isdisjoint(record)


def read(record: Any) -> tuple[object, list[Message]]:
    """No id in the data; system prompt and the one turn with its answer."""
    if not fits(record):
        raise Unfit("no `instruction` and `response` with a `category` or `system` prompt")
    return record.get("id"), exchange(text(record, "system"), record["instruction"], record, "response")


ADAPTER = Adapter("airoboros", fits, read)
