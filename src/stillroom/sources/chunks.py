"""A Markdown or plain text in chunks that end where its structure does.

text ──▶ outline ──▶ pieces that fit into a chunk ──▶ the cheapest way through them ──▶ Span, Span, …

    split("# A\\n\\none two\\n\\n# B\\n\\nthree", 12, 0)  ──▶  ["# A\\n\\none two", "# B\\n\\nthree"]

A paragraph, list, table or block of code that fits into a chunk is in one chunk; what is larger is cut
between items, rows, sentences or lines, and only then between words. A heading stands with what follows it.
Where chunks end is chosen for all of a text at once: each cut costs by what it divides, each chunk by the
room that it leaves, and the cheapest way through the text is taken, as Knuth and Plass break paragraphs.
"""

from __future__ import annotations

import functools
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import regex

from stillroom.sources.outline import Outline, Unit

EMPTINESS = 4.0
"""cost of a chunk with nothing in it; one that is filled to a share f costs (1 - f)² of it"""
RANK = 0.1
"""cost of a cut before a heading, for each rank below the first"""
AFTER = {"rule": 0.0, "block": 1.0, "lead": 7.0}
"""cost of a cut between blocks, by what the first one is"""
PART, LINE, WORD = 3.0, 4.0, 8.0
"""cost of a cut inside of a block: between items, rows or groups of lines; sentences or lines; words"""
FINEST = 16
"""part of a chunk within which no cut is weighed"""
GROUPS = re.compile(r"\n(?:[ \t]*\n)+(?=[ \t]*\S)")
LINES = re.compile(r"\n(?=[ \t]*\S)")
WORDS = re.compile(r"\S+")
GRAPHEMES = regex.compile(r"\X")
CHARACTERS = re.compile(r"\S")
"""for graphemes of more marks than a chunk holds"""

Measure = Callable[[int, int], int]
"""the size of text[start:end]"""
Ruler = Callable[[str], Measure]
"""what sizes are measured in"""
Level = Callable[[int, int, int], Iterable[int]]
"""(start, end, floor) ──▶ places between start and end at which the text can be cut"""


class Span(NamedTuple):
    """A chunk is text[start:end]; text[start:own] stands in the chunk before it, too."""

    start: int
    own: int
    end: int


class Piece(NamedTuple):
    """text[start:end], never divided. cost: of a cut before it; headed: whether it begins with a heading."""

    start: int
    end: int
    cost: float
    headed: bool


def split(text: str, size: int, overlap: int, ruler: Ruler | None = None) -> list[str]:
    """A text in chunks of at most `size`, up to `overlap` of it from the chunk before; none is empty.

    Both are in characters, or in what the ruler measures. An overlap begins at a sentence, an item or a line
    of code; inside of a paragraph it may begin at a word. It never reaches over a heading.
    """
    return [text[span.start : span.end] for span in spans(text, size, overlap, ruler or characters)]


def spans(text: str, size: int, overlap: int, ruler: Ruler) -> list[Span]:
    """Where the chunks of a text lie; together, text[own:end] hold everything but white space.

    A span is measured as a part of its text. Where one alone is larger than that (as it may be in tokens),
    all of the text is cut again with smaller limits.
    """
    outline, measure = Outline(text), ruler(text)

    def alone(start: int, end: int) -> int:
        return ruler(text[start:end])(0, end - start)

    most, shared = size, min(overlap, size - 1)
    while True:
        found = _Cutter(outline, most, shared, measure).spans()
        if ruler is characters:
            return found
        excess = max((alone(span.start, span.end) for span in found), default=0) - size
        too_shared = max((alone(span.start, span.own) for span in found), default=0) - overlap
        if most == 1 or (excess <= 0 and too_shared <= 0):
            return found
        most = max(1, most - max(0, excess))
        shared = max(0, min(shared - max(0, too_shared), most - 1))


def characters(_text: str) -> Measure:
    """Sizes in characters (code points)."""
    return lambda start, end: end - start


def tokens(tokenizer: Any) -> Ruler:
    """Sizes in tokens of a fast tokenizer, control tokens read as text."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True

    def ruler(text: str) -> Measure:
        starts = [start for start, _ in backend.encode(text, add_special_tokens=False).offsets]
        return lambda start, end: bisect_left(starts, end) - bisect_left(starts, start)

    return ruler


class _Cutter:
    """Cuts one text into chunks of one size."""

    def __init__(self, outline: Outline, size: int, overlap: int, measure: Measure) -> None:
        self.outline, self.text = outline, outline.text
        self.size, self.overlap, self.measure = size, overlap, measure
        self.levels: list[tuple[float, Level]] = [
            *((PART, functools.partial(_between, places)) for places in outline.parts),
            (PART, functools.partial(self.behind, GROUPS)),
            (LINE, lambda start, end, _: outline.sentences(start, end)),
            (LINE, functools.partial(self.behind, LINES)),
            (WORD, functools.partial(self.packed, WORDS)),
            (WORD, functools.partial(self.packed, GRAPHEMES)),
            (WORD, functools.partial(self.packed, CHARACTERS)),
        ]

    def spans(self) -> list[Span]:
        """The chunks of the cheapest way."""
        pieces = self.merged(piece for unit in self.outline.units for piece in self.pieces(unit))
        chunks = [(pieces[first], pieces[last - 1].end) for first, last in pairwise(self.cuts(pieces))]
        return [Span(self.overlapping(piece, end), piece.start, end) for piece, end in chunks]

    def cuts(self, pieces: list[Piece]) -> list[int]:
        """Numbers of the pieces with which chunks begin, and of all pieces at the end."""
        starts = [self.overlapping(piece, piece.start) for piece in pieces]
        cheapest, before = [0.0], [0]
        for last in range(1, len(pieces) + 1):
            end, least, best = pieces[last - 1].end, math.inf, last - 1
            for first in range(last - 1, -1, -1):
                size = self.measure(starts[first], end)
                if size > self.size and first < last - 1:
                    break
                free = max(0.0, 1 - size / self.size)
                cost = cheapest[first] + pieces[first].cost + EMPTINESS * free**2
                if cost < least:
                    least, best = cost, first
            cheapest.append(least)
            before.append(best)
        way = [len(pieces)]
        while way[-1]:
            way.append(before[way[-1]])
        return way[::-1]

    def merged(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Tiny neighbours as one piece: a list of words has not many thousand places to weigh."""
        found: list[Piece] = []
        for piece in pieces:
            last = found[-1] if found else piece
            if found and not piece.headed and self.measure(last.start, piece.end) <= self.size // FINEST:
                found[-1] = last._replace(end=piece.end)
            else:
                found.append(piece)
        return found

    def overlapping(self, piece: Piece, end: int) -> int:
        """Where a chunk from `piece` to `end` begins, with as much overlap as fits."""
        own = piece.start
        if self.overlap == 0 or piece.headed:
            return own
        room = min(self.overlap, self.size - self.measure(own, end))
        near = range(self.outline.heading_before(own), own)
        floor = near.start + bisect_left(near, True, key=lambda place: self.measure(place, own) <= room)
        return self.outline.beginning(floor, own, words=piece.cost in (LINE, WORD))

    def pieces(self, unit: Unit) -> Iterator[Piece]:
        """The unit whole, or divided where it is too large."""
        cost = RANK * (unit.rank - 1) if unit.rank else AFTER[unit.after]
        first = GRAPHEMES.match(self.text, unit.body)
        bound = first is not None and self.measure(unit.start, first.end()) <= self.size
        floor = unit.body if bound else unit.start
        for start, end, own in self.divided(unit.start, unit.end, floor, cost):
            begin = self.outline.unblank(start, end)
            if begin < end:
                yield Piece(begin, end, own, unit.rank > 0 and start == unit.start)

    def divided(
        self, start: int, end: int, floor: int, cost: float, level: int = 0
    ) -> Iterator[tuple[int, int, float]]:
        """(start, end, cost of a cut before) of parts that fit; the first goes beyond `floor`."""
        end = start + len(self.text[start:end].rstrip())
        if self.measure(start, end) <= self.size or level == len(self.levels):
            yield start, end, cost
            return
        own, places = self.levels[level]
        cuts = [place for place in places(start, end, floor) if floor < place < end]
        for number, (first, last) in enumerate(pairwise([start, *cuts, end])):
            yield from self.divided(first, last, max(first, floor), own if number else cost, level + 1)

    def behind(self, breaks: re.Pattern[str], start: int, end: int, _floor: int) -> list[int]:
        """Cuts behind what a pattern finds."""
        places = (match.end() for match in breaks.finditer(self.text, start, end))
        return [place for place in places if place not in self.outline.kept]

    def packed(
        self, words: re.Pattern[str] | regex.Pattern[str], start: int, end: int, floor: int
    ) -> Iterator[int]:
        """Cuts between words, as few as possible, that leave room for an overlap."""
        begin, room = start, self.size if floor > start else self.size - self.overlap
        for match in words.finditer(self.text, start, end):
            place, stop = match.span()
            if place > max(begin, floor) and self.measure(begin, stop) > room:
                yield place
                begin, room = place, self.size - self.overlap


def _between(places: list[int], start: int, end: int, _floor: int) -> list[int]:
    return places[bisect_left(places, start + 1) : bisect_left(places, end)]
