"""One visitor to many hosts: it asks robots.txt, waits its turn, asks again, and keeps what it gets.

address ──▶ shelf? ──▶ robots.txt ──▶ turn ──▶ GET ──▶ redirect, retry, 304 ──▶ shelf ──▶ Page

RFC 9309 (robots.txt): without one everything may be fetched; where it cannot be read (5xx), nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import httpx2
from protego import Protego

from stillroom import __version__
from stillroom.artifacts import sha256
from stillroom.sources.crawl import pages
from stillroom.sources.crawl.settings import Crawl
from stillroom.sources.crawl.shelf import Kept, Shelf, today
from stillroom.teacher.rate_headers import retry_after

NAME = "stillroom"
"""in the user agent, and what robots.txt may call this crawler"""
CONNECTIONS = 16
"""hosts that are visited at a time"""
REDIRECTS = 5
LONGEST_ROBOTS = 500 << 10
"""bytes of a robots.txt that are read (RFC 9309, 2.5)"""
LONGEST_WAIT = 600.0
"""seconds of a Retry-After that are waited"""
AGAIN = (429, 500, 502, 503, 504)
ACCEPT = "text/html,application/xhtml+xml,application/pdf,text/*;q=0.9,*/*;q=0.5"

Status = Literal["page", "failed", "left_out"]
Use = Callable[[str, str, bytes], bytes]
"""(address, media type, content) ──▶ the content to keep; raises Refused for one that is not wanted"""


class Refused(Exception):
    """A page that is not to be had: why, and whether that is as it should be."""

    def __init__(self, reason: str, status: Status = "failed") -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


@dataclass(frozen=True, slots=True)
class Page:
    """What became of an address. kept, path: of a page; reason: why there is none, or an old one."""

    url: str
    status: Status
    kept: Kept | None = None
    path: Path | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Its file's name; "" of one that is no page."""
        ending = pages.suffix(self.kept.final_url, self.kept.content_type) if self.kept else None
        return pages.name(self.url, ending) if ending else ""


@dataclass
class Host:
    """What is known of a host, and whose turn it is there."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    free_at: float = 0.0
    """on the event loop's clock"""
    delay: float = 0.0
    """seconds between two requests"""
    rules: Protego | None = None
    closed: Refused | None = None
    """why nothing may be fetched"""


class Visitor:
    """Fetches addresses of allowed hosts. Made inside of a running event loop; a context manager."""

    def __init__(self, settings: Crawl, shelf: Shelf, allowed: Callable[[str], bool]) -> None:
        self._settings, self._shelf, self._allowed = settings, shelf, allowed
        self._hosts: defaultdict[str, Host] = defaultdict(Host)
        contact = f" (+{settings.contact})" if settings.contact else ""
        self._client = httpx2.AsyncClient(
            headers={"User-Agent": f"{NAME}/{__version__}{contact}", "Accept": ACCEPT},
            timeout=settings.timeout,
            verify=httpx2.create_ssl_context(),
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            mounts={"all://127.0.0.1": None, "all://localhost": None},
        )

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def page(self, url: str) -> Page:
        """A page whose type is a document's, from the shelf or the web."""
        try:
            kept = await self.kept(url, self._settings.max_bytes, _document)
        except Refused as refused:
            old = self._shelf.find(url)
            if refused.status == "left_out" or old is None:
                return Page(url, refused.status, reason=refused.reason)
            return Page(url, "page", old, self._shelf.content(url), f"as of {old.day}: {refused.reason}")
        return Page(url, "page", kept, self._shelf.content(url))

    async def kept(self, url: str, most: int, use: Use, *, ruled: bool = True) -> Kept:
        """What the shelf has of an address, fetched where it has nothing or nothing new enough.

        most: bytes.  ruled: whether robots.txt is asked.  Raises Refused.
        """
        old = self._shelf.find(url)
        newer_than = self._settings.newer_than
        if old and (newer_than is None or old.day >= newer_than.isoformat()):
            return old
        asked = {"If-None-Match": old.etag, "If-Modified-Since": old.last_modified} if old else {}
        headers = {name: value for name, value in asked.items() if value}
        final_url, answer = await self._followed(url, headers, most, ruled=ruled)
        if old and answer.status == HTTPStatus.NOT_MODIFIED:
            new = replace(old, day=today())
            self._shelf.describe(new)
            return new
        media = answer.headers.get("content-type", "")
        content = use(final_url, media, answer.content)
        etag, modified = answer.headers.get("etag", ""), answer.headers.get("last-modified", "")
        new = Kept(url, final_url, media, sha256(content), etag, modified, today())
        self._shelf.put(new, content)
        return new

    def content(self, url: str) -> bytes:
        """The content of an address that is on the shelf."""
        return self._shelf.content(url).read_bytes()

    async def _followed(
        self, url: str, headers: Mapping[str, str], most: int, *, ruled: bool
    ) -> tuple[str, Answer]:
        """Where redirects lead, and the answer there: 200, or 304 to a condition."""
        for _ in range(REDIRECTS + 1):
            answer = await self._asked(url, headers, most, ruled=ruled)
            if answer.status == HTTPStatus.OK or (answer.status == HTTPStatus.NOT_MODIFIED and headers):
                return url, answer
            target = answer.headers.get("location")
            if not HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST or not target:
                raise Refused(_phrase(answer.status))
            new = plain(target, url)
            if new is None or not self._allowed(new):
                raise Refused(f"leads to {new or target}", "left_out")
            url = new
        raise Refused(f"more than {REDIRECTS} redirects")

    async def _asked(self, url: str, headers: Mapping[str, str], most: int, *, ruled: bool) -> Answer:
        """The answer to a request in its turn."""
        origin = "/".join(url.split("/")[:3])
        host = self._hosts[origin]
        async with host.turn:
            if ruled:
                await self._read_rules(host, origin)
                if host.rules and not host.rules.can_fetch(url, NAME):
                    raise Refused("robots.txt", "left_out")
            return await self._tried(host, url, headers, most)

    async def _read_rules(self, host: Host, origin: str) -> None:
        """Ask robots.txt, once. Raises Refused, then and ever after, where it cannot be read."""
        if host.closed:
            raise host.closed
        if host.rules:
            return
        try:
            answer = await self._tried(host, f"{origin}/robots.txt", {}, LONGEST_ROBOTS, robots=True)
        except Refused as refused:
            host.closed = Refused(f"robots.txt: {refused.reason}")
            raise host.closed from None
        found = answer.content if answer.status == HTTPStatus.OK else b""
        host.rules = Protego.parse(found.decode("utf-8", "replace"))
        rate = host.rules.request_rate(NAME)
        spaced = rate.seconds / rate.requests if rate and rate.requests else 0
        host.delay = max(1 / self._settings.pages_per_second, host.rules.crawl_delay(NAME) or 0, spaced)

    async def _tried(
        self, host: Host, url: str, headers: Mapping[str, str], most: int, *, robots: bool = False
    ) -> Answer:
        """The answer, asked for again while the host is busy or out of reach. Raises Refused."""
        clock = asyncio.get_running_loop().time
        for attempt in range(1, self._settings.attempts + 1):
            await asyncio.sleep(max(0.0, host.free_at - clock()))
            wait = random.uniform(0.5, 1.0) * 2 ** (attempt - 1)
            try:
                answer = await self._request(url, headers, most, cut=robots, follow=robots)
            except (httpx2.TransportError, httpx2.DecodingError, httpx2.TooManyRedirects) as error:
                reason = f"{type(error).__name__} {error}".strip()
            else:
                if answer.status not in AGAIN:
                    return answer
                reason, wait = _phrase(answer.status), retry_after(answer.headers) or wait
            finally:
                host.free_at = clock() + (host.delay or 1 / self._settings.pages_per_second)
            if wait > LONGEST_WAIT:
                raise Refused(f"{reason}, asks to wait {wait:,.0f} s")
            if attempt < self._settings.attempts:
                await asyncio.sleep(wait)
        raise Refused(reason)

    async def _request(
        self, url: str, headers: Mapping[str, str], most: int, *, cut: bool, follow: bool
    ) -> Answer:
        """One request. cut: what is longer than `most` is cut there, else Refused is raised."""
        content = bytearray()
        async with self._client.stream("GET", url, headers=headers, follow_redirects=follow) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > most:
                    if not cut:
                        raise Refused(f"larger than {most:,} bytes")
                    break
        return Answer(response.status_code, response.headers, bytes(content[:most]))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host sent."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def _document(url: str, media: str, content: bytes) -> bytes:
    """The content of a page whose type is a document's."""
    ending = pages.suffix(url, media)
    if ending is None:
        raise Refused(f"type {media.partition(';')[0]}", "left_out")
    return pages.in_utf8(content, media, ending)


def plain(address: str, base: str = "") -> str | None:
    """An http or https address (relative to a base) without fragment, in one spelling; None for any other."""
    try:
        url = httpx2.URL(base).join(address.strip()) if base else httpx2.URL(address.strip())
    except httpx2.InvalidURL:
        return None
    return str(url.copy_with(fragment=None)) if url.scheme in ("http", "https") and url.host else None


def _phrase(status: int) -> str:
    """`404 Not Found`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
