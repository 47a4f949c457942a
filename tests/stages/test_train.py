"""The stage as its users meet it: real processes, killed, resumed; one message for whatever goes wrong."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from forked import build_base, random_rows, write_packed

from stillroom.errors import InputError, ModelError, TrainingError
from stillroom.stages.train import Params, Paths, identity, run


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Paths(
        packed=write_packed(tmp_path / "packed", random_rows(4, 0), random_rows(2, 1)),
        base=build_base(tmp_path / "base"),
        checkpoint=tmp_path / "checkpoint",
        metrics=tmp_path / "train.json",
        curve=tmp_path / "train.csv",
        work=tmp_path / "work",
    )


def outs(paths):
    files = [paths.metrics, paths.curve, *sorted(paths.checkpoint.iterdir())]
    return {path.name: path.read_bytes() for path in files}


def workers():
    return [
        p for p in psutil.Process().children(recursive=True) if "stillroom.training.worker" in p.cmdline()
    ]


def send_after_new_checkpoint(work, number):
    """Wait for a checkpoint that is not there yet, then signal the run's processes."""
    before = set(work.glob("*/step-*"))

    def send():
        deadline = time.monotonic() + 100
        while not set(work.glob("*/step-*")) - before and time.monotonic() < deadline:
            time.sleep(0.01)
        for process in workers():
            os.kill(process.pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_run_that_is_killed_and_stopped_goes_on_and_names_no_place_or_time(paths, tmp_path):
    settings = {"steps": 120, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 10}
    thread = send_after_new_checkpoint(paths.work, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"process 0 was killed \(SIGKILL\)") as caught:
        run(paths, Params(processes=1, **settings))
    thread.join()
    assert "go on at step" in caught.value.hint
    thread = send_after_new_checkpoint(paths.work, signal.SIGTERM)
    with pytest.raises(TrainingError, match="training was stopped at step"):
        run(paths, Params(processes=1, **settings))
    thread.join()
    assert not workers()
    assert not paths.checkpoint.exists()
    run(paths, Params(processes=2, **settings))
    assert not list(paths.work.glob("train-*"))
    metrics = json.loads(paths.metrics.read_text())
    assert (metrics["step"], metrics["epochs"]) == (120, 60)
    assert metrics["parameters"] == metrics["trainable"]
    found = outs(paths)
    steps = [line.split(b",")[0] for line in found["train.csv"].splitlines()]
    assert steps == [b"step", *(str(number).encode() for number in range(1, 121))]
    assert {"__0_0.distcp", "__1_0.distcp"} < found.keys()
    assert not [name for name, content in found.items() if str(tmp_path).encode() in content]


def test_an_error_in_a_process_is_one_message_and_nothing_else(paths, capfd):
    rows = random_rows(4, 0)
    rows[2]["input_ids"][0] = 5000
    write_packed(paths.packed, rows, random_rows(2, 1))
    with pytest.raises(
        InputError, match=r"train\.parquet: row 2: ids lie outside the vocabulary of 300"
    ) as error:
        run(paths, Params(processes=1))
    assert error.value.hint == "the rows were packed with the tokenizer of another model"
    assert capfd.readouterr() == ("", "")
    assert not paths.checkpoint.exists()


def test_the_work_folder_is_named_by_what_decides_the_outcome(paths):
    first = identity(paths, Params())
    assert identity(paths, Params(processes=7, checkpoint_every=3, keep_checkpoints=1)) == first
    assert identity(paths, Params(lr=1e-3)) != first
    write_packed(paths.packed, random_rows(4, 9), random_rows(2, 1))
    second = identity(paths, Params())
    build_base(paths.base, "llama-tied")
    assert len({first, second, identity(paths, Params())}) == 3


def test_no_base_model_is_said_before_anything_starts(paths, tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        run(Paths(packed=paths.packed, base=tmp_path / "none", work=tmp_path / "work"), Params())
    assert not (tmp_path / "work").exists()
