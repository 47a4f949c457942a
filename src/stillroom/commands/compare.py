"""`stillroom compare REV [REV…]`: revisions and experiments against each other, sample by sample."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillroom.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {"better": "green", "worse": "red"}
BETTER = {"higher": "↑", "lower": "↓"}
WIDTH = 60
"""most characters of a param's value"""


def compare(
    revisions: Annotated[
        list[str],
        typer.Argument(
            metavar="REV…",
            help="commits, tags, branches or experiments; the first is the baseline, alone the workspace's",
        ),
    ],
    model: Annotated[list[str] | None, typer.Option(help="only this model; may be repeated")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Markdown, for a pull request")] = False,
) -> None:
    """Figures of revisions or experiments, paired sample by sample, with intervals and verdicts.

    The verdict is better or worse where the difference stands at 95 % after Holm's adjustment over the
    benchmarks of one revision; else unresolved. Reads DVC's cache: what is missing there is fetched by
    `dvc pull`.
    """
    from stillroom.reporting.comparison import comparison
    from stillroom.reporting.revisions import WORKSPACE, read

    first, *others = revisions if len(revisions) > 1 else [*revisions, WORKSPACE]
    base = read(first)
    found = [comparison(read(name), base, model or ()) for name in others]
    if not any(one["results"] for one in found):
        names = ", ".join(sorted({name for name, _ in base.samples})) or "none"
        hint = f"models of {first}: {names}; in evaluate.models and benchmarks of both revisions"
        raise InputError("no model and benchmark to compare", where=" ".join(revisions), hint=hint)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif as_markdown:
        typer.echo("\n".join(markdown(one) for one in found))
    else:
        show(found)


def lines(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row of texts per model and benchmark."""
    from stillroom.reporting.numbers import change, figure, ruling

    for row in found["results"]:
        named = f"{row['model']} {row['benchmark']}, {row['measure']} {BETTER[row['better']]}"
        yield (
            named,
            *map(figure, (row["baseline_value"], row["value"])),
            change(row),
            sampled(row),
            ruling(row),
        )


def sampled(row: dict[str, Any]) -> str:
    """What was compared with what."""
    from stillroom.reporting.numbers import figure

    if not row["paired"]:
        return f"{figure(row['samples'])} and {figure(row['baseline_samples'])}, not paired"
    most = max(row["samples"], row["baseline_samples"])
    return f"{figure(row['n'])} pairs" + (f" of {figure(most)}" if row["n"] < most else "")


def differences(found: dict[str, Any]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Headings and rows of what differs: what figures were made of, params, the stages' top-level metrics."""
    if made := found["made_of_other"]:
        whole = sum("/" not in row["benchmark"] for row in found["results"])
        rows = [[key, "all" if len(items) == whole else ", ".join(items)] for key, items in made.items()]
        yield ["made of other", "figures"], rows
    for key in ("params", "metrics"):
        differing = {k: v for k, v in found[key].items() if key == "params" or k.count(".") == 1}
        if differing:
            rows = [[name, *map(brief, values)] for name, values in differing.items()]
            yield [key, found["baseline"], found["revision"]], rows


def columns(found: dict[str, Any]) -> list[str]:
    """Headings."""
    return ["figure", found["baseline"], found["revision"], "difference (95 %)", "samples", "verdict"]


def markdown(found: dict[str, Any]) -> str:
    """One revision against the baseline."""
    from stillroom.reporting.markdown import table

    parts = [f"## {found['revision']} against {found['baseline']}", table(columns(found), lines(found))]
    for names, rows in differences(found):
        parts.append(table(names, rows))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def show(found: Sequence[dict[str, Any]]) -> None:
    """Tables in the terminal."""
    from rich.console import Console

    console = Console()
    for one in found:
        table = _table(columns(one), title=f"{one['revision']} against {one['baseline']}")
        for row, texts in zip(one["results"], lines(one), strict=True):
            table.add_row(*texts, style=COLOURS.get(row["verdict"]))
        console.print(table)
        if one["not_compared"]:
            console.print(f"only at one of the two: {', '.join(one['not_compared'])}\n", highlight=False)
        for names, rows in differences(one):
            table = _table(names)
            for cells in rows:
                table.add_row(*cells)
            console.print(table)


def _table(names: Sequence[str], title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
    return table


def brief(value: Any) -> str:
    """A setting or a number in little room."""
    from stillroom.reporting.numbers import NONE

    text = (
        NONE if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
