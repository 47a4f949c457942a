"""Model, optimizer and progress ⇄ a DCP directory that appears whole or not at all.

step-00000120/   __0_0.distcp …  .metadata   sharded tensors, readable by any number of processes
                 progress.json               step, tokens
                 curve.csv                   the training curve up to this step
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

FINAL = "final"
"""folder of a finished run, in its work folder"""


class ReproducibleWriter(FileSystemWriter):
    """DCP's writer without the random id and absolute path that it puts into the metadata."""

    def storage_meta(self) -> StorageMeta | None:
        """Nothing: the same state gives the same bytes."""
        return None


def trained_state(lm: nn.Module) -> dict[str, Any]:
    """The weights that training changes, by name, each once: sharded tensors."""
    state = get_model_state_dict(lm, options=StateDictOptions(ignore_frozen_params=True))
    names = {name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    return {name: state[name] for name in sorted(names)}


def write(folder: Path, state: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Save sharded state and small files as `folder`, by every process together.

    Files are written by process 0, and the folder gets its name after every process has written its part.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    dcp_save(dict(state), storage_writer=ReproducibleWriter(partial))
    if dist.get_rank() == 0:
        for name, content in files.items():
            (partial / name).write_bytes(content)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    dist.barrier()


def save(folder: Path, lm: nn.Module, optimizer: torch.optim.Optimizer, files: Mapping[str, bytes]) -> None:
    """Save what a run needs to go on."""
    write(folder, _state(lm, optimizer), files)


def load(folder: Path, lm: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a saved state back, saved by any number of processes."""
    state = _state(lm, optimizer)
    dcp_load(state, storage_reader=FileSystemReader(folder))
    options = StateDictOptions(flatten_optimizer_state_dict=True, ignore_frozen_params=True, strict=False)
    set_state_dict(
        lm, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=options
    )


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def _state(lm: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=True, ignore_frozen_params=True)
    model, moments = get_state_dict(lm, optimizer, options=options)
    return {"model": model, "optimizer": moments}
