"""Tensors ──▶ safetensors shards and their index, one shard in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from stillroom.artifacts import write_json
from stillroom.conversion.sources import Shapes, Source, require_same
from stillroom.errors import ModelError
from stillroom.progress import track

Tensors = dict[str, torch.Tensor]


class Architecture:
    """What a config's model is made of: names and shapes in memory, and in model files, where some differ."""

    def __init__(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            self._model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        tensors = dict(self._model.named_parameters())
        self.in_memory: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.on_disk: Shapes = {name: tuple(t.shape) for name, t in self.to_disk(dict(tensors)).items()}

    def to_disk(self, tensors: Tensors) -> Tensors:
        """The same tensors under the names, and cut into the parts, that model files have."""
        converted: Tensors = revert_weight_conversion(self._model, tensors)
        return converted


def write_shards(
    source: Source, architecture: Architecture, folder: Path, dtype_name: str, limit: int
) -> None:
    """Write the source's tensors in a torch dtype, in files of at most `limit` bytes (or one tensor).

    Raises ModelError where tensors are missing, extra or misshapen, or a value is not finite in that type.
    """
    dtype: torch.dtype = getattr(torch, dtype_name)
    expected = architecture.in_memory if source.as_trained else architecture.on_disk
    require_same(source.shapes, expected, "models/checkpoint" if source.as_trained else "models/base")
    to_disk = architecture.to_disk if source.as_trained else dict
    groups = list(_groups({name: source.shapes[name] for name in expected}, dtype.itemsize, limit))
    placed: dict[str, str] = {}
    written: Shapes = {}
    with track("convert", len(expected), "tensors") as progress:
        for number, names in enumerate(groups, 1):
            shard = "model" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}"
            file = folder / f"{shard}.safetensors"
            tensors: Tensors = {}
            for name in names:
                tensors[name] = _cast(name, source.read(name), dtype)
                progress.advance(1, file.name)
            shapes = _write_shard(file, tensors, to_disk)
            written |= shapes
            placed |= dict.fromkeys(shapes, file.name)
    require_same(written, architecture.on_disk, "models/tuned")
    if len(groups) > 1:
        size = dtype.itemsize * sum(math.prod(shape) for shape in written.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
        write_json(folder / "model.safetensors.index.json", index)


def _write_shard(file: Path, tensors: Tensors, to_disk: Callable[[Tensors], Tensors]) -> Shapes:
    """Write one file; names and shapes as they stand in it."""
    stored = {name: tensor.contiguous() for name, tensor in to_disk(tensors).items()}
    save_file(stored, file, {"format": "pt"})
    file.chmod(0o644)
    return {name: tuple(tensor.shape) for name, tensor in stored.items()}


def _groups(shapes: Shapes, item: int, limit: int) -> Iterator[list[str]]:
    """Names in order, as many together as fit."""
    group: list[str] = []
    room = limit
    for name, shape in shapes.items():
        size = item * math.prod(shape)
        if group and size > room:
            yield group
            group, room = [], limit
        group.append(name)
        room -= size
    yield group


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A float tensor in the folder's type; integers stay."""
    result = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if not torch.isfinite(result).all():
        broken = not torch.isfinite(tensor).all()
        raise ModelError(
            f"{name!r} holds values that are not finite{'' if broken else f' in {dtype}'}",
            where="models/checkpoint",
            hint="train again with a lower train.lr" if broken else "set convert.dtype: bfloat16",
        )
    return result
