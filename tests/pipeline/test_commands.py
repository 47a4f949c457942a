"""`stillroom run` and `stillroom plan`."""

from __future__ import annotations

import json
import sys

import pytest

pytestmark = pytest.mark.pipeline


def stillroom(toy, *arguments, **keywords):
    return toy.run(sys.executable, "-m", "stillroom", *arguments, **keywords)


def test_plan_is_a_table_in_pipeline_order(toy):
    toy.set("train.lr", 0.7)
    shown = stillroom(toy, "plan", cwd=toy.root / "sources", COLUMNS="100").stdout
    words = [line.rstrip().split(maxsplit=2) for line in shown.splitlines() if line.strip()]
    rows = {row[0]: row[1:] for row in words}
    assert rows["train"] == ["run", "train.lr 0.1 → 0.7"]
    assert rows["evaluate@tuned-7b-qa"] == ["maybe", "after train"]
    assert rows["base"] == ["fresh"]
    names = [row[0] for row in words]
    assert names.index("fetch") < names.index("clean") < names.index("train") < names.index("report")
    assert "1 of 9 stages run, and 3 below them where an output changes" in shown
    assert toy.ran() == []


def test_plan_as_json(toy):
    stages = json.loads(stillroom(toy, "plan", "--json").stdout)
    assert [stage["why"] for stage in stages] == [""] * 9
    evaluate = next(stage for stage in stages if stage["name"] == "evaluate@base-qa")
    assert evaluate["upstream"] == ["base"]
    assert evaluate["group"] == "evaluate"


def test_run_from_a_subfolder_takes_stages_items_files_and_snakemake_arguments(toy):
    folder = toy.root / "models"
    toy.set("train.lr", 0.7)
    stillroom(toy, "run", "tuned-7b", "--", "--cores", "1", cwd=folder)
    assert toy.ran() == ["train"]
    item = stillroom(toy, "run", "evaluate@tuned-7b-qa", "--", "-n", cwd=folder).stdout
    assert "evaluate@tuned-7b-qa: " in item
    assert "evaluate@tuned-7b-long-books" not in item
    matrix = stillroom(toy, "run", "evaluate", "--", "-n", cwd=folder).stdout
    assert "evaluate@tuned-7b-long-books: " in matrix
    assert "report: " not in matrix


def test_run_refuses_what_it_does_not_know(toy):
    refused = stillroom(toy, "run", "trian", check=False)
    assert refused.returncode == 1
    assert "did you mean `train`?" in refused.stdout
    refused = stillroom(toy, "run", "--profile", "laptop", check=False)
    assert refused.returncode == 1
    assert "default, gpu, slurm" in refused.stdout
