"""`stillroom run [TARGETS] [-- SNAKEMAKE ARGUMENTS]`: Snakemake in the checkout, with the machine's profile.

stillroom run                      # everything that is stale
stillroom run train                # a stage and what it needs; evaluate@tuned-booksum is an item of a matrix
stillroom run models/tuned         # a file
stillroom run -- -n                # Snakemake's own options after --
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from stillroom import checkout
from stillroom.errors import StillroomError

PROFILES = ("default", "gpu", "slurm")


def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TARGETS] [-- SNAKEMAKE ARGUMENTS]", help="stages or files; default: all"),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="default, gpu or slurm; by itself gpu where there are GPUs")
    ] = None,
) -> None:
    """Run what is stale: the whole pipeline, or the targets and what they need."""
    root = checkout.root()
    arguments = targets or []
    wanted = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    command = [
        *(sys.executable, "-m", "snakemake", "--workflow-profile", str(root / "profiles" / chosen(profile))),
        *(_target(name, root) for name in wanted),
        *arguments[len(wanted) :],
    ]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.chdir(root)
    os.execv(sys.executable, command)


def chosen(profile: str | None) -> str:
    """The profile asked for, else the machine's. Raises StillroomError for one that cannot be used."""
    if profile is None:
        return "gpu" if any(Path("/dev").glob("nvidia[0-9]*")) else "default"
    if profile not in PROFILES:
        raise StillroomError(f"no profile {profile!r}", hint=f"there are: {', '.join(PROFILES)}")
    if profile == "slurm" and not find_spec("snakemake_executor_plugin_slurm"):
        raise StillroomError(
            "Snakemake's Slurm plugin is not installed",
            hint="pip install --constraint constraints.txt --editable '.[slurm]'",
        )
    return profile


def _target(name: str, root: Path) -> str:
    """What Snakemake calls a stage, an item of a matrix, a matrix, or a file (relative to where the user is).

    Raises StillroomError for a name that is none of these.
    """
    stages = _stages(root)
    group, at, _ = name.partition("@")
    if group in stages and at:
        return f".dvc/tmp/stages/{name}.done"
    if group in stages:
        return f"all_{name}" if {"matrix", "foreach"} & stages[name].keys() else name
    path = Path.cwd() / name
    if "/" not in name and not path.exists():
        near = difflib.get_close_matches(name, stages, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"stages: {', '.join(stages)}"
        raise StillroomError(f"no stage and no file `{name}`", hint=hint)
    try:
        return str(path.resolve().relative_to(root))
    except ValueError:
        raise StillroomError(
            "outside the checkout", where=str(path), hint=f"the checkout is {root}"
        ) from None


def _stages(root: Path) -> dict[str, Any]:
    """The stages of dvc.yaml as written: a matrix is one."""
    import yaml

    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    stages: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
    return stages
