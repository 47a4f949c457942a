"""`stillroom plan [--cost]`: what would run and why, in pipeline order; what all that is asked will cost.

DVC's judgement, and no run: nothing is asked, started or changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillroom import checkout
from stillroom.errors import InputError, StillroomError

if TYPE_CHECKING:
    from stillroom.teacher.estimate import Estimate


def plan(
    as_json: Annotated[bool, typer.Option("--json", help="the whole plan as JSON")] = False,
    with_cost: Annotated[
        bool,
        typer.Option(
            "--cost", help="requests, tokens and money of all that asks or trains elsewhere; asks nobody"
        ),
    ] = False,
) -> None:
    """Show what would run and why."""
    os.chdir(checkout.root())
    stages = judge()
    if with_cost:
        found = costs(stages)
        typer.echo(json.dumps(found, indent=2)) if as_json else show_costs(found)
    elif as_json:
        typer.echo(json.dumps(stages, indent=2))
    else:
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
    """A row per stage: run, maybe (below one that runs) or fresh, how long it last took, and the reason."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "", box=box.SIMPLE_HEAD)
    table.add_column("took", justify="right")
    table.add_column("why")
    for stage in stages:
        cells = (stage["name"], state(stage), took(stage["name"]), stage["why"])
        table.add_row(*cells, style="" if stage["why"] else "dim")
    console = Console()
    console.print(table)
    run, maybe = (sum(state(stage) == wanted for stage in stages) for wanted in ("run", "maybe"))
    if not run:
        console.print(f"Nothing to do: all {len(stages)} stages are fresh.")
        return
    tail = f", and {maybe} below them where an output changes" if maybe else ""
    console.print(f"{run} of {len(stages)} stages run{tail}: stillroom run")


def took(name: str) -> str:
    """How long the stage took when Snakemake last ran it here, `1:02`; empty where it never did."""
    from stillroom.progress import clock

    path = Path("logs/bench", f"{name}.tsv")
    if not path.is_file():
        return ""
    heading, *rows = path.read_text(encoding="utf-8").splitlines()
    last = dict(zip(heading.split("\t"), rows[-1].split("\t"), strict=False)) if rows else {}
    try:
        return clock(float(last["s"]))
    except (KeyError, ValueError):
        return ""


def state(stage: dict[str, Any]) -> str:
    """`run`: stale by itself; `maybe`: below a stale one, which may yield the same output; `fresh`."""
    if stage["stale"]:
        return "run"
    return "maybe" if stage["why"] else "fresh"


def costs(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """What each stage and item is going to ask of an endpoint, and the total where all can be told.

    Of one that cannot be told yet, `first` names the stages to run before.
    """
    from stillroom import params
    from stillroom.stages import train
    from stillroom.teacher.estimate import INPUTS, NOTHING, items, of_item, of_stage, of_training

    by_name = {stage["name"]: stage for stage in stages}
    asking: dict[str, Callable[[], Estimate]] = {name: partial(of_stage, name) for name in INPUTS}
    if params.load("train", train.Params).backend == "api":
        asking["train"] = of_training
    asking |= {f"evaluate@{model}-{name}": partial(of_item, model, name) for model, name in items()}
    found = {name: _cost(name, by_name, ask, NOTHING) for name, ask in asking.items() if name in by_name}
    settings = params.read(params.PARAMS).get("endpoint") or {}
    endpoint = params.validate(params.Endpoint, settings, params.PARAMS, ("endpoint",))
    return {"stages": found, "total": _total(found.values()), "max_cost": endpoint.max_cost}


def _cost(
    name: str, stages: dict[str, dict[str, Any]], ask: Callable[[], Estimate], nothing: Estimate
) -> dict[str, Any]:
    """A stage's estimate as plain values; None where its input is not there yet."""
    stage = stages[name]
    found: dict[str, Any] = {"state": state(stage), "after": _stale_above(stage, stages), "first": []}
    if found["state"] == "fresh":
        return found | {"estimate": asdict(nothing)}
    try:
        return found | {"estimate": asdict(ask())}
    except InputError as error:
        missing = {dep for dep in stage["deps"] if not Path(dep).exists()}
        if not any((error.where or "").startswith(dep) for dep in missing):
            raise
        return found | {"first": _makers(missing, stages), "estimate": None}


def _stale_above(stage: dict[str, Any], stages: dict[str, dict[str, Any]]) -> list[str]:
    """The stages above, in pipeline order, that run first and may change what this one asks."""
    above, wanted = set[str](), list(stage["upstream"])
    while wanted:
        if (name := wanted.pop()) not in above:
            above.add(name)
            wanted += stages[name]["upstream"]
    return [name for name in stages if name in above and stages[name]["why"]]


def _makers(paths: set[str], stages: dict[str, dict[str, Any]]) -> list[str]:
    """The stages that make those files and folders."""
    return [name for name, other in stages.items() if paths & set(other["outs"])]


def _total(found: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The sums over the stages, None where one has no estimate; of money None where a price is missing."""
    known = [cost["estimate"] for cost in found]
    if None in known:
        return None

    def sums(key: str) -> dict[str, float] | None:
        if any(estimate[key] is None for estimate in known):
            return None
        return {end: sum(estimate[key][end] for estimate in known) for end in ("low", "high")}

    ranges = {key: sums(key) for key in ("requests", "prompt_tokens", "completion_tokens", "cost")}
    return {"cached": sum(estimate["cached"] for estimate in known), **ranges}


def show_costs(found: dict[str, Any]) -> None:
    """A row per stage, one per model and benchmark that asks, one for the total; what they rest on."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("stage", overflow="fold")
    for heading in ("cached", "to ask", "prompt tokens", "answer tokens", "money"):
        table.add_column(heading, justify="right", overflow="fold")
    console = Console()
    dash = "–" if console.width >= 80 else "–\n"
    for name, cost in found["stages"].items():
        table.add_row(name.removeprefix("evaluate@"), *_cells(cost["estimate"], dash))
    if found["total"]:
        table.add_section()
        table.add_row("total", *_cells(found["total"], dash))
    console.print(table)
    for name, cost in found["stages"].items():
        for note in _notes(cost):
            console.print(f"{name}: {note}", style="dim", highlight=False, soft_wrap=True)
    if found["max_cost"] is not None:
        console.print(f"endpoint.max_cost ends each of them before it has spent {found['max_cost']:,g}.")


def _cells(figures: dict[str, Any] | None, dash: str) -> list[str]:
    """The figures of a row; `dash` stands between low and high."""
    from stillroom.progress import short

    if figures is None:
        return ["?"] * 5
    cached, asked = figures["cached"], figures["requests"]
    share = f" ({cached / (cached + asked['high']):.0%})" if cached else ""
    tokens = [
        between(figures[key], short, dash) for key in ("requests", "prompt_tokens", "completion_tokens")
    ]
    return [
        f"{short(cached)}{share}",
        *tokens,
        between(figures["cost"], money, dash) if figures["cost"] else "no price",
    ]


def _notes(cost: dict[str, Any]) -> list[str]:
    """What is to be known of a row."""
    if cost["state"] == "fresh":
        return ["fresh, asks nothing"]
    if cost["first"]:
        return [f"its input is not there yet; first: stillroom run {' '.join(cost['first'])}"]
    after = [f"counted from its present input, which {', '.join(cost['after'])} may change"]
    return [*(after if cost["after"] else []), *cost["estimate"]["basis"]]


def between(figures: dict[str, float], written: Callable[[float], str], dash: str = "–") -> str:
    """`1.20M–3.45M`, or one figure where both ends read the same."""
    return dash.join(dict.fromkeys((written(figures["low"]), written(figures["high"]))))


def money(amount: float) -> str:
    """`1,234`, `12.34`, `0.0123`."""
    if amount >= 1000:
        return f"{amount:,.0f}"
    return f"{amount:.2f}" if amount >= 1 or not amount else f"{amount:.3g}"
