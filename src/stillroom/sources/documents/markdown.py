"""Markdown without its front matter, comments and pictures; pieces of HTML in it as Markdown.

    ---
    title: The lamp
    ---
    <p align="center"><b>It burns.</b></p>     ──▶     title "The lamp", text "**It burns.**"

The title is the front matter's, else the first heading.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from stillroom.sources.documents.document import Found, decoded, tidied
from stillroom.sources.documents.to_markdown import to_markdown
from stillroom.sources.outline import blocks, line_starts

YAML = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)
TOML = re.compile(r"\A\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)
SOURCES = ("source", "url", "canonical_url", "link")
PICTURES = re.compile(r"(?:\s*(?:!\[[^\]]*\]\([^)]*\)|\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)))+\s*")
"""a paragraph of nothing but pictures, also such as are links: badges"""
LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
MARKS = re.compile(r"[`*]|(?<!\w)_|_(?!\w)|\s*\{#[^}]*\}\s*$")


def read(path: Path) -> list[Found]:
    """The file. Raises InputError where it is not text."""
    front, text = _front_matter(tidied(decoded(path)))
    title = front.get("title")
    source = next((str(front[key]) for key in SOURCES if str(front.get(key)).startswith("http")), "")
    return [Found("".join(_parts(text)), title if isinstance(title, str) else first_heading(text), source)]


def first_heading(text: str) -> str:
    """The words of a Markdown text's first heading, or ""."""
    tokens = iter(blocks(text))
    heading = next((next(tokens).content for token in tokens if token.type == "heading_open"), "")
    return MARKS.sub("", LINK.sub(r"\1", heading)).strip()


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The settings over a text, and the text; a line of dashes with anything else below is text."""
    for pattern, parse, error in ((YAML, yaml.safe_load, yaml.YAMLError), (TOML, tomllib.loads, ValueError)):
        if match := pattern.match(text):
            try:
                settings = parse(match[1]) or {}
            except error:
                continue
            if isinstance(settings, dict):
                return settings, text[match.end() :]
    return {}, text


def _parts(text: str) -> Iterator[str]:
    """The text with its HTML as Markdown, and without pictures that stand alone."""
    starts, done = line_starts(text), 0
    for token in blocks(text):
        if token.level or not token.map or token.type not in ("html_block", "paragraph_open"):
            continue
        start, end = (starts[line] for line in token.map)
        if token.type == "html_block":
            yield text[done:start] + to_markdown(text[start:end]) + "\n"
            done = end
        elif PICTURES.fullmatch(text, start, end):
            yield text[done:start]
            done = end
    yield text[done:]
