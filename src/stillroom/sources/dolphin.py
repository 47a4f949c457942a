"""dolphin: Alpaca's fields with another meaning, `instruction` is the system prompt and `input` the question.

{"instruction": "You are an AI assistant. Provide a detailed answer so user don't need to search outside.",
 "input": "Why is the sky blue?", "output": "Because air scatters blue light."}

The system prompts are the sixteen of the Orca paper (Mukherjee et al. 2023, arXiv:2306.02707, table 2), one
of them empty: by their openings a record is told from one of Alpaca's.

Source: huggingface.co/datasets/cognitivecomputations/dolphin, flan1m and flan5m; licence: Apache-2.0.
"""

from __future__ import annotations

from typing import Any

from stillroom.records import Message
from stillroom.sources.adapter import Adapter, Unfit
from stillroom.sources.instructions import exchange, instructs

OPENINGS = (
    "You are an AI assistant",
    "You are a helpful assistant",
    "You are a teacher. Given a task",
    "You should describe the task and explain your answer",
    "Explain how you used the definition to come up with the answer",
    "User will you give you a task",
    "Given a definition of a task and a sample input",
)


def fits(record: Any) -> bool:
    """An object with Alpaca's fields, an `input`, and in `instruction` a system prompt or nothing."""
    if not instructs(record) or "output" not in record or "data_source" in record:
        return False
    question, prompt = record.get("input"), record["instruction"].strip()
    known = not prompt or prompt.startswith(OPENINGS)
    return known and isinstance(question, str) and bool(question.strip())


def read(record: Any) -> tuple[object, list[Message]]:
    """No id in the data; system prompt and the one turn with its answer."""
    if not fits(record):
        raise Unfit("no system prompt in `instruction` with a question in `input`")
    return record.get("id"), exchange(record["instruction"], record["input"], record, "output")


ADAPTER = Adapter("dolphin", fits, read)
