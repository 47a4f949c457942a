"""The batch API as a backend, against a real HTTP server that speaks it."""

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mock_batches import MockBatches
from mock_server import MockServer

from stillroom import chat_format, params
from stillroom.errors import BudgetError, EndpointError
from stillroom.params import Batching, Endpoint, Price, Sampling, Teacher
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages import distill
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker, ask_all
from stillroom.teacher.requests import Request

GREEDY = Sampling(max_tokens=16, temperature=0.0)
TEACHER = Teacher(model="mock")
PATIENCE = 300
"""seconds after which something hangs"""
OUTS = ("distilled.jsonl", "instructions.jsonl", "distill-answers.parquet")


@pytest.fixture
def serve(tmp_path):
    """Start batch servers with given settings; they end with the test."""
    running = []

    def start(**settings):
        server = MockBatches(tmp_path / f"bought-{len(running)}.jsonl", **settings)
        running.append(server)
        return server.__enter__()

    yield start
    for server in running:
        server.__exit__()


def asking(url, cache, batch=None, **endpoint):
    settings = Batching(poll_seconds=0.02, **(batch or {}))
    reached = Endpoint(base_url=url, backend="batch", batch=settings, **endpoint)
    chat = chat_format.get("inst")
    return Asker(TEACHER, reached, Path("no-model"), chat, cache, 0, "test")


def requests(count, words="question"):
    return [Request((Message("user", f"{words} {i}"),), GREEDY) for i in range(count)]


def asked(url, cache, wanted, **settings):
    with asking(url, cache, **settings) as asker:
        return ask_all(wanted, asker), asker


def times_bought(server):
    return collections.Counter(json.dumps(body, sort_keys=True) for body in server.bought())


def test_answers_are_bought_once_and_a_second_run_buys_none(serve, tmp_path):
    server = serve()
    with Cache(tmp_path / "c.duckdb") as cache:
        first, asker = asked(server.url, cache, requests(40))
        second, _ = asked("http://127.0.0.1:9/v1", cache, requests(40))
    assert [a.text for a in first] == [a.text for a in second]
    assert len({a.text for a in first}) == 40
    assert asker.counts["asked"] == len(server.bought()) == 40
    assert server.batches() == [40]


@pytest.mark.parametrize(
    ("settings", "sizes"), [({"max_requests": 7}, [7, 7, 6]), ({"max_bytes": 1}, [1] * 20)]
)
def test_files_are_kept_within_the_limits(serve, tmp_path, settings, sizes):
    server = serve()
    with Cache(tmp_path / "c.duckdb") as cache:
        asked(server.url, cache, requests(20), batch=settings)
    assert server.batches() == sizes
    assert set(times_bought(server).values()) == {1}


def test_what_failed_is_asked_again_and_nothing_else(serve, tmp_path):
    server = serve(fail_first=0.4)
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, _ = asked(server.url, cache, requests(50))
    assert len(answers) == 50
    first, second = server.batches()
    assert first == 50
    assert 5 < second < 40
    assert set(times_bought(server).values()) == {1}


def test_the_answers_of_an_expired_batch_are_kept(serve, tmp_path):
    server = serve(expire=30)
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, _ = asked(server.url, cache, requests(50))
    assert len(answers) == 50
    assert server.batches() == [50, 20]
    assert set(times_bought(server).values()) == {1}


def test_what_is_never_answered_ends_the_run(serve, tmp_path):
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError, match="after 2 batches"):
        asked(serve(fail_always=500).url, cache, requests(5), max_attempts=2)


def test_refused_requests_and_batches_end_the_run_in_the_servers_words(serve, tmp_path):
    with Cache(tmp_path / "c.duckdb") as cache:
        with pytest.raises(EndpointError, match="5 requests were refused \\(404: oops"):
            asked(serve(fail_always=404).url, cache, requests(5))
        with pytest.raises(EndpointError, match=r"5 requests .* not an OpenAI-style answer: \{.choices.:7}"):
            asked(serve(body={"choices": 7}).url, cache, requests(5))
        with pytest.raises(EndpointError, match="The model is not offered"):
            asked(serve(invalid=True).url, cache, requests(5))


@pytest.mark.parametrize("line", ['{"custom', "{}", "[]", "7", "null"])
def test_a_damaged_result_is_shown(serve, tmp_path, line):
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError, match="not a line of a batch's"):
        asked(serve(line=line).url, cache, requests(5))


@pytest.mark.parametrize(("most", "queue"), [(10, 25), (10, 10), (50, 7), (50, 1)])
def test_batches_wait_for_room_in_the_endpoints_queue(serve, tmp_path, most, queue):
    server = serve(queue=queue, looks=3)
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, _ = asked(server.url, cache, requests(50), batch={"max_requests": most}, max_attempts=1)
    assert len(answers) == 50
    assert set(times_bought(server).values()) == {1}
    assert queue < most or set(server.batches()) == {most}
    assert len(server.batches()) <= 7 + 2 * 50 // min(most, queue)


@pytest.mark.parametrize("widens", [True, False])
def test_more_batches_are_open_at_once_where_the_queue_has_become_wider(serve, tmp_path, widens):
    server = serve(queue=5, widens=widens)
    with Cache(tmp_path / "c.duckdb") as cache:
        asked(server.url, cache, requests(30), batch={"max_requests": 30})
    assert set(times_bought(server).values()) == {1}
    assert (server.at_once() > 2) == widens


def test_a_request_that_the_queue_never_takes_ends_the_run_in_the_servers_words(serve, tmp_path):
    server = serve(queue=0)
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError, match="Enqueued token limit"):
        asked(server.url, cache, requests(9))
    assert server.batches()[-1] == 1


def test_conversations_in_waves_through_a_narrow_queue_come_out_as_online(serve, tmp_path, online):
    server = serve(queue=5, fail_first=0.2)
    assert finished(checkout(tmp_path / "checkout", batched(server))) == online
    assert set(times_bought(server).values()) == {1}


def test_an_endpoint_without_batches_says_the_way_out(start, tmp_path):
    with (
        Cache(tmp_path / "c.duckdb") as cache,
        pytest.raises(EndpointError, match=r"404: Not Found\n.*backend: online"),
    ):
        asked(start().url, cache, requests(5))


def test_a_batch_that_could_exceed_the_budget_is_not_created(serve, tmp_path):
    server = serve()
    money = {"prices": {"mock": Price(prompt=1.0, completion=1.0, batch_share=0.5)}}
    with Cache(tmp_path / "c.duckdb") as cache:
        with pytest.raises(BudgetError):
            asked(server.url, cache, requests(100), max_cost=0.0005, **money)
        assert server.batches() == []
        _, asker = asked(server.url, cache, requests(100), max_cost=0.1, **money)
        tokens = asker.counts["prompt_tokens"] + asker.counts["completion_tokens"]
    assert asker.ledger.spent == pytest.approx(tokens * 0.5 / 1e6)
    assert asker.ledger.reserved == pytest.approx(0)


def checkout(folder, endpoint):
    """A folder for `python -m stillroom distill`: 30 conversations of 1 to 3 turns."""
    folder.mkdir()
    document = {
        "common": {"teacher": {"model": "mock"}},
        "endpoint": endpoint,
        "distill": {"sampling": {"max_tokens": 16, "temperature": 0.0}},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    rows = [
        Conversation(f"c{i:02}", "s", tuple(Message("user", f"turn {t} of {i}") for t in range(1 + i % 3)))
        for i in range(30)
    ]
    write_conversations(folder / "data/interim/conversations.jsonl", rows)
    return folder


def command(folder):
    """`stillroom distill` in a checkout, as a process of its own."""
    environment = {**os.environ, "STILLROOM_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "stillroom", "distill"]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finished(folder):
    """The outs of `stillroom distill` in a checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("STILLROOM_CACHE", str(folder / "cache"))
        distill.run(distill.Paths(), params.load("distill", distill.Params))
    return [(folder / "data/interim" / name).read_bytes() for name in OUTS]


def batched(server):
    return {"base_url": server.url, "backend": "batch", "batch": {"poll_seconds": 0.02, "max_requests": 12}}


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """What the online backend makes of the same conversations."""
    folder = tmp_path_factory.mktemp("online")
    with MockServer(folder / "bought.jsonl") as server:
        return finished(checkout(folder / "checkout", {"base_url": server.url}))


def test_conversations_in_waves_come_out_as_online(serve, tmp_path, online):
    server = serve(fail_first=0.2)
    assert finished(checkout(tmp_path / "checkout", batched(server))) == online
    assert set(times_bought(server).values()) == {1}


def until(condition, process):
    """Wait for it while the process works."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("wanted", "delay"), [(1, 2 * PATIENCE), (4, 0.0)], ids=["not yet known", "second wave"]
)
def test_kill_9_buys_nothing_twice(serve, tmp_path, online, wanted, delay):
    server = serve(first_delay=delay, looks=8)
    folder = checkout(tmp_path / "checkout", batched(server))
    process = command(folder)
    until(lambda: len(server.batches()) >= wanted, process)
    time.sleep(0.1)
    process.kill()
    process.communicate()
    assert finished(folder) == online
    assert set(times_bought(server).values()) == {1}


def test_ctrl_c_says_that_the_batches_go_on(serve, tmp_path):
    server = serve(looks=1_000_000)
    process = command(checkout(tmp_path / "checkout", batched(server)))
    until(server.looked, process)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "the next run collects them" in words
