"""Live figures of a run, which change from run to run: speed, memory, and whatever else is worth a look.

step ──▶ Live.show ──▶ logs/train/RUN/figures.jsonl, and the trackers that the recipe names

The versioned curve (`reports/figures/train.csv`) has what is the same each time.
"""

from __future__ import annotations

import importlib.util
import resource
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist
from transformers import PretrainedConfig

from stillroom.errors import ParamsError
from stillroom.training.recipe import Recipe

PEAK = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""dense 16-bit operations a second of a GPU whose name holds that word, as its vendor states them"""


class Live:
    """Writes the figures of each step; used by process 0 alone.

    Raises ParamsError where a tracker's package is not installed.
    """

    def __init__(self, folder: Path, recipe: Recipe, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "figures.jsonl").open("ab")
        self._device = device
        self._peak = peak(device) * dist.get_world_size()
        self._trackers = [_tracker(name, folder) for name in recipe.trackers]
        settings = recipe.model_dump(mode="json", exclude_defaults=True)
        plain = {name: v if isinstance(v, int | float | str) else str(v) for name, v in settings.items()}
        for tracker in self._trackers:
            tracker.start()
            tracker.store_init_configuration(plain)
        self._last = time.monotonic()

    def show(self, step: int, tokens: int, operations: float, **figures: float | None) -> dict[str, float]:
        """Write `figures` of a step of so many tokens and operations, with speed and memory; return all.

        Figures that are None are left out.
        """
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        shown = {name: value for name, value in figures.items() if value is not None}
        shown |= {"tokens_per_second": tokens / seconds, "memory_gib": self._memory() / 2**30}
        if self._peak:
            shown["mfu"] = operations / seconds / self._peak
        self._file.write(orjson.dumps({"step": step, **shown}, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(shown, step=step)
        return shown

    def close(self) -> None:
        """Let the trackers finish."""
        self._file.close()
        for tracker in self._trackers:
            tracker.finish()

    def _memory(self) -> int:
        """The most bytes that were allocated on the GPU, or on a CPU resident."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def operations(config: PretrainedConfig, parameters: int, trained: int, tokens: int, squares: int) -> float:
    """Floating-point operations of a training step, without what is computed again.

    Each weight of a matrix takes 2 per token forward, 2 for the gradient of its input, and 2 for its own
    where it is trained (Kaplan et al. 2020, arXiv:2001.08361); causal attention takes 12 · layers · width per
    token and position that it sees, and sees half of `squares`, the sum of the documents' squared lengths.
    """
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    matrices = parameters - int(config.vocab_size) * width
    attention = 6.0 * layers * width * squares
    return (4.0 * matrices + 2.0 * min(trained, matrices)) * tokens + attention


def peak(device: torch.device) -> float:
    """Dense 16-bit operations a second of a GPU; 0 where that is not known."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((value for word, value in PEAK.items() if word in name), 0.0)


def _tracker(name: str, folder: Path) -> Any:
    if importlib.util.find_spec(name) is None:
        where, hint = "params.yaml: train.trackers", f"pip install {name}, or take it out"
        raise ParamsError(f"the package {name} is not installed", where=where, hint=hint)
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    run = folder.name
    return kind(run, logging_dir=str(folder)) if kind.requires_logging_directory else kind(run)
