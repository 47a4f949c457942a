"""A web page: its own text as Markdown, without what the site puts around it.

The text is what stands in <main>, in there in the only <article>; else in the body. Navigation, side bars,
footers, controls and marks on headings go. The title is the text's first <h1>, else <title>.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.sources.documents.document import Found
from stillroom.sources.documents.to_markdown import to_markdown

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

AROUND = (
    "nav, footer, dialog, button, input, select, textarea, label, [hidden], [aria-hidden=true],"
    "[role=navigation], [role=search], [role=banner], [role=contentinfo], [role=complementary],"
    "[role=dialog], .headerlink, .anchor-link, .skip-link, .breadcrumb, .breadcrumbs, .pagination,"
    ".toctree-wrapper, .mw-editsection, .navbox,"
    "aside:not([class*=admonition], [class*=note], [class*=callout], [class*=tip], [class*=warning])"
)
"""what stands beside a text, even in it"""
OUTSIDE = ".sidebar, .sphinxsidebar, .navbar, .related, .toc, #toc, [class*=cookie], [id*=cookie]"
"""what stands beside a text in a page that does not mark its main part"""


def read(path: Path) -> list[Found]:
    """The page."""
    return [page(path.read_bytes())]


def page(content: bytes) -> Found:
    """A page in UTF-8 or the encoding that it declares."""
    from bs4 import BeautifulSoup

    tree = BeautifulSoup(_known(content), "html.parser")
    root = _main(tree)
    for form in root("form"):
        if 2 * len(form.get_text()) < len(root.get_text()):  # else the page is one form
            form.decompose()
    for panel in root.select("[role=tabpanel][hidden]"):
        del panel["hidden"]  # one of several tabs: the others are text, too
    for tag in root.select(AROUND):
        tag.decompose()
    title = root.find("h1") or tree.find("title")
    link = tree.find("link", rel="canonical", href=True)
    source = str(link["href"]) if link else ""
    name = " ".join(title.get_text().split()) if title else ""
    return Found(to_markdown(root), name, source if source.startswith("http") else "")


def _known(content: bytes) -> str | bytes:
    """The text where it is UTF-8; else the bytes, for BeautifulSoup to look for a declaration."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content


def _is_all(article: Tag, root: Tag) -> bool:
    """Whether an article has most of the text, and the heading if there is one."""
    most = 2 * len(article.get_text()) > len(root.get_text())
    return most and (root.find("h1") is None or article.find("h1") is not None)


def _main(tree: BeautifulSoup) -> Tag:
    """The part of a page that holds its text."""
    marked = [tag for tag in tree.select("main, [role=main]") if tag.get_text(strip=True)]
    root: Tag = max(marked, key=lambda tag: len(tag.get_text()), default=tree.body or tree)
    articles = [tag for tag in root("article") if not tag.find_parent("article")]
    if len(articles) == 1 and _is_all(articles[0], root):
        return articles[0]
    if not marked:
        for tag in root.select(OUTSIDE) + [tag for tag in root("header") if not tag.find("h1")]:
            tag.decompose()
    return root
