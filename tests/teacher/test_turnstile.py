"""Passes of the event loop, counted by a callback that asks for the next one each time it runs."""

import asyncio
import collections
import itertools
from concurrent.futures import Future

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_server import completion

from stillroom import chat_format
from stillroom.params import Endpoint, Sampling, Teacher
from stillroom.records import Message
from stillroom.teacher import client
from stillroom.teacher.cache import Cache
from stillroom.teacher.requests import Request
from stillroom.teacher.turnstile import Turnstile


class Passes:
    """Which pass of the running loop it is."""

    def __init__(self):
        self.number = 0
        self._next()

    def _next(self):
        self.number += 1
        asyncio.get_running_loop().call_soon(self._next)


comers = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([None, None, None, 0, 1, 2, 3])), min_size=1, max_size=60
)
"""for each task: passes before it comes, passes from then on until it is cancelled"""


@settings(max_examples=150)
@given(comers, st.integers(1, 5))
def test_a_few_go_through_each_pass_in_order_and_nobody_is_forgotten(comers, width):
    through = []

    async def main():
        turnstile, passes, place = Turnstile(width), Passes(), itertools.count()

        async def one(before):
            for _ in range(before):
                await asyncio.sleep(0)
            came = next(place)
            await turnstile.passed()
            through.append((passes.number, came))

        async def cancelled(task, passes):
            for _ in range(passes):
                await asyncio.sleep(0)
            task.cancel()

        tasks = [asyncio.create_task(one(before)) for before, _ in comers]
        ends = [
            asyncio.create_task(cancelled(task, before + after))
            for task, (before, after) in zip(tasks, comers, strict=True)
            if after is not None
        ]
        for _ in range(20 + len(comers)):
            await asyncio.sleep(0)
        await asyncio.gather(*ends)
        assert all(task.done() for task in tasks)
        assert sum(not task.cancelled() for task in tasks) == len(through)

    asyncio.run(main())
    assert [came for _, came in through] == sorted(came for _, came in through)
    counts = collections.Counter(number for number, _ in through)
    for first, last in itertools.combinations_with_replacement(sorted(counts), 2):
        assert sum(counts[n] for n in range(first, last + 1)) <= width * (last - first + 2)


@pytest.mark.parametrize("count", [1, 8, 9, 64])
def test_of_those_who_come_together_each_pass_takes_its_share(count):
    async def main():
        turnstile, passes, through = Turnstile(8), Passes(), collections.Counter()

        async def one():
            await turnstile.passed()
            through[passes.number] += 1

        await asyncio.gather(*(one() for _ in range(count)))
        assert max(through) - min(through) <= len(through)  # no pass is left out but the second
        return [through[number] for number in sorted(through)]

    assert asyncio.run(main()) == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


def test_answers_and_commits_that_come_together_are_dealt_with_a_few_a_pass(tmp_path, monkeypatch):
    """64 answers arrive in one pass; when all are stored, all are committed in one. Two turns each."""
    count, passes, waiting = 64, [], []
    stored, used = collections.Counter(), collections.Counter()

    class AnswersTogether:
        def __init__(self, *_):
            passes.append(Passes())
            self.asked, self.together = 0, asyncio.Event()

        async def post(self, query):
            self.asked, together = self.asked + 1, self.together
            if self.asked % count == 0:
                self.together = asyncio.Event()
                together.set()
            await together.wait()
            return orjson.dumps(completion(query.body)), {}

        async def close(self):
            pass

    class CommitsTogether(Cache):
        def store(self, row):
            stored[passes[0].number] += 1
            waiting.append((Future(), row))
            future, _ = waiting[-1]
            if len(waiting) == count:
                for each, kept in waiting:
                    each.set_result(kept)
                waiting.clear()
            return future

    def two_turns(i):
        first = yield Request((Message("user", f"question {i}"),), Sampling())
        used[passes[0].number] += 1
        yield Request((Message("user", f"question {i}, {first.text}"),), Sampling())
        used[passes[0].number] += 1

    monkeypatch.setattr(client, "Transport", AnswersTogether)
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", max_in_flight=count)
    with (
        CommitsTogether(tmp_path / "c.duckdb") as cache,
        client.Asker(
            Teacher(model="mock"), endpoint, tmp_path, chat_format.get("inst"), cache, 0, "test"
        ) as asker,
    ):
        asker.run(lambda: map(two_turns, range(count)), lambda *_: None)
    assert stored.total() == used.total() == 2 * count
    assert max(*stored.values(), *used.values()) <= client.together(count) < count / 4
