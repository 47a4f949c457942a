import asyncio
import itertools
import random

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import Server, TokenBucket, Window, ask, run

from stillroom.errors import EndpointError
from stillroom.params import Endpoint
from stillroom.teacher.limits import BURST, DAY, LONGEST_BACKOFF, WINDOW, Bucket, Gate, backoff
from stillroom.teacher.rate_headers import asked_wait


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(1)


def gated(used=(0, 0), **limits):
    """A gate on the running loop's clock."""
    return Gate(Endpoint(**limits), used, clock=asyncio.get_running_loop().time)


def now():
    return asyncio.get_running_loop().time()


def test_backoff_doubles_up_to_its_cap():
    waits = [backoff(attempt) for attempt in range(1, 20)]
    assert 0.25 <= waits[0] <= 0.275
    assert all(b > a for a, b in itertools.pairwise(waits[:8]))
    assert max(waits) <= LONGEST_BACKOFF * 1.1
    assert backoff(10**6) <= LONGEST_BACKOFF * 1.1


def test_a_bucket_gives_its_rate_and_saves_little():
    bucket = Bucket(100, 0.0)
    assert bucket.delay(1, 0) == 0, "it starts with one"
    assert bucket.delay(11, 0) == pytest.approx(0.1)
    assert bucket.delay(100 * BURST, 60) == 0
    assert bucket.delay(1000, 60) == 0, "more than fits needs a full bucket"
    bucket.level -= 1000
    assert bucket.delay(1, 60) == pytest.approx((1000 - 100 * BURST + 1) / 100)


def test_a_stray_refusal_delays_only_itself():
    gate = Gate(Endpoint())
    for _ in range(39):
        gate.succeeded()
    assert 2 <= gate.congested(2) <= 2.2
    assert gate.limit == 64
    assert gate._delay(1, gate._clock()) == 0


def test_refusals_that_are_one_event_cut_once_and_successes_bring_it_back():
    async def main():
        gate = gated()
        await asyncio.gather(*(gate.enter(1) for _ in range(64)))
        for _ in range(64):
            gate.leave(1, 0)
            gate.congested(0.5)
        assert gate.limit == 48
        for _ in range(5000):
            gate.succeeded()
        assert gate.limit == 64

    run(main())


@pytest.mark.parametrize("wait", [7, 400, 90_000])
def test_what_the_endpoint_asks_for_is_waited_however_long(wait):
    async def main():
        gate = gated()
        headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
        assert gate.congested(wait, headers) >= wait
        began = now()
        await gate.enter(1)
        assert now() - began == pytest.approx(wait, abs=0.01)

    run(main())


@pytest.mark.parametrize(("tries", "wait"), [(0, 0.25), (1, 0.25), (2, 0.5), (4, 2), (30, 30)])
def test_who_is_not_told_how_long_waits_longer_each_time(tries, wait):
    assert wait <= Gate(Endpoint()).congested(tries=tries) <= 1.1 * wait


def test_after_a_pause_they_set_out_one_after_the_other():
    async def main():
        gate = gated()
        for _ in range(WINDOW):
            gate.congested(5)
        starts = []

        async def one():
            await gate.enter(1)
            starts.append(now())

        began = now()
        waits = [asyncio.create_task(one()) for _ in range(40)]
        await asyncio.gather(*waits)
        assert starts[0] - began == pytest.approx(5, abs=0.01)
        assert all(b - a > 0.005 for a, b in itertools.pairwise(starts))

    run(main())


def test_limits_are_discovered_and_buckets_only_lowered():
    async def main():
        gate = gated(tokens_per_minute=6000)
        said = {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "0"}
        gate.succeeded(
            {**said, "x-ratelimit-limit-tokens": "99999999", "x-ratelimit-remaining-tokens": "99999999"}
        )
        began = now()
        for _ in range(11):
            await gate.enter(1)
        assert now() - began == pytest.approx(1.1, abs=0.01)
        gate.succeeded({"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-limit-tokens": "0"})
        began = now()
        for _ in range(2):
            await gate.enter(3000)
        assert now() - began == pytest.approx(30, abs=1), "what the user set holds"

    run(main())


@pytest.mark.parametrize(
    ("limits", "used", "tokens", "fit"),
    [
        ({"requests_per_day": 10}, (7, 0), 1, 3),
        ({"tokens_per_day": 100}, (0, 40), 20, 3),
    ],
)
def test_a_daily_limit_says_when_to_go_on_and_then_goes_on(limits, used, tokens, fit):
    async def main():
        gate = gated(used, **limits)
        for _ in range(fit):
            await gate.enter(tokens)
            gate.leave(tokens, tokens)
        with pytest.raises(EndpointError, match=r"per_day.*allowed\n.*go on after .* UTC \(in 24 h 0 min\)"):
            await gate.enter(tokens)
        await asyncio.sleep(DAY + 1)
        await gate.enter(tokens)

    run(main())


def test_tokens_reserved_for_the_day_may_come_back():
    async def main():
        gate = gated(tokens_per_day=100)
        await gate.enter(80)
        second = asyncio.create_task(gate.enter(80))
        await asyncio.sleep(1)
        assert not second.done()
        gate.leave(80, 10)
        await second

    run(main())


def test_tokens_that_were_not_used_come_back():
    async def main():
        gate = gated(tokens_per_minute=60_000)
        began = now()
        for _ in range(20):
            await gate.enter(1000)
            gate.leave(1000, 10)
        return now() - began

    assert run(main()) < 1.0, "20,000 reserved tokens at 1,000 a second, of which 200 were used"


def test_who_has_been_there_goes_before_those_who_have_not():
    came = []

    async def main():
        gate = gated(max_in_flight=1)

        async def one(name, again):
            await gate.enter(1, again=again)
            came.append(name)
            await asyncio.sleep(0.1)
            gate.leave(1, 1)

        names = ["first", "new", "again", "newer", "again too"]
        await asyncio.gather(*(one(name, name.startswith("again")) for name in names))

    run(main())
    assert came == ["first", "again", "again too", "new", "newer"]


works = st.lists(
    st.tuples(
        st.integers(1, 40),  # tokens reserved
        st.integers(0, 40),  # tokens spent, at most
        st.sampled_from([0.0, 0.01, 0.3, 2.0]),  # seconds in flight
        st.sampled_from([0.0, 0.0, 0.5, 3.0]),  # seconds before it comes
        st.sampled_from([None, None, None, 0.0, 0.2, 1.0]),  # seconds until it is cancelled
        st.booleans(),  # whether it has been there before
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150)
@given(works, st.integers(1, 5), st.sampled_from([None, 30, 600]), st.sampled_from([None, 300, 6000]))
def test_limits_hold_nobody_overtakes_and_nobody_is_forgotten(work, most, requests, tokens):
    """Whatever is cancelled when: the loop asserts that somebody is always woken."""
    entered = []

    async def main():
        gate = gated(max_in_flight=most, requests_per_minute=requests, tokens_per_minute=tokens)
        arrived = itertools.count()

        async def one(reserved, spent, flight, before, _, again):
            await asyncio.sleep(before)
            place = next(arrived)
            await gate.enter(reserved, again=again)
            spent = min(reserved, spent)
            entered.append((now(), place, reserved, spent, again))
            assert gate.in_flight <= most
            try:
                await asyncio.sleep(flight)
            finally:
                gate.leave(reserved, spent)

        async def cancelled(task, after):
            await asyncio.sleep(after)
            task.cancel()

        tasks = [asyncio.create_task(one(*item)) for item in work]
        ends = [
            asyncio.create_task(cancelled(task, item[4]))
            for task, item in zip(tasks, work, strict=True)
            if item[4] is not None
        ]
        for result in await asyncio.gather(*tasks, *ends, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        assert gate.in_flight == 0
        assert gate._reserved == 0
        assert not gate._line()

    run(main())
    for line in (True, False):
        places = [place for _, place, *_, again in entered if again == line]
        assert places == sorted(places)
    for i, (start, *_) in enumerate(entered):
        for j in range(i, len(entered)):
            elapsed, span = entered[j][0] - start, entered[i : j + 1]
            if requests:
                rate = requests / 60
                assert len(span) <= max(1, rate * BURST) + rate * elapsed + 1e-3
            if tokens:
                rate = tokens / 60
                used = sum(spent for *_, spent, _ in span)
                assert used <= max(1, rate * BURST) + rate * elapsed + 40 + 1e-3, "40: one that is larger"


def simulated(server, seconds=60.0, **limits):
    """(share of what the server allows, share that it refused)."""

    async def main():
        gate = gated(**limits)
        await ask(gate, server, 10**9, seconds=seconds - 0.1)

    run(main())
    allowed = server.limiter.allowed(seconds - 0.1)
    return server.answered / allowed, server.refused / (server.answered + server.refused)


@pytest.mark.parametrize("latency", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("burst", [10, 100])
@pytest.mark.parametrize("whole_seconds", [False, True])
def test_a_limit_that_headers_tell_is_used_and_kept(latency, burst, whole_seconds):
    server = Server(TokenBucket(100, burst), latency, "headers", whole_seconds)
    share, refused = simulated(server)
    assert share >= 0.98
    assert refused < 0.02


@pytest.mark.parametrize(
    "limiter",
    [
        lambda: TokenBucket(100, 10),
        lambda: Window(100, 1, sliding=True),
        lambda: Window(1000, 10, sliding=True),
        lambda: Window(6000, 60, sliding=True),
        lambda: Window(1000, 10, sliding=False),
    ],
)
@pytest.mark.parametrize("say", ["nothing", "retry-after"])
def test_a_limit_that_is_set_is_used_and_kept_however_it_is_enforced(limiter, say):
    share, refused = simulated(Server(limiter(), 0.1, say, True), requests_per_minute=6000)
    assert share >= 0.98
    assert refused < 0.001


@pytest.mark.parametrize("latency", [0.02, 0.1])
@pytest.mark.parametrize("say", ["nothing", "retry-after"])
@pytest.mark.parametrize(
    "limiter",
    [lambda: TokenBucket(100, 100), lambda: TokenBucket(100, 10), lambda: Window(100, 1, sliding=True)],
)
def test_a_limit_that_nobody_tells_is_found_out(latency, say, limiter):
    share, refused = simulated(Server(limiter(), latency, say), seconds=120)
    assert share >= 0.97
    assert refused < 0.05


def test_a_limit_of_tokens_is_used_and_kept():
    server = Server(TokenBucket(10_000, 10_000), 0.1, "headers", tokens=100)

    async def main():
        await ask(gated(), server, 10**9, tokens=100, spent=100, seconds=60)

    run(main())
    assert server.answered * 100 >= 0.98 * 10_000 * 60
    assert server.refused < 0.02 * server.answered


def seconds_with_strays(share, seed, count, **server):
    async def main():
        faults = Server(None, 0.1, "retry-after", faults=share, rng=random.Random(seed), **server)
        return await ask(gated(), faults, count)

    return run(main())


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_refusals_that_have_nothing_to_do_with_the_pace_slow_nothing_down(share):
    seconds = sum(seconds_with_strays(share, seed, 2000) for seed in range(5))
    assert seconds < 1.3 * 5 * seconds_with_strays(0, 0, 2000)


@pytest.mark.parametrize("seed", range(8))
def test_strays_that_come_close_together_by_chance_make_nobody_else_wait(seed, monkeypatch):
    pauses = []
    monkeypatch.setattr(Gate, "_pause", lambda _, seconds: pauses.append(seconds))
    seconds_with_strays(0.05, seed, 8000, whole_seconds=True)
    assert pauses == []


def test_an_overloaded_server_gets_what_it_can_do():
    server = Server(None, 0.1, "nothing", places=16)

    async def main():
        await ask(gated(), server, 10**9, seconds=60)

    run(main())
    assert server.answered > 0.75 * 16 / 0.1 * 60
    assert server.refused < 0.06 * server.answered


async def asked(url, count, gate):
    """Ask a real server until `count` are answered."""
    left = iter(range(count))
    body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}

    async def worker(session):
        for _ in left:
            while True:
                await gate.enter(40)
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    await response.read()
                gate.succeeded(response.headers) if response.ok else None
                gate.leave(40, 40 if response.ok else 0)
                if response.ok:
                    break
                assert response.status == 429
                await asyncio.sleep(gate.congested(asked_wait(response.headers), response.headers))

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(worker(session) for _ in range(2 * gate.most)))


def test_a_real_servers_limit_is_learnt_from_its_headers_and_all_is_answered(start):
    """How much of it is used, and how little refused, is a matter of time: above in virtual time."""

    async def main():
        gate = Gate(Endpoint())
        await asked(server.url, 120, gate)
        return gate._buckets[0].rate

    server = start(latency=0.02, requests_per_minute=6000)
    assert asyncio.run(main()) == pytest.approx(100)
    assert len(server.bought()) == 120
