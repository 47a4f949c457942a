"""A folder of documents as plain text.

folder of .md .txt .rst .html .pdf ──▶ read_documents ──▶ Document(id, title, text) ──▶ chunks

HTML becomes Markdown without navigation, scripts and footers; PDF gives its text layer, page after page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stillroom.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """One file of the folder: `id` is its path inside the folder, `title` its first heading or its name."""

    id: str
    title: str
    text: str


def read_documents(folder: Path) -> Iterator[Document]:
    """Yield the folder's documents, also of subfolders, sorted by path; files without any text are left out.

    Raises InputError naming a file that cannot be read. Files of unknown types are named on standard error.
    """
    files, unknown = list_files(folder)
    if unknown:
        print(
            f"documents: {len(unknown)} files of unknown type left out: {_examples(unknown)}", file=sys.stderr
        )
    for path in files:
        title, text = READERS[path.suffix.lower()](path)
        if text.strip():
            yield Document(path.relative_to(folder).as_posix(), title or path.stem, text.strip())


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folder's files that have a reader, and those that have none; hidden ones are ignored."""
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder))
    relative = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = [folder / name for name in relative if not any(part.startswith(".") for part in name.split("/"))]
    known = [path for path in files if path.suffix.lower() in READERS]
    return known, [path for path in files if path.suffix.lower() not in READERS]


def _examples(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + (", …" if len(paths) > 5 else "")


def _text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 at byte {error.start}", where=str(path), hint="convert it: iconv -t UTF-8"
        ) from None


def _plain(path: Path) -> tuple[str, str]:
    return "", _text(path)


def _markdown(path: Path) -> tuple[str, str]:
    text = _text(path)
    heading = re.search(r"^#+[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
    return heading[1] if heading else "", text


def _restructured(path: Path) -> tuple[str, str]:
    """The first line that is underlined over its whole length is the title."""
    text = _text(path)
    for line, under in re.findall(r"^(\S.*)\n(?=([=\-~^*#\"'`+]{3,})[ \t]*$)", text, re.MULTILINE):
        if len(under) >= len(line.rstrip()) and len(set(under)) == 1 and not set(line) <= set(under):
            return line.strip(), text
    return "", text


def _html(path: Path) -> tuple[str, str]:
    """HTML as Markdown, without what is not the page's own text."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    page = BeautifulSoup(_text(path), "html.parser")
    title = page.find("h1") or page.find("title")
    name = " ".join(title.get_text().split()) if title else ""
    for tag in page(["head", "script", "style", "noscript", "template", "nav", "footer", "aside", "form"]):
        tag.decompose()
    markdown: str = MarkdownConverter(heading_style="ATX", strip=["a", "img"]).convert_soup(page)
    return name, re.sub(r"\n{3,}", "\n\n", markdown)


def _pdf(path: Path) -> tuple[str, str]:
    """The text layer of a PDF, pages apart by a blank line."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path)
        text = "\n\n".join(page.extract_text().strip() for page in reader.pages)
        title = reader.metadata.title if reader.metadata else None
    except (PyPdfError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"the PDF cannot be read ({error})", where=str(path), hint="repair or remove the file"
        ) from None
    return (title or "").strip(), text


READERS: dict[str, Callable[[Path], tuple[str, str]]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".txt": _plain,
    ".rst": _restructured,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
"""What reads which type: a path into (title or "", text)."""
