"""A teacher's list of questions, however it is dressed: numbering, bullets, bold, quotation marks, JSON.

reply ──▶ listed ──▶ Listing(questions, what was left out)          question ──▶ sameness ──▶ equal for equals

Nothing is taken from within a question: "8B or 70B?" stays whole. A number is numbering only beside its
neighbours: in a list of its own, "3. Liga or 2. Liga?" keeps its 3.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

BULLET = re.compile(r"(?:[-*+•‣▪◦·–—]|#{2,6})\s+(?:\[[ xX]\]\s+)?")
_NUMBER = r"#?\s*(?P<{0}>\d{{1,3}})"
_LABEL = r"(?:Q|Question|Query)"
_END = r"\s*\\?[.):–—-]"
NUMBERING = re.compile(
    rf"(?P<bold>\*\*|__)(?:{_LABEL}\s*{_NUMBER.format('a')}|\(?{_NUMBER.format('b')}|{_LABEL})"
    rf"(?:{_END})?(?P=bold)(?:{_END})?\s+"
    rf"|{_LABEL}\s*(?:{_NUMBER.format('c')}{_END}|:)\s+"
    rf"|\(?{_NUMBER.format('d')}\s*\\?[.):]\s+",
    re.IGNORECASE,
)
WRAPPERS = (
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("„", "“"),
    ("‘", "’"),
    ("«", "»"),
)
BLANK = " \t\r\n\u00a0\u200b\u2060\ufeff"
ASKING = re.compile(r"[?？؟][\"'”’»)\]]*$")
"""how a question ends"""
ONE_LINE = re.compile(r"(?<=\?)\s+(?=(?:Q\s*)?\d{1,2}[.):]\s)")
"""between questions that were numbered within one line"""
FENCE = re.compile(r"^\s*```\w*\s*\n(.*?)^\s*```", re.DOTALL | re.MULTILINE)
ARTICLES = ("a", "an", "the", "An", "The")
"""`A` may be a name"""
AROUND_A_WORD = "\"'“”‘’„«»`*()[]<>?!.,;:…？"


@dataclass(frozen=True, slots=True)
class Listing:
    """The questions of one reply, and how many lines of it were not used."""

    questions: tuple[str, ...]
    not_questions: int = 0
    repeated: int = 0
    surplus: int = 0
    """questions beyond those that were asked for"""


def listed(reply: str, most: int) -> Listing:
    """The first `most` distinct questions of a reply, one a line or as JSON.

    >>> listed('1. **What is it?**\\n2. "8B or 70B?"', 5).questions
    ('What is it?', '8B or 70B?')
    """
    lines = [line.strip(BLANK) for line in _lines(reply)]
    items = [_item(line) for line in lines if line]
    numbers = {item.number for item in items if item.number is not None}
    marked = [item for item in items if item.marked]
    chosen = marked if len(marked) > 1 else items  # beside a list, "Shall I go on?" is no item
    texts = [item.text if _counts(item.number, numbers) else item.numbered for item in chosen]
    asking = [text for text in texts if ASKING.search(text)]
    distinct: dict[str, str] = {}
    for text in asking:
        distinct.setdefault(sameness(text), text)
    questions = tuple(distinct.values())
    return Listing(
        questions[:most],
        not_questions=len(items) - len(asking),
        repeated=len(asking) - len(questions),
        surplus=max(0, len(questions) - most),
    )


def sameness(question: str) -> str:
    """What two questions share that ask the same in the same words.

    Case, articles, white space and the punctuation around words do not count; that within words does.

    >>> sameness("What is the “learning rate”?") == sameness("what is  a learning rate")
    True
    >>> sameness("What is C++?") == sameness("What is C?")
    False
    """
    words = unicodedata.normalize("NFKC", question).split()
    bare = (word.strip(AROUND_A_WORD) for word in words)
    return " ".join(word for word in bare if word and word not in ARTICLES).casefold()


@dataclass(frozen=True, slots=True)
class _Item:
    """A line of a list."""

    text: str
    numbered: str
    """the text with its number"""
    number: int | None
    marked: bool
    """whether it had a bullet or a number"""


def _item(line: str) -> _Item:
    """Undress a line: a bullet and a number go once at most, what wraps it goes as often as there is some."""
    text = numbered = line
    number: int | None = None
    bullet = numbering = False
    while True:
        before = text
        if not bullet and (found := BULLET.match(text)):
            text, bullet = text[found.end() :], True
        if not numbering and (found := NUMBERING.match(text)):
            digits = next((digits for digits in found.group("a", "b", "c", "d") if digits), None)
            number, numbering = int(digits) if digits else None, True
            numbered, text = text, text[found.end() :]
        text = _unwrapped(text)
        if text == before:
            return _Item(text, numbered if number is not None else text, number, bullet or numbering)


def _unwrapped(text: str) -> str:
    """A text without the marks that stand around the whole of it."""
    text = text.removesuffix(",") if text.endswith(('",', "',", "”,")) else text
    for left, right in WRAPPERS:
        inner = text[len(left) : -len(right)]
        wraps = text.startswith(left) and text.endswith(right) and len(text) > len(left + right)
        if wraps and _balanced(inner, left, right):
            return inner.strip(BLANK)
    return text


def _balanced(inner: str, left: str, right: str) -> bool:
    """Whether marks inside close what they open, so that the outer ones belong together.

    >>> _balanced('Which of "a" and "b"?', '"', '"'), _balanced('A" or "B', '"', '"')
    (True, False)
    """
    if left != right:
        depth = 0
        for char in inner:
            depth += (char == left) - (char == right)
            if depth < 0:
                return False
        return depth == 0
    open_ = False
    for found in re.finditer(re.escape(left), inner):
        before, after = inner[: found.start()][-1:], inner[found.end() :][:1]
        if left == "'" and before.isalnum() and after.isalnum():
            continue  # an apostrophe
        opens = (not before or not before.isalnum()) and bool(after) and not after.isspace()
        closes = bool(before) and not before.isspace()
        if not (closes if open_ else opens):
            return False
        open_ = not open_
    return not open_


def _counts(number: int | None, numbers: set[int]) -> bool:
    """Whether a number at the beginning of a line is numbering: the first, or beside another."""
    return number is None or number <= 1 or number - 1 in numbers or number + 1 in numbers


def _lines(reply: str) -> Iterator[str]:
    """The lines of a reply, or the texts of its JSON."""
    text = fenced[1] if (fenced := FENCE.search(reply)) else reply
    if (texts := _json(text)) is not None:
        yield from texts
        return
    for line in text.splitlines():
        yield from ONE_LINE.split(_json_string(line) or line)


def _json_string(line: str) -> str | None:
    """The text of a line of an array that was cut off, None where it is none."""
    try:
        value = orjson.loads(line.strip().removesuffix(","))
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def _json(text: str) -> list[str] | None:
    """The questions of a JSON array, or of an object that holds one; None where the text is neither."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, dict):
        value = next((inner for inner in value.values() if isinstance(inner, list)), list(value.values()))
    if not isinstance(value, list):
        return None
    items = (item.get("question") if isinstance(item, dict) else item for item in value)
    return [" ".join(item.split()) for item in items if isinstance(item, str)]
