"""The cluster profile on a real Slurm: stages are its jobs, DVC agrees afterwards, and a cut run goes on."""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import slurm

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("slurm")]

PROFILE = ["-m", "stillroom", "run", "--profile", "slurm"]
QUICK = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"]


@pytest.fixture(scope="module")
def cluster():
    if reason := slurm.missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own are too long for a socket's name
    try:
        with slurm.cluster(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def on_slurm(toy, cluster):
    """The toy, whose commands find the cluster."""
    toy.env |= cluster.env
    toy.env["PATH"] = f"{cluster.folder}/bin:{toy.env['PATH']}"
    return toy


def command(*targets):
    return [sys.executable, *PROFILE, *targets, "--", *QUICK]


def log_of(toy, stage):
    path = toy.root / f"logs/{stage}.log"
    return path.read_text() if path.exists() else ""


def test_a_run_that_fails_is_cancelled_and_is_killed_runs_no_stage_twice(on_slurm, cluster):
    toy = on_slurm
    toy.git("checkout", "--quiet", "HEAD~1")
    for name in ("data", "models", "reports", ".dvc/cache"):
        toy.run("rm", "-rf", name)
    everything = toy.would_run()

    failed = toy.run(*command("train"), check=False, TOY_FAIL="train")
    assert failed.returncode != 0
    assert "train: this stage fails on purpose" in failed.stdout
    assert "logs/train.log" in failed.stdout
    assert toy.ran() == ["base", "clean", "fetch", "train"]

    cancelled = hang(toy)
    number = running(cluster)
    assert cluster.jobs()[number]["TresPerJob"] == "gres:gpu:8"
    cluster.run("scancel", number)
    assert cancelled.wait(60) != 0
    assert f"SLURM-job '{number}' failed, SLURM status is: 'CANCELLED'" in toy.output.read_text()
    assert toy.ran() == ["train"]
    assert "train" in toy.would_run()

    killed = hang(toy)
    killed.kill()
    killed.wait()
    following = toy.start(*command())
    toy.wait_for(lambda: "waiting for another job" in log_of(toy, "train"))
    assert len([job for job in cluster.jobs().values() if job["JobState"] == "RUNNING"]) >= 2
    toy.go.touch()
    assert following.wait(90) == 0, toy.output.read_text()
    assert toy.ran() == sorted(set(everything) - {"base", "clean", "fetch"})
    agree(toy)


def test_a_changed_param_makes_jobs_of_what_it_changes(on_slurm, cluster):
    toy, before = on_slurm, cluster.jobs().keys()
    toy.set("evaluate.qa", {"n": 3})
    done = toy.run(*command())
    jobs = {number: job for number, job in cluster.jobs().items() if number not in before}
    assert sorted(job["Comment"].split("_wildcards")[0] for job in jobs.values()) == [
        "rule_evaluate",
        "rule_evaluate",
        "rule_report",
    ]
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert all(f"SLURM jobid {number} " in done.stdout for number in jobs)
    assert toy.ran() == ["evaluate@base-qa", "evaluate@tuned-7b-qa"], "an unchanged score ends it there"
    seen = {
        log_of(toy, name).split("GPUs ")[1].split()[0]
        for name in ("evaluate@base-qa", "evaluate@tuned-7b-qa")
    }
    assert all(gpu in map(str, range(slurm.GPUS)) for gpu in seen)
    agree(toy)


@pytest.mark.skipif(
    find_spec("snakemake_executor_plugin_slurm") is not None, reason="the plugin is installed"
)
def test_without_the_plugin_the_profile_says_what_to_install(toy):
    refused = toy.run(*command(), check=False)
    assert refused.returncode == 1
    assert "--editable '.[slurm]'" in refused.stdout


def agree(toy):
    """Neither engine has anything left to do."""
    assert toy.status() == []
    toy.dvc("repro")
    assert toy.would_run() == []
    assert toy.ran() == []


def hang(toy):
    """A run on the cluster whose `train` waits."""
    (toy.root / "logs/train.log").unlink(missing_ok=True)
    process = toy.start(*command("train"), TOY_HANG="train")
    toy.wait_for(lambda: "hanging" in log_of(toy, "train"))
    return process


def running(cluster):
    """The id of the one job at work."""
    (number,) = [number for number, job in cluster.jobs().items() if job["JobState"] == "RUNNING"]
    return number
