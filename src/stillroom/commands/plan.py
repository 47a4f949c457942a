"""`stillroom plan`: what would run and why, in pipeline order. DVC's judgement; nothing is changed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import typer

from stillroom import checkout
from stillroom.errors import StillroomError


def plan(
    as_json: Annotated[bool, typer.Option("--json", help="the whole plan as JSON")] = False,
) -> None:
    """Show what would run and why."""
    stages = judge()
    if as_json:
        typer.echo(json.dumps(stages, indent=2))
        return
    show(stages)


def judge() -> list[dict[str, Any]]:
    """Every stage in pipeline order: name, group, upstream, deps, params, outs, stale, missing, why.

    `why` is empty for a fresh stage. Raises StillroomError where DVC cannot read the checkout.
    """
    command = [sys.executable, "workflow/plan.py", "show", "--json"]
    done = subprocess.run(command, cwd=checkout.root(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StillroomError(done.stderr.strip().removeprefix("error: ") or "workflow/plan.py failed")
    stages: list[dict[str, Any]] = json.loads(done.stdout)
    return stages


def show(stages: list[dict[str, Any]]) -> None:
    """A row per stage: run, maybe (it stands below one that runs) or fresh, and the reason."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "", "why", box=box.SIMPLE_HEAD)
    for stage in stages:
        table.add_row(stage["name"], state(stage), stage["why"], style="" if stage["why"] else "dim")
    console = Console()
    console.print(table)
    run, maybe = (sum(state(stage) == wanted for stage in stages) for wanted in ("run", "maybe"))
    if not run:
        console.print(f"Nothing to do: all {len(stages)} stages are fresh.")
        return
    tail = f", and {maybe} below them where an output changes" if maybe else ""
    console.print(f"{run} of {len(stages)} stages run{tail}: stillroom run")


def state(stage: dict[str, Any]) -> str:
    """`run`: stale by itself; `maybe`: below a stale one, which may yield the same output; `fresh`."""
    if stage["stale"]:
        return "run"
    return "maybe" if stage["why"] else "fresh"
