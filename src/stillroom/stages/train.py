"""The base model on the packed rows, by any number of processes.

data/processed/packed, models/base ──▶ train ──▶ models/checkpoint, reports/metrics/train.json,
                                                 reports/figures/train.csv

    stillroom train

A run that was interrupted (signal, kill, power) goes on from its last checkpoint when it is started again,
with any number of processes: its work folder is named by the recipe, the data and the base model, so that a
changed one starts anew.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.artifacts import atomic_directory, atomic_write, canonical_json, read_json, sha256, write_json
from stillroom.errors import ModelError
from stillroom.training.recipe import ELASTIC, Recipe

MEASURED = ("step", "epochs", "tokens", "loss_tokens", "loss", "validation_loss", "parameters", "trainable")


class Params(Recipe):
    """The `train` block of params.yaml."""


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    packed: Path = Path("data/processed/packed")
    base: Path = Path("models/base")
    checkpoint: Path = Path("models/checkpoint")
    metrics: Path = Path("reports/metrics/train.json")
    curve: Path = Path("reports/figures/train.csv")
    work: Path = Path(".stillroom/work")


def identity(paths: Paths, params: Recipe) -> str:
    """Hex digest of what decides the outcome: recipe, rows and base model, by content."""
    if not paths.base.is_dir():
        raise ModelError("no such model folder", where=str(paths.base), hint="run the stage `models` first")
    rows = [paths.packed / name for name in ("info.json", "train.parquet", "validation.parquet")]
    base = sorted(path for path in paths.base.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    files = [(path.name, sha256(path)) for path in (*rows, *base)]
    return sha256(canonical_json([params.model_dump(exclude=ELASTIC), files]))


def run(paths: Paths, params: Params) -> None:
    """Train, or go on training, and publish the result. Raises TrainingError, ModelError, InputError."""
    from stillroom.training.checkpoint import FINAL
    from stillroom.training.launch import launch, process_count
    from stillroom.training.loop import Job

    work = paths.work / f"train-{identity(paths, params)[:16]}"
    final = work / FINAL
    if not final.exists():
        work.mkdir(parents=True, exist_ok=True)
        Job(paths.packed, paths.base, work, params).write(work / "job.json")
        launch(work, process_count(params))
    publish(final, paths)
    shutil.rmtree(work)


def publish(final: Path, paths: Paths) -> None:
    """Give a finished run its names: checkpoint, metrics, curve."""
    info: dict[str, Any] = read_json(final / "info.json")
    write_json(paths.metrics, {name: info[name] for name in MEASURED})
    with atomic_write(paths.curve) as file:
        file.write((final / "curve.csv").read_bytes())
    with atomic_directory(paths.checkpoint) as folder:
        for path in sorted(final.iterdir()):
            if path.name != "curve.csv":
                _link(path, folder / path.name)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
