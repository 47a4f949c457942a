"""reStructuredText, Sphinx's too, as Markdown.

    .. note::
       See :ref:`guide_label`.     ──▶     **Note**

                                           See The Guide.

docutils parses; `sphinx` reads what it does not know. A reference without words of its own gets the title of
the section that it points to, here or in another file of the folder. Nothing is included from other files.
"""

from __future__ import annotations

import functools
import html
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree, publish_from_doctree

from stillroom.sources.documents import sphinx
from stillroom.sources.documents.document import Found, decoded, tidied
from stillroom.sources.documents.to_markdown import to_markdown

SETTINGS = {
    "doctitle_xform": False,
    "docinfo_xform": False,
    "initial_header_level": 1,
    "report_level": 1,
    "halt_level": 5,
    "warning_stream": False,
    "file_insertion_enabled": False,
    "syntax_highlight": "none",
    "embed_stylesheet": False,
    "output_encoding": "unicode",
    "_disable_config": True,
}
"""every complaint becomes a node of the tree, which is dealt with there; none is printed, no file is read"""
DIRECTIVE_LINES = re.compile(r"\A\.\. [^\n]*\n?(?:[ \t]+:[^\n]*\n?)*")
"""a directive's name and options"""

Titles = Callable[[str], str | None]
"""a label or document's name ──▶ the title of what it names"""
Nodes = list[nodes.Node]


def read(path: Path, titles: Titles) -> list[Found]:
    """The file. titles: of the folder's labels and documents. Raises InputError where it is not text."""
    return [rendered(tidied(decoded(path)), titles)]


def rendered(text: str, titles: Titles) -> Found:
    """A text as Markdown, with the first section's title."""
    sphinx.register(text)
    document = publish_doctree(text, settings_overrides={**SETTINGS, "titles": titles})
    title = document.next_node(nodes.title)
    name = title.astext() if title else ""
    _simplify(document)
    page = publish_from_doctree(document, writer="html5", settings_overrides={**SETTINGS, "report_level": 5})
    return Found(to_markdown(page), " ".join(name.split()))


def _simplify(document: nodes.document) -> None:
    """Put what Markdown can say in the place of what it cannot."""
    fields = next((n for n in document.children if not isinstance(n, nodes.Invisible)), None)
    if isinstance(fields, nodes.field_list):
        document.remove(fields)  # settings for Sphinx: `:orphan:`
    for node in list(document.findall()):
        simpler = simpler_of(node)
        if simpler is not None and node.parent is not None:
            node.parent.replace(node, simpler)


@functools.singledispatch
def simpler_of(node: nodes.Node) -> Nodes | None:
    """What stands for a node; None for one that stays as it is."""
    return None


@simpler_of.register
def _(node: nodes.system_message) -> Nodes:
    """The source of what docutils could not read."""
    source = node.next_node(nodes.literal_block)
    text = DIRECTIVE_LINES.sub("", source.astext()) if source else ""
    return [nodes.literal_block("", textwrap.dedent(text))] if text.strip() else []


@simpler_of.register
def _(node: nodes.section) -> Nodes | None:
    """Not docutils' list of its complaints."""
    return [] if "system-messages" in node["classes"] else None


@simpler_of.register
def _(node: nodes.problematic) -> Nodes:
    """A reference to nowhere, `|version|`: its words."""
    return [nodes.Text(node.astext().strip("`_|"))]


@simpler_of.register
def _(node: nodes.literal) -> Nodes:
    return [_raw(f"<code>{html.escape(node.astext())}</code>")]


@simpler_of.register(nodes.literal_block)
@simpler_of.register(nodes.doctest_block)
def _(node: nodes.Element) -> Nodes:
    language = next((f"language-{name}" for name in node["classes"] if name != "code"), "")
    return [_raw(f'<pre class="{language}">{html.escape(node.astext())}</pre>')]


@simpler_of.register
def _(node: nodes.math) -> Nodes:
    return [nodes.Text(f"${node.astext()}$")]


@simpler_of.register
def _(node: nodes.math_block) -> Nodes:
    return [nodes.paragraph("", f"$$ {node.astext()} $$")]


@simpler_of.register(nodes.admonition)
@simpler_of.register(nodes.attention)
@simpler_of.register(nodes.caution)
@simpler_of.register(nodes.danger)
@simpler_of.register(nodes.error)
@simpler_of.register(nodes.hint)
@simpler_of.register(nodes.important)
@simpler_of.register(nodes.note)
@simpler_of.register(nodes.tip)
@simpler_of.register(nodes.warning)
def _(node: nodes.Element) -> Nodes:
    """Its title in bold over its content."""
    own = [child for child in node.children if isinstance(child, nodes.title)]
    words = own[0].children if own else [nodes.Text(node.tagname.capitalize())]
    content = [child for child in node.children if child not in own]
    return [nodes.paragraph("", "", nodes.strong("", "", *words)), *content]


@simpler_of.register(nodes.footnote)
@simpler_of.register(nodes.citation)
def _(node: nodes.Element) -> Nodes:
    """Its label before its first words."""
    label, *content = node.children
    mark = nodes.Text(f"[{label.astext()}] ")
    if content and isinstance(content[0], nodes.paragraph):
        return [nodes.paragraph("", "", mark, *content[0].children), *content[1:]]
    return [nodes.paragraph("", "", mark), *content]


@simpler_of.register
def _(node: nodes.line_block) -> Nodes:
    """One paragraph; none where it only keeps a distance."""
    lines = [line for line in node.findall(nodes.line) if line.astext().strip()]
    parts = [part for line in lines for part in (*line.children, _raw("<br>"))]
    return [nodes.paragraph("", "", *parts)] if parts else []


def _raw(markup: str) -> nodes.Node:
    return nodes.raw("", markup, format="html")
