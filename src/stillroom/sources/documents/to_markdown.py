"""HTML as Markdown: the one way for web pages, reStructuredText and DOCX.

    <p>Rule <a href="/4">4</a>: 10<sup>5</sup> drops</p>  ──▶  Rule 4: 10^5 drops

Headings, lists, tables and code stay; of links their text; images, scripts and controls go.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bs4 import Tag
    from html_to_markdown import ConversionOptions

GONE = (
    "head, script, style, noscript, template, svg, iframe, object, canvas, audio, video,"
    ".linenos, .linenodiv, .lineno, .gutter, .line-numbers, .rouge-gutter, .blob-num"
)
"""elements without text for a reader, and the numbers of lines of code"""
LANGUAGE = re.compile(r"(?:language|lang|highlight(?:-source)?|sourceCode)-([a-z0-9+#]+)", re.IGNORECASE)
NO_LANGUAGE = ("default", "none", "text", "plaintext", "notranslate", "output")
SPACE = re.compile(r"[ \t\r\n\f]+")
TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
POWER = re.compile(r"[+\-−]?\w+")
"""what is raised and no note: 2, -1, n"""


def to_markdown(page: str | Tag) -> str:
    """Markdown of HTML; a tag (BeautifulSoup's) is changed on the way."""
    from bs4 import BeautifulSoup
    from html_to_markdown import convert

    tree = BeautifulSoup(page, "html.parser") if isinstance(page, str) else page
    for tag in tree.select(GONE):
        tag.decompose()
    for tag in tree("a"):
        tag.unwrap()
    for tag in tree("sup"):
        if POWER.fullmatch(tag.get_text()):
            tag.insert(0, "^")
    for tag in tree.select("li > p:first-child:only-of-type"):
        tag.unwrap()  # else Markdown has an empty line between items
    for term in tree("dt"):
        _bold_paragraph(term)
    for tag in tree(["dl", "dd"]):
        tag.name = "div"
    for block in tree("pre"):
        _plain_code(block)
    for text in tree.find_all(string=lambda string: "\n" in string):
        if text.find_parent("pre") is None:
            text.replace_with(SPACE.sub(" ", text))
    markdown = convert(str(tree), _options()).content or ""
    return TRAILING.sub("", markdown).strip("\n")


def _bold_paragraph(term: Tag) -> None:
    """Make a definition list's term stand over its definition, which Markdown cannot say otherwise."""
    from bs4 import Tag

    bold = Tag(name="strong")
    bold.extend(list(term.contents))
    term.append(bold)
    term.name = "p"


def _plain_code(block: Tag) -> None:
    """Leave a code block its text and its language, without colours and the table that laid it out."""
    around = [block, *block("code"), *list(block.parents)[:3]]
    classes = " ".join(name for tag in around for name in tag.get_attribute_list("class") if name)
    named = [name for name in LANGUAGE.findall(classes) if name.lower() not in NO_LANGUAGE]
    for line in block("br"):
        line.replace_with("\n")
    block.string = block.get_text()
    block["class"] = f"language-{named[0]}" if named else ""
    cell = block.find_parent("td")
    table = block.find_parent("table")
    if cell and table and "code" in cell.get_attribute_list("class"):
        table.replace_with(block)


@functools.cache
def _options() -> ConversionOptions:
    """Nothing escaped or added; what is left out was left out before."""
    from html_to_markdown import ConversionOptions, PreprocessingOptions

    return ConversionOptions(
        bullets="-",
        autolinks=False,
        compact_tables=True,
        extract_metadata=False,
        highlight_style="none",
        skip_images=True,
        preprocessing=PreprocessingOptions(enabled=False),
    )
