"""A model at an endpoint is examined: asked, scored, kept."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "teacher"))

from mock_server import MockServer, answer

from stillroom import chat_format, lineage
from stillroom.benchmarks.base import Drawing
from stillroom.benchmarks.booksum import BookSum
from stillroom.endpoint_model import EndpointModel
from stillroom.errors import ModelError
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages import evaluate

KEY = "sk-very-secret"


def record(number):
    turns = (
        Message("user", f"Summarise chapter {number}."),
        Message("assistant", "The ferry leaves at nine."),
    )
    return Conversation(f"b{number}", "booksum", turns, {"book": "b", "group": "b"})


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNING_KEY", KEY)
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    write_conversations(tmp_path / "data/benchmarks/booksum/eval.jsonl", map(record, range(5)))
    (tmp_path / "data/benchmarks/pg19").mkdir(parents=True)
    (tmp_path / "data/benchmarks/pg19/a-book.txt").write_text("The lamp burns all night.")
    return tmp_path


def model(server, folder, **settings):
    found = EndpointModel(base_url=server.url, api_key_env="TUNING_KEY", model="ft:m:7", **settings)
    found.write(folder / "models/tuned")


def params(chat="inst"):
    return evaluate.Params(seed=7, chat_format=chat, endpoint={"max_attempts": 2})


def outs(benchmark="booksum"):
    paths = evaluate.Paths("tuned", benchmark)
    files = [paths.samples, paths.label, paths.metrics, *sorted(paths.files.iterdir())]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize(("api", "chat"), [("chat", "inst"), ("chat", "tokenizer"), ("completions", "inst")])
def test_questions_are_asked_and_the_answers_kept(checkout, monkeypatch, api, chat):
    paths = evaluate.Paths("tuned", "booksum")
    with MockServer(checkout / "bought.jsonl", key=KEY) as server:
        model(server, checkout, api=api)
        evaluate.run(paths, params(chat))
        bought = server.bought()
    rows = [json.loads(line) for line in paths.samples.open()]
    spelled = chat_format.get("inst")
    for number, row in enumerate(rows):
        question = f"Summarise chapter {number}."
        text = spelled.text([Message("user", question)], prompt=True)
        shape = {"messages": [{"role": "user", "content": question}]} if api == "chat" else {"prompt": text}
        (body,) = [body for body in bought if shape.items() <= body.items()]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("ft:m:7", 0, 512)
        assert row["output"] == answer(body)
        assert row["prompt"] == (text if chat == "inst" else question)
        assert (row["status"], row["scores"]["cut"]) == ("scored", 0.0)
        [said] = lineage.said(paths.samples, row["id"])
        assert (said.who, said.text) == ("model", row["output"])
    assert json.loads(paths.metrics.read_text())["n"] == len(bought) == 5
    first = outs()
    assert not [name for name, content in first.items() if KEY.encode() in content]
    monkeypatch.setenv("STILLROOM_CACHE", str(checkout / "another"))
    evaluate.run(paths, params(chat))
    assert outs() == first


def test_drawn_answers_are_asked_for_and_filtered_ones_counted(checkout):
    turns = (Message("user", "Please be filtered."), Message("assistant", "gold"))
    extra = Conversation("c", "booksum", turns, {"book": "b", "group": "b"})
    write_conversations(checkout / "data/benchmarks/booksum/eval.jsonl", [record(0), extra])
    given = params().model_copy(update={"booksum": BookSum(sampling=Drawing(temperature=0.8, top_p=0.9))})
    with MockServer(checkout / "bought.jsonl", key=KEY) as server:
        model(server, checkout)
        evaluate.run(evaluate.Paths("tuned", "booksum"), given)
        bought = server.bought()
    assert {(body["temperature"], body["top_p"], body["seed"]) for body in bought} == {(0.8, 0.9, 7)}
    found = json.loads(outs()["booksum.json"])
    assert (found["n"], found["failed"], found["skipped"]) == (1, 1, 0)
    rows = {row["id"]: row for row in map(json.loads, outs()["booksum.jsonl"].splitlines())}
    assert rows["c"]["output"] is None
    assert "filter" in rows["c"]["note"]


@pytest.mark.parametrize(
    ("code", "count", "note"),
    [("context_length_exceeded", "skipped", "does not fit"), ("content_filter", "failed", "filter")],
)
def test_a_prompt_that_is_refused_for_what_it_is_does_not_end_the_run(checkout, code, count, note):
    with MockServer(checkout / "bought.jsonl", always=400, error={"message": "no", "code": code}) as server:
        model(server, checkout)
        evaluate.run(evaluate.Paths("tuned", "booksum"), params())
    found = json.loads(outs()["booksum.json"])
    assert {key: found[key] for key in ("n", "failed", "skipped")} == {"n": 0, "failed": 0, "skipped": 0} | {
        count: 5
    }
    assert all(note in json.loads(line)["note"] for line in outs()["booksum.jsonl"].splitlines())


def test_a_benchmark_that_needs_weights_says_so(checkout):
    EndpointModel(base_url="http://127.0.0.1:9/v1", model="m").write(checkout / "models/tuned")
    with pytest.raises(ModelError, match="needs its weights") as error:
        evaluate.run(evaluate.Paths("tuned", "pg19"), params())
    assert "evaluate.benchmarks" in error.value.hint
