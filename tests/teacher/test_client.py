import collections
import json
import socket
import time
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_server import answer
from pydantic import ValidationError

from stillroom import chat_format
from stillroom.artifacts import sha256
from stillroom.errors import BudgetError, EndpointError
from stillroom.params import Endpoint, Price, Sampling, Teacher
from stillroom.records import Message
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker, ask_all
from stillroom.teacher.limits import BURST
from stillroom.teacher.requests import Request, body, identity, query

INST = chat_format.get("inst")
GREEDY = Sampling(max_tokens=16, temperature=0.0)


def requests(count, words="question", **sampling):
    drawn = GREEDY.model_copy(update=sampling)
    return [Request((Message("user", f"{words} {i}"),), drawn) for i in range(count)]


MOCK = Teacher(model="mock")
NO_MODEL = Path("no-model")


def asking(url, cache, *, seed=0, api="chat", **endpoint):
    teacher = Teacher(model="mock", api=api)
    return Asker(teacher, Endpoint(base_url=url, **endpoint), NO_MODEL, INST, cache, seed, "test")


def asked(url, cache, requests, **settings):
    with asking(url, cache, **settings) as asker:
        return ask_all(requests, asker), asker


def ran(asker, dialogues):
    """Results of dialogues, by place."""
    results = {}
    asker.run(lambda: iter(dialogues), results.__setitem__)
    return [results[i] for i in range(len(dialogues))]


def bodies(server):
    return collections.Counter(json.dumps(body, sort_keys=True) for body in server.bought())


def test_answers_come_in_the_order_asked_and_are_those_of_the_server(server, tmp_path):
    wanted = requests(40)
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, asker = asked(server.url, cache, wanted)
    sent = [body(r, asker.teacher, INST, 0) for r in wanted]
    assert [a.text for a in answers] == [answer(b) for b in sent]
    assert all(a.finish_reason == "stop" and a.completion_tokens == 4 and not a.cached for a in answers)
    assert asker.used() == sorted(a.key for a in answers)


def test_a_second_run_asks_for_nothing_and_says_the_same(server, tmp_path):
    wanted = requests(30)
    with Cache(tmp_path / "c.duckdb") as cache:
        first, _ = asked(server.url, cache, wanted)
    with Cache(tmp_path / "c.duckdb") as cache:
        second, asker = asked("http://127.0.0.1:9/v1", cache, wanted)
    assert [(a.key, a.text) for a in first] == [(a.key, a.text) for a in second]
    assert all(a.cached for a in second)
    assert (asker.counts["asked"], asker.cached) == (0, 30)
    assert len(server.bought()) == 30


def test_one_prompt_more_is_one_request_more(server, tmp_path):
    with Cache(tmp_path / "c.duckdb") as cache:
        asked(server.url, cache, requests(10))
        asked(server.url, cache, requests(11))
    assert len(server.bought()) == 11


def test_the_same_request_at_the_same_time_is_sent_once(start, tmp_path):
    slow = start(latency=0.1)
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, _ = asked(slow.url, cache, requests(1) * 20)
    assert len({a.text for a in answers}) == 1
    assert len(slow.bought()) == 1


def test_samples_of_one_prompt_are_different_requests(server, tmp_path):
    messages = (Message("user", "a story"),)
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, _ = asked(
            server.url, cache, [Request(messages, GREEDY, sample) for sample in range(5)], seed=7
        )
    assert len({a.text for a in answers}) == len({a.key for a in answers}) == 5
    assert sorted(b["seed"] for b in server.bought()) == [7, 8, 9, 10, 11]


def test_faults_lose_nothing_and_buy_nothing_twice(start, tmp_path):
    faulty = start(latency=0.005, faults={429: 0.1, 500: 0.05, "reset": 0.05})
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, asker = asked(faulty.url, cache, requests(120))
        attempts = [cache.show(answer.key).attempts for answer in answers]
    assert len(answers) == 120
    assert set(bodies(faulty).values()) == {1}
    assert len(faulty.bought()) == 120
    assert sum(attempts) - 120 == asker.counts["retries"] > 5


def test_the_completions_api_sends_the_text_of_the_chat_format(server, tmp_path):
    history = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why [INST]?"))
    with Cache(tmp_path / "c.duckdb") as cache:
        asked(server.url, cache, [Request(history, GREEDY)], api="completions")
    (sent,) = server.bought()
    assert sent["prompt"] == INST.text(history, prompt=True)
    assert "[ INST]" in sent["prompt"]
    assert sent["stop"] == INST.stops
    assert "messages" not in sent


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, None, "STILLROOM_TEST_KEY"),
        (403, {"message": "not yours"}, "may not use the model 'mock'"),
        (404, {"message": "no such model"}, "is there a model 'mock'"),
        (400, {"message": "Unrecognized argument: top_k"}, "top_k"),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota"),
    ],
)
def test_what_will_not_go_away_stops_at_once_with_one_message(
    start, tmp_path, monkeypatch, status, error, words
):
    monkeypatch.setenv("STILLROOM_TEST_KEY", "sk-very-secret")
    refusing = start(always=status, error=error)
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError) as caught:
        asked(refusing.url, cache, requests(50), api_key_env="STILLROOM_TEST_KEY")
    message = str(caught.value)
    assert refusing.url in message
    assert "model mock" in message
    assert str(status) in message
    assert words in message
    assert "sk-very-secret" not in message


@pytest.mark.parametrize("say", ["resets", "body"])
def test_who_says_only_when_there_is_more_is_not_asked_before(start, tmp_path, say):
    limited = start(requests_per_minute=40, burst=3, at_once=True, say=say)
    with Cache(tmp_path / "c.duckdb") as cache:
        asked(limited.url, cache, requests(4))
    assert len(limited.bought()) == 4
    assert limited.refused() == 2


def test_a_pause_of_hours_is_a_quota_and_stops_the_run(start, tmp_path):
    spent = start(faults={429: 1.0}, retry_after="7200")
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError, match="the quota is used up"):
        asked(spent.url, cache, requests(3))


def test_a_limit_of_the_day_that_is_used_up_stops_the_run(start, tmp_path):
    tomorrow = f"{(time.time() + 54_000) * 1000:.0f}"
    said = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": tomorrow}
    error = {"message": "free-models-per-day", "metadata": {"headers": said}}
    spent = start(always=429, error=error)
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError, match="the quota is used up"):
        asked(spent.url, cache, requests(3))


def test_each_request_sent_is_noted_until_it_comes_back(start, tmp_path):
    class Watched(Cache):
        noted = collections.Counter()
        sent = 0

        def intend(self, key):
            self.noted[key] += 1
            self.sent += 1
            super().intend(key)

        def withdraw(self, key):
            self.noted[key] -= 1
            super().withdraw(key)

        def store(self, row):
            self.noted[row.key] -= 1
            return super().store(row)

    faulty = start(faults={500: 0.2, "reset": 0.1})
    with Watched(tmp_path / "c.duckdb") as cache:
        _, asker = asked(faulty.url, cache, requests(60))
        assert cache.sent == 60 + asker.counts["retries"] > 60
        assert set(cache.noted.values()) == {0}


def test_nobody_there_is_said_after_a_few_tries(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError, match="cannot be reached"):
        asked(url, cache, requests(3))


def test_a_failure_that_stays_ends_after_max_attempts(start, tmp_path):
    broken = start(always=500)
    with (
        Cache(tmp_path / "c.duckdb") as cache,
        pytest.raises(EndpointError, match=r"no answer in 2 tries \(500: no"),
    ):
        asked(broken.url, cache, requests(3), max_attempts=2)


def test_a_prompt_that_is_too_long_is_an_answer_and_not_the_end(start, tmp_path):
    error = {"message": "This model's maximum context length is 512 tokens."}
    small = start(always=400, error=error)
    with Cache(tmp_path / "c.duckdb") as cache:
        (found,), _ = asked(small.url, cache, requests(1))
        (again,), _ = asked("http://127.0.0.1:9/v1", cache, requests(1))
    assert (found.text, found.finish_reason) == ("", "context_length")
    assert again.cached


def page(app, _):
    """A proxy under /page/v1 that wants somebody to log in."""
    app.router.add_post("/page/v1/chat/completions", lambda _: web.Response(text="<html>"))


def test_a_page_that_is_no_completion_is_refused(start, tmp_path):
    url = start(mount=(page,)).url.replace("/v1", "/page/v1")
    with (
        Cache(tmp_path / "c.duckdb") as cache,
        pytest.raises(EndpointError, match="not an OpenAI-style answer: <html>"),
    ):
        asked(url, cache, requests(1))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (503, "no answer in 2 tries \\(503: the model died"),
        ("oom", "502: the model"),
        (402, "402: the model"),
    ],
)
def test_an_error_that_is_sent_as_a_success_is_one(start, tmp_path, code, message):
    gateway = start(always=200, error={"message": "the model died", "code": code})
    with Cache(tmp_path / "c.duckdb") as cache, pytest.raises(EndpointError, match=message):
        asked(gateway.url, cache, requests(1), max_attempts=2)


def test_without_counts_of_tokens_the_cap_is_kept_all_the_same(start, tmp_path):
    def uncounted(app, _):
        choice = {"finish_reason": "stop", "message": {"content": "fine"}}
        app.router.add_post("/odd/v1/chat/completions", lambda _: web.json_response({"choices": [choice]}))

    url = start(mount=(uncounted,)).url.replace("/v1", "/odd/v1")
    money = {"prices": {"mock": Price(prompt=0, completion=1000)}, "max_cost": 0.1}  # 0.016 each
    with Cache(tmp_path / "c.duckdb") as cache:
        with pytest.raises(BudgetError):
            asked(url, cache, requests(20), **money)
        assert cache.stats()["answers"] == 6


def test_what_was_answered_before_a_failure_is_kept(start, tmp_path):
    path = tmp_path / "c.duckdb"
    working = start()
    with Cache(path) as cache:
        asked(working.url, cache, requests(20))
    refusing = start(always=401)
    with Cache(path) as cache, pytest.raises(EndpointError):
        asked(refusing.url, cache, requests(40))
    with Cache(path) as cache:
        asked(working.url, cache, requests(40))
    assert len(working.bought()) == 40


def test_the_key_never_reaches_cache_or_log(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("STILLROOM_TEST_KEY", "sk-very-secret")
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, _ = asked(server.url, cache, requests(5), api_key_env="STILLROOM_TEST_KEY")
        cache.export([a.key for a in answers], tmp_path / "out.parquet")
    for path in tmp_path.iterdir():
        assert b"sk-very-secret" not in path.read_bytes()
    assert "sk-very-secret" not in "".join(capfd.readouterr())


def test_the_limit_per_minute_is_kept(server, tmp_path):
    with Cache(tmp_path / "c.duckdb") as cache:
        began = time.monotonic()
        asked(server.url, cache, requests(60), requests_per_minute=3600)
        seconds = time.monotonic() - began
    assert seconds >= (60 - BURST * 60) / 60 - 0.05


def test_under_congestion_all_is_answered_and_bought_once(start, tmp_path):
    narrow = start(requests_per_second=150)
    with Cache(tmp_path / "c.duckdb") as cache:
        answers, _ = asked(narrow.url, cache, requests(200))
    assert len(answers) == 200
    assert set(bodies(narrow).values()) == {1}


def test_conversations_run_together_and_errors_in_them_surface(server, tmp_path):
    def two_turns(i):
        first = yield requests(1, f"c{i}")[0]
        if i == 5:
            raise ValueError("mine")
        history = (Message("user", f"c{i} 0"), Message("assistant", first.text), Message("user", "and?"))
        return (yield Request(history, GREEDY)).text

    with Cache(tmp_path / "c.duckdb") as cache, asking(server.url, cache) as asker:
        assert len(set(ran(asker, [two_turns(i) for i in range(5)]))) == 5
        with pytest.raises(ValueError, match="mine"):
            ran(asker, [two_turns(i) for i in range(10)])


def test_dialogues_are_made_as_places_get_free(server, tmp_path, monkeypatch):
    monkeypatch.setattr("stillroom.teacher.client.PLACES", 64)
    monkeypatch.setattr("stillroom.teacher.client.WINDOW", 256)
    alive = most = 0

    def counted(i):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        yield requests(1, f"c{i}")[0]
        alive -= 1

    with Cache(tmp_path / "c.duckdb") as cache, asking(server.url, cache, max_in_flight=4) as asker:
        asker.run(lambda: map(counted, range(1500)), lambda index, result: None)
    assert most <= 2 * 256 + 2 * 64
    assert alive == 0


def test_cancelling_a_run_keeps_what_is_in_flight(start, tmp_path):
    slow = start(latency=0.3)

    def interrupted():
        for request in requests(1, "the first to come back"):
            yield request
            raise KeyError("stop")

    def one(request):
        yield request

    with Cache(tmp_path / "c.duckdb") as cache:
        with asking(slow.url, cache, max_in_flight=4) as asker, pytest.raises(KeyError):
            ran(asker, [interrupted(), *map(one, requests(50))])
        stored = cache.stats()["answers"]
    assert stored == len(slow.bought())
    assert 4 <= stored < 51


texts = st.text(st.characters(codec="utf-8"))
turns = st.builds(Message, st.sampled_from(["user", "assistant"]), texts)
messages = st.builds(
    lambda system, turns, last: (*system, *turns, last),
    st.lists(st.builds(Message, st.just("system"), texts.filter(bool)), max_size=1),
    st.lists(turns),
    st.builds(Message, st.just("user"), texts),
)


@settings(max_examples=60)
@given(messages, messages, st.sampled_from(["chat", "completions"]))
def test_keys_differ_where_what_the_teacher_sees_differs(one, other, api):
    teacher = Teacher(model="mock", api=api)

    def seen(messages):
        return body(Request(messages, GREEDY), teacher, INST, 0)

    def key(messages):
        return query(Request(messages, GREEDY), teacher, "mock", INST, 0).key

    assert (key(one) == key(other)) == (seen(one) == seen(other))


def test_keys_of_joined_turns_differ():
    def key(*turns, **sampling):
        request = Request(tuple(Message("user", t) for t in turns), Sampling(**sampling))
        return query(request, Teacher(), "t", INST, 0).key

    keys = [
        key("a b"),
        key("a", "b"),
        key("a", " b"),
        key("ab"),
        key("a b", top_k=None),
        key("a b", stop=["x"]),
    ]
    keys += [key("a b", temperature=0.1), key("a b", max_tokens=5), key("a b", repetition_penalty=None)]
    assert len(set(keys)) == len(keys)


def test_the_key_is_free_of_address_and_credentials(start, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a")
    with Cache(tmp_path / "c.duckdb") as cache:
        asked(start().url, cache, requests(3))
        other = start()
        asked(other.url, cache, requests(3), api_key_env="B", timeout=1, max_in_flight=3)
    assert other.bought() == []


def test_the_key_is_the_hash_of_the_canonical_request():
    found = query(requests(1)[0], MOCK, "mock", INST, 3)
    assert found.key == sha256(found.text)
    assert json.loads(found.text) == {"version": 1, "teacher": "mock", "sample": 0, "body": found.body}
    assert found.body["seed"] == 3


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_fields_are_added_renamed_and_left_out(api):
    def sent(**settings):
        found = query(requests(1)[0], Teacher(model="mock", api=api, **settings), "mock", INST, 3)
        assert found.max_tokens == GREEDY.max_tokens
        return found.body

    plain = sent()
    assert sent(extra={}, limit_field="max_tokens") == plain
    thinking = {"enable_thinking": False, "budget": None}
    found = sent(
        limit_field="max_completion_tokens",
        extra={"temperature": None, "seed": None, "top_p": 0.5, "chat_template_kwargs": thinking},
    )
    left = {name: plain[name] for name in plain.keys() - {"temperature", "seed", "max_tokens"}}
    assert found == {**left, "max_completion_tokens": 16, "top_p": 0.5, "chat_template_kwargs": thinking}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n", "messages", "stream", "model"])
def test_fields_with_settings_of_their_own_cannot_be_added(field):
    with pytest.raises(ValidationError, match=f"{field} is not among the fields"):
        Teacher(extra={field: None})


def test_the_embedded_teacher_is_known_by_its_content(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = identity(Teacher(), tmp_path)
    assert identity(Teacher(), tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert identity(Teacher(), tmp_path) != first
    assert identity(Teacher(model="llama"), tmp_path) == "llama"
    assert identity(Teacher(model="llama", id="llama-q4"), tmp_path) == "llama-q4"
