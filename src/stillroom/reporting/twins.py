"""The tables of results.json as CSV for spreadsheets and Markdown for git hosts; each curve as CSV and SVG.

results ──▶ results.csv, results.md, curves/BENCHMARK-CURVE.{csv,svg}

    stillroom report
    stillroom report --readme README.md     # the results of results.md, between the README's two marks
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stillroom.benchmarks import BENCHMARKS
from stillroom.errors import InputError
from stillroom.reporting import figures, markdown
from stillroom.reporting.numbers import between, change, figure, plain, ruling, samples, shared

BEGIN, END = "<!-- results -->", "<!-- /results -->"
"""the marks between which a page holds the results"""
COMPARED = ("delta", "low", "high", "p", "p_holm", "detectable", "verdict", "method", "n")
"""of a comparison, in results.csv"""
NO_DATA = "no data"
POINT = ("model", "x", "value", "low", "high", "n")

Row = dict[str, Any]


def rows(results: Row) -> Iterator[tuple[Row, Row, Row | None]]:
    """(benchmark, model's row, comparison with the baseline) of every figure, in the report's order."""
    compared = {(row["benchmark"], row["model"]): row for row in results["comparisons"]}
    for table in results["benchmarks"]:
        for row in table["rows"]:
            yield table, row, compared.get((table["name"], row["model"]))


def as_csv(results: Row) -> str:
    """A line per benchmark and model: figure, counts, and the comparison with the baseline."""
    own = (
        "name",
        "value",
        "low",
        "high",
        "unit",
        "better",
        "n",
        "groups",
        "failed",
        "skipped",
        "cut",
        "judge_consistency",
        "method",
    )
    columns = [
        "benchmark",
        "model",
        "measure",
        *own[1:],
        "baseline",
        *(f"compared_{key}" for key in COMPARED),
    ]
    lines = []
    for table, row, against in rows(results):
        compared = [against.get(key) for key in ("baseline", *COMPARED)] if against else []
        lines.append([table["name"], row["model"], *(row.get(key) for key in own), *compared])
    return _csv(columns, lines)


def as_markdown(results: Row, title: str) -> str:
    """Results, curves and published figures."""
    parts = [f"# {title}", BEGIN, headline(results), END]
    for curve in results["curves"]:
        columns = ["model", curve["x_title"], curve["y_title"], "95 % interval", "samples"]
        lines = [
            [p["model"], figure(p["x"]), figure(p["value"]), between(p["low"], p["high"]), figure(p["n"])]
            for p in curve["points"]
        ]
        parts += [f"## {heading(curve)}", markdown.table(columns, lines)]
    parts.append("## Published figures\n\nOf other models, data and settings, as their authors give them.")
    for table in results["published"]:
        columns = ["system", *(column["label"] for column in table["columns"])]
        ours = [[f"**{row['system']}**", *map(figure, row["values"])] for row in table["ours"]]
        lines = [
            [row["system"], *(plain(v, table["digits"]) for v in row["values"])] for row in table["rows"]
        ]
        parts += [f"### {table['title']}", markdown.table(columns, ours + lines)]
        parts.append(f"{table['note']} Source: {table['source']}.")
    parts.append("## Definitions and deviations")
    parts.append("\n".join(f"- **{t['title']}**: {t['definition']}" for t in results["benchmarks"]))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def headline(results: Row) -> str:
    """The results table alone."""
    columns = [
        "benchmark",
        "model",
        "value",
        "95 % interval",
        "samples",
        f"against {results['baseline']}",
        "verdict",
    ]
    lines, last = [], None
    for table, row, against in rows(results):
        first = f"{table['title']} ({table['measure'] or NO_DATA})" if table["name"] != last else ""
        own = [figure(row.get("value")), between(row.get("low"), row.get("high")), samples(row)]
        lines.append([first, row["model"], *own, *(_against(against) if against else ["", ""])])
        last = table["name"]
    return markdown.table(columns, lines, left=2)


def _against(compared: Row) -> list[str]:
    """The difference, on how many samples where they are not all, and the verdict."""
    return [", ".join(filter(None, (change(compared), shared(compared)))), ruling(compared)]


def curves(results: Row) -> Iterator[tuple[str, str]]:
    """(file name, text) of every curve, as CSV and as SVG."""
    for curve in results["curves"]:
        stem = f"{curve['benchmark']}-{curve['name']}"
        yield f"{stem}.csv", _csv(POINT, ([point[key] for key in POINT] for point in curve["points"]))
        yield (
            f"{stem}.svg",
            figures.alone(figures.curve(curve, results["models"]), heading(curve), results["models"]),
        )
    if results["training"]:
        legend = ["training loss", "validation loss"]
        yield "training.svg", figures.alone(figures.training(results["training"]), "Training", legend)


def heading(curve: Row) -> str:
    """What a curve shows."""
    return f"{BENCHMARKS[curve['benchmark']].title} by {curve['name']}"


def put_into(page: Path, source: Path) -> bool:
    """Put the results of results.md between the marks of another page; say whether that changed it.

    Raises InputError where either has no marks.
    """
    found, text = (_parts(path) for path in (source, page))
    new = BEGIN.join([text[0], END.join([found[1], text[2]])])
    if new == page.read_text("utf-8"):
        return False
    page.write_text(new, "utf-8")
    return True


def _parts(path: Path) -> tuple[str, str, str]:
    """A page before, between and after its marks."""
    try:
        before, _, rest = path.read_text("utf-8").partition(BEGIN)
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), hint="stillroom report writes results.md") from None
    between_, mark, after = rest.partition(END)
    if not mark:
        raise InputError(f"no place for the results: {BEGIN} … {END}", where=str(path), hint="add both lines")
    return before, between_, after


def _csv(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """RFC 4180, but with plain line ends; what is None is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow([*line, *[""] * (len(columns) - len(line))])
    return file.getvalue()
