"""Where the structure of a Markdown or plain text lies.

text ──▶ Outline: units (a block and the headings over it), parts of blocks, code, sentences

    "# Tea\\n\\nBoil water.\\n\\n- black\\n- green"  ──▶  units at 0 (body at 7) and 20, parts at 20 and 28

Blocks are CommonMark's and tables, by markdown-it; what stands inside of a paragraph is not parsed.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONGEST_HEADING = 200
"""characters; what is longer is a paragraph over a line of dashes"""
CODE = ("fence", "code_block", "html_block", "table_open")
"""blocks whose lines mean something"""
LINES = re.compile(r"\r\n?|\n")
BLANK = re.compile(r"(?:[^\S\n]*\n)+")
SENTENCES = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\b(?:Dr|Mr|Ms|St|No|vs|cf|Eq)\.)(?<!\b(?:Mrs|Fig|Sec|Eqs)\.)"
    r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’»)\]*_`]))\s+(?=[\"'“‘«(\[*_`]*[^\Wa-z_])"
    r"|(?<=[。！？])(?=[^\s。！？」』）])"
)
"""what stands between two sentences: white space, or nothing in scripts that have none"""
LEADS = re.compile(r":[*_`]*\Z|\A[^\n]{1,80}(?<![.!?…:;,。！？])\Z")
"""a paragraph that ends with a colon, or is one short line and no sentence, as headings of plain text are"""


class Unit(NamedTuple):
    """A block (text[body:end]) with the headings over it (text[start:body]).

    rank: of the first heading, from 1; 0 without any.  after: what the block before is: `rule` (a line that
    divides), `lead` (a paragraph that leads on to this one), or `block`.
    """

    start: int
    body: int
    end: int
    rank: int
    after: str


class Outline:
    """The structure of one text."""

    def __init__(self, text: str) -> None:
        lines = line_starts(text)
        tokens = [token for token in blocks(text) if token.map and token.type != "inline"]
        places = [(lines[token.map[0]], lines[token.map[1]]) for token in tokens if token.map]
        self.text = text
        self.code = [place for token, place in zip(tokens, places, strict=True) if token.type in CODE]
        self.kept = _kept(tokens, lines)
        """lines before which no cut is made: next to a fence, and the first row of a table"""
        self.parts = _parts(tokens, places, self.kept)
        top = [(t, *place) for t, place in zip(tokens, places, strict=True) if t.level == 0]
        self.units = list(_units(text, top))
        self._headings = [unit.start for unit in self.units if unit.rank]
        self._marks = sorted({*(unit.start for unit in self.units), *chain(*self.parts)})

    def code_at(self, place: int) -> tuple[int, int] | None:
        """From where to where lines mean something around a place, if they do."""
        index = bisect_right(self.code, (place, len(self.text))) - 1
        return self.code[index] if index >= 0 and place < self.code[index][1] else None

    def heading_before(self, place: int) -> int:
        """Where the headings over a place begin; 0 where there are none."""
        index = bisect_left(self._headings, place)
        return self._headings[index - 1] if index else 0

    def sentences(self, start: int, end: int) -> list[int]:
        """Where sentences begin between two places, outside of code."""
        places = (match.end() for match in SENTENCES.finditer(self.text, start, end))
        return [place for place in places if not self.code_at(place)]

    def beginning(self, start: int, end: int, *, words: bool) -> int:
        """The first place from `start` on at which one may begin to read towards `end`; else `end`.

        That is a block, an item, a sentence, or a line of the code that `end` lies in; with `words`, a word.
        """
        code = self.code_at(start)
        if code and code[0] < start and code[1] <= end:
            start = code[1]
        marks = self._marks[bisect_left(self._marks, start) : bisect_left(self._marks, end)]
        before = max(start - 1, 0)
        lines = (match.end() for match in LINES.finditer(self.text, before, end))
        found = (*marks[:1], *filter(self.code_at, lines), *self.sentences(before, end))
        word = re.compile(r"(?<!\S)\S").search(self.text, start, end) if words else None
        first = min((p for p in found if start <= p < end), default=word.start() if word else end)
        return self.unblank(first, end)

    def unblank(self, start: int, end: int) -> int:
        """The beginning of the first line of text[start:end] that is not blank."""
        match = BLANK.match(self.text, start, end)
        return match.end() if match else start


def blocks(text: str) -> list[Token]:
    """CommonMark's blocks and tables; a block's `map` is its first line and the one behind it."""
    return _parser().parse(text)


def line_starts(text: str) -> list[int]:
    """Where each line begins, and the end of the text."""
    return [0, *(match.end() for match in LINES.finditer(text)), len(text)]


def _kept(tokens: Sequence[Token], lines: Sequence[int]) -> set[int]:
    """Beginnings of the lines that stay with the line before."""
    fences = (token.map for token in tokens if token.type == "fence" and token.map)
    tables = (token.map for token in tokens if token.type == "table_open" and token.map)
    of_fences = (line for first, last in fences for line in (first + 1, last - 1) if first < line < last)
    of_tables = (line for first, last in tables for line in (first + 1, first + 2) if line < last)
    return {lines[line] for line in (*of_fences, *of_tables)}


def _parts(tokens: Sequence[Token], places: Sequence[tuple[int, int]], kept: set[int]) -> list[list[int]]:
    """Where items, rows and inner blocks begin, the outermost first."""
    depths: dict[int, list[int]] = {}
    for token, (start, _) in zip(tokens, places, strict=True):
        if token.level and start not in kept:
            depths.setdefault(token.level, []).append(start)
    return [depths[depth] for depth in sorted(depths)]


def _units(text: str, blocks: Sequence[tuple[Token, int, int]]) -> Iterator[Unit]:
    """Group blocks under their headings; what lies between two blocks belongs to the first."""
    found: list[tuple[int, int, int, str]] = []
    pending, rank, after = -1, 0, "block"
    for token, start, end in blocks:
        if _is_heading(token, text[start:end]):
            pending, rank = (start, int(token.tag[1])) if pending < 0 else (pending, rank)
        elif token.type == "hr" and (found or pending >= 0):
            after = "rule" if pending < 0 else after
        else:
            found.append((start if pending < 0 else pending, start, rank, after))
            pending, rank, after = -1, 0, _after(token, text[start:end])
    if pending >= 0 or (not found and text.strip()):
        found.append((max(pending, 0), max(pending, 0), rank, after))
    starts = [0, *(start for start, *_ in found[1:]), len(text)]
    for (_, body, rank, after), (start, end) in zip(found, pairwise(starts), strict=False):
        yield Unit(start, max(start, body), end, rank, after)


def _is_heading(token: Token, text: str) -> bool:
    """Whether a block is a heading; a paragraph over a line of dashes that divides is none."""
    lines = text.splitlines()
    short = len(text) <= LONGEST_HEADING and len(lines) <= 2
    ended = token.markup in ("=", "-") and lines[0].rstrip().endswith((".", ",", ";", ":", "…", "。"))
    return token.type == "heading_open" and short and not ended


def _after(token: Token, text: str) -> str:
    """What the block behind this one stands after."""
    if token.type == "heading_open":
        return "rule"
    return "lead" if token.type == "paragraph_open" and LEADS.search(text.rstrip()) else "block"


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser
