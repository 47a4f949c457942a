"""The text layer of a PDF, without page numbers, and with running heads and feet only once.

A word that is divided at the end of a line is joined where the document has it whole elsewhere. A PDF of
pictures (scanned pages) has no text: it needs OCR first.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from stillroom.errors import InputError
from stillroom.sources.documents.document import Found

EDGE = 2
"""lines at a page's head and foot that may be running ones"""
FEWEST_PAGES = 3
"""on which a running line stands, and on more than half of all pages"""
NO_TITLE = re.compile(
    r"microsoft \w+ - .*|untitled.*|.*\.(?:docx?|pptx?|xlsx?|pdf|tex|dvi|indd|qxd|rtf|odt|html?)|[\W\d]*",
    re.IGNORECASE,
)
"""what programs write for a title"""
LIGATURES = dict(zip(range(0xFB00, 0xFB07), ("ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True))
Key = tuple[str, str, int | None]
"""head or foot, the line, and by how much a number in it (#) is ahead of the page's; None for a plain line"""
DIVIDED = re.compile(r"\b([^\W\d_]+)-\n([^\W\d_]+)")


def read(path: Path) -> list[Found]:
    """The file. Raises InputError where it needs a password; pypdf raises anything at a torn one."""
    from pypdf import PdfReader
    from pypdf.errors import FileNotDecryptedError

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = PdfReader(path)
        pages = [page.extract_text() for page in reader.pages]
        title = (reader.metadata.title if reader.metadata else None) or ""
    except FileNotDecryptedError:
        hint = "write a copy that needs none: qpdf --decrypt --password=… in.pdf out.pdf"
        raise InputError("the PDF needs a password", where=str(path), hint=hint) from None
    text = joined([page.translate(LIGATURES).strip() for page in pages])
    return [Found(text, "" if NO_TITLE.fullmatch(title.strip()) else title.strip())]


def joined(pages: Sequence[str]) -> str:
    """Pages as one text: running lines once, page numbers not at all, a sentence over a page's end whole."""
    lines = [page.splitlines() for page in pages]
    running = _running(lines)
    text, shown = "", set[Key]()
    for number, page in enumerate(lines):
        kept = []
        for place, line in enumerate(page):
            known = [key for key in _keys(number, place, page) if key in running]
            if not known or (known[0][2] is None and known[0] not in shown):
                kept.append(line)
            shown.update(known)
        body = "\n".join(kept)
        goes_on = body[:1].islower() and not text.endswith((".", "!", "?", ":"))
        text += ("\n" if goes_on else "\n\n") + body if text and body else body
    words = set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text))
    return DIVIDED.sub(lambda match: _whole(match, words), text)


def _running(pages: Sequence[list[str]]) -> set[Key]:
    """Of all lines at heads and feet, those that stand there on most pages."""
    seen: Counter[Key] = Counter()
    for number, page in enumerate(pages):
        seen.update({key for place in range(len(page)) for key in _keys(number, place, page)})
    full = sum(bool(page) for page in pages)
    return {key for key, n in seen.items() if n >= FEWEST_PAGES and 2 * n > full}


def _keys(number: int, place: int, page: list[str]) -> Iterator[Key]:
    """As what a line may run through a document: as it is, or with a number that counts the pages."""
    head, foot = place < EDGE, place >= len(page) - EDGE
    line = page[place].strip()
    if not line or not (head or foot):
        return
    where = "head" if head else "foot"
    yield where, line, None
    for match in re.finditer(r"\d{1,5}", line):
        yield where, f"{line[: match.start()]}#{line[match.end() :]}", int(match[0]) - number


def _whole(match: re.Match[str], words: set[str]) -> str:
    """A divided word, joined in the way in which the document has it elsewhere."""
    for word in (match[1] + match[2], f"{match[1]}-{match[2]}"):
        if word in words:
            return word
    return match[0]
