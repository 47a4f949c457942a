"""Metrics and samples into one page.

reports/{metrics,samples,figures} ──▶ report ──▶ reports/index.html, reports/results.json

    stillroom report

The page is one file, opens from disk without a network, and is the same to the byte for the same inputs. Only
what other stages wrote is read: what a figure was made of stands in the label that `evaluate` wrote with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stillroom.artifacts import atomic_write, write_json
from stillroom.params import Block
from stillroom.reporting import inputs, tables
from stillroom.reporting.page import page


class Params(Block):
    """What the report shows."""

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


def run(paths: Paths, params: Params) -> None:
    """Write the page and its tables. Raises InputError naming the file that is absent or malformed."""
    found = inputs.read(paths.metrics, paths.samples, paths.figures, params.samples, params.characters)
    results = tables.results(found, params.baseline)
    html = page(found, results, params.title)
    write_json(paths.results, results)
    with atomic_write(paths.page) as file:
        file.write(html.encode())
