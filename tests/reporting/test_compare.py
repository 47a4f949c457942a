"""Two revisions of a small checkout with git and DVC: what `stillroom compare` says of them."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stillroom.cli import app
from stillroom.commands import compare
from stillroom.errors import InputError
from stillroom.reporting import comparison, revisions

DVC_YAML = """
stages:
  train:
    cmd: 'true'
    metrics: [reports/metrics/train.json]
  evaluate:
    matrix: {model: "${evaluate.models}", benchmark: "${evaluate.benchmarks}"}
    cmd: 'true'
    params: ["train"]
    outs:
    - reports/samples/${item.model}/${item.benchmark}.jsonl
    metrics:
    - reports/metrics/evaluate/${item.model}/${item.benchmark}.json
"""
EVALUATE = {"models": ["base", "tuned"], "benchmarks": ["pg19", "mqa"]}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, write_item):
    """`first` has a weak model, `second` a better one that was trained with another lr."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("checkout")
    (root / "gitconfig").write_text("[user]\nname = t\nemail = t@t\n[init]\ndefaultBranch = main\n")
    before = Path.cwd()
    os.chdir(root)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": str(root / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words):
        subprocess.run(["git", *words], check=True, env=env, capture_output=True)

    def record(lr, quality, tag):
        (root / "params.yaml").write_text(yaml.safe_dump({"train": {"lr": lr}, "evaluate": EVALUATE}))
        (root / "reports/metrics").mkdir(parents=True, exist_ok=True)
        (root / "reports/metrics/train.json").write_text(json.dumps({"loss": 1 / lr, "by": {"a": 1}}))
        for model in EVALUATE["models"]:
            for name in EVALUATE["benchmarks"]:
                chosen = 0.25 if model == "base" else quality
                write_item(root / "reports", model, name, chosen, 7 if model == "base" else 3)
        with Repo() as repo:
            repo.commit(force=True)
        git("add", "params.yaml", "dvc.yaml", "dvc.lock", ".gitignore", ".dvc")
        git("commit", "-qm", tag)
        git("tag", tag)

    try:
        git("init", "-q")
        (root / ".gitignore").write_text("/reports/\n")
        (root / "dvc.yaml").write_text(DVC_YAML)
        Repo.init().close()
        record(0.1, 0.4, "first")
        record(0.2, 0.9, "second")
        yield root
    finally:
        os.chdir(before)


@pytest.fixture
def here(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    return checkout


def test_revisions_are_paired_sample_by_sample(here):
    found = comparison.comparison(revisions.read("second"), revisions.read("first"))
    rows = {(row["model"], row["benchmark"]): row for row in found["results"]}
    assert {key: row["verdict"] for key, row in rows.items()} == {
        ("base", "pg19"): "unresolved",
        ("base", "mqa"): "unresolved",
        ("tuned", "pg19"): "better",
        ("tuned", "mqa"): "better",
    }
    assert rows["base", "mqa"]["method"] == "the same answers"
    assert (rows["base", "mqa"]["low"], rows["base", "mqa"]["p"]) == (None, None)
    tuned = rows["tuned", "mqa"]
    assert (tuned["n"], tuned["groups"], tuned["paired"]) == (72, 24, True)
    assert tuned["value"] - tuned["baseline_value"] == pytest.approx(tuned["delta"], abs=2e-6)
    assert tuned["low"] < tuned["delta"] < tuned["high"]
    assert tuned["p_holm"] > tuned["p"]
    assert found["params"] == {"train.lr": [0.1, 0.2]}
    assert found["metrics"] == {"train.loss": [10.0, 5.0]}


def test_figures_that_were_made_of_other_things_are_named(here):
    ours, base = (revisions.read(name) for name in ("workspace", "workspace"))
    assert comparison.comparison(ours, base)["made_of_other"] == {}
    for model, name in (("base", "mqa"), ("tuned", "mqa")):
        ours.labels[model, name] = ours.labels[model, name] | {"code": "f" * 64}
    ours.labels["tuned", "pg19"] = ours.labels["tuned", "pg19"] | {"settings": {}, "data": "e" * 64}
    del base.labels["base", "mqa"]
    found = comparison.comparison(ours, base)
    assert found["made_of_other"] == {"code": ["tuned/mqa"], "data": ["tuned/pg19"]}
    [(_, rows)] = compare.differences(found)
    assert rows == [["code", "tuned/mqa"], ["data", "tuned/pg19"]]
    for name in EVALUATE["benchmarks"]:
        base.labels["base", name] = {**ours.labels["base", name], "model": "0" * 64}
    [(_, rows)] = compare.differences(comparison.comparison(ours, base, ["base"]))
    assert rows == [["model", "all"]]


def test_the_workspace_is_set_against_a_revision(here):
    workspace = comparison.comparison(revisions.read("workspace"), revisions.read("second"))
    assert {row["method"] for row in workspace["results"]} == {"the same answers"}
    assert workspace["params"] == workspace["metrics"] == {}


def test_samples_with_other_prompts_are_not_paired(here):
    ours, base = (revisions.read(name) for name in ("second", "first"))
    item = ("tuned", "mqa")
    rows = base.samples[item]
    for share, paired in ((0.4, True), (0.6, False)):
        others = int(share * len(rows))
        base.samples[item] = [replace(row, prompt="another") for row in rows[:others]] + rows[others:]
        [row] = comparison.results(item, ours, base)
        assert row["paired"] is paired
        assert ("not paired" in row["method"]) is not paired
        assert (row["n"] < 72) is paired


def test_parts_are_compared_too_paired_or_not(write_item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate = {"models": ["tuned"], "benchmarks": ["leaderboard"]}
    Path("params.yaml").write_text(yaml.safe_dump({"evaluate": evaluate}))
    found = []
    for quality in (0.3, 0.9):
        write_item(tmp_path / "reports", "tuned", "leaderboard", quality)
        found.append(revisions.read("workspace"))
    base, ours = found
    names = ["leaderboard", "leaderboard/arc_challenge", "leaderboard/gsm8k"]
    for paired in (True, False):
        rows = comparison.comparison(ours, base)["results"]
        assert [row["benchmark"] for row in rows] == names
        assert {(row["verdict"], row["paired"]) for row in rows} == {("better", paired)}
        base.samples["tuned", "leaderboard"] = [
            replace(row, prompt="another") for row in base.samples["tuned", "leaderboard"]
        ]


@pytest.mark.parametrize("form", [[], ["--json"], ["--markdown"]])
def test_the_command(here, form):
    done = CliRunner().invoke(app, ["compare", "first", "second", "workspace", "--model", "tuned", *form])
    assert done.exit_code == 0, done.output
    assert "base pg19" not in done.output
    if form == ["--json"]:
        found = json.loads(done.output)
        assert [one["revision"] for one in found] == ["second", "workspace"]
        assert {row["verdict"] for row in found[0]["results"]} == {"better"}
    else:
        assert "train.lr" in done.output
    if form == ["--markdown"]:
        assert "| tuned mqa, accuracy ↑ |" in done.output
        assert "▲ better, p " in done.output


def test_a_revision_that_is_not_there_is_named(here):
    with pytest.raises(InputError, match="no such revision") as failure:
        revisions.read("nowhere")
    assert "nowhere" in str(failure.value)


def test_samples_that_were_not_pulled_are_named(here):
    lock = yaml.safe_load((here / "dvc.lock").read_text())
    out = next(o for o in lock["stages"]["evaluate@tuned-mqa"]["outs"] if "samples" in o["path"])
    path = here / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
    aside = path.rename(here / "aside")
    try:
        with pytest.raises(InputError, match=r"reports/samples/tuned/mqa\.jsonl") as failure:
            revisions.read("second")
        assert "dvc pull" in str(failure.value)
    finally:
        aside.rename(path)


def test_what_dvc_cannot_give_is_named(here, monkeypatch):
    def opened(path):
        if path.endswith("train.json"):
            raise OSError("the remote hung up")
        return Path(path).open("rb")

    monkeypatch.setattr(revisions, "_workspace", opened)
    with pytest.raises(InputError, match=r"train\.json: cannot be read \(the remote hung up\)"):
        revisions.read("workspace")


def test_nothing_in_common_says_what_there_is(here):
    done = CliRunner().invoke(app, ["compare", "first", "second", "--model", "nobody"])
    assert isinstance(done.exception, InputError)
    assert "base, tuned" in str(done.exception)
