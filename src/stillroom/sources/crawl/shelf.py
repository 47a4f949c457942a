"""Pages on disk, as they were fetched: what is there is not downloaded again.

    STILLROOM_CACHE/crawl/HOST/ab/ab12….json    a page's address, type, ETag, day, SHA-256
    STILLROOM_CACHE/crawl/HOST/ab/ab12….page    its content

The content is written first, so that a page whose description is there is whole.
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path

from stillroom.artifacts import atomic_write, read_json, sha256, write_json


@dataclass(frozen=True, slots=True)
class Kept:
    """A page on the shelf."""

    url: str
    final_url: str
    """where redirects led"""
    content_type: str
    sha256: str
    """of the content"""
    etag: str
    last_modified: str
    day: str
    """on which it was fetched or found unchanged, 2026-01-31"""


class Shelf:
    """The pages below one folder. Each page has one writer at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, url: str) -> Kept | None:
        """What is there of an address."""
        path = self._base(url).with_suffix(".json")
        return Kept(**read_json(path)) if path.is_file() else None

    def content(self, url: str) -> Path:
        """The file with the content of a page that is there."""
        return self._base(url).with_suffix(".page")

    def put(self, page: Kept, content: bytes) -> None:
        """Add or replace a page."""
        with atomic_write(self.content(page.url)) as file:
            file.write(content)
        self.describe(page)

    def describe(self, page: Kept) -> None:
        """Replace what is said about a page whose content is there."""
        write_json(self._base(page.url).with_suffix(".json"), asdict(page))

    def _base(self, url: str) -> Path:
        host = url.split("/")[2].replace(":", "_")
        key = sha256(url)
        return self._folder / host / key[:2] / key


def today() -> str:
    """This day, UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
