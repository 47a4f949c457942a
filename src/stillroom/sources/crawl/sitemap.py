"""Addresses of pages: from sitemaps (XML or text, also .gz) and from lists.

    <urlset><url><loc>https://…/a</loc></url></urlset>             ──▶  Sitemap(pages=["https://…/a"])
    <sitemapindex><sitemap><loc>…/b.xml</loc></sitemap> …          ──▶  Sitemap(sitemaps=["…/b.xml"])

The protocol: www.sitemaps.org/protocol.html.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import dataclass, field
from xml.etree.ElementTree import ParseError

from stillroom.errors import InputError

LARGEST = 64 << 20
"""bytes of a sitemap, unpacked; the protocol allows 50 MB"""
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Sitemap:
    """The pages that it lists, and further sitemaps."""

    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)


def parsed(content: bytes, where: str) -> Sitemap:
    """A sitemap, an index of sitemaps, or addresses one a line (`#` begins a comment).

    Raises InputError where it is torn or none of these.
    """
    plain = unpacked(content, where).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _xml(plain, where) if plain.startswith(b"<") else _lines(plain, where)


def unpacked(content: bytes, where: str) -> bytes:
    """The content, decompressed where it is gzip."""
    if not content.startswith(GZIP):
        return content
    try:
        stream = zlib.decompressobj(wbits=31)
        plain = stream.decompress(content, LARGEST)
    except zlib.error as error:
        raise InputError(f"the sitemap cannot be decompressed ({error})", where=where) from None
    if not stream.eof:
        raise InputError(f"the sitemap is torn, or larger than {LARGEST >> 20} MiB unpacked", where=where)
    return plain


def _xml(content: bytes, where: str) -> Sitemap:
    found = Sitemap()
    try:
        root = ElementTree.fromstring(content)
    except ParseError as error:
        raise InputError(f"the sitemap is not XML ({error})", where=where) from None
    for entry in root:
        kind, space = _name(entry)
        locations = [child.text or "" for child in entry if _name(child) == ("loc", space)]
        into = {"url": found.pages, "sitemap": found.sitemaps}.get(kind)
        if into is not None:
            into += [location.strip() for location in locations if location.strip()]
    if _name(root)[0] not in ("urlset", "sitemapindex"):
        raise InputError(
            f"<{_name(root)[0]}> is no sitemap", where=where, hint="expected <urlset> or <sitemapindex>"
        )
    return found


def _lines(content: bytes, where: str) -> Sitemap:
    found = Sitemap()
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        address = line.split(" #")[0].strip()
        if not address or address.startswith("#"):
            continue
        if not address.startswith(("http://", "https://")):
            hint = "one http or https address a line; # begins a comment"
            raise InputError(f"{address[:80]!r} is no address", where=f"{where}:{number}", hint=hint)
        found.pages.append(address)
    return found


def _name(element: ElementTree.Element) -> tuple[str, str]:
    """An element's name, and its namespace."""
    space, _, name = element.tag.rpartition("}")
    return name, space
