"""Directives and roles that docutils does not know (Sphinx's, its extensions', a site's own), by their shape.

    .. grid-item-card:: :octicon:`list-unordered` Prerequisites     ──▶     **Prerequisites**

        * Be familiar with :ref:`the CLI <cli_label>`                       - Be familiar with the CLI

A directive gives its title, the options that a reader would see, and its content; a role its text. What only
arranges pages (toctree, index, icons) gives nothing; what stands for text from elsewhere (autosummary,
literalinclude) its names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive, directives, roles
from docutils.parsers.rst.languages import en
from docutils.parsers.rst.states import Inliner
from docutils.utils import unescape

DIRECTIVE = re.compile(r"^[ \t]*\.\. +(?:\|[^|\n]+\| +)?([\w.+:-]*\w) ?::(?:[ \t]|$)", re.MULTILINE)
ROLE = re.compile(r":((?:[\w.+-]+:)*[\w.+-]+):`|`:((?:[\w.+-]+:)*[\w.+-]+):")
TITLED = re.compile(r"(.+?)\s*<([^<>]+)>", re.DOTALL)


def _set(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


OWN = _set("class code code-block contents include meta raw sectnum sourcecode")
"""what docutils knows and is read here all the same"""
ARRANGES = _set(
    "bibliography codeauthor contents currentmodule default-domain highlight index meta module moduleauthor",
    "plot sectionauthor sectnum tabularcolumns thumbnail toctree video vimeo youtube",
)
"""directives without text for a reader"""
LAYOUT = _set("cssclass div grid ifconfig only rst-class tab-set")
"""directives whose argument is none either"""
CODE = _set(
    "code code-block doctest graphviz ipython jupyter-execute mermaid productionlist prompt sourcecode",
    "testcode testoutput uml",
)
OBJECTS = _set(
    "attribute class classmethod cmdoption concept confval data decorator describe directive enum enumerator",
    "envvar exception function include literalinclude macro mdinclude member method object option program",
    "property role staticmethod struct type union var",
)
"""directives whose argument is a name"""
VERSIONS = {
    "versionadded": "Added in version",
    "versionchanged": "Changed in version",
    "versionremoved": "Removed in version",
    "deprecated": "Deprecated since version",
}
TITLES = {"seealso": "See also", "todo": "To do"}
TEXTS = re.compile(r"(?:\w+_)?(?:header|title|subtitle|caption|description|summary|text)")
"""options of unknown directives that are for a reader"""
LETTER = re.compile(r"[^\W\d_]")
FACTS = ("type", "default", "value", "platform", "synopsis", "annotation")
"""options of a named thing that are for a reader"""
ICONS = re.compile(r"octicon|iconify|fa[bsrl]?|material-\w+")
NAMES = _set(
    "any attr class code command confval const data decorator enum envvar exc file func kbd keyword macro",
    "makevar member meth mod obj option program property regexp samp setting struct token type var",
)
"""roles whose text is a name"""
STYLE = re.compile(r"[a-z][a-z0-9 _-]*")
"""the argument of `class` where it names no class but a look"""


def register(text: str) -> None:
    """Teach docutils the directives and roles that a text uses and it does not know."""
    for name in {name.lower() for name in DIRECTIVE.findall(text)}:
        if name not in en.directives or name in OWN:
            directives.register_directive(name, Unknown)
    for name in {(before or after).lower() for before, after in ROLE.findall(text)}:
        if name not in en.roles or name == "index":  # which it knows and cannot do
            roles.register_local_role(name, _role)


class _AnyOptions(dict[str, Any]):
    """Takes every option as it stands."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Callable[[str | None], str]:
        return lambda value: value or ""


class Unknown(Directive):
    """A directive that docutils does not know: what a reader would see of it."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = _AnyOptions()

    def run(self) -> list[nodes.Node]:
        """The nodes that stand for it."""
        name = self.name.rpartition(":")[2].lower()
        argument = self.arguments[0] if self.arguments else ""
        lines = list(self.content) or argument.split("\n")
        if name in ARRANGES:
            return []
        if name == "raw":
            return [nodes.raw("", "\n".join(self.content), format=argument)]
        if name in CODE:
            block = nodes.literal_block("", "\n".join(lines), classes=["code", *argument.split()[:1]])
            return [*self.texts(), block]
        if name == "autosummary":
            return [_list(line.split()[0].lstrip("~") for line in lines if line.strip())]
        if self.name == "class" and STYLE.fullmatch(argument):
            return self.inside()
        if name in OBJECTS or name.startswith("auto"):
            return [*self.names(argument), *self.inside()]
        if name in VERSIONS:
            version, _, rest = argument.partition(" ")
            words = f"{VERSIONS[name]} {version}" + (f": {rest}" if rest else "")
            return [self.paragraph(words), *self.inside()]
        shown = "" if name in LAYOUT or not LETTER.search(argument) else argument
        heads = [text for text in (TITLES.get(name, ""), shown) if text]
        bold = [self.paragraph(text, nodes.strong) for text in heads]
        return [*bold, *self.texts(), *self.inside()]

    def names(self, argument: str) -> list[nodes.Node]:
        """Names or signatures, one a line, and what the options say about them."""
        lines = [nodes.literal("", line.strip()) for line in argument.split("\n")]
        facts = [(key, self.options[key]) for key in FACTS if self.options.get(key)]
        values = [self.paragraph(f"{key.capitalize()}: {value}") for key, value in facts]
        return [*(nodes.paragraph("", "", line) for line in lines), *values]

    def texts(self) -> list[nodes.Node]:
        """The options that are for a reader."""
        found = [value for name, value in self.options.items() if TEXTS.fullmatch(name) and value]
        return [self.paragraph(text) for text in found]

    def inside(self) -> list[nodes.Node]:
        """The content, parsed."""
        around = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, around, match_titles=True)
        return around.children

    def paragraph(self, text: str, kind: type[nodes.TextElement] | None = None) -> nodes.Node:
        """A paragraph of inline markup, bold on request."""
        inline, messages = self.state.inline_text(text, self.lineno)
        content = [kind("", "", *inline)] if kind else inline
        return nodes.paragraph("", "", *content, *messages)


def _list(names: Iterable[str]) -> nodes.Node:
    items = [nodes.list_item("", nodes.paragraph("", "", nodes.literal("", name))) for name in names]
    return nodes.bullet_list("", *items)


def _role(
    name: str,
    _rawtext: str,
    text: str,
    _lineno: int,
    inliner: Inliner,
    _options: Mapping[str, Any] | None = None,
    _content: Sequence[str] | None = None,
) -> tuple[list[Any], list[Any]]:
    """A role that docutils does not know: its words, as a name where it is one."""
    domain, _, kind = name.lower().rpartition(":")
    text = unescape(text)
    titled = TITLED.fullmatch(text)
    if ICONS.fullmatch(kind):
        return [], []
    if kind in NAMES or domain in ("py", "c", "cpp", "js"):
        words = titled[1] if titled else re.sub(r"^(?:!|~(?:.*\.)?)", "", text)
        return [nodes.literal("", words)], []
    if titled:
        return [nodes.Text(titled[1])], []
    if kind in ("ref", "doc", "numref"):
        title = inliner.document.settings.titles(text)
        return [nodes.Text(title or text.rpartition("/")[2].replace("_", " "))], []
    return [nodes.Text(text)], []
