"""Training at a service, against a local server that speaks both dialects."""

import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import openai
import pytest
from filelock import FileLock
from mock_service import KEY, MockService

from stillroom import chat_format, endpoint_model
from stillroom.errors import BudgetError, EndpointError, InputError, ParamsError, TrainingError
from stillroom.params import Endpoint
from stillroom.records import Conversation, Message, write_conversations
from stillroom.remote import job
from stillroom.stages import convert, train
from stillroom.stages.train import Params, Paths

PATIENCE = 300
"""seconds after which something hangs"""
DIALECTS = ("openai", "together")
CREATE = {"openai": "POST /v1/fine_tuning/jobs", "together": "POST /together/v1/fine-tunes"}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """The key; and what a short run spends its time on is left out: certificates, waiting for the disk."""
    monkeypatch.setenv("TUNING_KEY", KEY)
    monkeypatch.setattr(openai, "DefaultHttpxClient", partial(openai.DefaultHttpxClient, verify=False))
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def shared():
    with MockService() as service:
        yield service


@pytest.fixture
def service(shared):
    shared.reset()
    return shared


def records(count):
    """Conversations of one turn, and every third of two after a system message."""
    for i in range(count):
        turns = [Message("user", f"Wörd {i}?"), Message("assistant", f"Answer\n{i}.")]
        turns = [Message("system", "Be brief."), *turns, *turns] if i % 3 == 0 else turns
        yield Conversation(f"c{i:02}", "s", tuple(turns), {"origin": "chat"})


@pytest.fixture
def paths(tmp_path):
    write_conversations(tmp_path / "mixture/train.jsonl", records(12))
    write_conversations(tmp_path / "mixture/validation.jsonl", records(2))
    return places(tmp_path)


def places(folder, mixture=None):
    return Paths(
        mixture=mixture or folder / "mixture",
        checkpoint=folder / "models/checkpoint",
        metrics=folder / "train.json",
        curve=folder / "train.csv",
        work=folder / "work",
    )


def params(service, dialect, endpoint=None, adapter="none", **api):
    address = {"dialect": dialect, "base_url": service.url(dialect), "api_key_env": "TUNING_KEY"}
    return Params(
        backend="api",
        adapter=adapter,
        endpoint={"max_attempts": 3, **(endpoint or {})},
        api={"model": "m", "poll_seconds": 0.001, **address, **api},
    )


def outs(paths):
    files = (paths.checkpoint / "endpoint.json", paths.metrics, paths.curve)
    return [file.read_bytes() for file in files]


def lines(content):
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_from_mixture_to_model(service, paths, dialect, capfd, tmp_path):
    train.run(paths, params(service, dialect, suffix="mine", price=2.0, extra={"n_checkpoints": 2}))
    said = capfd.readouterr().err
    uploaded = {file["filename"].rpartition("-")[2]: file for file in service.files()}
    for side, count in (("train", 12), ("validation", 2)):
        wanted = [json.loads(line) for line in (paths.mixture / f"{side}.jsonl").open()]
        found = lines(uploaded[f"{side}.jsonl"]["content"])
        assert found == [{"messages": row["messages"]} for row in wanted]
        assert len(found) == count
        assert uploaded[f"{side}.jsonl"]["purpose"] == "fine-tune"
    (created,) = service.jobs()
    body = {k: created[k] for k in ("model", "suffix", "n_checkpoints", "training_file", "validation_file")}
    sides = {f"{side}_file": uploaded[f"{key}.jsonl"]["id"] for side, key in SIDES}
    assert body == {"model": "m", "suffix": "mine", "n_checkpoints": 2, **sides}
    if dialect == "openai":
        assert created["hyperparameters"] == {"n_epochs": 4, "batch_size": 32}
        assert created["seed"] == 42
    else:
        asked = {
            k: created[k] for k in ("n_epochs", "batch_size", "learning_rate", "n_evals", "training_type")
        }
        assert asked == {
            "n_epochs": 4,
            "batch_size": 32,
            "learning_rate": 1e-5,
            "n_evals": 4,
            "training_type": {"type": "Full"},
        }
    found = endpoint_model.find(paths.checkpoint)
    name = "ft:m:7" if dialect == "openai" else "me/m-7"
    assert (found.model, found.base_url, found.api) == (name, service.url(dialect), "chat")
    assert (found.api_key_env, found.trained["job"]) == ("TUNING_KEY", "job-0")
    rate = ("", "") if dialect == "openai" else ("1e-05", "1e-05")
    assert paths.curve.read_text().splitlines() == [
        "step,tokens,loss,validation_loss,lr,grad_norm",
        f"1,,2.0,,{rate[0]},",
        f"2,,1.0,3.0,{rate[1]},",
    ]
    assert json.loads(paths.metrics.read_text()) == {
        "step": 2,
        "epochs": 4,
        "tokens": 4321,
        "records": 12,
        "validation_records": 2,
        "loss": 1.0,
        "validation_loss": 3.0,
    }
    for words in (
        "12 records and 2 for validation",
        "estimated cost",
        "job job-0: running",
        f"trained: {name}",
    ):
        assert words in said
    step = "Step 1, of ***" if dialect == "openai" else "step 1: loss 2"
    assert said.index("Job started") < said.index(step)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in (said.encode(), *kept) if KEY.encode() in content]
    assert not list(paths.work.rglob("*.jsonl"))


SIDES = (("training", "train"), ("validation", "validation"))


def test_the_summary_comes_before_anything_goes_up(service, paths, capfd, monkeypatch):
    seen = []
    monkeypatch.setattr(job, "submit", lambda *_: seen.append((capfd.readouterr().err, service.requests())))
    monkeypatch.setattr(job, "follow", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train.run(paths, params(service, "openai"))
    ((said, requests),) = seen
    assert "12 records" in said
    assert requests == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_second_run_pays_for_nothing_even_without_its_record(service, paths, dialect, tmp_path):
    train.run(paths, params(service, dialect))
    elsewhere = places(tmp_path / "elsewhere", paths.mixture)
    for again in (paths, elsewhere):
        train.run(again, params(service, dialect))
        assert outs(again) == outs(paths)
    assert (len(service.jobs()), len(service.files())) == (1, 2)
    train.run(paths, params(service, dialect, n_epochs=5))
    assert len(service.jobs()) == 2


def test_text_is_that_of_the_chat_format(service, paths):
    train.run(paths, params(service, "together", format="text"))
    chat = chat_format.get("inst")
    texts = [{"text": chat.text(record.messages)} for record in records(12)]
    assert lines(service.files()[0]["content"]) == texts
    assert endpoint_model.find(paths.checkpoint).api == "completions"


def test_an_adapter_is_asked_for_in_the_services_words(service, paths):
    train.run(paths, params(service, "together", adapter="lora"))
    assert service.jobs()[0]["training_type"] == {
        "type": "Lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_trainable_modules": "all-linear",
    }
    with pytest.raises(ParamsError, match="no qlora"):
        train.run(paths, params(service, "together", adapter="qlora"))


def in_child(paths, settings, words, armed):
    """Run the stage in this process, whose standard error goes to a file."""
    sys.stderr = words.open("w")
    armed.wait()
    try:
        train.run(paths, settings)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


def started(paths, settings, tmp_path):
    """A process that runs the stage once its event is set."""
    context = multiprocessing.get_context("fork")
    armed = context.Event()
    process = context.Process(target=in_child, args=(paths, settings, tmp_path / "words", armed))
    process.start()
    return process, armed


@pytest.mark.parametrize("dialect", DIALECTS)
def test_kill_9_at_any_request_makes_no_second_job(service, paths, dialect, tmp_path):
    settings = params(service, dialect)
    train.run(paths, settings)
    wanted, requests = outs(paths), service.requests()
    assert requests.count(CREATE[dialect]) == 1
    for at, request in enumerate(requests):
        for moment in ("before", "after") if request.startswith("POST") else ("before",):
            service.reset()
            mine = places(tmp_path / f"{at}-{moment}", paths.mixture)
            process, armed = started(mine, settings, tmp_path)
            service.kill(process.pid, at, moment)
            armed.set()
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL
            train.run(mine, settings)
            assert outs(mine) == wanted, (at, moment)
            assert (len(service.jobs()), len(service.files())) == (1, 2), (at, moment)


@pytest.mark.parametrize(("dialect", "status"), [("openai", 429), ("together", 500)])
def test_a_refusal_for_now_is_met_by_another_try_at_every_request(service, paths, dialect, status, tmp_path):
    train.run(paths, params(service, dialect))
    wanted, requests = outs(paths), service.requests()
    for at in range(len(requests)):
        service.reset(faults={at: status})
        mine = places(tmp_path / str(at), paths.mixture)
        train.run(mine, params(service, dialect))
        assert outs(mine) == wanted, requests[at]
        assert (len(service.jobs()), len(service.files())) == (1, 2)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", ["lost", "reset", 429, 500])
def test_a_creation_without_an_answer_is_looked_for_first(service, paths, dialect, fault, tmp_path):
    train.run(paths, params(service, dialect))
    requests = service.requests()
    service.reset(faults={requests.index(CREATE[dialect]): fault})
    train.run(places(tmp_path / "again", paths.mixture), params(service, dialect))
    assert len(service.jobs()) == 1
    assert service.requests().count(CREATE[dialect]) == (1 if fault == "lost" else 2)


def test_looks_without_an_answer_do_not_end_the_wait_at_once(service, paths, capfd):
    train.run(paths, params(service, "openai"))
    first = service.requests().index("GET /v1/fine_tuning/jobs/job-0")
    service.reset(faults=dict.fromkeys(range(first, first + 6), 503))
    train.run(replace(paths, work=paths.work / "2"), params(service, "openai"))
    assert capfd.readouterr().err.count("503: not now; looking again") == 2
    service.reset(faults=dict.fromkeys(range(first, first + 99), 503))
    with pytest.raises(EndpointError, match="503: not now"):
        train.run(replace(paths, work=paths.work / "3"), params(service, "openai"))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_job_that_fails_is_an_error_in_the_services_words(paths, dialect, end):
    with MockService(end=end, looks=2, error=f"line 7 is no good, says {KEY}", has_metrics=False) as service:
        for count in (1, 2):
            with pytest.raises(
                TrainingError, match=r"ended as .*: line 7 is no good, says \*\*\*\n"
            ) as error:
                train.run(paths, params(service, dialect))
            assert error.value.hint == "run again to create a new job"
            assert len(service.jobs()) == count
    assert not paths.checkpoint.exists()


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on_or_end_it(paths, tmp_path):
    with MockService(looks=10**9) as service:
        settings = params(service, "openai")
        process, armed = started(paths, settings, tmp_path)
        armed.set()
        end = time.monotonic() + PATIENCE
        while not any(request.endswith("/events") for request in service.requests()):
            assert process.is_alive()
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGINT)
        process.join(PATIENCE)
        assert process.exitcode == 130
        said = (tmp_path / "words").read_text().splitlines()[-1]
        assert said.endswith(
            "job job-0 goes on. To follow it: stillroom train. To end it: stillroom train --cancel"
        )
        assert service.jobs()[0]["status"] == "running"
        train.cancel(paths, settings)
        assert service.jobs()[0]["status"] == "cancelled"
        with pytest.raises(TrainingError, match="no job to cancel"):
            train.cancel(paths, settings)
    with pytest.raises(TrainingError, match="only a job at a service"):
        train.cancel(paths, Params())


def test_what_is_refused_is_said_without_the_key(service, paths, monkeypatch):
    monkeypatch.setenv("TUNING_KEY", "sk-not-that")
    with pytest.raises(EndpointError) as error:
        train.run(paths, params(service, "openai"))
    assert "401: Incorrect API key provided: Bearer ***" in str(error.value)
    assert "TUNING_KEY" in error.value.hint
    nobody = params(service, "openai", {"max_attempts": 1}, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match="no answer"):
        train.run(paths, nobody)
    monkeypatch.setenv("TUNING_KEY", KEY)
    wrong = params(service, "openai", {"max_attempts": 1}, base_url=service.url("together"))
    with pytest.raises(EndpointError) as error:
        train.run(paths, wrong)
    assert "dialect" in error.value.hint


def test_a_job_that_is_gone_is_said_so(service, paths):
    train.run(paths, params(service, "openai"))
    service.reset()
    with pytest.raises(EndpointError, match="No such job") as error:
        train.run(paths, params(service, "openai"))
    (record,) = paths.work.glob("remote/*.json")
    assert str(record) in error.value.hint
    record.unlink()
    train.run(paths, params(service, "openai"))


def test_money_and_data_are_checked_before_anything_goes_up(service, paths, tmp_path, monkeypatch):
    with pytest.raises(BudgetError, match=r"max_cost is 0\.0001"):
        train.run(paths, params(service, "openai", {"max_cost": 0.0001}, price=25.0))
    with pytest.raises(ParamsError, match="needs price"):
        train.run(paths, params(service, "openai", {"max_cost": 1}))
    with pytest.raises(ParamsError, match="which model"):
        train.run(paths, params(service, "openai", model=None))
    monkeypatch.setattr(job.OpenAI, "most_bytes", 100)
    with pytest.raises(InputError, match="100 in a file"):
        train.run(paths, params(service, "openai"))
    write_conversations(paths.mixture / "train.jsonl", records(9))
    with pytest.raises(InputError, match="9 records, the service takes 10 or more"):
        train.run(paths, params(service, "openai"))
    assert service.requests() == []


@pytest.mark.parametrize(
    ("roles", "fault"),
    [
        (("user",), "the last message is not an answer"),
        ((), "the last message is not an answer"),
        (("system",), "the last message is not an answer"),
        (("assistant", "user"), "message 1 is of the role 'assistant' out of turn"),
        (("system", "user", "user", "assistant"), "message 3 is of the role 'user' out of turn"),
        (("user", "assistant", "system", "assistant"), "message 3 is of the role 'system' out of turn"),
    ],
)
def test_a_record_that_cannot_be_trained_on_is_named(service, paths, roles, fault):
    bad = Conversation("z", "s", tuple(Message(role, "x") for role in roles))
    write_conversations(paths.mixture / "train.jsonl", [*records(11), bad])
    with pytest.raises(InputError, match=fault) as error:
        train.run(paths, params(service, "together"))
    assert error.value.where == f"{paths.mixture / 'train.jsonl'}:12: record 'z'"


def test_two_runs_do_not_wait_for_one_job(service, paths):
    (paths.work / "remote").mkdir(parents=True)
    with FileLock(paths.work / "remote/lock"), pytest.raises(TrainingError, match="another run"):
        train.run(paths, params(service, "openai"))


def test_keys_go_to_their_own_address_only(service):
    with pytest.raises(ValueError, match="needs an api_key_env"):
        Params(api={"base_url": "http://other/v1"})
    with pytest.raises(ValueError, match="messages only"):
        Params(api={"format": "text"})
    endpoint = Endpoint(base_url="http://one/v1", api_key_env="ONE", api_key_file="/k", max_attempts=3)
    there = Params(api={"base_url": "http://two/v1", "api_key_env": "TWO"}).api.reached(endpoint)
    assert (there.base_url, there.api_key_env, there.api_key_file, there.max_attempts) == (
        "http://two/v1",
        "TWO",
        None,
        3,
    )
    assert Params().api.reached(endpoint) == endpoint
    model = endpoint_model.EndpointModel(base_url="http://one/v1", api_key_env="ONE", model="m")
    assert model.reached(endpoint) == endpoint
    elsewhere = model.model_copy(update={"base_url": "http://two/v1", "api_key_env": "TWO"}).reached(endpoint)
    assert elsewhere == there


def test_convert_passes_the_model_on(service, paths, tmp_path):
    train.run(paths, params(service, "openai"))
    tuned = tmp_path / "models/tuned"
    convert.run(convert.Paths(checkpoint=paths.checkpoint, tuned=tuned), convert.Params())
    assert [path.name for path in tuned.iterdir()] == ["endpoint.json"]
    assert endpoint_model.find(tuned) == endpoint_model.find(paths.checkpoint)
    (tuned / "endpoint.json").write_text('{"base_url": "http://one/v1", "modle": "m"}')
    with pytest.raises(InputError, match="model: field required") as error:
        endpoint_model.find(tuned)
    assert error.value.where == str(tuned / "endpoint.json")
    assert endpoint_model.find(tmp_path) is None


def test_the_curve_is_that_of_a_local_run():
    loop = Path(importlib.util.find_spec("stillroom.training.loop").origin)
    assert ",".join(job.COLUMNS) in loop.read_text()
