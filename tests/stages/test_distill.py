import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "teacher"))

from mock_server import MockServer, answer

from stillroom import chat_format
from stillroom.artifacts import write_jsonl
from stillroom.params import Endpoint, Sampling, Teacher
from stillroom.records import Conversation, Message, read_conversations, write_conversations
from stillroom.stages.distill import Params, Paths, run
from stillroom.teacher.verdicts import Policies

SAMPLING = Sampling(max_tokens=16, temperature=0.0)
OUTS = ("distilled.jsonl", "instructions.jsonl", "instructions.md", "distill-answers.parquet")


@pytest.fixture
def server(tmp_path):
    with MockServer(tmp_path / "bought.jsonl", latency=0.02) as server:
        yield server


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder to run the stage in, with a cache of its own."""
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def human(identifier, *turns):
    return Conversation(
        identifier, "sharegpt", tuple(Message("user", t) for t in turns), {"file": "a", "record": 1}
    )


def conversations(count, turns=3):
    return [human(f"c{i:03}", *(f"turn {t} of {i}" for t in range(turns))) for i in range(count)]


def params(server, **settings):
    endpoint = Endpoint(base_url=server.url)
    return Params(teacher=Teacher(model="mock"), endpoint=endpoint, sampling=SAMPLING, **settings)


def distilled(rows, params):
    write_conversations(Paths().conversations, rows)
    run(Paths(), params)
    return list(read_conversations(Paths().distilled))


def outs(folder=Path()):
    return {name: (folder / "data/interim" / name).read_bytes() for name in OUTS} | {
        "metrics": (folder / "reports/metrics/distill.json").read_bytes()
    }


def test_turns_are_asked_in_order_each_in_the_context_of_the_answers(checkout, server):
    (row,) = distilled([human("a", "first", "second")], params(server))
    one, two = sorted(server.bought(), key=lambda body: len(body["messages"]))
    assert one["messages"] == [{"role": "user", "content": "first"}]
    assert two["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": answer(one)},
        {"role": "user", "content": "second"},
    ]
    assert [m.content for m in row.messages] == ["first", answer(one), "second", answer(two)]
    assert [t["finish_reason"] for t in row.meta["turns"]] == ["stop", "stop"]
    assert row.meta["file"] == "a"


def test_the_outs_agree_with_each_other(checkout, server):
    rows = distilled(conversations(20), params(server))
    chat = chat_format.get("inst")
    texts = [json.loads(line)["text"] for line in Paths().instructions.read_text().splitlines()]
    assert texts == [chat.text(c.messages) for c in rows]
    keys = {t["key"] for c in rows for t in c.meta["turns"]}
    saved = duckdb.sql(f"SELECT key, text FROM '{Paths().answers}'").fetchall()
    assert {key for key, _ in saved} == keys
    assert {text for _, text in saved} == {
        m.content for c in rows for m in c.messages if m.role == "assistant"
    }
    metrics = json.loads(Paths().metrics.read_text())
    assert (metrics["conversations"], metrics["turns"]) == (20, 60)
    assert metrics["completion_tokens"] == sum(t["completion_tokens"] for c in rows for t in c.meta["turns"])
    assert metrics["answers"] == {"complete": {"kept": 60}}


def test_the_order_of_the_input_and_of_completion_do_not_show(checkout, server):
    rows = conversations(30, 2)
    distilled(rows, params(server))
    first = outs()
    shutil.rmtree("cache")
    shutil.rmtree("data")
    random.Random(1).shuffle(rows)
    write_jsonl(Paths().conversations, rows)
    run(Paths(), params(server))
    assert outs() == first
    assert len(server.bought()) == 120


def test_a_conversation_ends_before_the_first_turn_without_a_whole_answer(checkout, server):
    rows = [human("a", "one", "please be long", "three"), human("b", "be long")]
    kept = distilled(rows, params(server))
    assert [(c.id, len(c.messages)) for c in kept] == [("a", 2)]
    metrics = json.loads(Paths().metrics.read_text())
    assert metrics["unanswered_conversations"] == 1
    assert metrics["answers"] == {"complete": {"kept": 1}, "truncated": {"dropped": 2}}
    assert duckdb.sql(f"SELECT count(*) FROM '{Paths().answers}'").fetchall() == [(3,)]


def test_truncated_answers_may_be_kept_and_end_the_conversation(checkout, server):
    kept = distilled(
        [human("a", "one", "be long", "three")], params(server, policies=Policies(truncated="keep"))
    )
    assert [len(c.messages) for c in kept] == [4]
    assert kept[0].meta["turns"][1]["finish_reason"] == "length"


def test_a_system_prompt_is_for_conversations_that_have_none(checkout, server):
    own = Conversation("b", "x", (Message("system", "own"), Message("user", "hi")))
    rows = distilled([human("a", "hi"), own], params(server, system="given"))
    assert [c.messages[0] for c in rows] == [Message("system", "given"), Message("system", "own")]
    assert {b["messages"][0]["content"] for b in server.bought()} == {"given", "own"}


def test_original_answers_pass_through_and_nobody_is_asked(checkout, server):
    messages = tuple(Message(r, f"{r} {i}") for i, r in enumerate(["user", "assistant", "user"]))
    rows = distilled([Conversation("a", "x", messages), human("b", "hi")], params(server, answers="original"))
    assert [c.messages for c in rows] == [messages[:2]]
    assert rows[0].meta["turns"] == [
        {
            "key": None,
            "finish_reason": "original",
            "verdict": "original",
            "prompt_tokens": 0,
            "completion_tokens": 0,
        }
    ]
    assert server.bought() == []
    assert duckdb.sql(f"SELECT count(*) FROM '{Paths().answers}'").fetchall() == [(0,)]


def test_no_conversations_are_no_error(checkout, server):
    assert distilled([], params(server)) == []


def command(checkout, server):
    """Write params.yaml and input for `python -m stillroom distill`, run as its own process."""
    document = {
        "common": {"teacher": {"model": "mock"}},
        "endpoint": {"base_url": server.url, "max_in_flight": 8},
        "distill": {"sampling": {"max_tokens": 16, "temperature": 0.0}},
    }
    Path("params.yaml").write_text(yaml.safe_dump(document))
    return [sys.executable, "-m", "stillroom", "distill"]


def test_kill_9_buys_nothing_acknowledged_twice_and_changes_no_byte(checkout, server):
    call = command(checkout, server)
    rows = conversations(40)
    write_conversations(Paths().conversations, rows)
    process = subprocess.Popen(call, stderr=subprocess.DEVNULL)
    while len(server.bought()) < 75:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # the server may still answer what was in flight
    before = server.bought()
    assert not Paths().distilled.exists()
    shutil.copytree("cache", "cache-at-kill")
    with duckdb.connect("cache-at-kill/responses.duckdb") as connection:
        stored = [
            json.loads(r)["body"] for (r,) in connection.execute("SELECT request FROM responses").fetchall()
        ]
    assert len(stored) > 20
    run(Paths(), params(server))
    again = server.bought()[len(before) :]
    assert not [body for body in again if body in stored]
    assert len(again) <= 120 - len(stored)  # the spool knew of more
    finished = outs()
    shutil.rmtree("cache")
    Paths().answers.unlink()
    run(Paths(), params(server))
    assert outs() == finished


def test_two_runs_share_one_cache(checkout, server):
    call = command(checkout, server)
    other = checkout / "other"
    other.mkdir()
    shutil.copy("params.yaml", other)
    write_conversations(other / Paths().conversations, conversations(60, 2))
    elsewhere = subprocess.Popen(call, cwd=other, stderr=subprocess.PIPE)
    while not server.bought():
        time.sleep(0.01)
    distilled(conversations(60, 2), params(server))
    assert elsewhere.wait(30) == 0, elsewhere.stderr.read()
    elsewhere.stderr.close()
    assert outs(other) == outs()
    asked = len(server.bought())
    distilled(conversations(60, 2), params(server))
    assert len(server.bought()) == asked


def test_an_endpoint_that_refuses_is_one_message_without_a_traceback(checkout, tmp_path):
    with MockServer(tmp_path / "none.jsonl", always=401) as refusing:
        call = command(checkout, refusing)
        write_conversations(Paths().conversations, conversations(10))
        done = subprocess.run(
            call, capture_output=True, text=True, env=os.environ | {"OPENAI_API_KEY": "sk-secret"}
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert refusing.url in done.stderr
    assert "OPENAI_API_KEY" in done.stderr
    assert "sk-secret" not in done.stderr
    assert not list(Path("data/interim").glob("distill*"))


def test_a_colleague_with_the_snapshot_in_dvcs_cache_asks_nobody(checkout, server):
    def dvc(*arguments):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)

    distilled(conversations(10, 2), params(server))
    first = outs()
    dvc("init", "--no-scm", "-q")
    dvc("add", "-q", str(Paths().answers))
    (out,) = yaml.safe_load(Path(f"{Paths().answers}.dvc").read_text())["outs"]
    lock = {
        "schema": "2.0",
        "stages": {"distill": {"outs": [{"path": Paths().answers.as_posix(), "md5": out["md5"]}]}},
    }
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    for path in (Paths().answers, Paths().distilled):
        path.unlink()
    shutil.rmtree("cache")
    asked = len(server.bought())
    distilled(conversations(10, 2), params(server))
    assert outs() == first
    assert len(server.bought()) == asked
