"""The batch API as a backend: slower, cheaper, behind the same cache.

queries ──▶ JSON Lines file ──▶ /v1/batches ──▶ output and error files ──▶ response cache

    async with Batches(…) as batches:
        await batches.want(queries)     # what the cache misses
        await batches.collect()         # submits the rest, waits, stores every answer

A batch is on record in the cache's file before anybody waits for it, so that a run after a kill collects what
the one before had bought; its keys are not bought again meanwhile, by whichever run. What a batch did not
answer is still missing, and so is wanted again in the next wave.

Vendors limit the tokens of all batches that have not ended. A batch that is turned away for that is created
again when another has ended; one that had the queue to itself is split.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import openai
import orjson
from filelock import AsyncFileLock

from stillroom.errors import BudgetError, EndpointError
from stillroom.params import Endpoint
from stillroom.teacher.cache import Cache, Row
from stillroom.teacher.keys import redacted, without
from stillroom.teacher.prices import Ledger
from stillroom.teacher.requests import Query, answered, turned_away
from stillroom.teacher.transport import Refused, address, is_local

ENDED = ("completed", "failed", "expired", "cancelled")
QUEUE_FULL = "token_limit_exceeded"
"""the code of a batch that failed since too many tokens are in the endpoint's queue"""
UPLOADED = "file:"
"""prefix of a record of a file whose batch is about to be created"""
RETRIES = 6
"""of uploads, downloads and looks at a batch; none of them is billed"""
RETRIED = (408, 409, 425, 429)
"""statuses below 500 of a single request that another try may mend"""
KEPT = "everything answered is kept"

T = TypeVar("T")


class Batches:
    """Buys queries in batches on behalf of one run.

    counts: asked, prompt_tokens and completion_tokens are added to it.  say: shows a short note of progress.
    secret: the key, kept out of what comes back.
    Raises EndpointError where the endpoint refuses, BudgetError before a batch that could exceed the budget.
    """

    def __init__(
        self,
        base_url: str,
        secret: str | None,
        endpoint: Endpoint,
        cache: Cache,
        ledger: Ledger,
        counts: Counter[str],
        say: Callable[[str], None],
    ) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=secret or "none",
            max_retries=RETRIES,
            timeout=endpoint.timeout,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_local(base_url)),
        )
        self._address = address(base_url)
        self._settings, self._most_tries = endpoint.batch, endpoint.max_attempts
        self._cache, self._ledger, self._counts = cache, ledger, counts
        self._say, self._secret, self._variable = say, secret, endpoint.api_key_env
        self._waiting: dict[str, Query] = {}
        self._reserved: dict[str, float] = {}
        self._most_requests = endpoint.batch.max_requests
        self._room = math.inf
        """how many batches may be open"""
        self._alone: set[str] = set()
        """batches that were created while no other was open"""
        self._tries: Counter[str] = Counter()
        self._lock = AsyncFileLock(f"{cache.path}.batches")

    async def want(self, queries: Sequence[Query]) -> None:
        """Take queries in; where they fill a batch, it is submitted."""
        for query in queries:
            self._waiting[query.key] = query
        while len(self._waiting) > self._most_requests:
            await self._step()

    async def collect(self) -> None:
        """Submit what is left, and wait until every open batch has ended and its answers are stored."""
        while self._waiting or await self._open():
            await self._step()

    async def _step(self) -> None:
        """Submit a batch if there is room for one, else see how far the open ones are."""
        batches = await self._open()
        try:
            if self._waiting and len(batches) < self._room:
                return await self._submit()
            for batch in batches:
                await self._look(batch)
            await asyncio.sleep(self._settings.poll_seconds if await self._open() else 0)
        except asyncio.CancelledError:
            print("open batches go on at the endpoint: the next run collects them", file=sys.stderr)
            raise

    async def __aenter__(self) -> Batches:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    # --- submitting ---

    async def _submit(self) -> None:
        """Create one batch of what is wanted and not yet on its way, alone among this machine's runs."""
        async with self._lock:
            await self._adopt()
            for key in await asyncio.to_thread(self._cache.keys_in_batches, self._address):
                self._waiting.pop(key, None)
            if chosen := self._next():
                await self._create(chosen)

    def _next(self) -> list[Query]:
        """Take the queries of the next batch: one path, within the limits of number and size."""
        chosen: list[Query] = []
        size = 0
        for query in list(self._waiting.values()):
            size += len(_line(query))
            full = len(chosen) == self._most_requests or size > self._settings.max_bytes
            if chosen and (full or query.path != chosen[0].path):
                break
            chosen.append(self._waiting.pop(query.key))
        return chosen

    async def _create(self, queries: Sequence[Query]) -> None:
        """Upload, note the upload, create the batch, note the batch: a kill in between is made good later."""
        money = self._reserve(queries)
        content = b"".join(map(_line, queries))
        name = ("stillroom.jsonl", content, "application/jsonl")
        file = await self._asked(self._client.files.create(file=name, purpose="batch"))
        requests = [(query.key, query.text) for query in queries]
        alone = not await self._open()
        await self._record(UPLOADED + file.id, requests)
        creation = self._client.batches.create(
            input_file_id=file.id,
            endpoint=f"/v1{queries[0].path}",  # type: ignore[arg-type]  # one of the SDK's literals
            completion_window=self._settings.window,  # type: ignore[arg-type]  # vendors have others
        )
        batch = await self._asked(creation)
        await self._record(batch.id, requests)
        await self._close(UPLOADED + file.id, "created")
        self._reserved[batch.id] = money
        if alone:
            self._alone.add(batch.id)
        self._say(f"batch {batch.id}: {len(queries):,} requests")

    async def _adopt(self) -> None:
        """Find out which batches exist of those whose creation a kill cut short: those are open too."""
        uploads = {batch.removeprefix(UPLOADED): batch for batch in await self._all() if _is_upload(batch)}
        if not uploads:
            return
        listing = await self._asked(self._client.batches.list(limit=100))
        while uploads:
            for found in listing.data:
                if record := uploads.pop(found.input_file_id, None):
                    await self._record(found.id, await self._requests(record))
                    await self._close(record, "created")
            if not listing.has_next_page():
                break
            listing = await self._asked(listing.get_next_page())
        for record in uploads.values():
            await self._close(record, "never created")

    def _reserve(self, queries: Sequence[Query]) -> float:
        """Set money aside for a whole batch. Raises BudgetError where the cap would not hold."""
        money = 0.0
        try:
            for query in queries:
                money += self._ledger.reserve(len(query.text.encode()), query.max_tokens)
        except BudgetError:
            self._ledger.release(money, billed=False)
            raise
        return money

    # --- collecting ---

    async def _look(self, batch: str) -> None:
        """See how far a batch is; store what an ended one brought."""
        state = await self._asked(self._client.batches.retrieve(batch))
        if counts := state.request_counts:
            done = counts.completed + counts.failed
            self._say(f"batch {batch}: {state.status}, {done:,}/{counts.total:,}")
        if state.status not in ENDED:
            return
        missing = dict(await self._requests(batch))
        failures: list[str] = []
        for file in (state.output_file_id, state.error_file_id):
            if file:
                content = await self._asked(self._client.files.content(file))
                await self._take(content.content, missing, failures)
        self._ledger.release(self._reserved.pop(batch, 0.0), billed=False)
        await self._close(batch, state.status)
        if state.status == "failed" and not failures:
            errors = (state.errors.data if state.errors else None) or []
            full = any(error.code == QUEUE_FULL for error in errors)
            if full and (len(missing) > 1 or batch not in self._alone):
                return await self._take_back(batch, missing)
            failures = [error.message or "" for error in errors]
            raise self._error(f"batch {batch} was refused ({'; '.join(failures[:3]) or 'no reason given'})")
        self._room += 1
        self._count_tries(missing, failures)

    async def _take_back(self, batch: str, missing: dict[str, str]) -> None:
        """Take a batch's queries back, to be submitted when another has ended; split one that was alone."""
        back = {key: _query(key, text) for key, text in missing.items()}
        self._waiting = {**back, **self._waiting}
        self._room = max(1, len(await self._open()))
        if batch in self._alone:
            self._most_requests = (len(missing) + 1) // 2
        self._say(f"batch {batch}: the endpoint's queue is full")

    async def _take(self, content: bytes, missing: dict[str, str], failures: list[str]) -> None:
        """Store the answers of a file; what it answers is no longer missing, what it refuses is a failure."""
        stored = []
        for line in content.splitlines():
            try:
                result = orjson.loads(line)
                text = missing.get(result["custom_id"])
            except (ValueError, LookupError, TypeError):
                excerpt = line[:200].decode(errors="replace")
                raise self._error(f"not a line of a batch's results: {excerpt}") from None
            if text is None:
                continue
            query = _query(result["custom_id"], text)
            row = self._row(query, result, failures)
            if row is not None:
                del missing[query.key]
                stored.append(asyncio.wrap_future(self._cache.store(without(self._secret, row))))
        await asyncio.gather(*stored)

    def _row(self, query: Query, result: dict[str, Any], failures: list[str]) -> Row | None:
        """The row of a line of a result file, None for an error that another try may mend."""
        response = result.get("response") or {}
        status, body = response.get("status_code", 500), response.get("body") or {}
        if status == 200:
            headers = {"x-request-id": response.get("request_id") or ""}
            content = orjson.dumps(body)
            try:
                return self._settled(query, answered(query, content, headers, endpoint=self._address))
            except ValueError:
                excerpt = content[:200].decode(errors="replace")
                failures.append(f"200: not an OpenAI-style answer: {excerpt}")
                return None
        error = body.get("error") or result.get("error") or {}
        message = str(error.get("message") or error.get("code") or "no reason given")
        if row := turned_away(query, status, error.get("code"), message):
            return row
        if status < 500 and status not in RETRIED:
            failures.append(f"{status}: {message}")
        return None

    def _settled(self, query: Query, row: Row) -> Row:
        self._counts["asked"] += 1
        self._counts["prompt_tokens"] += row.prompt_tokens
        self._counts["completion_tokens"] += row.completion_tokens
        cost = self._ledger.settle(0.0, len(query.text.encode()), row.prompt_tokens, row.completion_tokens)
        return row if cost is None else replace(row, cost=cost)

    def _count_tries(self, missing: dict[str, str], failures: Sequence[str]) -> None:
        """Raise EndpointError where another wave would not help."""
        if failures:
            raise self._error(f"{len(failures)} requests were refused ({failures[0]})")
        self._tries.update(missing.keys())
        if any(self._tries[key] >= self._most_tries for key in missing):
            raise self._error(f"{len(missing)} requests have no answer after {self._most_tries} batches")

    def _error(self, what: str, hint: str = KEPT) -> EndpointError:
        return EndpointError(redacted(what, self._secret), where=self._address, hint=hint)

    # --- the record, and the endpoint ---

    async def _all(self) -> list[str]:
        return await asyncio.to_thread(self._cache.open_batches, self._address)

    async def _open(self) -> list[str]:
        """Ids of the batches that have not ended, by any run."""
        return [batch for batch in await self._all() if not _is_upload(batch)]

    async def _requests(self, batch: str) -> list[tuple[str, str]]:
        return await asyncio.to_thread(self._cache.batch_requests, batch)

    async def _record(self, batch: str, requests: Sequence[tuple[str, str]]) -> None:
        await asyncio.to_thread(self._cache.record_batch, batch, self._address, requests)

    async def _close(self, batch: str, state: str) -> None:
        await asyncio.to_thread(self._cache.close_batch, batch, state)

    async def _asked(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except openai.APIError as error:
            hints = {
                401: f"put a valid key into the environment variable {self._variable}",
                404: "has it a batch API? `endpoint.backend: online` asks request by request",
            }
            hint = hints.get(getattr(error, "status_code", 0), KEPT)
            raise self._error(_described(error), hint) from None


def _query(key: str, text: str) -> Query:
    """What was asked, of the record of a batch."""
    return Query(key, text, orjson.loads(text)["body"])


def _line(query: Query) -> bytes:
    """A query as a line of the uploaded file."""
    line = {"custom_id": query.key, "method": "POST", "url": f"/v1{query.path}", "body": query.body}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _described(error: openai.APIError) -> str:
    """Status and the server's own words, in one line."""
    words = str(error.__cause__ or error.message)
    if isinstance(error, openai.APIStatusError):
        words = str(Refused(error.status_code, {}, error.response.content, error.response.reason_phrase))
    return " ".join(words.split())[:300]


def _is_upload(batch: str) -> bool:
    return batch.startswith(UPLOADED)
