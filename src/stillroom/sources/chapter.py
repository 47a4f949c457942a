"""What every reader of chapters shares: the chapter that it yields, and the row that it reads it from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from stillroom.errors import InputError
from stillroom.sources.texts import Texts

Split = Literal["train", "validation", "test"]
SPELLINGS: dict[str, Split] = {"val": "validation", "valid": "validation", "dev": "validation"}
"""how publications write the splits, besides their names"""
SPELLINGS |= {split: split for split in get_args(Split)}
IN_A_NAME = re.compile(rf"(?<![a-z])({'|'.join(SPELLINGS)})(?![a-z])")


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter with one summary of it, both without white space around; empty where the source has none."""

    text: str
    """the chapter, or the whole prompt where it is `asked`"""
    summary: str
    book: str = ""
    """the title; empty where nothing tells it"""
    number: int | None = None
    """as the source counts"""
    section: str = ""
    """what the source calls it: `chapters 1-3`"""
    gutenberg: str = ""
    """the book's number at Project Gutenberg"""
    asked: bool = False
    """whether the text holds a request of its own"""
    split: Split | None = None
    """the side on which its publication puts it"""
    source: str = ""
    """who wrote the summary"""
    url: str = ""
    """where the summary stood"""
    file: str = ""
    """below the folder that was read"""


class Row(NamedTuple):
    """A record of a file, and what surrounds it."""

    where: str
    """for errors: file and number"""
    path: Path
    file: str
    """the path below the folder that is read"""
    value: dict[str, Any]
    texts: Texts
    """those that lie in the folder"""

    def text(self, *names: str) -> str:
        """The first of the fields that holds a text, stripped; else an empty one."""
        values = (self.value.get(name) for name in names)
        return next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")


@dataclass(frozen=True)
class ChapterAdapter:
    """One shape of chapters. read: a row's chapters, one for each summary; raises InputError, TextMissing."""

    name: str
    fits: Callable[[dict[str, Any]], bool]
    read: Callable[[Row], Iterator[Chapter]]


def split_in_name(file: str) -> Split | None:
    """The split that a published file's name tells: `chapters/dev.csv` is validation.

    >>> split_in_name("chapter_summary_aligned_test_split.jsonl")
    'test'
    """
    found = IN_A_NAME.findall(file.lower())
    return SPELLINGS[found[-1]] if found else None


def split_in_row(row: Row) -> Split | None:
    """The split that the row's own `split` tells. Raises InputError where it is none."""
    told = row.text("split").lower()
    if told and told not in SPELLINGS:
        raise InputError(f"`split` must be one of {', '.join(SPELLINGS)} (got {told!r})", where=row.where)
    return SPELLINGS.get(told)
