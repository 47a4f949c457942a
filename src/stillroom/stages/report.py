"""Metrics and samples into one page, and its tables as data.

reports/{metrics,samples,figures} ──▶ report ──▶ reports/index.html, results.{json,csv,md}, curves/

    stillroom report
    stillroom report --readme README.md

The page is one file, opens from disk without a network, and is the same to the byte for the same inputs. Only
what other stages wrote is read: what a figure was made of stands in the label that `evaluate` wrote with it.
What a former recipe left on disk is not shown: only the models and benchmarks of params.yaml are.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stillroom.artifacts import atomic_directory, atomic_write, write_json
from stillroom.errors import ParamsError
from stillroom.params import PARAMS, Block, Endpoint, Teacher, read
from stillroom.reporting import inputs, tables, twins
from stillroom.reporting.page import page
from stillroom.reporting.spending import spending


class Params(Block):
    """What the report shows."""

    common_keys = ("teacher",)
    shared_blocks = ("endpoint",)

    teacher: Teacher = Teacher()
    endpoint: Endpoint = Endpoint()
    """its prices: what the answers cost"""
    title: str = "stillroom report"
    """heading of the page"""
    baseline: str = "base"
    """the model that the others are compared with"""
    samples: Annotated[int, Field(ge=0)] = 40
    """most samples of a benchmark that the page holds, drawn at random, the same ones for every model"""
    characters: Annotated[int, Field(ge=2)] = 2000
    """most characters of a text on the page; the middle of longer ones is left out"""


@dataclass(frozen=True)
class Paths:
    """Inputs and outputs, as in dvc.yaml."""

    metrics: Path = Path("reports/metrics")
    samples: Path = Path("reports/samples")
    figures: Path = Path("reports/figures")
    page: Path = Path("reports/index.html")
    results: Path = Path("reports/results.json")
    table: Path = Path("reports/results.csv")
    markdown: Path = Path("reports/results.md")
    curves: Path = Path("reports/curves")
    recipe: Path = PARAMS


def run(paths: Paths, params: Params) -> None:
    """Write the page and its tables.

    Raises InputError naming the file that is absent or malformed, ParamsError where the baseline is no model.
    """
    items = examined(paths.recipe)
    models = list(dict.fromkeys(model for model, _ in items))
    if len(models) > 1 and params.baseline not in models:
        hint = f"one of evaluate.models: {', '.join(models)}"
        raise ParamsError(f"no model {params.baseline!r} is examined", where="report.baseline", hint=hint)
    found = inputs.read(paths.metrics, paths.samples, paths.figures, items, params.samples, params.characters)
    results = tables.results(found, params.baseline)
    results["spending"] = spending(found, params.teacher, params.endpoint)
    html = page(found, results, params.title)
    drawn = dict(twins.curves(results))
    write_json(paths.results, results)
    write_text(paths.table, twins.as_csv(results))
    write_text(paths.markdown, twins.as_markdown(results, params.title))
    with atomic_directory(paths.curves) as folder:
        for name, text in drawn.items():
            write_text(folder / name, text)
    write_text(paths.page, html)


def examined(recipe: Path) -> list[inputs.Item]:
    """Evaluate's matrix in the recipe in force. Not by its block: that would make all its code a dep."""
    matrix = read(recipe).get("evaluate") or {}
    for key in ("models", "benchmarks"):
        if not isinstance(matrix.get(key), list):
            raise ParamsError("a list was expected", where=f"{recipe}: evaluate.{key}")
    return list(itertools.product(matrix["models"], matrix["benchmarks"]))


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())
