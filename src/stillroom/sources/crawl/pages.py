"""What a page is saved as: its name, its type, its encoding.

https://isles.example/docs/ferry?lang=en, text/html  ──▶  isles.example/docs-ferry-0b1c2d3e4f.html
"""

from __future__ import annotations

import codecs
import re
import urllib.parse

from stillroom.artifacts import sha256

SUFFIXES = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/x-markdown": ".md",
    "text/x-rst": ".rst",
    "text/prs.fallenstein.rst": ".rst",
    "application/pdf": ".pdf",
    "application/x-pdf": ".pdf",
    "application/json": ".json",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}
"""media types that a document can have"""
VAGUE = ("", "text/plain", "application/octet-stream", "binary/octet-stream")
"""media types that say less than an address's ending"""
ENDINGS = (".html", ".htm", ".md", ".markdown", ".rst", ".txt", ".pdf", ".json", ".jsonl", ".docx")
LONGEST_NAME = 80


def suffix(url: str, content_type: str) -> str | None:
    """The ending of a page's file; None for a type that is no document."""
    media = content_type.partition(";")[0].strip().lower()
    path = urllib.parse.urlsplit(url).path.lower()
    if media in VAGUE:
        named = next((ending for ending in ENDINGS if path.endswith(ending)), None)
        return named or SUFFIXES.get(media)
    return SUFFIXES.get(media)


def name(url: str, ending: str) -> str:
    """A file name that is safe everywhere and belongs to this address alone."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path).strip("/")
    path = path[: -len(ending)] if path.lower().endswith(ending) else path
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", path).strip("-.")[:LONGEST_NAME] or "index"
    host = re.sub(r"[^a-z0-9.-]", "_", parts.netloc.lower())
    return f"{host}/{words}-{sha256(url)[:10]}{ending}"


def in_utf8(content: bytes, content_type: str, ending: str) -> bytes:
    """A text in UTF-8, whatever the server says that it is in; other content as it is.

    HTML that the server says nothing about may name its encoding itself.
    """
    named = re.search(r"charset=[\"']?([\w.:-]+)", content_type, re.IGNORECASE)
    charset = named[1].lower() if named else ""
    if ending in (".pdf", ".docx") or (ending == ".html" and not charset):
        return content
    for encoding in (charset or "utf-8", "utf-8"):
        try:
            text = content.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            continue
        return content if encoding in ("utf-8", "utf8") else codecs.BOM_UTF8 + text.encode()
    return codecs.BOM_UTF8 + content.decode("windows-1252", "replace").encode()
