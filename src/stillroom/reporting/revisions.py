"""What a git revision, a DVC experiment or the workspace measured: git's files, and DVC's out of its cache.

revision ──▶ read ──▶ params, metrics, samples and labels of every model and benchmark

A file that is neither in DVC's cache nor in a remote that answers is an InputError that says how to fetch it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import yaml

from stillroom.artifacts import sha256
from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.base import Sample
from stillroom.errors import InputError
from stillroom.params import LOADER
from stillroom.reporting.inputs import Item

WORKSPACE = "workspace"
Open = Callable[[str], BinaryIO]
"""a path from the checkout's root ──▶ the file; FileNotFoundError where the revision has none"""


@dataclass(frozen=True)
class Revision:
    """Figures of one revision. Prompts are hashes; params and metrics have dotted keys."""

    name: str
    params: dict[str, Any]
    metrics: dict[str, float]
    """numbers of the stages before evaluate: `train.loss`"""
    samples: dict[Item, list[Sample]]
    labels: dict[Item, dict[str, Any]]
    """what figures were made of, where it was noted"""


def read(name: str) -> Revision:
    """Everything of one revision that is compared. Raises InputError where it is not here."""
    open_file = _workspace if name == WORKSPACE else _at(name)
    with closing(_needed(open_file, "params.yaml", name)) as file:
        document = yaml.load(file, LOADER) or {}
    matrix = document.get("evaluate") or {}
    items = itertools.product(matrix.get("models") or (), matrix.get("benchmarks") or ())
    samples = {item: _samples(open_file, name, item) for item in items if item[1] in BENCHMARKS}
    labels = {
        item: _object(open_file, name, f"reports/samples/{'/'.join(item)}.label.json") for item in samples
    }
    return Revision(name, flat(document), _metrics(open_file, name), samples, labels)


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; an empty one is a leaf."""
    if not isinstance(value, dict) or not value:
        return {at: value}
    parts = (flat(inner, f"{at}.{key}" if at else str(key)) for key, inner in value.items())
    return {key: leaf for part in parts for key, leaf in part.items()}


def _workspace(path: str) -> BinaryIO:
    return Path(path).open("rb")


def _at(name: str) -> Open:
    """Files of a git revision or experiment, in this checkout."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        fs = DVCFileSystem(rev=name)
        fs.ls("/")
    except (DvcException, SCMError) as error:
        hint = "a commit, tag, branch or experiment: git log, dvc exp list"
        raise InputError(f"no such revision ({error})", where=name, hint=hint) from None

    def opened(path: str) -> BinaryIO:
        try:
            file: BinaryIO = fs.open(path, "rb")
        except DvcException as error:
            raise OSError(f"{error}") from error
        return file

    return opened


def _needed(open_file: Open, path: str, name: str) -> BinaryIO:
    """A file that the revision must have. Raises InputError where it is not recorded or not here."""
    if file := _found(open_file, path, name):
        return file
    raise _absent("never made, or not in DVC's cache", path, name)


def _found(open_file: Open, path: str, name: str) -> BinaryIO | None:
    """A file, None where the revision has none. Raises InputError where DVC cannot give it."""
    try:
        return open_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _absent(f"cannot be read ({error})", path, name) from None


def _absent(what: str, path: str, name: str) -> InputError:
    hint = "stillroom run" if name == WORKSPACE else f"git checkout {name} && dvc pull (or stillroom run)"
    return InputError(what, where=f"{name}: {path}", hint=hint)


def _samples(open_file: Open, name: str, item: Item) -> list[Sample]:
    path = f"reports/samples/{'/'.join(item)}.jsonl"
    found = []
    with closing(_needed(open_file, path, name)) as file:
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line)
                found.append(Sample(**{**row, "prompt": sha256(row["prompt"])}))
            except (orjson.JSONDecodeError, TypeError, KeyError) as error:
                raise InputError(f"not a sample ({error})", where=f"{name}: {path}:{number}") from None
    return found


def _metrics(open_file: Open, name: str) -> dict[str, float]:
    """Numbers of the stages' metrics that the revision has."""
    found: dict[str, float] = {}
    for stage, path in _metric_files():
        numbers = flat(_object(open_file, name, path))
        found |= {f"{stage}.{key}": v for key, v in numbers.items() if isinstance(v, int | float)}
    return found


def _object(open_file: Open, name: str, path: str) -> dict[str, Any]:
    """A JSON object; empty where the revision has none."""
    if (file := _found(open_file, path, name)) is None:
        return {}
    with closing(file):
        found: dict[str, Any] = orjson.loads(file.read())
    return found


def _metric_files() -> Iterator[tuple[str, str]]:
    from stillroom.stages import STAGES

    return ((stage, f"reports/metrics/{stage}.json") for stage in STAGES)
