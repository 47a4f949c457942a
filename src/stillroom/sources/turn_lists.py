"""Lists of human turns, as the published distillation script reads them: a conversation is a list of texts.

["Why is the sky blue?", "And at sunset?"]

Source: the input of the published distillation script of Llama-2-7B-32K-Instruct, human turns of ShareGPT;
licence: none stated.
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Adapter, Unfit


def fits(record: Any) -> bool:
    """A list whose first item, if any, is a text."""
    return isinstance(record, list) and (not record or isinstance(record[0], str))


def read(record: Any) -> tuple[object, list[Message]]:
    """No id; every text is a human turn."""
    if not isinstance(record, list) or not all(isinstance(turn, str) for turn in record):
        raise Unfit("not a list of texts")
    return None, [Message("user", turn) for turn in record]


ADAPTER = Adapter("turns", fits, read)
