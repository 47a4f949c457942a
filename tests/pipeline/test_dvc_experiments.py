"""DVC's own commands beside Snakemake: experiments, metrics, plots, remotes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

pytestmark = pytest.mark.pipeline

TUNED = ["evaluate@tuned-7b-long-books", "evaluate@tuned-7b-qa"]
TRAINED = sorted([*TUNED, "report", "train"])
LOSS = "reports/metrics/train.json"


def test_an_experiment_in_place(toy):
    toy.dvc("exp", "run", "--set-param", "train.lr=0.3", "--name", "faster")
    assert toy.ran() == TRAINED
    assert toy.would_run() == []
    assert loss_diff(toy.dvc("metrics", "diff", "--json").stdout) == (0.9091, 0.7692)
    assert loss_diff(toy.dvc("exp", "diff", "HEAD", "faster", "--json").stdout) == (0.9091, 0.7692)
    plot = toy.dvc("plots", "diff", "HEAD", "--show-vega", "--targets", "reports/figures/train.csv").stdout
    points = {(row["rev"], row["step"]): row["loss"] for row in json.loads(plot)["data"]["values"]}
    assert points["HEAD", "1"] == "0.1"
    assert points["workspace", "1"] == "0.3"

    toy.git("checkout", "--quiet", ".")
    toy.dvc("checkout", "--quiet")
    assert toy.would_run() == []
    toy.dvc("exp", "apply", "faster")
    toy.snakemake()
    assert toy.ran() == []
    assert "lr: 0.3" in (toy.root / "params.yaml").read_text()


def loss_diff(output):
    document = json.loads(output)
    change = document.get("metrics", document)[LOSS]["loss"]
    return change["old"], change["new"]


def test_experiments_in_a_queue_and_a_temporary_folder(toy):
    toy.dvc("exp", "run", "--queue", "--set-param", "train.lr=0.4", "--name", "four")
    toy.dvc("queue", "start")
    try:
        toy.dvc("exp", "run", "--temp", "--set-param", "train.lr=0.6", "--name", "six")
        toy.wait_for(lambda: "four" in experiments(toy))
    finally:
        toy.dvc("queue", "stop", "--kill", check=False)
    assert experiments(toy) == {"four": 0.7143, "six": 0.625}
    assert toy.ran() == sorted(2 * TRAINED)
    assert toy.would_run() == []


def experiments(toy):
    """Loss by name of what finished, from `dvc exp show`, which may stumble over a worker that clears up."""
    shown = toy.dvc("exp", "show", "--json", check=False)
    rows = json.loads(shown.stdout) if shown.returncode == 0 else []
    found = [e for row in rows for e in row.get("experiments") or []]
    done = [
        e["revs"][-1] for e in found if (e.get("executor") or {}).get("state") not in ("queued", "running")
    ]
    return {rev["name"]: rev["data"]["metrics"][LOSS]["data"]["loss"] for rev in done if rev.get("data")}


@pytest.fixture
def remote(toy, tmp_path):
    """The toy's default remote: a folder, with its configuration in git."""
    folder = tmp_path / "remote"
    toy.dvc("remote", "add", "--default", "shared", folder)
    toy.git("commit", "--all", "--quiet", "--message", "remote")
    return folder


@pytest.fixture
def clone(toy, tmp_path):
    """A colleague's clone on another machine: git's files, another home, no cache."""

    def make():
        root = tmp_path / "clone"
        toy.git("clone", "--quiet", toy.root, root)
        return replace(toy, root=root, env={**toy.env, "DVC_SITE_CACHE_DIR": str(tmp_path / "clone-site")})

    return make


def test_a_clone_that_pulled_runs_nothing(toy, remote, clone):
    toy.dvc("push", "--quiet")
    other = clone()
    other.dvc("pull", "--quiet")
    assert other.status() == []
    for engine in ("snakemake", "dvc"):
        other.engine(engine)
        assert other.ran() == []


def test_a_clone_without_a_pull_pulls_what_the_remote_has(toy, remote, clone):
    toy.dvc("push", "--quiet")
    other = clone()
    other.set("evaluate.qa", {"n": 3})
    done = other.snakemake("reports/samples/tuned-7b/qa.txt")
    assert "pulled from the DVC remote `shared`" in done.stdout
    assert other.ran() == ["evaluate@tuned-7b-qa"]
    assert (other.root / "models/tuned-7b/weights.txt").exists()


def test_a_clone_without_a_remote_says_how_to_get_one_and_runs(toy, clone):
    other = clone()
    done = other.snakemake("data/clean.txt")
    assert "dvc remote add --default NAME URL" in done.stdout
    assert other.ran() == ["clean", "fetch"]
    assert other.git("status", "--short").stdout == ""


def test_an_unreachable_remote_does_not_stop_a_run(toy, remote, clone):
    shutil.rmtree(remote, ignore_errors=True)
    other = clone()
    other.dvc("remote", "modify", "--local", "shared", "url", "ssh://nobody@127.0.0.1:1/none")
    done = other.snakemake("base")
    assert "running it" in done.stdout
    assert other.ran() == ["base"]
