"""What a document is, and what a reader of one type finds in a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stillroom.errors import InputError

CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\u00ad\u200b\ufeff]")
"""control characters, halves of surrogate pairs, and what is never seen: soft hyphens, spaces of no width"""
BREAKS = re.compile(r"\r\n?|\x0b|\u2028")
PAGES = re.compile(r"\x0c|\u2029")
BYTE_ORDER = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a name: `id` is its file inside the folder, with `:n` the n-th record of one that has many.

    title: its first heading or its name.  text: Markdown, or plain.  source: its URL where it is known, else
    its id.
    """

    id: str
    title: str
    text: str
    source: str


class Found(NamedTuple):
    """A text that a file holds. title, source: "" where the file names none; place: which of many it is."""

    text: str
    title: str = ""
    source: str = ""
    place: str = ""


def decoded(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 that says so. Raises InputError naming what is wrong with it."""
    content = path.read_bytes()
    encoding = BYTE_ORDER.get(content[:2], "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        hint = "convert it: iconv -f ISO-8859-1 -t UTF-8, or whatever it is in"
        raise InputError(
            f"not {encoding.upper()} at byte {error.start}", where=str(path), hint=hint
        ) from None
    if "\0" in text:
        raise InputError("not a text: it holds zero bytes", where=str(path), hint="rename or remove it")
    return text


def tidied(text: str) -> str:
    """A text without what is no text, in lines that end in a newline."""
    return CONTROLS.sub("", PAGES.sub("\n\n", BREAKS.sub("\n", text))).strip("\n")
