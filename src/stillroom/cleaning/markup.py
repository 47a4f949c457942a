"""Residue of the page that a conversation was copied from: HTML, "Copy code" buttons, "2 / 3" page numbers.

Each function takes one turn's text and returns it clean; what only looks like residue stays:

    "<p>Use <b>this</b>:</p><pre><code>x</code></pre>"  ──▶  "Use **this**:\\n\\n```\\nx\\n```"
    "How do I center a <div>?"                          ──▶  unchanged
    "2 / 3Explain nouns"                                ──▶  "Explain nouns"
    "1 / 12 cup of sugar"                               ──▶  unchanged
"""

from __future__ import annotations

import html
import re
from typing import Any

FRAGMENT = re.compile(
    r"\s*<(?:div|p|h[1-6]|ul|ol|table|pre|blockquote|span|br|strong|em|b|i|a|code)\b[^>]*>"
    r".*(?:</\w+>|<[bh]r\s*/?>)\s*",
    re.DOTALL | re.IGNORECASE,
)
"""text that is a piece of HTML from its first character to its last"""
ENTITY = re.compile(r"&(?:lt|gt|amp|quot|#39|nbsp);")
BARE = re.compile(r"[<>]|&(?!\w+;|#\d+;)")
LANGUAGE_CLASS = re.compile(r"(?:language|lang)-([\w+#.-]+)")

FENCE_LANGUAGE = re.compile(
    r"^(`{3,})[ \t]*(?:([\w+#.-]*)[ \t]*\n[ \t]*)?([a-z][\w+#.-]*?)Copy code[ \t]*\n?", re.M
)
FENCE = re.compile(r"^(`{3,})[ \t]*([\w+#.-]*?)[ \t]*(?:\n[ \t]*)?Copy code[ \t]*\n", re.M)
LINE = re.compile(r"^[a-z+#]*Copy code[ \t]*\n", re.M)

PAGE = r"(?P<page>\d{1,3}) / (?P<pages>\d{1,3})"
FIRST_LINE = re.compile(rf"\A\s*{PAGE}(?:[ \t]*\n\s*|(?=[A-Z][a-z]))")
LAST_LINE = re.compile(rf"\n\s*{PAGE}\s*\Z")
WHOLE_TURN = re.compile(rf"\s*{PAGE}\s*")


def html_to_markdown(text: str) -> str:
    """Markdown of a text that is HTML as a whole; entities of a text that was escaped as a whole.

    A user's own HTML inside prose or a code block is none of that and stays.
    """
    if FRAGMENT.fullmatch(text):
        return _markdown(text)
    if len(ENTITY.findall(text)) > 1 and not BARE.search(text) and "html" not in text.lower():
        return html.unescape(text)
    return text


def copy_code(text: str) -> str:
    """Without the button "Copy code" (and the language before it, which becomes the fence's)."""
    if "Copy code" not in text:
        return text
    text = FENCE_LANGUAGE.sub(lambda m: f"{m[1]}{m[2] or m[3]}\n", text)
    text = FENCE.sub(r"\1\2\n", text)
    return LINE.sub("", text)


def page_residue(text: str, *, whole: bool) -> str:
    """Without a page number `2 / 3` on a line of its own at either end, or glued to the first word.

    whole: whether a turn that is nothing else is residue too (a user's is; an answer may be a fraction).
    """
    if " / " not in text:
        return text
    if match := WHOLE_TURN.fullmatch(text):
        return "" if whole and _is_page(match) else text
    for pattern in (FIRST_LINE, LAST_LINE):
        match = pattern.search(text)
        if match and _is_page(match):
            text = text[: match.start()] + text[match.end() :]
    return text


def _is_page(match: re.Match[str]) -> bool:
    return 1 <= int(match["page"]) <= int(match["pages"]) and int(match["pages"]) > 1


def _markdown(text: str) -> str:
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(text, "html.parser")
    for element in soup.find_all(["button", "svg", "script", "style"]):
        element.decompose()
    for block in soup.find_all("pre"):
        if code := block.find("code"):
            block.clear()
            block.append(code)
    converter = MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        code_language_callback=_language,
    )
    converted: str = converter.convert_soup(soup)
    return re.sub(r"\n{3,}", "\n\n", converted).strip()


def _language(block: Any) -> str:
    """The language of a code block, as its class says."""
    classes = [name for element in (block, block.code) if element for name in element.get("class") or ()]
    return next((match[1] for name in classes if (match := LANGUAGE_CLASS.match(name))), "")
