"""Inputs ──▶ the report's tables as plain data: what results.json holds and the page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import yaml

from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks import statistics as st
from stillroom.benchmarks.base import Measure, Sample
from stillroom.reporting.inputs import Inputs
from stillroom.reporting.provenance import provenance

Table = list[dict[str, Any]]
DIGITS = 6
NUMBER = re.compile(r"\d[\d,.]*")


def results(inputs: Inputs, baseline: str) -> dict[str, Any]:
    """All tables; the baseline comes first, then the models in the recipe's order, compared with it."""
    models = sorted(inputs.models, key=lambda model: model != baseline)
    return {
        "baseline": baseline,
        "models": models,
        "benchmarks": [t for name in inputs.benchmarks for t in benchmark_tables(inputs, name, models)],
        "not_scored": [row for name in inputs.benchmarks for row in not_scored(inputs, name, models)],
        "comparisons": [row for model in models[1:] for row in comparisons(inputs, model, models[0])],
        "curves": [curve for name in inputs.benchmarks for curve in curves(inputs, name, models)],
        "training": inputs.training,
        "stages": inputs.stages,
        "published": published(inputs, models),
        "provenance": provenance(inputs),
        "files": dict(sorted(inputs.files.items())),
    }


def benchmark_tables(inputs: Inputs, name: str, models: Sequence[str]) -> Table:
    """One benchmark by its headline, and each of its parts: what it is, and a row per model.

    measure: what the value is, in words; None where no model has data.
    """
    benchmark = BENCHMARKS[name]
    found = [table(inputs, name, models, benchmark.title, benchmark.definition)]
    for title, part in parts(inputs, name, models).items():
        definition = f"A part of {benchmark.title}."
        found.append(table(inputs, name, models, title, definition, part))
    return found


def table(
    inputs: Inputs,
    name: str,
    models: Sequence[str],
    title: str,
    definition: str,
    part: Measure | None = None,
) -> dict[str, Any]:
    """A row per model, without counts where it was not examined, of a benchmark's headline or of one part."""
    rows: Table = []
    for model in models:
        metrics = inputs.metrics.get((model, name))
        row: dict[str, Any] = {"model": model}
        if metrics is not None:
            figure = metrics.get("headline") if part is None else metrics.get("parts", {}).get(part.key)
            counted = ("n", "failed", "skipped", "cut") if part is None else ()
            row |= {key: metrics.get(key, 0) for key in counted} | (figure or {})
            judge = (
                None
                if part
                else metrics.get("judge_consistency", metrics.get("judge", {}).get("consistency"))
            )
            row |= {} if judge is None else {"judge_consistency": judge}
        rows.append(row)
    measured = [f"{row['name']}, {row['better']} is better" for row in rows if "name" in row]
    return {
        "name": name if part is None else f"{name}/{part.key}",
        "title": title,
        "definition": definition,
        "measure": measured[-1] if measured else None,
        "rows": rows,
    }


def not_scored(inputs: Inputs, name: str, models: Sequence[str]) -> Table:
    """Samples of each model that failed or were skipped: a row per reason, with the first's id and note."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for model in models:
        for sample in inputs.samples.get((model, name), []):
            if sample.status == "scored":
                continue
            reason = NUMBER.sub("", sample.note.partition(":")[0])
            row = {"benchmark": name, "model": model, "status": sample.status, "samples": 0}
            row |= {"id": sample.id, "note": sample.note}
            found.setdefault((model, sample.status, reason), row)["samples"] += 1
    return list(found.values())


def parts(inputs: Inputs, name: str, models: Sequence[str]) -> dict[str, Measure]:
    """Title and measure of the parts that some model has."""
    found = [BENCHMARKS[name].parts(inputs.samples.get((model, name), [])) for model in models]
    return {title: part for some in sorted(found, key=len, reverse=True) for title, part in some.items()}


def comparisons(inputs: Inputs, model: str, baseline: str) -> Table:
    """The model against the baseline on every benchmark that both have, verdicts after Holm's adjustment."""
    return judged([row for name in inputs.benchmarks for row in comparison(inputs, name, model, baseline)])


def judged(rows: Table) -> Table:
    """The rows with p after Holm's adjustment, and a verdict each.

    Headlines are one family, parts of benchmarks another: a part that is added takes no headline's verdict.
    """
    tested = [row for row in rows if row["p"] is not None]
    for of_parts in (False, True):
        family = [row for row in tested if ("/" in row["benchmark"]) == of_parts]
        for row, p in zip(family, st.holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = round(p, DIGITS)
    for row in rows:
        row["verdict"] = st.verdict(row["delta"], row.get("p_holm"), row["better"])
    return rows


def comparison(inputs: Inputs, name: str, model: str, baseline: str) -> Iterator[dict[str, Any]]:
    """Model minus baseline on one benchmark, by its headline and by each of its parts."""
    ours, theirs = (inputs.samples.get((m, name), []) for m in (model, baseline))
    sides = {"model": model, "baseline": baseline}
    if found := compared(name, ours, theirs):
        yield {"benchmark": name, **sides, **found}
    for part in BENCHMARKS[name].parts(ours).values():
        if found := by_measure(part, ours, theirs):
            yield {"benchmark": f"{name}/{part.key}", **sides, **found}


def compared(name: str, ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, Any] | None:
    """Ours minus theirs on the samples that both scored, by the first measure that both have."""
    found = (by_measure(measure, ours, theirs) for measure in BENCHMARKS[name].measures(ours))
    return next(filter(None, found), None)


def by_measure(measure: Measure, ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, Any] | None:
    """Ours minus theirs by one measure; None where no sample has it on both sides."""
    pairs = paired(ours, theirs, measure)
    if not pairs:
        return None
    mine, other = (measure.numbers(side) for side in zip(*pairs, strict=True))
    return _compared(measure, mine, other, st.compare(mine, other)) | counts(measure, ours, theirs)


def by_measure_apart(
    measure: Measure, ours: Sequence[Sample], theirs: Sequence[Sample]
) -> dict[str, Any] | None:
    """Ours minus theirs, each on its own samples; None where a side has none with this measure."""
    mine, other = measure.numbers(ours), measure.numbers(theirs)
    if not (mine.groups and other.groups):
        return None
    return _compared(measure, mine, other, st.compare_apart(mine, other)) | counts(measure, ours, theirs)


def _compared(measure: Measure, mine: st.Numbers, other: st.Numbers, found: st.Comparison) -> dict[str, Any]:
    values = {"value": mine.value(), "baseline_value": other.value(), **asdict(found)}
    figures = {key: round(v, DIGITS) if isinstance(v, float) else v for key, v in values.items()}
    return {"measure": measure.name, "better": measure.better, **figures}


def counts(measure: Measure, ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, int]:
    """How many samples of each side have a score, whether the other side has them or not."""
    samples, others = (sum(has(sample, measure) for sample in side) for side in (ours, theirs))
    return {"samples": samples, "baseline_samples": others}


def common_measure(name: str, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Measure | None:
    """The first measure for which some sample is scored on both sides."""
    for measure in BENCHMARKS[name].measures(ours):
        if paired(ours, theirs, measure):
            return measure
    return None


def paired(ours: Sequence[Sample], theirs: Sequence[Sample], measure: Measure) -> list[tuple[Sample, Sample]]:
    """The samples that both sides have a score for, by id."""
    other = {s.id: s for s in theirs if has(s, measure)}
    return [(s, other[s.id]) for s in ours if s.id in other and has(s, measure)]


def has(sample: Sample, measure: Measure) -> bool:
    """Whether a sample has a score for a measure."""
    return sample.status == "scored" and measure.key in sample.scores


def outcome(measure: Measure, ours: Sample | None, theirs: Sample | None) -> str:
    """One sample, ours against theirs: better, worse, same, or unscored."""
    if not (ours and theirs) or not paired([ours], [theirs], measure):
        return "unscored"
    mine, other = (measure.numbers([sample]).value() for sample in (ours, theirs))
    if mine == other:
        return "same"
    return "better" if (mine > other) == (measure.better == "higher") else "worse"


def curves(inputs: Inputs, name: str, models: Sequence[str]) -> Table:
    """The curves of a benchmark that have two points or more."""
    found = []
    for curve in BENCHMARKS[name].curves:
        points = [
            {"model": model, "x": int(x), **point}
            for model in models
            for x, point in _curve(inputs, model, name, curve.name).items()
        ]
        if len({point["x"] for point in points}) > 1:
            heading = {"benchmark": name, "name": curve.name, "x_title": curve.x_title}
            found.append({**heading, "y_title": curve.y_title, "points": points})
    return found


def _curve(inputs: Inputs, model: str, name: str, curve: str) -> dict[str, Any]:
    """x ──▶ point, as evaluate wrote it; empty where the model has none."""
    found: dict[str, Any] = inputs.metrics.get((model, name), {}).get("curves", {}).get(curve, {})
    return found


def published(inputs: Inputs, models: Sequence[str]) -> Table:
    """Published figures, ours in the same columns where we measure the same thing."""
    tables: Table = yaml.safe_load((files("stillroom.reporting") / "published.yaml").read_text("utf-8"))
    for table in tables:
        measured = {model: inputs.metrics.get((model, table["benchmark"])) for model in models}
        ours = {
            model: [_at(metrics, column) for column in table["columns"]]
            for model, metrics in measured.items()
            if metrics
        }
        table["ours"] = [
            {"system": model, "values": values}
            for model, values in ours.items()
            if any(value is not None for value in values)
        ]
    return tables


def _at(metrics: dict[str, Any], column: dict[str, Any]) -> float | None:
    """The number of a published table's column: at its dotted key, in its scale."""
    value: Any = metrics
    for part in column["key"].split(".") if "key" in column else ():
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, int | float):
        return None
    return round(value * column["scale"], DIGITS) if "scale" in column else value
