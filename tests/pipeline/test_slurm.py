"""The cluster profile on a real Slurm: stages are its jobs, DVC agrees afterwards, and a cut run goes on."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import slurm

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("slurm")]

PROFILE = ["-m", "stillroom", "run", "--profile", "slurm"]
TUNED = ["evaluate@tuned-7b-long-books", "evaluate@tuned-7b-qa"]
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
    path = f"{cluster.folder}/bin:{toy.env['PATH']}"
    return replace(toy, env={**toy.env, **cluster.env, "PATH": path})


def command(*targets):
    return [sys.executable, *PROFILE, *targets, "--", *QUICK]


def log_of(toy, stage):
    path = toy.root / f"logs/{stage}.log"
    return path.read_text() if path.exists() else ""


def test_a_job_that_fails_or_is_cancelled_ends_the_run_in_its_own_words(toy, on_slurm, cluster):
    toy.set("train.lr", 0.7)
    failed = on_slurm.run(*command("train"), check=False, TOY_FAIL="train")
    assert failed.returncode != 0
    assert "train: this stage fails on purpose" in failed.stdout
    assert "logs/train.log" in failed.stdout
    assert toy.ran() == ["train"]

    cancelled = hang(on_slurm)
    number = running(cluster)
    assert cluster.jobs()[number]["TresPerJob"] == "gres:gpu:8"
    cluster.run("scancel", number)
    assert toy.ended(cancelled) != 0
    assert f"SLURM-job '{number}' failed, SLURM status is: 'CANCELLED'" in toy.output.read_text()
    assert toy.ran() == ["train"]
    assert "train" in toy.would_run()


def test_a_run_after_a_kill_waits_for_the_job_and_makes_jobs_of_what_it_changes(toy, on_slurm, cluster):
    toy.set("train.lr", 0.7)
    killed = hang(on_slurm)
    killed.kill()
    killed.wait()
    waiting, before = running(cluster), cluster.jobs().keys()
    following = on_slurm.start(*command())
    toy.wait_for(lambda: "waiting for another job" in log_of(toy, "train"))
    assert [job["JobState"] for job in new_jobs(cluster, before)] == ["RUNNING"]
    assert cluster.jobs()[waiting]["JobState"] == "RUNNING"
    toy.go.touch()
    assert toy.ended(following) == 0, toy.output.read_text()
    made = new_jobs(cluster, before)
    rules = sorted(job["Comment"].split("_wildcards")[0] for job in made)
    assert rules == ["rule_evaluate", "rule_evaluate", "rule_report", "rule_train"]
    assert {job["JobState"] for job in made} == {"COMPLETED"}
    assert all(f"SLURM jobid {job['JobId']} " in toy.output.read_text() for job in made)
    assert toy.ran() == [*TUNED, "report", "train"], "none of them twice"
    gpus = [log_of(toy, name).split("GPUs ")[1].split()[0] for name in TUNED]
    assert all(gpu in map(str, range(slurm.GPUS)) for gpu in gpus)
    assert toy.status() == []
    toy.dvc("repro")
    assert toy.would_run() == []
    assert toy.ran() == []


@pytest.mark.skipif(
    find_spec("snakemake_executor_plugin_slurm") is not None, reason="the plugin is installed"
)
def test_without_the_plugin_the_profile_says_what_to_install(toy):
    refused = toy.run(*command(), check=False)
    assert refused.returncode == 1
    assert "--editable '.[slurm]'" in refused.stdout


def hang(toy):
    """A run on the cluster whose `train` waits."""
    (toy.root / "logs/train.log").unlink(missing_ok=True)
    process = toy.start(*command("train"), TOY_HANG="train")
    toy.wait_for(lambda: "hanging" in log_of(toy, "train"))
    return process


def new_jobs(cluster, before):
    """The jobs that were made since `before` was taken."""
    return [job for number, job in cluster.jobs().items() if number not in before]


def running(cluster):
    """The id of the one job at work."""
    (number,) = [number for number, job in cluster.jobs().items() if job["JobState"] == "RUNNING"]
    return number
