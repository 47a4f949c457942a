"""Quotations in a teacher's replies about a passage.

reply ──▶ quotes ──▶ what stands between the marks          text ──▶ spaced ──▶ text with single spaces
"""

from __future__ import annotations

import re

from stillroom.teacher.prompts import QUOTE_BEGIN, QUOTE_END


def quotes(text: str) -> list[str]:
    """What stands between the marks of quotation, without quotation marks of its own; empty ones left out."""
    marked = re.findall(f"{re.escape(QUOTE_BEGIN)}(.*?){re.escape(QUOTE_END)}", text, re.DOTALL)
    return [quote for quote in (found.strip(" \n\t\"'“”") for found in marked) if quote]


def spaced(text: str) -> str:
    """White space made single, so that line breaks do not matter."""
    return " ".join(text.split())
