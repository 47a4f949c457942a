"""One graph, one judgement, no second run: Snakemake and DVC on the same checkout."""

from __future__ import annotations

import json
import os
import sys

import pytest
import yaml

pytestmark = pytest.mark.pipeline

BOTH = [("snakemake", "dvc"), ("dvc", "snakemake")]
TUNED = ["evaluate@tuned-7b-long-books", "evaluate@tuned-7b-qa"]
EVERYTHING = sorted(
    ["base", "clean", "evaluate@base-long-books", "evaluate@base-qa", *TUNED, "fetch", "report", "train"]
)


@pytest.mark.parametrize(("first", "second"), BOTH)
def test_a_changed_param_runs_its_stage_and_what_it_changes_once(toy, first, second):
    toy.set("train.lr", 0.7)
    toy.engine(first)
    assert toy.ran() == sorted([*TUNED, "report", "train"])
    toy.engine(second)
    assert toy.ran() == []
    assert toy.status() == []


def test_touching_everything_runs_nothing(toy):
    toy.snakemake("-n")
    for path in toy.root.rglob("*"):
        if ".git" not in path.parts and ".dvc" not in path.parts:
            os.utime(path)
    toy.snakemake()
    toy.dvc("repro")
    assert toy.ran() == []


def test_going_back_in_git_and_dvc_runs_nothing(toy):
    toy.set("train.lr", 0.7)
    toy.dvc("repro")
    toy.git("commit", "--all", "--quiet", "--message", "faster")
    toy.ran()
    toy.git("checkout", "--quiet", "HEAD~1")
    toy.dvc("checkout", "--quiet")
    toy.snakemake()
    toy.dvc("repro")
    assert toy.ran() == []


def test_first_run_of_a_fresh_checkout(toy):
    toy.git("checkout", "--quiet", "HEAD~1")
    for name in ("data", "models", "reports", ".dvc/cache"):
        toy.run("rm", "-rf", name)
    assert toy.would_run() == EVERYTHING
    done = toy.snakemake()
    assert toy.ran() == EVERYTHING
    assert "train: never run" in done.stdout
    toy.dvc("repro")
    assert toy.ran() == []
    assert toy.git("status", "--short").stdout.split() == ["??", "dvc.lock"]


def test_dry_run_names_what_dvc_names_and_its_descendants(toy):
    toy.set("evaluate.qa", {"n": 3})
    (toy.root / "sources/part.txt").write_text("another part\n")
    (toy.root / "reports/samples/base/long-books.txt").unlink()
    stale = toy.status()
    assert stale == ["evaluate@base-long-books", "evaluate@base-qa", "evaluate@tuned-7b-qa", "fetch"]
    below = descendants(toy, stale)
    assert toy.would_run() == sorted({*stale, *below})
    plan = toy.plan()
    assert sorted(name for name, stage in plan.items() if stage["stale"]) == stale
    assert sorted(name for name, stage in plan.items() if stage["why"]) == sorted({*stale, *below})


def descendants(toy, names):
    """By DVC's own graph, `dvc dag`."""
    found, edges = set(names), dvc_edges(toy)
    while new := {b for a, b in edges if a in found} - found:
        found |= new
    return found


def dvc_edges(checkout):
    """(upstream, downstream) by address, as `dvc dag` draws them."""
    lines = checkout.dvc("dag", "--dot").stdout.splitlines()
    pairs = [line.strip(" ;").split(" -> ") for line in lines if " -> " in line]
    return {(a.strip('"'), b.strip('"')) for a, b in pairs}


def test_reasons_name_setting_file_and_command(toy):
    toy.set("train.lr", 0.25)
    (toy.root / "sources/part.txt").write_text("another part\n")
    text = (toy.root / "dvc.yaml").read_text()
    (toy.root / "dvc.yaml").write_text(text.replace("toy.py report", "toy.py  report"))
    plan = {name: stage["why"] for name, stage in toy.plan().items()}
    assert plan["train"] == "train.lr 0.1 → 0.25"
    assert plan["fetch"] == "sources modified"
    assert plan["report"] == "its command changed"
    assert plan["clean"] == "after fetch"
    assert plan["base"] == ""
    assert "Job 4: train: train.lr 0.1 → 0.25" in toy.snakemake("-n").stdout


def test_an_edited_source_of_dvc_add_runs_what_uses_it(toy):
    toy.git("rm", "-r", "--cached", "--quiet", "sources")
    toy.dvc("add", "--quiet", "sources")
    assert toy.would_run() == []
    (toy.root / "sources/part.txt").write_text("another part\n")
    assert toy.status() == ["fetch", "sources.dvc"]
    toy.snakemake("fetch")
    assert toy.ran() == ["fetch"]
    assert "sources.dvc" not in toy.status()


RACE = """
import sys
from pathlib import Path

sys.path.insert(0, "workflow")
import plan

part = Path("sources/part.txt")
plan.begin(dry_run=True)
original = plan._watched


def edit_now(*arguments):
    part.write_text("trap\\n")  # after DVC has looked at it, before the signature is taken
    return original(*arguments)


plan._watched = edit_now
assert not plan.ask_dvc().to_run()
plan.begin(dry_run=True)
plan._watched = original
assert "fetch" in [stage.name for stage in plan.judge().to_run()], "an edit during the judgement"
part.write_text("part\\n")
plan.begin(dry_run=True)
assert not plan.judge().to_run()
part.write_text("tarp\\n")
assert "fetch" in [stage.name for stage in plan.judge().to_run()], "an edit of the same size"
"""


REUSE = """
import sys

sys.path.insert(0, "workflow")
import plan

plan.ask_dvc = lambda: sys.exit("DVC was asked")
assert not plan.judge().to_run()
"""


def test_an_unchanged_output_stops_there_and_the_next_plan_does_not_ask_dvc(toy):
    toy.set("clean.keep", 8)
    toy.snakemake()
    toy.run(sys.executable, "-c", REUSE)
    assert "Nothing to be done" in toy.snakemake().stdout
    assert toy.ran() == ["clean"]
    assert toy.status() == []
    toy.snakemake("--report", "report.html")
    held = (toy.root / "report.html").read_text()
    for path in ("reports/index.html", "reports/curves/qa-length.svg", "reports/figures/train.csv"):
        assert path in held
    assert "qa-length: a line per model with 95 % intervals" in held
    toy.set("clean.keep", 7)
    toy.dvc("repro")
    assert toy.ran() == ["clean"]


def test_edits_during_and_right_after_the_judgement_are_seen(toy):
    toy.run(sys.executable, "-c", RACE)


def test_an_object_lost_from_the_cache_is_seen(toy):
    toy.snakemake("-n")
    assert json.loads((toy.root / ".dvc/tmp/stages/plan.json").read_text())["signature"]
    md5 = yaml.safe_load((toy.root / "dvc.lock").read_text())["stages"]["clean"]["outs"][0]["md5"]
    path = toy.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    path.chmod(0o644)
    path.unlink()
    assert toy.status() == ["clean"]
    assert "clean" in toy.would_run()
