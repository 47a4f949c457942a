"""What each figure was made of: evaluate's labels, prompts, answers bought ──▶ models side by side.

    label      hashes of model, data and code, the settings, a judge's prompt
    prompts    over the ids and prompts of all samples: what the model was given
    params     of the settings, the seed among them

What differs between models that are compared is marked: their figures were not made of the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stillroom.artifacts import canonical_json, sha256
from stillroom.reporting.inputs import Inputs, Item
from stillroom.reporting.numbers import NONE, figure, price

HASH = 64
"""digits of a SHA-256"""
DIGITS = 12
"""of a hash that is shown"""
SHARED = {
    "data": "data",
    "prompts": "prompts",
    "params": "params",
    "code": "code",
    "judge_prompt": "judge’s prompt",
    "seed": "seed",
    "stillroom": "stillroom",
    "libraries": "libraries",
    "lm_eval": "lm-eval",
}
"""key ──▶ heading of what models that are compared should share"""

Row = dict[str, Any]


class Cell(NamedTuple):
    """A value, and the whole of it where it is cut."""

    text: str
    whole: str = ""

    @property
    def hash(self) -> bool:
        """Whether it is the beginning of a SHA-256."""
        return len(self.whole) == HASH


class Line(NamedTuple):
    """One thing of all models."""

    what: str
    cells: list[Cell]
    differs: bool = False
    """whether models that should share it do not"""

    @property
    def shared(self) -> bool:
        """Whether several models have the same."""
        return len(self.cells) > 1 and len(set(self.cells)) == 1


def provenance(inputs: Inputs) -> dict[str, Row]:
    """MODEL/BENCHMARK ──▶ what its figures were made of."""
    return {"/".join(item): _entry(inputs, item, label) for item, label in sorted(inputs.labels.items())}


def lines(results: Row, name: str) -> Iterator[Line]:
    """The table of a benchmark, a cell per model."""
    made = _made(results, name)
    if not any(made):
        return
    yield Line("model", [_cell(entry.get("model")) for entry in made])
    if any(entry.get("base_model") for entry in made):
        yield Line("which adapts", [_cell(entry.get("base_model")) for entry in made])
    for key, heading in SHARED.items():
        if any(entry.get(key) is not None for entry in made):
            known = {str(entry[key]) for entry in made if entry.get(key) is not None}
            yield Line(heading, [_cell(entry.get(key)) for entry in made], len(known) > 1)
    for who in ("model", "judge"):
        asked = [_asked(results, f"{model}/{name}", who) for model in results["models"]]
        if any(cell.text != NONE for cell in asked):
            yield Line(f"bought of the {who}", asked)


def settings(results: Row, name: str) -> list[tuple[Sequence[str], Row]]:
    """The settings of a benchmark, with the models that they are of."""
    found: dict[str, tuple[list[str], Row]] = {}
    for model, entry in zip(results["models"], _made(results, name), strict=True):
        if entry:
            found.setdefault(entry["params"], ([], entry["settings"]))[0].append(model)
    return list(found.values())


def _made(results: Row, name: str) -> list[Row]:
    """The entries of a benchmark, in the order of the models; empty ones where there are none."""
    return [results["provenance"].get(f"{model}/{name}", {}) for model in results["models"]]


def _entry(inputs: Inputs, item: Item, label: Row) -> Row:
    used = label.get("settings", {})
    hashes = {"prompts": inputs.prompts[item], "params": sha256(canonical_json(used))}
    kept = {key: value for key, value in label.items() if key != "settings"}
    return {**kept, **hashes, "seed": used.get("seed"), "settings": used}


def _cell(value: Any) -> Cell:
    if isinstance(value, dict):
        value = ", ".join(f"{name} {version}" for name, version in value.items())
    text = NONE if value is None else str(value)
    return Cell(text[:DIGITS], text) if len(text) == HASH else Cell(text)


def _asked(results: Row, item: str, who: str) -> Cell:
    """How many answers, and what they cost."""
    row = next((row for row in results["spending"] if (row["for"], row["who"]) == (item, who)), None)
    if row is None:
        return Cell(NONE)
    tokens = f"{figure(row['prompt_tokens'])} + {figure(row['completion_tokens'])} tokens"
    return Cell(f"{figure(row['answers'])} answers, {price(row)}", f"{row['model']}: {tokens}")
