"""Asking a teacher: thousands of conversations in flight, each answer bought once and kept.

dialogues ──▶ response cache, wave by wave ──▶ what is missing: endpoint ──▶ response cache ──▶ results

    with Cache() as cache, Asker(teacher, endpoint, folder, chat, cache, seed, "distill") as asker:
        asker.run(dialogues, done)

An answer is committed to the cache before it is used. The same request wanted twice at a time is sent once.
Order of completion never shows in results. The endpoint is not touched (nor the embedded teacher started)
where the cache holds every answer.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import uvloop

from stillroom.chat_format import ChatFormat
from stillroom.errors import EndpointError, StillroomError
from stillroom.params import Endpoint, Teacher
from stillroom.progress import short, track
from stillroom.teacher import prices
from stillroom.teacher.cache import Cache, Kept, Row
from stillroom.teacher.embedded import serving
from stillroom.teacher.keys import api_key, redacted, without
from stillroom.teacher.limits import Gate, backoff
from stillroom.teacher.rate_headers import asked_wait, retry_after
from stillroom.teacher.requests import (
    Answer,
    Dialogue,
    Query,
    Request,
    answer,
    answered,
    asking,
    identity,
    query,
    turned_away,
)
from stillroom.teacher.transport import Refused, Transport, Unanswered, address
from stillroom.teacher.turnstile import Turnstile

if TYPE_CHECKING:
    from stillroom.teacher.batch import Batches

UNREACHABLE_TRIES = 3
"""connections that fail before the first answer of any kind: then nobody is there"""
LONGEST_WAIT = 3600.0
"""seconds; an endpoint that asks for a longer pause has run out of quota"""
GRACE_SECONDS = 30.0
"""how long the requests in flight may still finish when a run stops: they may be billed"""
CONGESTION = (429, 503)
PLACES = 1024
"""conversations that are open at least: at 2,000 answers a second some 300 wait for their commit"""
WINDOW = 2048
"""dialogues that are looked up in the cache together"""
DAY = 86_400.0

T = TypeVar("T")
Open: TypeAlias = tuple[int, Dialogue[T], Query]
"""a dialogue's place in the order, the dialogue, and the query that it waits for"""


class Asker:
    """Asks one teacher on behalf of one run.

    folder: the embedded teacher's model. Raises EndpointError, once, for a failure that will not go away, and
    BudgetError before endpoint.max_cost is exceeded; everything answered is kept.
    """

    def __init__(
        self,
        teacher: Teacher,
        endpoint: Endpoint,
        folder: Path,
        chat: ChatFormat,
        cache: Cache,
        seed: int,
        title: str,
    ) -> None:
        self.teacher, self.endpoint, self.title = teacher, endpoint, title
        self.counts: Counter[str] = Counter()
        """asked, retries, maybe_billed, and prompt_tokens and completion_tokens of what was asked"""
        self.ledger = prices.Ledger(teacher.model, endpoint)
        self._folder, self._chat, self._cache, self._seed = folder, chat, cache, seed
        self._known_as = identity(teacher, folder)
        self._used: set[str] = set()
        self._in_progress: dict[str, asyncio.Future[Row]] = {}
        self._sending: set[asyncio.Task[Any]] = set()
        self._arrivals, self._commits = (Turnstile(together(endpoint.max_in_flight)) for _ in range(2))
        self._failure: StillroomError | None = None
        self._reached = False
        self._secret = api_key(endpoint) if endpoint.base_url else None
        self._transport: Transport | None = None
        self._open = ExitStack()

    def __enter__(self) -> Asker:
        self._runner = self._open.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._runner.run(self._transport.close())
        print(f"{self.title}: {self.summary()}", file=sys.stderr)
        self._open.__exit__(kind, error, trace)

    @property
    def cached(self) -> int:
        """Answers that were there before this run."""
        return max(0, len(self._used) - self.counts["asked"])

    def used(self) -> list[str]:
        """Keys of all answers given so far, sorted: what the Parquet snapshot holds."""
        return sorted(self._used)

    def summary(self) -> str:
        """`120 answers: 100 from the cache, 20 asked for (3 retries, 5,120 + 2,048 tokens, 0.0123)`."""
        c = self.counts
        tokens = f"{c['retries']:,} retries, {c['prompt_tokens']:,} + {c['completion_tokens']:,} tokens"
        money = f", {self.ledger.spent:,.4f} spent" if self.ledger.price else ""
        unsure = f", {c['maybe_billed']:,} perhaps billed without an answer" if c["maybe_billed"] else ""
        return (
            f"{len(self._used):,} answers: {self.cached:,} from the cache, {c['asked']:,} asked for "
            f"({tokens}{money}{unsure})"
        )

    def status(self) -> str:
        """What is shown while it runs: `98.3K answers · 31 % cached · 12.3M + 4.56M tokens · 3.41 of 50`."""
        c, ledger = self.counts, self.ledger
        cap = f" of {ledger.max_cost:g}" if ledger.max_cost is not None else ""
        parts = (
            f"{short(len(self._used))} answers",
            f"{self.cached / max(1, len(self._used)):.0%} cached",
            f"{short(c['prompt_tokens'])} + {short(c['completion_tokens'])} tokens",
            f"{ledger.spent:,.2f}{cap}" if ledger.price else "",
            f"{short(c['retries'])} retries" if c["retries"] else "",
        )
        return " · ".join(part for part in parts if part)

    def run(
        self,
        dialogues: Callable[[], Iterable[Dialogue[T]]],
        done: Callable[[int, T], None],
        *,
        total: int | None = None,
        unit: str = "conversations",
    ) -> None:
        """Drive every dialogue to its end and hand `done` its place and its result, as they end.

        Dialogues are made as places get free, so that memory does not grow with their number; the batch
        backend makes them anew for each wave. On an error, Ctrl-C or SIGTERM no new request is sent, those in
        flight may finish, and the error is raised.
        """
        with track(self.title, total, unit) as tracker:
            self._say = lambda note: tracker.advance(0, note)

            def finished(index: int, result: T) -> None:
                done(index, result)
                tracker.advance(1, self.status)

            backend = self._online if self.endpoint.backend == "online" else self._batched
            with rare_collection(), termination_as_interrupt():
                self._runner.run(backend(dialogues, finished))

    def _query(self, request: Request) -> Query:
        return query(request, self.teacher, self._known_as, self._chat, self._seed)

    # --- from the cache, in waves ---

    def _through_cache(
        self, window: Sequence[tuple[int, Dialogue[T]]]
    ) -> tuple[list[tuple[int, T]], list[Open[T]]]:
        """Drive dialogues as far as the cache answers: (place, result) of the finished, and the others."""
        finished: list[tuple[int, T]] = []
        missing: list[Open[T]] = []
        wave: list[Open[T]] = []
        for index, dialogue in window:
            self._advance(index, dialogue, None, wave, finished)
        while wave:
            rows = self._cache.find_many([wanted.key for _, _, wanted in wave if wanted.key in self._cache])
            current, wave = wave, []
            for index, dialogue, wanted in current:
                if row := rows.get(wanted.key):
                    self._advance(index, dialogue, self._given(row, cached=True), wave, finished)
                else:
                    missing.append((index, dialogue, wanted))
        return finished, missing

    def _advance(
        self,
        index: int,
        dialogue: Dialogue[T],
        given: Answer | None,
        wave: list[Open[T]],
        finished: list[tuple[int, T]],
    ) -> None:
        """Send an answer into a dialogue (None starts it) and file what it says next."""
        try:
            request = dialogue.send(given)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            finished.append((index, end.value))
        else:
            wave.append((index, dialogue, self._query(request)))

    def _given(self, row: Row | Kept, *, cached: bool) -> Answer:
        """Note an answer that is given to a dialogue."""
        self._used.add(row.key)
        return answer(row, cached=cached)

    # --- online ---

    async def _online(
        self, dialogues: Callable[[], Iterable[Dialogue[T]]], done: Callable[[int, T], None]
    ) -> None:
        """A feeder looks windows of dialogues up in the cache, one ahead; workers ask for what is missing.

        More conversations are open than requests may be in flight: some wait for the cache.
        """
        places = max(PLACES, 2 * self.endpoint.max_in_flight)
        waiting: asyncio.Queue[Open[T]] = asyncio.Queue(places)
        numbered = enumerate(dialogues())

        async def look() -> tuple[list[tuple[int, T]], list[Open[T]]]:
            return await asyncio.to_thread(lambda: self._through_cache(list(islice(numbered, WINDOW))))

        async def feed() -> None:
            ahead = asyncio.create_task(look())
            while any(found := await ahead):
                ahead = asyncio.create_task(look())
                finished, missing = found
                for index, result in finished:
                    done(index, result)
                if missing:
                    await self._connect()
                for item in missing:
                    await waiting.put(item)
            for _ in range(places):
                await waiting.put(None)  # type: ignore[arg-type]  # the end, for each worker

        async def work() -> None:
            while item := await waiting.get():
                await self._converse(*item, done)

        await self._together([feed(), *(work() for _ in range(places))])

    async def _converse(
        self, index: int, dialogue: Dialogue[T], wanted: Query, done: Callable[[int, T], None]
    ) -> None:
        """Bring one dialogue to its end."""
        while True:
            row, cached = await self._find_or_ask(wanted)
            try:
                request = dialogue.send(self._given(row, cached=cached))
            except StopIteration as end:
                return done(index, end.value)
            wanted = self._query(request)

    async def _together(self, work: Sequence[Any]) -> None:
        """Run all to their ends; on the first error let what was sent come back, then end the others."""
        tasks = [asyncio.create_task(one) for one in work]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in ended:
                task.result()
        except BaseException:
            await self._stop(tasks)
            raise

    async def _stop(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Send nothing more, let what is in flight finish, then cancel."""
        self._failure = self._failure or EndpointError("stopped")
        sending = set(self._sending)
        for task in tasks:
            if task not in sending:
                task.cancel()
        if sending:
            count = len(sending)
            print(f"{self.title}: waiting for {count} requests in flight; Ctrl-C drops them", file=sys.stderr)
        with suppress(asyncio.CancelledError):
            if sending:
                await asyncio.wait(sending, timeout=GRACE_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self) -> None:
        """Make the client, and start the embedded teacher where that is the one to ask."""
        if self._transport is not None:
            return
        enter = self._open.enter_context
        base_url = await asyncio.to_thread(enter, serving(self.teacher, self.endpoint, self._folder))
        self._address = address(base_url)
        self._transport = Transport(base_url, self._secret, self.endpoint.timeout)
        used = await asyncio.to_thread(self._cache.usage_since, self._address, time.time() - DAY)
        self._gate = Gate(self.endpoint, used)
        self._base_url = base_url

    async def _find_or_ask(self, wanted: Query) -> tuple[Row | Kept, bool]:
        """The row of a query, and whether it was there before."""
        if (asked := self._in_progress.get(wanted.key)) is not None:
            return await asyncio.shield(asked), False
        if wanted.key in self._cache and (found := await self._looked_up(wanted.key)):
            return found, True
        mine = self._in_progress[wanted.key] = asyncio.get_running_loop().create_future()
        try:
            row = await self._ask(wanted)
            mine.set_result(row)
            return row, False
        except BaseException as error:
            mine.set_exception(error)
            mine.exception()  # others may wait for it, or nobody
            raise
        finally:
            del self._in_progress[wanted.key]

    async def _looked_up(self, key: str) -> Kept | None:
        return (await asyncio.to_thread(self._cache.find_many, [key])).get(key)

    async def _ask(self, wanted: Query) -> Row:
        """Ask until there is an answer, or until it is clear that there will be none; commit it."""
        number = tries = 0
        while True:
            number += 1
            asked = self.counts["asked"]
            headers: Mapping[str, str] = {}
            wait, congested = None, False
            try:
                return await self._attempt(wanted, number)
            except Refused as error:
                if row := turned_away(wanted, error.status, error.code, error.message):
                    return await self._stored(row)
                self._raise_if_final(error)
                failure, headers = self._describe(error), error.headers
                wait, congested = _asked_wait(error), error.status in CONGESTION
            except Unanswered as error:
                failure = self._describe(error)
            self.counts["retries"] += 1
            # congestion counts as a failed try only where nobody else got through meanwhile
            tries += not congested or self.counts["asked"] == asked
            self._raise_if_hopeless(failure, tries)
            if congested:
                wait = self._gate.congested(wait, headers, tries)
            await asyncio.sleep(backoff(tries) if wait is None else wait)

    async def _attempt(self, wanted: Query, number: int) -> Row:
        """Send a query for the number-th time, when the limits allow; return its committed row."""
        if self._failure:
            raise self._failure
        tokens = self.ledger.prompt_tokens(len(wanted.text)) + wanted.max_tokens
        await self._gate.enter(tokens, again=number > 1)
        task = asyncio.current_task()
        assert task is not None
        self._sending.add(task)
        spent = 0.0
        try:
            try:
                row = await self._posted(wanted, number)
                spent = row.prompt_tokens + row.completion_tokens
            finally:
                self._gate.leave(tokens, spent)
            return await self._stored(row)
        finally:
            self._sending.discard(task)

    async def _posted(self, wanted: Query, number: int) -> Row:
        """Send a query within the budget; return its row, not yet stored."""
        assert self._transport is not None
        if self._failure:
            raise self._failure
        size = len(wanted.text.encode())
        money = await self.ledger.room(size, wanted.max_tokens)
        if self._failure:  # it came while this waited
            self.ledger.release(money, billed=False)
            raise self._failure
        self._cache.intend(wanted.key)
        started = time.monotonic()
        try:
            content, headers = await self._transport.post(wanted)
        except (Refused, Unanswered) as error:
            self._cache.withdraw(wanted.key)
            self._reached |= isinstance(error, Refused)
            billed = isinstance(error, Unanswered) and error.billed
            self.counts["maybe_billed"] += billed
            self.ledger.release(money, billed=billed)
            raise
        self._reached = True
        seconds = time.monotonic() - started
        await self._arrivals.passed()
        row = self._row(wanted, content, headers, seconds, number)
        cost = self.ledger.settle(money, size, row.prompt_tokens, row.completion_tokens)
        self._gate.succeeded(headers)
        return row if cost is None else replace(row, cost=cost)

    async def _stored(self, row: Row) -> Row:
        """Keep a row; return the one that counts, when it is committed and its turn has come."""
        committed = await asyncio.wrap_future(self._cache.store(row))
        await self._commits.passed()
        return committed

    def _row(
        self, wanted: Query, content: bytes, headers: Mapping[str, str], seconds: float, number: int
    ) -> Row:
        """The row of a response. Raises EndpointError where it is not an OpenAI-style completion."""
        provenance = {"endpoint": self._address, "seconds": round(seconds, 4), "attempts": number}
        try:
            row = without(self._secret, answered(wanted, content, headers, **provenance))
        except ValueError:
            excerpt = redacted(content[:200].decode(errors="replace"), self._secret)
            raise self._fail(f"not an OpenAI-style answer: {excerpt}", "base_url should end in /v1") from None
        self.counts["asked"] += 1
        self.counts["prompt_tokens"] += row.prompt_tokens
        self.counts["completion_tokens"] += row.completion_tokens
        return row

    # --- in batches ---

    async def _batched(
        self, dialogues: Callable[[], Iterable[Dialogue[T]]], done: Callable[[int, T], None]
    ) -> None:
        """Wave by wave: what the cache cannot answer is bought in batches, until it can answer all."""
        ended: set[int] = set()
        async with AsyncExitStack() as stack:
            batches: Batches | None = None
            while True:
                missing = False
                places = ((i, d) for i, d in enumerate(dialogues()) if i not in ended)
                while window := list(islice(places, WINDOW)):
                    finished, waiting = await asyncio.to_thread(self._through_cache, window)
                    for index, result in finished:
                        ended.add(index)
                        done(index, result)
                    if waiting:
                        missing = True
                        if batches is None:
                            batches = await stack.enter_async_context(await self._batches())
                        await batches.want([wanted for _, _, wanted in waiting])
                if not missing or not batches:
                    return
                await batches.collect()

    async def _batches(self) -> Batches:
        """The batch API, which is the SDK's; its import takes half a second."""
        from stillroom.teacher.batch import Batches

        await self._connect()
        return Batches(
            self._base_url,
            self._secret,
            self.endpoint,
            self._cache,
            self.ledger,
            self.counts,
            self._say,
        )

    # --- failures ---

    def _raise_if_final(self, error: Refused) -> None:
        """Raise EndpointError for what a retry will not mend."""
        status, code = error.status, error.code
        variable, model = self.endpoint.api_key_env, self.teacher.model
        wait = _asked_wait(error)
        hints = {
            401: f"put a valid key into the environment variable {variable}",
            403: f"the key in {variable} may not use the model {model!r}",
            404: f"is there a model {model!r}, and does base_url end in /v1?",
            402: "the account has no credit",
        }
        if code == "insufficient_quota" or (wait is not None and wait > LONGEST_WAIT):
            hint = "the quota is used up; what is answered is kept, go on later"
            raise self._fail(self._describe(error), hint)
        if status in hints:
            raise self._fail(self._describe(error), hints[status])
        if status < 500 and status not in (408, 409, 425, 429):
            hint = "for fields that it does not know there are the teacher's `limit_field` and `extra`"
            raise self._fail(self._describe(error), hint)

    def _raise_if_hopeless(self, failure: str, tries: int) -> None:
        """Raise EndpointError when there were enough tries."""
        if not self._reached and tries >= UNREACHABLE_TRIES:
            hint = "is the server up, and endpoint.base_url right?"
            raise self._fail(f"cannot be reached ({failure})", hint)
        if tries >= self.endpoint.max_attempts:
            hint = "everything answered is kept: run again to go on"
            raise self._fail(f"no answer in {tries} tries ({failure})", hint)

    def _fail(self, what: str, hint: str) -> StillroomError:
        """The error that stops the run; the first one counts."""
        where = f"{self._address} (model {self.teacher.model})"
        self._failure = self._failure or EndpointError(what, where=where, hint=hint)
        return self._failure

    def _describe(self, error: Refused | Unanswered) -> str:
        """What happened, in one line, without the key."""
        return redacted(" ".join(str(error).split())[:300], self._secret)


def _asked_wait(error: Refused) -> float | None:
    """Seconds that a refusal asks to wait. Of other failures, a limit that is used up is not the reason."""
    return (asked_wait if error.status in CONGESTION else retry_after)(error.headers)


def together(in_flight: int) -> int:
    """How many answers are taken in, or used, in one pass of the event loop: an eighth, and not less than 8.

    Fewer cost passes, and more would leave the teacher idle: see `stillroom.teacher.turnstile`.
    """
    return max(8, in_flight // 8)


@contextmanager
def rare_collection() -> Iterator[None]:
    """Let the garbage collector run less often: a client makes many objects, and hardly any in circles.

    With the defaults it takes a fifth of the client's time.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(500_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: schedulers and containers send it, and what is in flight then is paid for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ask_all(requests: Sequence[Request], asker: Asker) -> list[Answer]:
    """Answers of independent requests, in their order."""
    answers: dict[int, Answer] = {}
    asker.run(lambda: map(asking, requests), answers.__setitem__, total=len(requests), unit="requests")
    return [answers[index] for index in range(len(requests))]
