"""From a sitemap or a list to the pages that it names: see `stillroom.sources.crawl`."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from stillroom.errors import DownloadError, InputError
from stillroom.sources.crawl import sitemap
from stillroom.sources.crawl.settings import Crawl, Pages
from stillroom.sources.crawl.shelf import Shelf
from stillroom.sources.crawl.visit import CONNECTIONS, Page, Refused, Visitor, plain

NAMED = 5
"""addresses of a kind that are named"""

Progress = Callable[[str], None]
"""is told, page by page, how far the crawl is"""


def crawl(
    start: sitemap.Sitemap, pages: Pages, settings: Crawl, folder: Path, where: str, progress: Progress
) -> list[Page]:
    """What became of every page that is wanted, in the order in which they are listed.

    start: pages, or sitemaps that list them.  folder: of what is kept.  where: names the crawl in errors.
    Raises DownloadError where a sitemap cannot be fetched or too many pages fail, InputError where a sitemap
    is torn or there is nothing to fetch. What was fetched is kept.
    """
    return asyncio.run(_crawl(start, pages, settings, Shelf(folder), where, progress))


async def _crawl(
    start: sitemap.Sitemap, pages: Pages, settings: Crawl, shelf: Shelf, where: str, progress: Progress
) -> list[Page]:
    own = {_site(url) for url in (*start.sitemaps, *start.pages)}

    def allowed(url: str) -> bool:
        return _site(url) in own or any(fnmatchcase(urlsplit(url).netloc, glob) for glob in pages.hosts)

    async with Visitor(settings, shelf, allowed) as visitor:
        listed = [*start.pages, *await _listed(start.sitemaps, visitor, where)]
        wanted, against = _wanted(listed, pages, allowed)
        found = _once(await _visited(wanted, visitor, progress))
    for line in _report(found, against):
        print(f"{where}: {line}", file=sys.stderr)
    _check(found, settings, where)
    return found


async def _listed(sitemaps: Sequence[str], visitor: Visitor, where: str) -> list[str]:
    """The pages of sitemaps and of those that they list."""
    todo, seen, found = list(sitemaps), set(sitemaps), list[str]()
    for url in todo:  # it grows
        try:
            await visitor.kept(url, sitemap.LARGEST, lambda _url, _type, content: content, ruled=False)
        except Refused as refused:
            hint = "set `sitemap` to the address of the site's sitemap; its robots.txt may name it"
            raise DownloadError(
                f"{url} cannot be fetched ({refused.reason})", where=where, hint=hint
            ) from None
        listed = sitemap.parsed(visitor.content(url), url)
        found += listed.pages
        new = [more for more in listed.sitemaps if more not in seen]
        todo += new
        seen.update(new)
    return found


def _wanted(
    listed: Sequence[str], pages: Pages, allowed: Callable[[str], bool]
) -> tuple[list[str], Counter[str]]:
    """Addresses to fetch, each once, and how many are not wanted for which reason."""
    found: dict[str, None] = {}
    against: Counter[str] = Counter()
    for address in listed:
        url = plain(address)
        if url is None:
            against["no http address"] += 1
        elif not allowed(url):
            against["on another host"] += 1
        elif reason := pages.reason_against(url):
            against[reason] += 1
        elif url not in found and pages.limit is not None and len(found) >= pages.limit:
            against["over the limit"] += 1
        else:
            found[url] = None
    return list(found), against


async def _visited(urls: Sequence[str], visitor: Visitor, progress: Progress) -> list[Page]:
    """Visit all, one host's pages one after the other, several hosts at a time."""
    hosts: dict[str, list[str]] = {}
    for url in urls:
        hosts.setdefault(urlsplit(url).netloc, []).append(url)
    found: dict[str, Page] = {}
    places = asyncio.Semaphore(CONNECTIONS)

    async def visit(addresses: Sequence[str]) -> None:
        async with places:
            for url in addresses:
                found[url] = await visitor.page(url)
                progress(f"{len(found):,} of {len(urls):,} pages")

    try:
        async with asyncio.TaskGroup() as group:
            for addresses in hosts.values():
                group.create_task(visit(addresses))
    except ExceptionGroup as several:  # one is enough to know
        raise several.exceptions[0] from None
    return [found[url] for url in urls]


def _once(pages: Sequence[Page]) -> list[Page]:
    """Of several addresses that lead to one page, the first has it."""
    seen: set[str] = set()
    found = []
    for page in pages:
        again = page.kept is not None and page.kept.final_url in seen
        found.append(Page(page.url, "left_out", reason="leads to a page that is there") if again else page)
        if page.kept:
            seen.add(page.kept.final_url)
    return found


def _report(pages: Sequence[Page], against: Counter[str]) -> Iterator[str]:
    """`812 pages`, and a line for each reason for which others are not among them."""
    yield f"{sum(page.status == 'page' for page in pages):,} pages"
    reasons: dict[tuple[str, str], list[str]] = {}
    for page in pages:
        if page.reason:
            reasons.setdefault((page.status, page.reason.split(" http")[0]), []).append(page.url)
    for (status, reason), urls in sorted(reasons.items()):
        more = ", …" if len(urls) > NAMED else ""
        yield f"{len(urls):,} {status.replace('_', ' ')} ({reason}): {', '.join(urls[:NAMED])}{more}"
    for reason, count in sorted(against.items()):
        yield f"{count:,} not asked for ({reason})"


def _check(pages: Sequence[Page], settings: Crawl, where: str) -> None:
    """Raise where there is nothing, or too much failed."""
    failed = [page for page in pages if page.status == "failed"]
    tried = len(failed) + sum(page.status == "page" for page in pages)
    if len(failed) > settings.max_failed * tried:
        first = ", ".join(f"{page.url} ({page.reason})" for page in failed[:NAMED])
        hint = "run it again: what was fetched is kept; or raise fetch.crawl.max_failed"
        raise DownloadError(f"{len(failed):,} of {tried:,} pages failed: {first}", where=where, hint=hint)
    if not tried:
        hint = "see the lines above, and the source's include, exclude and hosts"
        raise InputError("no page to fetch", where=where, hint=hint)


def _site(url: str) -> str:
    """Host and port; www.x.example and x.example are one site."""
    return urlsplit(url).netloc.lower().removeprefix("www.")
