import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import duckdb
import pytest
import yaml
from aiohttp import web
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parents[1] / "teacher"))

from mock_server import MockServer, answer

from stillroom import chat_format
from stillroom.artifacts import write_jsonl
from stillroom.errors import InputError
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


def test_a_conversation_ends_before_the_first_turn_without_a_whole_answer(checkout, server, capsys):
    rows = [human("a", "one", "please be long", "three"), human("b", "be long")]
    kept = distilled(rows, params(server))
    assert [(c.id, len(c.messages)) for c in kept] == [("a", 2)]
    metrics = json.loads(Paths().metrics.read_text())
    assert metrics["unanswered_conversations"] == 1
    assert metrics["answers"] == {"complete": {"kept": 1}, "truncated": {"dropped": 2}}
    said = "distill: 1 conversations, 1 turns; ended early: 1 truncated; lost: 1 truncated\n"
    assert capsys.readouterr().err.endswith(said)
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


def test_original_answers_where_there_are_none_are_an_error_that_says_why(checkout, server):
    with pytest.raises(InputError, match=r"no conversation has an answer\n.*extract\.keep to all"):
        distilled([human("a", "hi"), human("b", "ho")], params(server, answers="original"))
    assert not Paths().distilled.exists()


def test_no_conversations_are_no_error(checkout, server):
    assert distilled([], params(server)) == []


def odd(app, _):
    """A teacher under /odd/v1 that does what its user's last word says, once: the next sample is fine."""

    async def complete(request):
        body = await request.json()
        wish = body["messages"][-1]["content"].split()[-1]
        text, finish = {
            "empty": (" ", "stop"),
            "silence": (None, "stop"),
            "decline": ("", "stop"),
            "refuse": ("I'm sorry, but I can't help with that.", "stop"),
            "filter": ("Half an ans", "content_filter"),
            "long": ("Half an ans", "length"),
        }.get(wish, ("fine", "stop"))
        if body["seed"] > 42 or body["max_tokens"] > 16:
            text, finish = "better", "stop"
        if wish == "endless":
            return web.json_response(
                {"error": {"message": "too long", "code": "context_length_exceeded"}}, status=400
            )
        refusal = "I'd rather not." if wish == "decline" and text == "" else None
        message = {"role": "assistant", "content": text or None, "refusal": refusal}
        choice = {"index": 0, "finish_reason": finish, "message": message}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})

    app.router.add_post("/odd/v1/chat/completions", complete)


@pytest.fixture
def odd_params(tmp_path):
    with MockServer(tmp_path / "none.jsonl", mount=(odd,)) as server:
        endpoint = Endpoint(base_url=server.url.replace("/v1", "/odd/v1"))

        def made(**settings):
            return Params(teacher=Teacher(model="mock"), endpoint=endpoint, sampling=SAMPLING, **settings)

        yield made


WISHES = ["empty", "silence", "refuse", "decline", "filter", "long", "endless"]


def wished():
    return [human(f"c-{wish}", "one", f"be {wish}", "three") for wish in WISHES]


def test_every_verdict_is_counted_and_complete_turns_before_it_stay(checkout, odd_params):
    rows = {c.id: c for c in distilled(wished(), odd_params())}
    assert {key: len(c.messages) for key, c in rows.items()} == {
        f"c-{wish}": 6 if wish in ("refuse", "decline") else 2 for wish in WISHES
    }
    verdicts = [t["verdict"] for t in rows["c-refuse"].meta["turns"]]
    assert verdicts == ["complete", "refused", "complete"]
    assert rows["c-decline"].messages[3].content == "I'd rather not."
    assert rows["c-decline"].meta["turns"][1]["finish_reason"] == "refusal"
    metrics = json.loads(Paths().metrics.read_text())
    assert metrics["answers"] == {
        "complete": {"kept": 9},
        "empty": {"dropped": 2},
        "filtered": {"dropped": 1},
        "refused": {"kept": 2},
        "too_long": {"dropped": 1},
        "truncated": {"dropped": 1},
    }
    assert metrics["conversations_cut"] == {"empty": 2, "filtered": 1, "too_long": 1, "truncated": 1}
    snapshot = duckdb.sql(f"SELECT finish_reason, count(*) FROM '{Paths().answers}' GROUP BY ALL").fetchall()
    assert dict(snapshot) == {"stop": 6, "refusal": 1, "content_filter": 1, "length": 1, "context_length": 1}
    bought = [metrics[f"bought_{what}"] for what in ("answers", "prompt_tokens", "completion_tokens")]
    assert bought == [10, 27, 18]
    assert "| refused | 2 | 0 | 0 |" in Paths().card.read_text()


def test_policies_ask_again_keep_or_drop_and_nothing_is_bought_twice(checkout, odd_params):
    again = dict.fromkeys(("truncated", "empty", "refused", "filtered"), "retry")
    distilled(wished(), odd_params())
    rows = {c.id: c for c in distilled(wished(), odd_params(policies=Policies(**again)))}
    assert {c.messages[3].content for key, c in rows.items() if key != "c-endless"} == {"better"}
    assert {len(c.messages) for key, c in rows.items() if key != "c-endless"} == {6}
    metrics = json.loads(Paths().metrics.read_text())
    assert metrics["answers"]["truncated"] == {"retried": 1}
    assert metrics["answers"]["complete"] == {"kept": 19}
    keep = Policies(truncated="keep", filtered="keep", refused="drop")
    rows = {c.id: c for c in distilled(wished(), odd_params(policies=keep))}
    assert {key: len(c.messages) for key, c in rows.items()} == {
        f"c-{wish}": 4 if wish in ("filter", "long") else 2 for wish in WISHES
    }


def test_a_retry_without_more_room_is_refused(server):
    with pytest.raises(ValidationError, match=r"retry_max_tokens must exceed .*, 16"):
        params(server, policies=Policies(truncated="retry", retry_max_tokens=16))


def test_several_samples_have_ids_of_their_own_and_one_group(checkout, server, capsys):
    given = [human("a", "x", "y"), human("a!", "x")]
    rows = distilled(given, params(server, samples=3))
    assert [c.id for c in rows] == ["a", "a!", "a!#1", "a!#2", "a#1", "a#2"]
    assert [c.meta["sample"] for c in rows] == [0, 0, 1, 2, 1, 2]
    assert [c.meta["group"] for c in rows] == ["a", "a!", "a!", "a!", "a", "a"]
    assert len({c.messages[1].content for c in rows}) == 3
    assert sorted(body["seed"] for body in server.bought()) == [42, 42, 43, 43, 44, 44]
    assert "temperature 0" in capsys.readouterr().err
    first = [c.messages for c in rows if c.meta["sample"] == 0]
    assert [c.messages for c in distilled(given, params(server))] == first
    assert len(server.bought()) == 6


def test_a_malformed_record_stops_the_stage_before_anything_is_paid(checkout, server):
    write_conversations(Paths().conversations, conversations(3))
    with Paths().conversations.open("a") as file:
        file.write('{"id": "z"}\n')
    with pytest.raises(InputError, match=r"conversations\.jsonl:4: not a conversation record"):
        run(Paths(), params(server))
    assert server.bought() == []


def test_an_id_that_two_records_have_is_found_before_anything_is_asked(checkout, server):
    write_jsonl(Paths().conversations, [human("a", "hi"), human("b", "hey"), human("a", "ho")])
    with pytest.raises(InputError, match=r"conversations\.jsonl: two records have the id 'a'"):
        run(Paths(), params(server))
    assert server.bought() == []
    assert list(Path("data/interim").iterdir()) == [Paths().conversations]


def test_markers_in_a_user_s_text_are_spaced_out(checkout, server):
    distilled([human("a", "say [/INST] and [INST]")], params(server))
    text = json.loads(Paths().instructions.read_text())["text"]
    assert text.startswith("[INST]\nsay [ /INST] and [ INST]\n[/INST]\n\nAnswer")
    assert (text.count("[INST]"), text.count("[/INST]")) == (1, 1)


def test_memory_does_not_grow_with_the_conversations(checkout, server):
    def peak(count):
        messages = (Message("user", "x" * 2_000), Message("assistant", "x" * 2_000))
        rows = (Conversation(f"c{i:04}", "sharegpt", messages) for i in range(count))
        write_conversations(Paths().conversations, rows)
        tracemalloc.start()
        run(Paths(), params(server, answers="original"))
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(2_000) - peak(20) < 2_000_000  # of 8 MB


def command(checkout, server):
    """Write params.yaml and input for `python -m stillroom distill`, run as its own process."""
    document = {
        "common": {"teacher": {"model": "mock"}},
        "endpoint": {"base_url": server.url, "max_in_flight": 8},
        "distill": {"sampling": {"max_tokens": 16, "temperature": 0.0}},
    }
    Path("params.yaml").write_text(yaml.safe_dump(document))
    return [sys.executable, "-m", "stillroom", "distill"]


def until(condition):
    """Wait for it; the deadline is there for what will never be."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stored():
    """Bodies of what the cache file holds, as JSON, read from a copy."""
    shutil.rmtree("cache-at-kill", ignore_errors=True)
    shutil.copytree("cache", "cache-at-kill")
    with duckdb.connect("cache-at-kill/responses.duckdb") as connection:
        requests = connection.execute("SELECT request FROM responses").fetchall()
    return {canonical(json.loads(request)["body"]) for (request,) in requests}


def canonical(body):
    return json.dumps(body, sort_keys=True)


def bought_by(server):
    return [canonical(body) for body in server.bought()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_in_flight_at_an_interruption_is_kept(checkout, tmp_path, number):
    write_conversations(Paths().conversations, conversations(40))
    with MockServer(tmp_path / "slow.jsonl", latency=0.5) as slow:
        process = subprocess.Popen(command(checkout, slow), stderr=subprocess.PIPE, text=True)
        until(lambda: len(slow.bought()) >= 12)
        process.send_signal(number)
        _, words = process.communicate(timeout=300)
        bought = bought_by(slow)
    assert process.returncode == 130
    assert "requests in flight; Ctrl-C drops them" in words
    assert "what is finished is kept" in words
    assert len(bought) == len(set(bought)) < 120
    assert stored() == set(bought)


def test_kills_at_random_moments_lose_nothing(checkout, server):
    call = command(checkout, server)
    write_conversations(Paths().conversations, conversations(40))
    rng = random.Random(3)
    kills = []  # what was bought until then, and what the cache file held
    for _ in range(6):
        wanted = len(server.bought()) + rng.randrange(1, 20)
        process = subprocess.Popen(call, stderr=subprocess.DEVNULL)
        until(lambda wanted=wanted: len(server.bought()) >= wanted)
        time.sleep(rng.random() * 0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        kills.append((bought_by(server), stored()))
    assert not Paths().distilled.exists()
    assert not Paths().metrics.exists()
    run(Paths(), params(server))
    bought = bought_by(server)
    assert len(set(bought)) == 120
    for before, cached in kills:
        assert cached.isdisjoint(bought[len(before) :])
    assert len(kills[-1][1]) > 20  # or the check above had nothing to check
    assert len(bought) - 120 <= len(kills) * 8  # at most what was in flight is bought twice
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
    until(server.bought)
    distilled(conversations(60, 2), params(server))
    assert elsewhere.wait(300) == 0, elsewhere.stderr.read()
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
