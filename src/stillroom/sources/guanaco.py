"""openassistant-guanaco: best paths of OASST's trees, each as one text with marked turns.

{"text": "### Human: Why is the sky blue?### Assistant: Air scatters blue light.### Human: And at sunset?"}

Source: huggingface.co/datasets/timdettmers/openassistant-guanaco; licence: Apache-2.0.
"""

from __future__ import annotations

import re
from typing import Any

from stillroom.records import Message, Role
from stillroom.sources.adapter import Adapter, Unfit, marked

MARKER = re.compile(r"### (Human|Assistant):")
ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


def fits(record: Any) -> bool:
    """An object whose `text` begins with a human's marked turn."""
    text = record.get("text") if isinstance(record, dict) else None
    return isinstance(text, str) and text.lstrip().startswith("### Human:")


def read(record: Any) -> tuple[object, list[Message]]:
    """No id in the data; the turns of the text."""
    if not fits(record):
        raise Unfit("no `text` that begins with `### Human:`")
    return record.get("id"), list(marked(record["text"], MARKER, ROLES))


ADAPTER = Adapter("guanaco", fits, read)
