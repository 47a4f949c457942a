"""reports/{metrics,samples,figures} ──▶ what the report is made of, with the hash of every file as read."""

from __future__ import annotations

import csv
import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from stillroom.artifacts import open_input, read_json, read_jsonl, sha256
from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.base import Sample
from stillroom.draws import rank
from stillroom.errors import InputError
from stillroom.reporting import answers
from stillroom.reporting.answers import Bought, Verdict
from stillroom.stages import STAGES

Item = tuple[str, str]
"""(model, benchmark)"""
FIELDS = {known.name for known in fields(Sample)}


@dataclass
class Inputs:
    """Everything that was read. `shown` holds the samples with their texts, `samples` all of them without."""

    items: list[Item] = field(default_factory=list)
    """the recipe's, whether they have figures or not"""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """metrics of the data and training stages, by stage"""
    metrics: dict[Item, dict[str, Any]] = field(default_factory=dict)
    labels: dict[Item, dict[str, Any]] = field(default_factory=dict)
    samples: dict[Item, list[Sample]] = field(default_factory=dict)
    shown: dict[Item, list[Sample]] = field(default_factory=dict)
    prompts: dict[Item, str] = field(default_factory=dict)
    """SHA-256 over the ids and prompts of all samples: what the model was given"""
    bought: dict[Item, list[Bought]] = field(default_factory=dict)
    """answers of judges and of models at endpoints"""
    verdicts: dict[Item, dict[str, list[Verdict]]] = field(default_factory=dict)
    """what a judge said of the samples that are shown, by id"""
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """records that extract dropped: a few of each reason"""
    training: list[dict[str, float]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """path ──▶ SHA-256"""

    @property
    def models(self) -> list[str]:
        """Names of the models, in the recipe's order."""
        return list(dict.fromkeys(model for model, _ in self.items))

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks, in the registry's order."""
        found = {benchmark for _, benchmark in self.items}
        return [name for name in BENCHMARKS if name in found]


def read(
    metrics: Path,
    samples: Path,
    figures: Path,
    items: Iterable[Item],
    shown: int,
    clip: int,
    examples: int = 3,
) -> Inputs:
    """Read what the three folders hold of the stages and of these items.

    shown: most samples of a benchmark whose texts are kept, the same ones for every model.
    clip: most characters of a text.  examples: of each reason for which extract dropped a record.
    Raises InputError naming file and line.
    """
    found = Inputs(list(dict.fromkeys(items)))

    def hashed(path: Path) -> Path:
        found.files[path.as_posix()] = sha256(path)
        return path

    for path in sorted(p for p in metrics.glob("*.json") if p.stem in STAGES):
        found.stages[path.stem] = _object(hashed(path))
    place = lru_cache(1 << 20)(partial(rank, 0))
    for item in found.items:
        path = metrics / "evaluate" / f"{'/'.join(item)}.json"
        if not path.exists():
            continue
        found.metrics[item] = _object(hashed(path))
        rows = hashed(samples / f"{'/'.join(item)}.jsonl")
        given, found.samples[item] = hashlib.sha256(), []
        everything = _noted(rows, found.samples[item], given.update)
        chosen = heapq.nsmallest(shown, everything, key=lambda row: place(row["id"]))
        found.shown[item] = [_clipped(Sample(**row), clip) for row in chosen]
        found.prompts[item] = given.hexdigest()
        label = rows.with_suffix(".label.json")
        if label.exists():
            found.labels[item] = _object(hashed(label))
        folder = rows.with_suffix("")
        for file in answers.snapshots(folder):
            hashed(file)
        found.bought[item] = answers.bought(folder)
        found.verdicts[item] = answers.verdicts(folder, {row["id"] for row in chosen})
    if (path := samples / "extract-dropped.jsonl").exists():
        found.dropped = _examples(hashed(path), examples, clip)
    if (path := figures / "train.csv").exists():
        found.training = _numbers(hashed(path))
    return found


def clipped(text: str, most: int) -> str:
    """A text cut in its middle, saying how much is left out: questions stand at the end of long prompts."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n⋯ {len(text) - 2 * half:,} characters ⋯\n{text[-half:]}"


def _noted(path: Path, into: list[Sample], digest: Callable[[bytes], object]) -> Iterator[dict[str, Any]]:
    """The lines of a samples file, each noted without its texts as it passes; prompts go into the digest."""
    for number, row in read_jsonl(path):
        try:
            if row.keys() != FIELDS:
                raise TypeError(", ".join(sorted(row.keys() ^ FIELDS)))
            digest(f"{row['id']}\0{row['prompt']}\0".encode())
            into.append(
                Sample(row["id"], row["group"], "", None, (), row["scores"], row["status"], row["note"])
            )
        except TypeError as error:
            raise InputError(f"not a sample ({error})", where=f"{path}:{number}") from None
        yield row


def _clipped(sample: Sample, most: int) -> Sample:
    output = None if sample.output is None else clipped(sample.output, most)
    gold = [clipped(text, most) for text in sample.gold]
    return replace(sample, prompt=clipped(sample.prompt, most), output=output, gold=gold)


def _object(path: Path) -> dict[str, Any]:
    """A JSON object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError("a JSON object was expected", where=str(path))
    return value


def _examples(path: Path, most: int, clip: int) -> list[dict[str, Any]]:
    """The first dropped records of each reason."""
    kept: dict[str, int] = {}
    rows = []
    for _, row in read_jsonl(path):
        reason = str(row.get("reason"))
        kept[reason] = kept.get(reason, 0) + 1
        if kept[reason] <= most:
            detail = clipped(str(row.get("detail") or ""), clip)
            rows.append({"id": str(row.get("id")), "reason": reason, "detail": detail})
    return sorted(rows, key=lambda row: (row["reason"], row["id"]))


def _numbers(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV whose cells are numbers; empty cells are left out."""
    with open_input(path) as file:
        reader: Sequence[dict[str, str]] = list(csv.DictReader(file.read().decode().splitlines()))
    try:
        return [{key: float(cell) for key, cell in row.items() if cell} for row in reader]
    except (TypeError, ValueError) as error:
        raise InputError(f"a cell is not a number ({error})", where=str(path)) from None
