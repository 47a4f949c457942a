"""One graph in both engines, on the toy and on this project's own pipeline; one set of names."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ["evaluate.models", "evaluate.benchmarks", "endpoint.prices", "endpoint.backend"]
"""keys of other blocks that the report watches: what was examined, and at which prices"""


@pytest.fixture(scope="module")
def own(make_checkout, tmp_path_factory):
    """This project's pipeline without its code and data: enough for the graph."""
    names = ["dvc.yaml", "params.yaml", "Snakefile", ".gitignore", "data/review/README.md"]
    files = {name: ROOT / name for name in names}
    root = yaml.safe_load((ROOT / "params.yaml").read_text())["fetch"]["root"]
    files |= {f"{root}/a-file": "", "prompts/a.yaml": ""}
    return make_checkout(tmp_path_factory.mktemp("own"), files)


def by_rule(name):
    """The rule of a stage's address."""
    return name.partition("@")[0]


def dvc_graph(checkout):
    """(upstream, downstream) by rule, as `dvc dag` draws them."""
    lines = checkout.dvc("dag", "--dot").stdout.splitlines()
    pairs = [line.strip(" ;").split(" -> ") for line in lines if " -> " in line]
    return {(by_rule(a.strip('"')), by_rule(b.strip('"'))) for a, b in pairs}


def snakemake_graph(checkout):
    """(upstream, downstream) by rule, as `snakemake --rulegraph` draws them (`--dag` omits wildcards)."""
    dot = checkout.snakemake("--rulegraph", "dot", "--forceall").stdout
    label = dict(re.findall(r'^\s*(\d+)\[label = "([^"\\]*)', dot, re.MULTILINE))
    edges = re.findall(r"(\d+) -> (\d+)", dot)
    return {(label[a], label[b]) for a, b in edges if label[b] != "all"}


def test_the_toy_has_one_graph(toy):
    edges = snakemake_graph(toy)
    assert edges == dvc_graph(toy)
    assert {("fetch", "train"), ("clean", "report"), ("evaluate", "report")} <= edges


def test_this_project_has_one_graph(own):
    edges = snakemake_graph(own)
    assert edges == dvc_graph(own)
    assert {("fetch", "extract"), ("models", "distill"), ("evaluate", "report")} <= edges


def test_every_stage_is_in_rule_all(own):
    from stillroom.stages import STAGES

    named = own.would_run()
    assert {by_rule(name) for name in named} == set(STAGES)
    assert len(named) == len(own.plan())


def test_git_ignores_every_out(own):
    """Else DVC writes a .gitignore beside each, and one inside reports/metrics would change report's deps."""
    outs = [out for stage in own.plan().values() for out in stage["outs"]]
    assert own.git("check-ignore", *outs).stdout.split() == outs


def test_one_name_for_module_stage_rule_block_and_command(own):
    import typer.main

    from stillroom.cli import app
    from stillroom.params import SHARED_BLOCKS
    from stillroom.stages import STAGES

    stages = set(STAGES)
    modules = {path.stem for path in (ROOT / "src/stillroom/stages").glob("*.py")} - {"__init__"}
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    rules = set(own.snakemake("--list-rules").stdout.split()) & {*stages, *modules, *document}
    hand_written = {
        name
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
    }
    commands = set(typer.main.get_command(app).commands)
    assert modules == stages
    assert set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) == stages
    assert rules == stages
    assert hand_written - {"source"} == stages
    assert set(document) - set(SHARED_BLOCKS) == stages
    assert stages <= commands


def test_each_curve_of_a_benchmark_has_its_plot():
    from stillroom.benchmarks import BENCHMARKS

    drawn = {
        path: (plot["x_label"], plot["y_label"])
        for named in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
        for path, plot in named.items()
    }
    assert drawn == {
        f"reports/curves/{name}-{curve.name}.csv": (curve.x_title, curve.y_title)
        for name, benchmark in BENCHMARKS.items()
        for curve in benchmark.curves
    }


def test_each_stage_watches_its_block_and_its_common_keys():
    from stillroom.stages import STAGES

    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in STAGES:
        params = importlib.import_module(f"stillroom.stages.{name}").Params
        common = [f"common.{key}" for key in params.common_keys]
        watched = stages[name]["params"]
        others = OTHERS if name == "report" else []
        block = [key for key in watched if not key.startswith("common.") and key not in others]
        assert sorted(set(watched) - set(block)) == sorted(common + others), name
        assert block == [name] or all(key.startswith(f"{name}.") for key in block), name


def test_code_deps_are_the_import_graph():
    command = [sys.executable, "workflow/code_deps.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
