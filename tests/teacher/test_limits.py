import asyncio
import email.utils
import itertools
import time

import pytest

from stillroom.teacher.limits import LONGEST_BACKOFF, Bucket, Gate, backoff, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after_in_all_its_spellings(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date():
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=2)


def test_backoff_doubles_up_to_its_cap():
    waits = [backoff(attempt) for attempt in range(1, 20)]
    assert 0.25 <= waits[0] <= 0.275
    assert all(b > a for a, b in itertools.pairwise(waits[:8]))
    assert max(waits) <= LONGEST_BACKOFF * 1.1


def test_a_bucket_gives_its_rate_and_saves_one_second():
    bucket = Bucket(600)
    assert bucket.delay(10) == 0
    bucket.take(10)
    assert bucket.delay(1) == pytest.approx(0.1, abs=0.02)
    assert bucket.delay(1000) == pytest.approx(1.0, abs=0.02), "more than fits needs a full bucket"
    bucket.take(-5)
    assert bucket.delay(5) == 0


def test_a_stray_refusal_delays_only_itself():
    gate = Gate(64)
    for _ in range(39):
        gate.succeeded()
    assert 2 <= gate.congested(2) <= 2.2
    assert gate.limit == 64


def test_many_refusals_cut_the_limit_once_and_successes_bring_it_back():
    gate = Gate(64)
    for _ in range(30):
        gate.congested(0.5)
    assert gate.limit == 48
    for _ in range(5000):
        gate.succeeded()
    assert gate.limit == 64


def test_no_more_are_in_flight_than_allowed():
    most = 0

    async def main():
        gate = Gate(5)

        async def one():
            nonlocal most
            await gate.enter(1)
            most = max(most, gate.in_flight)
            await asyncio.sleep(0.001)
            gate.leave(1, 1)

        await asyncio.gather(*(one() for _ in range(50)))
        assert gate.in_flight == 0

    asyncio.run(main())
    assert most == 5


def test_tokens_that_were_not_used_come_back():
    async def main():
        gate = Gate(10, tokens_per_minute=60_000)
        began = time.monotonic()
        for _ in range(20):
            await gate.enter(1000)
            gate.leave(1000, 10)
        return time.monotonic() - began

    assert asyncio.run(main()) < 1.0, "20,000 reserved tokens at 1,000 a second, of which 200 were used"
