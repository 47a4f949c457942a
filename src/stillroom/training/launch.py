"""Starts the processes of a training run on this machine, waits, and says in one message how it ended.

The launcher is torchrun's own (`torch.distributed.launcher`), in this process: its store listens on a free
loopback port, and it ends all processes when one fails or when it is told to stop.
"""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stillroom import errors
from stillroom.artifacts import read_json
from stillroom.errors import StillroomError, TrainingError
from stillroom.training.checkpoint import FINAL, latest
from stillroom.training.recipe import Recipe

SHUTDOWN_SECONDS = 120
"""to save a checkpoint in after a signal, before the processes are killed"""
CPU_PROCESSES = 2
"""without a GPU, where the recipe leaves it open"""


def process_count(recipe: Recipe) -> int:
    """How many processes the recipe asks for on this machine. Raises TrainingError for more than its GPUs."""
    gpus = torch.cuda.device_count()
    if recipe.processes == "auto":
        return gpus or CPU_PROCESSES
    if gpus and recipe.processes > gpus:
        raise TrainingError(
            f"{recipe.processes} processes on {gpus} GPUs",
            where="train.processes",
            hint="use `auto`: one per GPU",
        )
    return recipe.processes


def launch(work: Path, processes: int) -> None:
    """Run `work/job.json` until it is done. Raises the error of the process that failed first."""
    for word in work.glob("error-*"):
        word.unlink()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logs = work / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="train",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(logs), redirects=_quiet(processes)),
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "stillroom.training.worker", str(work))
    except ChildFailedError as failure:
        raise _first_error(work, failure) from None
    except SignalException:
        pass
    if not (work / FINAL).exists():
        raise TrainingError(
            f"training was stopped {_place(work)}", hint="run again to go on; nothing is lost"
        )


def _quiet(processes: int) -> dict[int, Std]:
    """Only process 0 speaks; the others' output goes to files."""
    return {rank: Std.NONE if rank == 0 else Std.ALL for rank in range(processes)}


def _first_error(work: Path, failure: ChildFailedError) -> StillroomError:
    """The error that the processes left: one of ours before the broken connections that follow from it."""
    words = [read_json(path) for path in work.glob("error-*.json")]
    killed = [p for p in failure.failures.values() if p.exitcode < 0 and p.signal_name() != "SIGTERM"]
    if killed and not any(word["foreseen"] for word in words):
        return TrainingError(
            f"process {killed[0].local_rank} was killed ({killed[0].signal_name()})",
            where="train",
            hint=f"often a lack of memory: see train.micro_batch. Run again to go on {_place(work)}",
        )
    if not words:
        rank, process = failure.get_first_failure()
        return TrainingError(
            f"process {rank} ended with exit code {process.exitcode} and no word", where="train"
        )
    word = min(words, key=lambda word: (not word["foreseen"], word["time"]))
    kind: type[StillroomError] = getattr(errors, word["kind"])
    return kind(word["what"], where=word["where"], hint=word["hint"])


def _place(work: Path) -> str:
    """Where the next run goes on."""
    last = latest(work)
    return f"at step {int(last.name.removeprefix('step-'))}" if last else "from the beginning"
