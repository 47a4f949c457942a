"""Tables, figures and samples ──▶ one HTML page that needs no network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

import stillroom
from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.base import Sample
from stillroom.reporting import figures, provenance, tables, twins
from stillroom.reporting.inputs import Inputs
from stillroom.reporting.numbers import (
    VERDICTS,
    agreement,
    figure,
    plain,
    price,
    reasons,
    shared,
    signed,
)
from stillroom.stages import STAGES


def page(inputs: Inputs, results: dict[str, Any], title: str) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"figure": figure, "signed": signed, "reasons": reasons, "plain": plain}
    environment.filters |= {"flat": flat, "short": short, "price": price, "marked": marked}
    environment.filters |= {"shared": shared, "agreement": agreement}
    return environment.get_template("page.html.j2").render(
        title=title,
        version=stillroom.__version__,
        style=Markup(_template("style.css")),
        script=Markup(_template("page.js")),
        results=results,
        verdicts=VERDICTS,
        summary=list(summary(results)),
        strips={table["name"]: strips(table["rows"]) for table in results["benchmarks"]},
        charts=list(charts(results)),
        provenance=list(made_of(results)),
        samples=[samples(inputs, results, name) for name in inputs.benchmarks],
        stages=list(stages(results["stages"], results["spending"])),
        dropped=inputs.dropped,
    )


def summary(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """For each model that is compared: on how many benchmarks it is better, worse, unresolved.

    A benchmark counts once, by its headline, however many parts it has.
    """
    for model in results["models"][1:]:
        whole = [row for row in results["comparisons"] if "/" not in row["benchmark"]]
        rows = [row for row in whole if row["model"] == model]
        counts = {v: sum(row["verdict"] == v for row in rows) for v in VERDICTS}
        yield {"model": model, "baseline": results["baseline"], "total": len(rows), **counts}


def strips(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Where each model's value and interval stand on one shared scale, in percent of its width."""
    drawn = [row for row in rows if row.get("value") is not None]
    ends = [row[end] for row in drawn for end in ("low", "value", "high") if row.get(end) is not None]
    if not ends:
        return {}
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        share: float = (value - low) / span
        return round(4 + 92 * share, 2)

    return {
        row["model"]: {
            "value": place(row["value"]),
            "low": place(row["low"] if row.get("low") is not None else row["value"]),
            "high": place(row["high"] if row.get("high") is not None else row["value"]),
        }
        for row in drawn
    }


def charts(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every figure with its heading, its legend and its numbers."""
    legend = list(zip(results["models"], figures.colours(len(results["models"])), strict=True))
    for found in results["curves"]:
        columns = ["model", found["x_title"], found["y_title"], "low", "high", "n"]
        rows = [[p["model"], p["x"], p["value"], p["low"], p["high"], p["n"]] for p in found["points"]]
        drawn = Markup(figures.curve(found, results["models"]))
        yield {
            "title": twins.heading(found),
            "svg": drawn,
            "legend": legend,
            "columns": columns,
            "rows": rows,
        }
    if results["training"]:
        last = figures.thinned(results["training"])[-12:]
        columns = ["step", "loss", "validation_loss"]
        yield {
            "title": "Training",
            "svg": Markup(figures.training(results["training"])),
            "legend": [("training loss", "var(--m0)"), ("validation loss", "var(--m1)")],
            "columns": columns,
            "rows": [[row.get(column) for column in columns] for row in last],
        }


def made_of(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every benchmark with what its figures were made of."""
    for table in results["benchmarks"]:
        if lines := list(provenance.lines(results, table["name"])):
            settings = provenance.settings(results, table["name"])
            yield {"title": table["title"], "lines": lines, "settings": settings}


def samples(inputs: Inputs, results: dict[str, Any], name: str) -> dict[str, Any]:
    """The samples of a benchmark, all models side by side."""
    shown = {m: {s.id: s for s in inputs.shown.get((m, name), [])} for m in results["models"]}
    ids = sorted({id for rows in shown.values() for id in rows})
    entries = []
    for id in ids:
        answers = {model: rows.get(id) for model, rows in shown.items()}
        first = next(sample for sample in answers.values() if sample)
        said = {model: inputs.verdicts.get((model, name), {}).get(id, []) for model in results["models"]}
        known = {"first": first, "answers": answers, "verdicts": said}
        missed = any(sample and sample.status != "scored" for sample in answers.values())
        entries.append({**known, "missed": missed, "outcomes": outcomes(results, name, answers)})
    not_scored = [row for row in results["not_scored"] if row["benchmark"] == name]
    total = max((len(inputs.samples.get((model, name), [])) for model in results["models"]), default=0)
    heading = {"name": name, "title": BENCHMARKS[name].title, "total": total}
    return {**heading, "not_scored": not_scored, "entries": entries}


def outcomes(results: dict[str, Any], name: str, answers: dict[str, Sample | None]) -> dict[str, str]:
    """Each model but the baseline: better, worse, same or unscored on this sample."""
    baseline = answers.get(results["models"][0])
    found = {}
    for model in results["models"][1:]:
        ours = answers[model]
        measure = tables.common_measure(name, [ours], [baseline]) if ours and baseline else None
        found[model] = tables.outcome(measure, ours, baseline) if measure else "unscored"
    return found


def stages(found: dict[str, dict[str, Any]], spent: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The stages' metrics in the order of the pipeline, with what their answers cost."""
    bills = {row["for"]: bill(row) for row in spent}
    for name in (name for name in STAGES if name in found):
        yield {"name": name, "blocks": blocks(found[name], bills.get(name, []))}


def bill(spent: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the teacher's answers cost, as lines."""
    lines: list[tuple[str, Any]] = [("cost of all answers", price(spent))]
    if spent.get("cost_per_1000_answers"):
        lines.append(("per 1,000 answers used", spent["cost_per_1000_answers"]))
    if "cache_share" in spent:
        lines.append(("bought once, used again", f"{100 * spent['cache_share']:.1f} % of answers"))
    return lines


def blocks(metrics: dict[str, Any], first: Sequence[tuple[str, Any]] = ()) -> list[dict[str, Any]]:
    """A stage's metrics by their shape: numbers (after those in `first`), shares, counts as bars, tables."""
    single = [*first, *((words(key), line(value)) for key, value in metrics.items() if is_line(value))]
    found: list[dict[str, Any]] = [{"kind": "numbers", "title": "", "rows": single}] if single else []
    for key, value in metrics.items():
        if not is_line(value):
            found.append(
                {
                    "title": words(key),
                    **_shaped(value, metrics.get("unit", "tokens"), "to " * ("by_tokens" in key)),
                }
            )
    return found


def is_line(value: Any) -> bool:
    """Whether a value fits one line: a scalar, a list, a distribution, or nothing at all."""
    return not isinstance(value, dict) or not any(value.values()) or "p50" in value


def line(value: Any) -> Any:
    """A value on one line; of an empty list and of counts that are all 0, that there are none."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if not isinstance(value, dict):
        return value
    if not any(value.values()):
        return "none"
    parts = ((key, line(inner) if isinstance(inner, dict) else figure(inner)) for key, inner in value.items())
    return ", ".join(f"{words(key)} {text}" for key, text in parts)


def _shaped(value: dict[str, Any], unit: str, before: str = "") -> dict[str, Any]:
    """One nested value of a stage's metrics. before: of the names of bars, where they are upper ends."""
    inner = list(value.values())
    if all(isinstance(number, int | float) for number in inner):
        return {"kind": "bars", "rows": [(before + name, *rest) for name, *rest in bars(value)]}
    if all(isinstance(row, dict) and f"share_of_{unit}" in row and "target_share" in row for row in inner):
        return {"kind": "shares", "unit": unit, "rows": shares(value, unit)}
    if all(isinstance(row, dict) and not any(isinstance(v, dict) for v in row.values()) for row in inner):
        columns = list(dict.fromkeys(key for row in inner for key in row if any(r.get(key) for r in inner)))
        table = [[words(name), *(row.get(column) for column in columns)] for name, row in value.items()]
        return {"kind": "table", "columns": ["", *map(words, columns)], "rows": table}
    return {"kind": "numbers", "rows": [(words(name), line(number)) for name, number in value.items()]}


def bars(counts: dict[str, Any]) -> list[tuple[str, Any, float]]:
    """(name, count, percent of the largest), the largest first where names are words; zeros are left out."""
    kept = [(name, number) for name, number in counts.items() if number]
    if not all(name.isdigit() for name, _ in kept):
        kept.sort(key=lambda row: -row[1])
    most = max(abs(number) for _, number in kept)
    return [(words(name), number, round(100 * abs(number) / most, 1)) for name, number in kept]


def shares(sources: dict[str, dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    """Reached and wanted share of each source in percent, with what it was made of."""
    parts = ("examples", "distinct_examples", "tokens")
    return [
        {
            "name": name,
            "reached": round(100 * row[f"share_of_{unit}"], 1),
            "target": round(100 * row["target_share"], 1),
            "made_of": line({key: row[key] for key in parts if key in row}),
        }
        for name, row in sources.items()
    ]


def words(key: str) -> str:
    """A key as people write it."""
    return key.replace("_", " ").replace(".", " · ")


def short(digest: str) -> str:
    """The beginning of a hash."""
    return digest[:12]


def marked(text: str) -> Markup:
    """A text of ours with its `code` marked."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def flat(value: Any, at: str = "") -> list[tuple[str, Any]]:
    """Nested values as (dotted key, value), lists spelled out."""
    if isinstance(value, dict):
        nested = ((f"{at}.{key}" if at else str(key), inner) for key, inner in value.items())
        return [pair for key, inner in nested for pair in flat(inner, key)]
    return [(at, ", ".join(map(str, value)) if isinstance(value, list) else value)]


def _template(name: str) -> str:
    return (files("stillroom.reporting") / "templates" / name).read_text("utf-8")
