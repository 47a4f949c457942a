"""Where a quotation stands in a passage, though the teacher wrote it a little differently.

quotation, passage ──▶ found ──▶ spans of the passage: its own words, to the character

Not compared are white space, case, the shapes of quotation marks, dashes and ellipses, the marks of Markdown,
and punctuation at the quotation's ends. Letters, digits and all other punctuation must agree. A quotation
that leaves words out with `…` is found in parts, in their order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

Span = tuple[int, int]

SAME = {
    **dict.fromkeys("\"'`´‘’‚‛“”„‟«»‹›′″", "'"),
    **dict.fromkeys("-‐‑‒–—―−", "-"),
}
MARKDOWN = "*_`~"
INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
LINE_MARKS = re.compile(r"^[ \t]*(?:#{1,6}|>|[-*+•])[ \t]+", re.MULTILINE)
"""of headings, block quotes and lists"""
ELLIPSIS = re.compile(r"\s*[\[(]?\s*(?:\.{3,}|…)\s*[\])]?\s*")
ENDS = " \t\n\"'“”‘’«».,;:!?…"


def found(quotation: str, passage: str) -> list[Span] | None:
    """The spans that a quotation's words have in the passage, None where they do not stand in it."""
    folded = _Folded(passage)
    if whole := folded.find(quotation, 0):
        return [whole]
    spans: list[Span] = []
    parts = [part for part in ELLIPSIS.split(quotation) if part.strip(ENDS)]
    for part in parts:
        span = folded.find(part, spans[-1][1] if spans else 0)
        if span is None:
            return None
        spans.append(span)
    return spans or None


class _Folded:
    """A text as it is compared, and where each of its characters comes from."""

    def __init__(self, text: str) -> None:
        self._text = text
        pairs = list(_folded(text))
        self._folded = "".join(char for char, _ in pairs)
        self._origins = [origin for _, origin in pairs]

    def find(self, words: str, start: int) -> Span | None:
        """The first span from `start` on that has these words."""
        needle = "".join(char for char, _ in _folded(words.strip(ENDS)))
        if not any(char.isalnum() for char in needle):
            return None
        at = self._folded.find(needle)
        while at >= 0:
            span = self._origins[at], self._origins[at + len(needle) - 1] + 1
            if span[0] >= start and self._whole_words(span):
                return self._widened(self._with_ends(span, words))
            at = self._folded.find(needle, at + 1)
        return None

    def _whole_words(self, span: Span) -> bool:
        """Whether the span begins and ends between words."""
        text, (start, end) = self._text, span
        cut_before = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
        cut_after = end < len(text) and text[end].isalnum() and text[end - 1].isalnum()
        return not (cut_before or cut_after)

    def _with_ends(self, span: Span, words: str) -> Span:
        """The span with the punctuation that both it and the words have around it."""
        start, end = span
        for char in reversed(words[: -len(words.lstrip(ENDS))]):
            start -= start > 0 and _same(self._text[start - 1]) == _same(char)
        for char in words[len(words.rstrip(ENDS)) :]:
            end += end < len(self._text) and _same(self._text[end]) == _same(char)
        return start, end

    def _widened(self, span: Span) -> Span:
        """The span with the mark at its edge whose other half is inside: `bold** word` gets its `**`."""
        text, (start, end) = self._text, span
        for mark in ("**", "__", "``", "*", "_", "`"):
            if text[start:end].count(mark) % 2:
                if text[:start].endswith(mark):
                    start -= len(mark)
                elif text.startswith(mark, end):
                    end += len(mark)
        return start, end


def _same(char: str) -> str:
    """One character for all quotation marks, and one for all dashes."""
    return SAME.get(char, char)


def _folded(text: str) -> Iterator[tuple[str, int]]:
    """The characters that are compared, each with its place in the text."""
    marks = {place for found in LINE_MARKS.finditer(text) for place in range(*found.span())}
    before = ""
    for place, char in enumerate(text):
        if place in marks or char in MARKDOWN or char in INVISIBLE:
            continue
        for plain in unicodedata.normalize("NFKC", _same(char)).casefold():
            if plain.isspace() or (plain == before == "-"):
                continue
            before = plain
            yield plain, place
