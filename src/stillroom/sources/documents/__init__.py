"""A folder of documents as Markdown and plain text: a reader for each type of file.

folder of .md .txt .rst .html .pdf .docx .json .jsonl ──▶ read_documents ──▶ Document, Document, …

Files are read as their documents are asked for. A file without text (scanned pages, an empty page) is left
out, and so is a file of an unknown type; they are counted, and the first ones named on standard error.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

from stillroom.errors import InputError
from stillroom.processes import available, in_order
from stillroom.sources import manifest
from stillroom.sources.documents import docx, html, markdown, pdf, records, text
from stillroom.sources.documents.document import Document, Found, tidied
from stillroom.sources.documents.section_titles import SectionTitles
from stillroom.sources.dumps import COMPRESSED

__all__ = ["REASONS", "Document", "LeftOut", "list_files", "read_documents"]

MANY = 100
"""files that are worth starting processes for"""
NAMED = 5
"""files of a kind that are named on standard error"""

Reason = Literal["unknown_type", "no_text", "unreadable"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""why a file, or a record of one, is left out"""
Reader = Callable[[Path], Iterable[Found | InputError]]

READERS: dict[str, Reader] = {
    ".md": markdown.read,
    ".markdown": markdown.read,
    ".txt": text.read,
    ".html": html.read,
    ".htm": html.read,
    ".xhtml": html.read,
    ".pdf": pdf.read,
    ".docx": docx.read,
}
"""what reads which type, beside reStructuredText and the types of RECORDS"""
RECORDS = (".json", ".jsonl", ".ndjson")
"""types of many documents, which are streamed"""
RESTRUCTURED = ".rst"
"""its reader looks up titles in the whole folder"""


@dataclass
class LeftOut:
    """What was not read, and the first names of each kind."""

    counts: Counter[Reason] = field(default_factory=Counter)
    names: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, name: str) -> None:
        """Count a file or record."""
        self.counts[reason] += 1
        named = self.names.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(name)

    def lines(self) -> Iterator[str]:
        """A line for each reason: `documents: 2 left out (no text): a.pdf, b.pdf`."""
        for reason, count in sorted(self.counts.items()):
            more = ", …" if count > NAMED else ""
            names = ", ".join(self.names[reason])
            yield f"documents: {count} left out ({reason.replace('_', ' ')}): {names}{more}"


def read_documents(
    folder: Path, *, unreadable: Literal["stop", "skip"] = "stop", left_out: LeftOut | None = None
) -> Iterator[Document]:
    """Yield the folder's documents, also of subfolders, sorted by path.

    unreadable: whether a file that cannot be read ends the reading or is left out.  left_out: counts.
    Raises InputError naming the file, and what to do about it.
    """
    left_out = LeftOut() if left_out is None else left_out
    files, unknown = list_files(folder)
    for path in unknown:
        left_out.add("unknown_type", path.relative_to(folder).as_posix())
    sources = manifest.sources(folder)
    for path, found in _read_all(files):
        name = path.relative_to(folder).as_posix()
        if isinstance(found, InputError):
            if unreadable == "stop":
                own = found.hint or "repair or remove it"
                hint = f"{own}; raft.on_unreadable: skip leaves such files out"
                raise InputError(found.what, where=found.where, hint=hint)
            left_out.add("unreadable", f"{name} ({found.what})")
            continue
        document = _document(found, name, sources.get(name, ""))
        if document.text:
            yield document
        else:
            left_out.add("no_text", document.id)
    for line in left_out.lines():
        print(line, file=sys.stderr)


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folder's files that have a reader, and those that have none; hidden ones are ignored."""
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder))
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    known: list[Path] = []
    unknown: list[Path] = []
    for path in (folder / name for name in shown if name != manifest.MANIFEST):
        (known if kind(path) in (*READERS, *RECORDS, RESTRUCTURED) else unknown).append(path)
    return known, unknown


def kind(path: Path) -> str:
    """The type of a file by its name: `.jsonl` of `a.JSONL`, also of `a.jsonl.gz`."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if suffix in COMPRESSED and inner in RECORDS else suffix


def _read_all(files: Sequence[Path]) -> Iterator[tuple[Path, Found | InputError]]:
    """What every file holds, in their order; many files are read by several processes."""
    make = functools.partial(_reader, [path for path in files if kind(path) == RESTRUCTURED])
    for streamed, group in groupby(files, key=lambda path: kind(path) in RECORDS):
        paths = list(group)
        if streamed:
            yield from ((path, found) for path in paths for found in _tried(records.read, path))
            continue
        with closing(in_order(make, paths, available() if len(paths) >= MANY else 1)) as results:
            yield from ((path, found) for path, all_found in results for found in all_found)


def _reader(restructured: Sequence[Path]) -> Callable[[Path], list[Found | InputError]]:
    """What reads a file of any type but RECORDS. restructured: all files of that type."""
    titles = SectionTitles(restructured)

    def read_restructured(path: Path) -> list[Found]:
        from stillroom.sources.documents import restructured

        return restructured.read(path, titles)

    readers = {**READERS, RESTRUCTURED: read_restructured}
    return lambda path: list(_tried(readers[kind(path)], path))


def _tried(reader: Reader, path: Path) -> Iterator[Found | InputError]:
    """What a reader finds; in the place of the rest, why it could not go on."""
    try:
        yield from reader(path)
    except InputError as error:
        yield error
    except Exception as error:  # the libraries raise anything at a torn file
        yield InputError(f"cannot be read ({type(error).__name__}: {error})", where=str(path))


def _document(found: Found, name: str, source: str) -> Document:
    """A document with everything that a reader or the crawl knows of it."""
    identifier = f"{name}:{found.place}" if found.place else name
    title = found.title or Path(name).stem
    return Document(identifier, title, tidied(found.text).strip(), source or found.source or identifier)
