"""Judges over HTTP, through cache and snapshot; the model's answers are given, so that no model works."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "teacher"))

import mock_server
from mock_server import MockServer

from stillroom import lineage
from stillroom.artifacts import write_json
from stillroom.benchmarks import alpaca_eval
from stillroom.benchmarks.base import Questions, Sample
from stillroom.errors import EndpointError, ParamsError
from stillroom.params import Endpoint
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages import evaluate
from stillroom.teacher.cache import Cache

COUNT = 12
NOWHERE = "http://127.0.0.1:9/v1"
BLOCKS = {
    "alpaca_eval": {"judge": {"model": "judge"}},
    "raft": {"judge": {"model": "judge"}, "contexts": ["given"]},
}


def verdict(body):
    """What the judge says: by the text of the prompt alone, now and then no verdict."""
    prompt = body["messages"][-1]["content"]
    words = ("1", "2") if "<answer_1>" in prompt else ("YES", "NO")
    return (*words * 3, "Well …")[hashlib.sha256(prompt.encode()).digest()[0] % 7]


def completion(body):
    message = {"role": "assistant", "content": verdict(body)}
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": usage}


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Start judges; they end with the test."""
    running = []

    def start(answering=completion):
        monkeypatch.setattr(mock_server, "completion", answering)
        running.append(MockServer(tmp_path / f"bought-{len(running)}.jsonl"))
        return running[-1].__enter__()

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with both sets, and a model whose answers are known."""
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_json(Path("models/base/config.json"), {})
    rows = [
        {"instruction": f"Do {i}.", "output": "draw" if i == 3 else f"ref {i}", "dataset": f"d{i % 2}"}
        for i in range(COUNT)
    ]
    write_json(Path("data/benchmarks/alpaca_eval/set.json"), rows)
    records = [
        Conversation(
            f"r{i:02}",
            "raft",
            (Message("user", f"{i}?"), Message("assistant", "gold")),
            {"question": f"{i}?", "answer": f"gold {i}", "refusal": i == 0},
        )
        for i in range(COUNT)
    ]
    write_conversations(Path("data/benchmarks/raft/eval.jsonl"), records)

    def answered(self, records, subject):
        samples = []
        for record in records:
            place = int(record.id[-2:])
            output = ("draw" if place == 3 else f"<ANSWER>: {place}") if place != 5 else None
            gold = self.gold(record)
            scores = self.score(record, output, gold) if output else {}
            status = "scored" if output else "skipped"
            samples.append(Sample(record.id, record.id, "", output, gold, scores, status))
        return samples

    monkeypatch.setattr(Questions, "ask", answered)


def examine(benchmark, url=NOWHERE, **endpoint):
    """Run the item; every file that it wrote, and its figures."""
    paths = evaluate.Paths("base", benchmark)
    settings = Endpoint(base_url=url, **endpoint)
    evaluate.run(paths, evaluate.Params(seed=42, chat_format="inst", endpoint=settings, **BLOCKS))
    return outs(paths), json.loads(paths.metrics.read_text())


def outs(paths):
    files = [paths.samples, paths.label, paths.metrics, *sorted(paths.files.glob("*"))]
    return {path.name: path.read_bytes() for path in files if path.exists()}


@pytest.mark.parametrize("benchmark", ["alpaca_eval", "raft"])
def test_a_second_run_asks_for_nothing_and_samples_lead_to_their_verdicts(checkout, judge, benchmark):
    server = judge()
    first, metrics = examine(benchmark, server.url)
    bought = len(server.bought())
    assert bought == (
        COUNT - 2 if benchmark == "alpaca_eval" else 2 * (COUNT - 2) - metrics["judge"]["invalid"]
    )
    assert examine(benchmark)[0] == first
    assert len(server.bought()) == bought
    paths, keys = evaluate.Paths("base", benchmark), set()
    for row in map(json.loads, paths.samples.read_text().splitlines()):
        for said in lineage.said(paths.samples, row["id"]):
            body = json.loads(Cache().show(said.key).request)["body"]
            assert (said.who, said.text) == ("judge", verdict(body))
            assert row["gold"][0] in body["messages"][-1]["content"]
            keys.add(said.key)
    assert len(keys) == bought


def test_alpaca_eval_counts_every_sample_and_leaves_its_files(checkout, judge):
    _, metrics = examine("alpaca_eval", judge().url)
    assert metrics["n"] + metrics["failed"] + metrics["skipped"] == COUNT
    assert metrics["skipped"] == 1
    assert metrics["failed"] > 0
    assert (
        metrics["n_total"] == metrics["n"] == metrics["n_wins"] + metrics["n_wins_base"] + metrics["n_draws"]
    )
    assert metrics["headline"]["value"] == pytest.approx(metrics["win_rate"] / 100, abs=1e-6)
    assert set(metrics["win_rate_by_dataset"]) == {"d0", "d1"}
    folder = evaluate.Paths("base", "alpaca_eval").files
    row = alpaca_eval.read(folder)
    assert (row.win_rate, row.n_total) == (pytest.approx(metrics["win_rate"], abs=1e-6), metrics["n_total"])
    outputs = json.loads((folder / "model_outputs.json").read_text())
    assert [o["instruction"] for o in outputs] == [f"Do {i}." for i in range(COUNT) if i != 5]
    annotations = json.loads((folder / "annotations.json").read_text())
    assert annotations[3]["preference"] == 1.5
    assert sum(a["preference"] is None for a in annotations) == metrics["failed"]
    assert {(a["generator_1"], a["generator_2"], a["annotator"]) for a in annotations} == {
        ("reference", "base", "judge")
    }
    assert (folder / "leaderboard.csv").read_text().splitlines()[1].startswith("base,")


@pytest.mark.parametrize("benchmark", ["alpaca_eval", "raft"])
def test_a_pulled_snapshot_answers_for_the_judge(checkout, judge, monkeypatch, tmp_path, benchmark):
    first, _ = examine(benchmark, judge().url)
    paths, cache = evaluate.Paths("base", benchmark), Path(".dvc/cache/files/md5")
    listing = []
    for path in sorted(paths.files.iterdir()):
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
        path.rename(cache / md5[:2] / md5[2:])
        listing.append({"md5": md5, "relpath": path.name})
    (cache / "ab").mkdir(exist_ok=True)
    write_json(cache / "ab/cd.dir", listing)
    locked = {"path": paths.files.as_posix(), "md5": "abcd.dir"}
    Path("dvc.lock").write_text(
        yaml.safe_dump({"stages": {f"evaluate@base-{benchmark}": {"outs": [locked]}}})
    )
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "a colleague's"))
    assert examine(benchmark)[0] == first


@pytest.mark.parametrize("benchmark", ["alpaca_eval", "raft"])
def test_interrupted_judging_goes_on_where_it_was(checkout, judge, monkeypatch, tmp_path, benchmark):
    whole, _ = examine(benchmark, (undisturbed := judge()).url)
    for path in evaluate.Paths("base", benchmark).files.iterdir():
        path.unlink()
    evaluate.Paths("base", benchmark).metrics.unlink()
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "another"))
    answers = iter(range(4))

    def failing(body):
        next(answers)  # the fifth is a 500
        return completion(body)

    broken = judge(failing)
    with pytest.raises(EndpointError, match="no answer"):
        examine(benchmark, broken.url, max_attempts=1, max_in_flight=1)
    assert not evaluate.Paths("base", benchmark).metrics.exists()
    assert list(evaluate.Paths("base", benchmark).files.iterdir()) == []
    assert len(Cache().keys()) == 4
    mended = judge()
    assert examine(benchmark, mended.url)[0] == whole
    assert len(mended.bought()) == len(undisturbed.bought()) - 4


def test_without_a_judge_nothing_is_asked_and_the_folder_is_empty(checkout, tmp_path):
    paths = evaluate.Paths("base", "raft")
    evaluate.run(paths, evaluate.Params(seed=42, chat_format="inst", raft={"contexts": ["given"]}))
    assert list(paths.files.iterdir()) == []
    assert "judge" not in json.loads(paths.metrics.read_text())
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ParamsError, match=r"evaluate\.alpaca_eval\.judge"):
        evaluate.run(evaluate.Paths("base", "alpaca_eval"), evaluate.Params(seed=42, chat_format="inst"))


def test_the_label_names_judge_and_prompt(checkout, judge):
    examine("raft", judge().url)
    label = json.loads(evaluate.Paths("base", "raft").label.read_text())
    assert label["settings"]["judge"]["model"] == "judge"
    assert len(label["judge_prompt"]) == 64
