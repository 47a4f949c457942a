"""What a teacher's replies about a passage are worth: questions cleaned, quotations held against the passage.

reply ──▶ cleaned ──▶ question          reply, passage ──▶ fault ──▶ None, or why it is not used
"""

from __future__ import annotations

import re

from stillroom.squad import normalise
from stillroom.teacher.prompts import ANSWER_TAG, QUOTE_BEGIN, QUOTE_END

FAULTS = ("unfinished", "no_answer_tag", "empty_answer", "no_quote", "quote_not_in_chunk")
"""why an answer is not used, in the order in which it is examined"""

_NUMBERING = re.compile(r"(?:[-*•]|\(?\d{1,3}[.)]|(?:Q|Question)\s*\d{0,3}[.:)])\s+")
_WRAPPERS = (("**", "**"), ('"', '"'), ("“", "”"), ("'", "'"), ("`", "`"))


def cleaned(line: str) -> str:
    """A line without numbering, bullets, bold and quotation marks around it: "8B or 70B?" stays whole.

    >>> cleaned('2. "Is it 8B or 70B?"')
    'Is it 8B or 70B?'
    """
    text = line.strip()
    while True:
        before = text
        text = _NUMBERING.sub("", text, count=1) if _NUMBERING.match(text) else text
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            wrapped = text.startswith(left) and text.endswith(right) and len(text) > len(left + right)
            if wrapped and left not in inner and right not in inner:
                text = inner.strip()
        if text == before:
            return text


def fault(text: str, finish_reason: str, chunk: str) -> str | None:
    """Why an answer is not used, None where it is: one of FAULTS."""
    if finish_reason != "stop":
        return "unfinished"
    reasoning, tag, short = text.rpartition(ANSWER_TAG)
    if not tag:
        return "no_answer_tag"
    if not normalise(short):
        return "empty_answer"
    said = quotes(reasoning)
    if not said:
        return "no_quote"
    return None if all(spaced(quote) in spaced(chunk) for quote in said) else "quote_not_in_chunk"


def quotes(text: str) -> list[str]:
    """What stands between the marks of quotation, without quotation marks of its own; empty ones left out."""
    marked = re.findall(f"{re.escape(QUOTE_BEGIN)}(.*?){re.escape(QUOTE_END)}", text, re.DOTALL)
    return [quote for quote in (found.strip(" \n\t\"'“”") for found in marked) if quote]


def spaced(text: str) -> str:
    """White space made single, so that line breaks do not matter."""
    return " ".join(text.split())
