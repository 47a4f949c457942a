"""The crawler against a web server of its own that answers by script."""

import asyncio
import datetime
import gzip
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.errors import DownloadError, InputError
from stillroom.sources.crawl import pages as naming
from stillroom.sources.crawl.crawler import crawl
from stillroom.sources.crawl.settings import Crawl, Pages
from stillroom.sources.crawl.shelf import today
from stillroom.sources.crawl.sitemap import LARGEST, Sitemap, parsed

FAST = {"pages_per_second": 1e6}
HTML = {"Content-Type": "text/html"}


class Site(BaseHTTPRequestHandler):
    """Answers a path with the next of its answers, the last one again and again: (status, headers, body)."""

    def do_GET(self):
        server = self.server
        with server.lock:
            server.busy += 1
            server.busiest = max(server.busy, server.busiest)
            server.asked.append((self.path, dict(self.headers)))
            answers = server.answers.get(self.path, [(404, {}, b"")])
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(status):
            status = status(self.headers)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if status != 304:
            self.wfile.write(body)
        with server.lock:
            server.busy -= 1

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """A server: `answers` by path, `asked` and `base`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.lock, server.busy, server.busiest = threading.Lock(), 0, 0
        server.asked, server.answers = [], {}
        server.base = f"http://127.0.0.1:{server.server_port}"
        server.paths = lambda: [path for path, _ in server.asked]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site():
    with serving() as server:
        yield server


def listed(site, *paths):
    locations = "".join(
        f"<url><loc>{path if ':' in path else site.base + path}</loc></url>" for path in paths
    )
    return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locations}</urlset>'.encode()


def put(site, path, body="<p>x</p>", status=200, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = (status, {**HTML, **headers}, body if isinstance(body, bytes) else body.encode())
    site.answers.setdefault(path, []).append(answer)


def run(site, folder, *paths, wanted=Pages(), progress=lambda _: None, **settings):  # noqa: B008
    start = (
        Sitemap(pages=[site.base + path for path in paths])
        if paths
        else Sitemap(sitemaps=[f"{site.base}/map.xml"])
    )
    return crawl(start, wanted, Crawl(**{**FAST, **settings}), folder, "fetch.sources.documents.0", progress)


def outcome(found, site):
    return {page.url.removeprefix(site.base): page.reason or page.status for page in found}


def test_a_site_is_crawled_once_and_politely(site, tmp_path, capsys):
    index = f"""<?xml version="1.0"?><sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
        <sitemap><loc> {site.base}/a.xml.gz </loc></sitemap><sitemap><loc>{site.base}/b.txt</loc></sitemap>
        <sitemap><loc>{site.base}/map.xml</loc></sitemap></sitemapindex>"""
    put(site, "/map.xml", index)
    paths = (
        "/",
        "/busy",
        "/down",
        "/private/x",
        "/moved",
        "/away",
        "/odd",
        "/photo",
        "https://elsewhere.example/",
        "ftp://x/",
    )
    put(site, "/a.xml.gz", gzip.compress(listed(site, *paths)))
    put(
        site, "/b.txt", f"# list\n{site.base}/paper\n{site.base}/#top\n{site.base}/target\n{site.base}/gone\n"
    )
    put(site, "/robots.txt", "User-agent: *\nDisallow: /*/x\n\nUser-agent: otherbot\nDisallow: /")
    put(site, "/", "<h1>Home</h1>")
    put(site, "/busy", status=429, Retry_After="0")
    put(site, "/busy", "<p>free</p>")
    put(site, "/down", status=503, Retry_After="0.01")
    put(site, "/down", "<p>up</p>")
    put(site, "/moved", status=301, Location="/target")
    put(site, "/target", "<p>target</p>")
    put(site, "/away", status=302, Location="http://elsewhere.example/x")
    put(site, "/photo", b"\x89PNG", Content_Type="image/png")
    put(site, "/odd", status=302, Location="http://[::")
    put(site, "/paper", b"%PDF-1.4", Content_Type="application/pdf")
    found = run(site, tmp_path, max_failed=0.2, contact="us@isles.example")
    assert outcome(found, site) == {
        "/": "page",
        "/busy": "page",
        "/down": "page",
        "/private/x": "robots.txt",
        "/moved": "page",
        "/away": "leads to http://elsewhere.example/x",
        "/odd": "leads to http://[::",
        "/photo": "type image/png",
        "/paper": "page",
        "/target": "leads to a page that is there",
        "/gone": "404 Not Found",
    }
    assert {page.name.rpartition(".")[2] for page in found if page.path} == {"html", "pdf"}
    assert found[4].kept.final_url == f"{site.base}/target"
    assert found[1].path.read_bytes() == b"<p>free</p>"
    paths = site.paths()
    assert paths.count("/busy") == paths.count("/down") == 2
    assert paths.count("/") == paths.count("/robots.txt") == paths.count("/map.xml") == 1
    assert "/private/x" not in paths
    assert site.busiest == 1
    assert {headers["User-Agent"] for _, headers in site.asked} == {"stillroom/0.1.0 (+us@isles.example)"}
    said = capsys.readouterr().err
    for line in ("5 pages", "1 failed (404 Not Found)", "1 left out (robots.txt)", "2 left out (leads to)"):
        assert f"fetch.sources.documents.0: {line}" in said
    assert "1 not asked for (on another host)" in said
    assert "1 not asked for (no http address)" in said
    site.asked.clear()
    again = run(site, tmp_path, max_failed=0.2)
    assert [page.kept for page in again] == [page.kept for page in found]
    fetched = {"/", "/busy", "/down", "/moved", "/paper", "/target", "/map.xml", "/a.xml.gz", "/b.txt"}
    assert not fetched & set(site.paths())


def test_a_crawl_that_was_cut_off_goes_on(site, tmp_path):
    for name in "abcd":
        put(site, f"/{name}")

    def stop(note):
        if note.startswith("2 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(site, tmp_path, "/a", "/b", "/c", "/d", progress=stop)
    assert all(page.path for page in run(site, tmp_path, "/a", "/b", "/c", "/d"))
    assert sorted(path for path in site.paths() if path != "/robots.txt") == ["/a", "/b", "/c", "/d"]


def test_a_page_is_asked_for_again_only_if_it_is_older_and_sent_only_if_it_changed(site, tmp_path):
    same = (
        lambda headers: 304 if headers.get("If-None-Match") == '"1"' else 200,
        {**HTML, "ETag": '"1"'},
        b"one",
    )
    site.answers["/same"] = [same]
    put(site, "/new", "before", Last_Modified="Tue, 01 Jul 2025 00:00:00 GMT")
    put(site, "/new", "after")
    put(site, "/lost", "kept")
    put(site, "/lost", status=410)
    first = run(site, tmp_path, "/same", "/new", "/lost")
    for path in tmp_path.rglob("*.json"):
        path.write_text(path.read_text().replace(today(), "2025-07-02"))
    site.asked.clear()
    run(site, tmp_path, "/same", "/new", "/lost", newer_than=datetime.date(2025, 7, 2))
    assert site.asked == []
    found = run(site, tmp_path, "/same", "/new", "/lost", newer_than=datetime.date(2025, 7, 3))
    assert [page.path.read_bytes() for page in found] == [b"one", b"after", b"kept"]
    assert [page.kept.day for page in found] == [today(), today(), "2025-07-02"]
    assert found[2].reason == "as of 2025-07-02: 410 Gone"
    asked = dict(site.asked)
    assert asked["/same"]["If-None-Match"] == '"1"'
    assert asked["/new"]["If-Modified-Since"] == "Tue, 01 Jul 2025 00:00:00 GMT"
    assert first[0].kept.sha256 == found[0].kept.sha256


@pytest.mark.parametrize(
    ("robots", "allowed"),
    [
        ((404, {}, b""), True),
        ((403, {}, b""), True),
        ((503, {}, b""), False),
        ((200, {}, b"User-agent: StillRoom\nDisallow: /\nUser-agent: *\nAllow: /"), False),
        ((200, {}, b"Disallow: /\n" + b"#" * 2_000_000), True),
    ],
)
def test_robots_txt_decides(site, tmp_path, robots, allowed):
    site.answers["/robots.txt"] = [robots]
    put(site, "/a")
    if allowed:
        assert run(site, tmp_path, "/a")[0].path
        return
    with pytest.raises((DownloadError, InputError)):
        run(site, tmp_path, "/a", attempts=1)
    assert "/a" not in site.paths()


@pytest.mark.parametrize(
    ("rules", "least"), [("Crawl-delay: 5000", 4000), ("Request-rate: 1/9000", 8000), ("Allow: /", 900)]
)
def test_the_slowest_of_setting_and_robots_txt_is_kept(site, tmp_path, monkeypatch, rules, least):
    waits, sleep = [], asyncio.sleep

    async def noted(seconds):
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("stillroom.sources.crawl.visit.asyncio.sleep", noted)
    put(site, "/robots.txt", f"User-agent: *\n{rules}")
    put(site, "/a")
    put(site, "/b")
    run(site, tmp_path, "/a", "/b", pages_per_second=0.001)
    assert least < waits[-1] < least * 1.5


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, HTML, b"x" * 2000), "larger than 1,000 bytes"),
        ((301, {"Location": "/a"}, b""), "more than 5 redirects"),
        ((301, {}, b""), "301 Moved Permanently"),
        ((200, {**HTML, "Content-Length": "9", "Content-Encoding": "gzip"}, b"not gzip."), "DecodingError"),
        ((429, {"Retry-After": "86400"}, b""), "429 Too Many Requests, asks to wait 86,400 s"),
        ((599, {}, b""), r"/a \(599\)"),
    ],
)
def test_what_fails_is_named_with_the_reason(site, tmp_path, answer, words):
    site.answers["/a"] = [answer]
    with pytest.raises(DownloadError, match=f"1 of 1 pages failed: .*{words}"):
        run(site, tmp_path, "/a", attempts=1, max_bytes=1000)


def test_a_host_that_is_gone_is_asked_as_often_as_was_set(tmp_path, monkeypatch):
    waits = []

    async def noted(seconds):
        waits.append(seconds)

    monkeypatch.setattr("stillroom.sources.crawl.visit.asyncio.sleep", noted)
    start = Sitemap(pages=["http://127.0.0.1:9/"])
    with pytest.raises(DownloadError, match=r"robots\.txt: ConnectError"):
        crawl(start, Pages(), Crawl(attempts=3, **FAST), tmp_path, "w", lambda _: None)
    first, second = [wait for wait in waits if wait > 0.1]
    assert 0.5 <= first <= 1 <= second <= 2


def test_globs_limits_and_hosts_choose(site, tmp_path, capsys):
    put(
        site,
        "/map.xml",
        listed(site, "/docs/a", "/docs/b.png", "/docs/c", "/docs/d", "/blog/e", "http://localhost:1/x"),
    )
    for name in ("docs/a", "docs/c", "docs/d", "blog/e"):
        put(site, f"/{name}")
    wanted = Pages(include=("*/docs/*", "*/x"), exclude=("*.png",), limit=2)
    assert list(outcome(run(site, tmp_path, wanted=wanted), site)) == ["/docs/a", "/docs/c"]
    said = capsys.readouterr().err
    for reason in ("not included", "excluded", "over the limit", "on another host"):
        assert f"1 not asked for ({reason})" in said
    found = run(
        site, tmp_path, wanted=Pages(include=("*/x",), hosts=("localhost:*",)), attempts=1, max_failed=1
    )
    assert found[0].url == "http://localhost:1/x"
    with pytest.raises(InputError, match="no page to fetch"):
        run(site, tmp_path, wanted=Pages(include=("nothing",)))


def test_hosts_do_not_wait_for_each_other(site, tmp_path):
    with serving() as other:
        served = threading.Event()
        other.answers["/b"] = [(lambda _: served.set() or 200, HTML, b"b")]
        site.answers["/a"] = [(lambda _: 200 if served.wait(20) else 500, HTML, b"a")]
        start = Sitemap(pages=[f"{site.base}/a", f"{other.base}/b"])
        found = crawl(start, Pages(), Crawl(attempts=1, **FAST), tmp_path, "w", lambda _: None)
    assert [page.path.read_bytes() for page in found] == [b"a", b"b"]


def test_an_error_of_the_disk_is_not_wrapped(site, tmp_path):
    put(site, "/a")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="Not a directory"):
        run(site, tmp_path / "file", "/a")


def test_a_sitemap_that_is_gone_is_an_error_with_its_address(site, tmp_path):
    with pytest.raises(DownloadError, match=r"/map\.xml cannot be fetched \(404"):
        run(site, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<urlset><url>", "is not XML"),
        (b"<html></html>", "<html> is no sitemap"),
        (b"https://x\nnone", r"map:2: 'none' is no address"),
        (gzip.compress(b"<urlset>" * 9, mtime=0)[:-12], "is torn"),
        (b"\x1f\x8bnone", "cannot be decompressed"),
        (gzip.compress(bytes(LARGEST + 1), mtime=0), "larger than 64 MiB"),
    ],
)
def test_a_bad_sitemap_is_refused(content, words):
    with pytest.raises(InputError, match=words):
        parsed(content, "map")


def test_a_sitemap_has_pages_and_not_the_pictures_on_them():
    image = 'xmlns:i="http://www.google.com/schemas/sitemap-image/1.1"'
    content = f"<urlset {image}><url><loc>https://x/a</loc><i:image><i:loc>b</i:loc></i:image><i:loc>c</i:loc></url></urlset>"
    assert parsed(content.encode(), "") == Sitemap(["https://x/a"])


@pytest.mark.parametrize(
    ("media", "body", "text"),
    [
        ("text/plain; charset=ISO-8859-1", b"caf\xe9", "café"),
        ("text/plain", b"caf\xe9", "café"),
        ("text/plain; charset=none", "café".encode(), "café"),
        (
            "text/html; charset=windows-1251",
            "<meta charset=utf-8>мир".encode("cp1251"),
            "<meta charset=utf-8>мир",
        ),
        ("text/markdown", "café".encode(), "café"),
    ],
)
def test_texts_are_kept_in_utf8(site, tmp_path, media, body, text):
    site.answers["/a"] = [(200, {"Content-Type": media}, body)]
    (page,) = run(site, tmp_path, "/a")
    assert page.path.read_text(encoding="utf-8-sig") == text


@given(st.text(max_size=120), st.text(max_size=20))
def test_names_are_safe_and_belong_to_one_address(path, other):
    url = f"https://Isles.example:8080/{path}"
    name = naming.name(url, ".html")
    assert re.fullmatch(r"isles\.example_8080/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.html", name)
    assert not name.endswith(("..html",))
    assert (naming.name(f"https://Isles.example:8080/{other}", ".html") == name) == (other == path)


def test_endings_follow_types_then_addresses():
    assert naming.suffix("https://x/a.md", "text/plain") == ".md"
    assert naming.suffix("https://x/a", "text/plain; charset=x") == ".txt"
    assert naming.suffix("https://x/A.PDF?q", "application/octet-stream") == ".pdf"
    assert naming.suffix("https://x/a.pdf", "text/html") == ".html"
    assert naming.suffix("https://x/a", "application/octet-stream") is None
    assert naming.suffix("https://x/a", "image/png") is None
