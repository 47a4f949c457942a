"""A run that is cut short, fails, is forced, aimed at a file, or meets another one."""

from __future__ import annotations

import os
import re
import signal

import pytest
from filelock import FileLock

pytestmark = pytest.mark.pipeline

BELOW_TRAIN = ["evaluate@tuned-7b-long-books", "evaluate@tuned-7b-qa", "report"]


def start_and_hang(toy, *command):
    """An engine in the middle of `train`."""
    toy.set("train.lr", 0.7)
    process = toy.start(*command, TOY_HANG="train")
    toy.wait_for_output("hanging")
    return process


@pytest.mark.parametrize(("killed", "finisher"), [("snakemake", "dvc"), ("dvc", "snakemake")])
def test_after_a_kill_either_engine_finishes(toy, killed, finisher):
    command = ["snakemake"] if killed == "snakemake" else ["dvc", "repro"]
    process = start_and_hang(toy, *command)
    os.killpg(process.pid, signal.SIGKILL)
    toy.wait_for_end_of_group(process)
    assert toy.ran() == ["train"]
    toy.engine(finisher)
    assert toy.ran() == sorted([*BELOW_TRAIN, "train"])
    assert toy.status() == []


def test_a_killed_snakemake_leaves_its_stage_running_and_the_next_one_waits_for_it(toy):
    process = start_and_hang(toy, "snakemake")
    process.kill()
    process.wait()
    assert any((toy.root / ".snakemake/locks").iterdir())
    following = toy.start("snakemake", "train")
    toy.wait_for_output("which works on it")
    toy.go.touch()
    assert toy.ended(following) == 0, toy.output.read_text()
    assert "was killed: its lock is removed" in toy.output.read_text()
    assert toy.ran() == ["train"]
    assert "train" not in toy.status()


def test_a_job_waits_for_the_one_that_another_node_has_not_finished(toy):
    """Whose process DVC cannot see: only its lock, on the file system that the nodes share."""
    toy.set("train.lr", 0.7)
    with FileLock(toy.root / ".dvc/tmp/stages/train.lock"):
        following = toy.start("snakemake", "train")
        toy.wait_for_output("train: waiting for another job, which works on it")
        assert toy.ran() == []
    assert toy.ended(following) == 0, toy.output.read_text()
    assert toy.ran() == ["train"]


def test_a_kill_while_dvc_wrote_its_list_of_locks_is_mended(toy):
    toy.set("train.lr", 0.7)
    (toy.root / ".dvc/tmp/rwlock").write_text("")
    assert "JSON structure is corrupted" in toy.dvc("repro", "train", check=False).stdout
    toy.snakemake("train")
    assert toy.ran() == ["train"]
    assert "train" not in toy.status()


def test_ctrl_c_stops_the_stage_and_the_next_run_goes_on(toy):
    process = start_and_hang(toy, "snakemake")
    os.killpg(process.pid, signal.SIGINT)
    assert toy.ended(process) != 0
    toy.wait_for_end_of_group(process)
    assert not (toy.root / ".snakemake/locks").exists() or not any((toy.root / ".snakemake/locks").iterdir())
    assert toy.would_run() == sorted(["train", *BELOW_TRAIN])


def test_a_second_snakemake_is_refused_and_a_dry_run_is_not(toy):
    process = start_and_hang(toy, "snakemake", "train")
    refused = toy.snakemake(check=False)
    assert refused.returncode != 0
    assert f"another Snakemake (process {process.pid} on " in refused.stdout
    assert "train" in toy.would_run()
    assert "train" in [name for name, stage in toy.plan().items() if stage["why"]]
    toy.go.touch()
    assert toy.ended(process) == 0, toy.output.read_text()
    assert toy.ran() == ["train"]
    assert toy.would_run() == sorted(BELOW_TRAIN)


def test_a_failing_stage_shows_its_error_and_keeps_what_is_done(toy):
    toy.set("train.lr", 0.7)
    toy.set("clean.keep", 2)
    failed = toy.snakemake(check=False, TOY_FAIL="train")
    assert failed.returncode != 0
    message = "train: this stage fails on purpose"
    assert message in failed.stdout
    assert message in (toy.root / "logs/train.log").read_text()
    assert toy.ran() == ["clean", "train"]
    assert "train" in toy.status()
    assert "clean" not in toy.status()


def test_force_runs_a_fresh_stage_again(toy):
    toy.snakemake("-R", "report", "-n")
    assert not list((toy.root / ".dvc/tmp/stages").glob("*.force"))
    for arguments, expected in [
        (["-R", "report"], ["report"]),
        (["-F", "clean"], ["clean", "fetch"]),
        (["-f", "data/clean.txt"], ["clean"]),
    ]:
        toy.snakemake(*arguments)
        assert toy.ran() == expected
    assert toy.would_run() == []


def test_force_takes_stages_not_files(toy):
    refused = toy.snakemake("-R", "models/tuned-7b", check=False)
    assert refused.returncode != 0
    assert "-R train" in refused.stdout


def test_a_file_or_directory_is_a_target(toy):
    toy.set("train.lr", 0.7)
    toy.set("evaluate.qa", {"n": 3})
    assert toy.would_run("reports/metrics/evaluate/base/qa.json") == ["evaluate@base-qa"]
    toy.snakemake("models/tuned-7b")
    assert toy.ran() == ["train"]
    assert (toy.root / "models/tuned-7b/weights.txt").exists()
    assert toy.status() == ["evaluate@base-qa", *BELOW_TRAIN]
    assert toy.would_run("models/tuned-7b") == []
    assert not (toy.root / "models/tuned-7b/.snakemake_timestamp").exists()


def test_a_deleted_file_comes_back_from_the_cache(toy):
    (toy.root / "data/clean.txt").unlink()
    toy.snakemake("data/clean.txt")
    assert toy.ran() == []
    assert (toy.root / "data/clean.txt").exists()


@pytest.mark.parametrize("option", [["--config", "lr=1"], ["--configfile", "params.yaml"]])
def test_config_is_refused(toy, option):
    refused = toy.snakemake("-n", *option, check=False)
    assert refused.returncode != 0
    assert "dvc exp run -S" in refused.stdout


def test_a_broken_dvc_yaml_is_named(toy):
    (toy.root / "dvc.yaml").write_text("stages: [")
    refused = toy.snakemake("-n", check=False)
    assert refused.returncode != 0
    assert "dvc.yaml" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_a_stage_without_a_rule_is_named(toy):
    rules = (toy.root / "rules.smk").read_text()
    (toy.root / "rules.smk").write_text(rules.replace("rule clean:", "rule cleaned:"))
    refused = toy.snakemake("-n", check=False)
    assert refused.returncode != 0
    assert "stage clean has no rule" in refused.stdout


def test_gpus_are_shared_out(toy):
    """Two GPUs: train sees both, evaluations that run side by side see one each."""
    toy.set("train.lr", 0.7)
    toy.snakemake("all_evaluate", "--cores", "3", CUDA_VISIBLE_DEVICES="5,7")
    seen = {path.stem: log_of_gpus(path) for path in (toy.root / "logs").glob("*.log")}
    assert seen["train"] == "5,7"
    assert {seen["evaluate@tuned-7b-qa"], seen["evaluate@tuned-7b-long-books"]} == {"5", "7"}


def log_of_gpus(path):
    return re.search(r"GPUs (\S*)", path.read_text())[1]


def test_a_job_of_a_cluster_node_reads_the_plan_and_leaves_it(toy):
    """What an executor plugin starts on a node: a Snakemake for one job."""
    toy.set("train.lr", 0.7)
    toy.snakemake("-n")
    before = {path.name: path.stat().st_mtime_ns for path in (toy.root / ".dvc/tmp/stages").iterdir()}
    toy.snakemake(
        *("--mode", "remote", "--target-jobs", "train:", "--allowed-rules", "train"),
        *("--cores", "1", "--force", "--nolock", "--rerun-triggers", "mtime"),
        CUDA_VISIBLE_DEVICES="3",
    )
    after = {path.name: path.stat().st_mtime_ns for path in (toy.root / ".dvc/tmp/stages").iterdir()}
    assert toy.ran() == ["train"]
    assert log_of_gpus(toy.root / "logs/train.log") == "3"
    assert {name for name in {**before, **after} if before.get(name) != after.get(name)} == {
        "train.done",
        "train.lock",
    }
