"""Tables in Markdown: what git hosts, READMEs and issues show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RIGHT = "---:"
LEFT = "---"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are texts, the others numbers.

    >>> print(table(["model", "n"], [["base", "3"]]), end="")
    | model | n |
    | --- | ---: |
    | base | 3 |
    """
    rules = [LEFT if place < left else RIGHT for place in range(len(columns))]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in ([*columns], rules, *rows))


def _cell(text: str) -> str:
    """A text on one line, its bars and tags as they are."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
