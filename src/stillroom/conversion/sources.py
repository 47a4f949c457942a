"""The trained tensors, one at a time: from a DCP checkpoint, or from base shards and an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load

from stillroom.errors import ModelError

Shapes = dict[str, tuple[int, ...]]
PREFIX = "model."
"""of the model's tensors in a checkpoint"""
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


class Source(Protocol):
    """Trained tensors: their names and shapes, and any one of them."""

    shapes: Shapes
    as_trained: bool
    """named as in memory, or as in model files: some families differ"""

    def read(self, name: str) -> torch.Tensor:
        """The tensor of this name, float32 where it was trained."""


class Checkpoint:
    """The tensors of a DCP directory. Raises ModelError where it is none."""

    as_trained = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            entries = FileSystemReader(folder).read_metadata().state_dict_metadata
        except FileNotFoundError:
            raise ModelError(
                "not a checkpoint", where=str(folder), hint="run the stage `train` first"
            ) from None
        self._entries = {
            name.removeprefix(PREFIX): entry
            for name, entry in entries.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        self.shapes: Shapes = {name: tuple(entry.size) for name, entry in self._entries.items()}

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, from all its shards. Raises ModelError where a file is missing or cut short."""
        properties = self._entries[name].properties
        wanted = {PREFIX + name: torch.empty(self.shapes[name], dtype=properties.dtype)}
        try:
            with warnings.catch_warnings(action="ignore"):
                dcp_load(wanted, storage_reader=FileSystemReader(self._folder), no_dist=True)
        except CheckpointException as error:
            reason = str(next(iter(error.failures.values()))[0]).splitlines()[0]
            raise ModelError(f"the checkpoint cannot be read: {reason}", where=str(self._folder)) from None
        return wanted[PREFIX + name]


class Merged:
    """A base folder with an adapter folded in: W + scale · B A, in float32.

    `wanted` are the names that the model has; a base folder may hold others, such as buffers of old versions.
    Raises ModelError where an adapter's layer has no weight in the base.
    """

    as_trained = False

    def __init__(self, base: Path, adapter: Checkpoint, scale: float, wanted: Iterable[str]) -> None:
        self._adapter, self._scale = adapter, scale
        names = {name: path for path in sorted(base.glob("*.safetensors")) for name in _names(path)}
        if not names:
            raise ModelError(
                "no safetensors files", where=str(base), hint="an adapter is merged with the base model's"
            )
        self._files = {name: names[name] for name in wanted if name in names}
        self.shapes: Shapes = {name: _shape(path, name) for name, path in self._files.items()}
        self._targets = {f"{layer}.weight" for layer in layers(adapter.shapes)}
        if missing := sorted(self._targets - set(self._files)):
            raise ModelError(
                f"the adapter is for {missing[0]!r}, which the base model lacks", where=str(base)
            )

    def read(self, name: str) -> torch.Tensor:
        """The base model's tensor, with the adapter's part added where it has one."""
        with safe_open(self._files[name], "pt") as file:
            weight: torch.Tensor = file.get_tensor(name)
        if name not in self._targets:
            return weight
        layer = name.removesuffix(".weight")
        a, b = self._adapter.read(layer + LORA_A), self._adapter.read(layer + LORA_B)
        return weight.float() + (b @ a) * self._scale


def layers(names: Iterable[str]) -> list[str]:
    """The layers that an adapter's tensors belong to. Raises ModelError for a tensor that belongs to none."""
    found = set()
    for name in names:
        ending = next((end for end in (LORA_A, LORA_B) if name.endswith(end)), None)
        if ending is None:
            raise ModelError(f"{name!r} is not an adapter's tensor", where="models/checkpoint")
        found.add(name.removesuffix(ending))
    return sorted(found)


def require_same(found: Mapping[str, tuple[int, ...]], expected: Shapes, where: str) -> None:
    """Raise ModelError, naming one, where a tensor is missing, unknown, or of another shape."""
    for name, shape in expected.items():
        if name not in found:
            raise ModelError(f"the tensor {name!r} is missing", where=where)
        if found[name] != shape:
            raise ModelError(f"{name!r} has shape {found[name]}, the model wants {shape}", where=where)
    if extra := sorted(set(found) - set(expected)):
        raise ModelError(f"the model has no tensor {extra[0]!r}", where=where)


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _shape(path: Path, name: str) -> tuple[int, ...]:
    with safe_open(path, "pt") as file:
        return tuple(file.get_slice(name).get_shape())
