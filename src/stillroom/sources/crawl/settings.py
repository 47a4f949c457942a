"""What is crawled, and how."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import Field

from stillroom.params import Settings


class Crawl(Settings):
    """How pages are fetched."""

    pages_per_second: float = Field(default=1.0, gt=0)
    """of each host, one after the other; a Crawl-delay of its robots.txt may make it slower"""
    contact: str | None = None
    """an address of yours (mail or web) for the hosts' owners, in the user agent"""
    timeout: float = Field(default=30.0, gt=0)
    """seconds of silence before a request is given up"""
    attempts: int = Field(default=4, ge=1)
    """tries of one page (429, 5xx, resets, timeouts)"""
    max_bytes: int = Field(default=20_000_000, ge=1)
    """most bytes of a page"""
    max_failed: float = Field(default=0.05, ge=0, le=1)
    """share of the pages that may fail; more is an error"""
    newer_than: datetime.date | None = None
    """pages that were fetched before this day are asked for again; null: never"""


@dataclass(frozen=True)
class Pages:
    """Which pages of a sitemap or a list are wanted."""

    include: tuple[str, ...] = ()
    """globs of addresses; none: all"""
    exclude: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """globs of hosts that pages may come from, beside the sitemap's own"""
    limit: int | None = None
    """most pages, the first ones"""

    def reason_against(self, url: str) -> str | None:
        """Why an address is not wanted; None where it is."""
        if self.include and not any(fnmatchcase(url, glob) for glob in self.include):
            return "not included"
        if any(fnmatchcase(url, glob) for glob in self.exclude):
            return "excluded"
        return None
