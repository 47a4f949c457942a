"""Asking a teacher: thousands of conversations in flight, each answer bought once and kept.

Request ──▶ canonical JSON ──▶ key ──▶ response cache ──▶ Answer
                                 └──▶ endpoint ──▶ response cache ──▶ Answer   (committed before it is used)

    with Cache() as cache, Asker(teacher, base_url, chat, cache, seed, "distill") as asker:
        answers = ask_all(requests, asker)

The key is the SHA-256 of everything that the teacher sees (model, messages or prompt, sampling, stop, seed)
and the sample's index: never of the endpoint's address or the API key. The same request asked twice at a time
is sent once. Order of completion never shows in results.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
import orjson

from stillroom.artifacts import canonical_json, sha256
from stillroom.chat_format import ChatFormat
from stillroom.errors import EndpointError, StillroomError
from stillroom.params import Sampling, Teacher
from stillroom.progress import track
from stillroom.records import Message
from stillroom.teacher.cache import Cache, Row
from stillroom.teacher.limits import Gate, backoff, retry_after

KEY_VERSION = 1
"""of the canonical request; a new version asks everything anew"""
UNREACHABLE_TRIES = 3
"""connections that fail before the first answer of any kind: then nobody is there"""
LONGEST_WAIT = 3600.0
"""seconds; an endpoint that asks for a longer pause has run out of quota"""
GRACE_SECONDS = 30.0
"""how long the requests in flight may still finish when a run stops: they may be billed"""
CONGESTION = (429, 503)
TOO_LONG = "context_length"
"""finish reason of a prompt that does not fit into the teacher's context: not billed, not answered"""

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One turn to answer; `sample` tells several answers to the same messages apart."""

    messages: tuple[Message, ...]
    sampling: Sampling
    sample: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer that is in the cache; `cached` says that it was there before it was wanted."""

    key: str
    text: str
    finish_reason: str
    """stop, length, content_filter, … as the endpoint says; or `context_length`"""
    prompt_tokens: int
    completion_tokens: int
    cached: bool


def identity(teacher: Teacher, folder: Path) -> str:
    """Which teacher this is, for the key: the model's name; of the embedded one, its folder's content."""
    if teacher.model != "embedded":
        return teacher.model
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    content = {p.relative_to(folder).as_posix(): sha256(p) for p in files}
    return f"embedded:{sha256(canonical_json(content))}"


def body(request: Request, teacher: Teacher, chat: ChatFormat, seed: int) -> dict[str, Any]:
    """The JSON that is sent. Settings that are null are left out: absent is not null."""
    sampling = request.sampling
    optional = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
    sent: dict[str, Any] = {
        "model": teacher.model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **{name: value for name, value in optional.items() if value is not None},
        "seed": seed + request.sample,
    }
    stop = list(sampling.stop)
    if teacher.api == "chat":
        sent["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    else:
        sent["prompt"] = chat.text(request.messages, prompt=True)
        stop = list(dict.fromkeys([*stop, *chat.stops]))
    return {**sent, "stop": stop} if stop else sent


def canonical(request: Request, sent: dict[str, Any], teacher: str) -> str:
    """The text that the key is the hash of."""
    value = {"version": KEY_VERSION, "teacher": teacher, "sample": request.sample, "body": sent}
    return canonical_json(value).decode()


class Asker:
    """Asks one teacher on behalf of one run.

    identity: which teacher the cached answers are from (see `identity`); default: its model name.
    Raises EndpointError, once, for a failure that will not go away; everything answered is kept.
    """

    def __init__(
        self,
        teacher: Teacher,
        base_url: str,
        chat: ChatFormat,
        cache: Cache,
        seed: int,
        title: str,
        *,
        identity: str | None = None,
    ) -> None:
        self.teacher, self.base_url, self.chat, self.seed, self.title = teacher, base_url, chat, seed, title
        self.counts: Counter[str] = Counter()
        """answers, cached, asked, retries, prompt_tokens, completion_tokens (tokens: only those asked for)"""
        self._cache = cache
        self._identity = identity or teacher.model
        self._used: set[str] = set()
        self._in_progress: dict[str, asyncio.Task[Answer]] = {}
        self._failure: StillroomError | None = None
        self._reached = False
        self._secret = os.environ.get(teacher.api_key_env, "") if teacher.model != "embedded" else ""
        self._gate = Gate(teacher.max_in_flight, teacher.requests_per_minute, teacher.tokens_per_minute)

    def __enter__(self) -> Asker:
        self._runner = asyncio.Runner()
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._secret or "none",
            max_retries=0,
            timeout=self.teacher.timeout,
            http_client=openai.DefaultAioHttpClient(trust_env=not self._is_local()),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
        print(f"{self.title}: {self.summary()}", file=sys.stderr)

    def used(self) -> list[str]:
        """Keys of all answers given so far, sorted: what the Parquet snapshot holds."""
        return sorted(self._used)

    def summary(self) -> str:
        """`120 answers: 100 from the cache, 20 asked for (3 retries, 5,120 + 2,048 tokens)`."""
        c = self.counts
        return (
            f"{c['answers']:,} answers: {c['cached']:,} from the cache, {c['asked']:,} asked for "
            f"({c['retries']:,} retries, {c['prompt_tokens']:,} + {c['completion_tokens']:,} tokens)"
        )

    def run(
        self,
        coroutines: Iterable[Coroutine[Any, Any, T]],
        *,
        total: int | None = None,
        unit: str = "conversations",
    ) -> list[T]:
        """Run many coroutines that await `answer`; results in the order given.

        The coroutines are taken as places get free, so that an iterable may build them lazily. On an error or
        Ctrl-C no new request is sent, those in flight may finish, and the error is raised.
        """
        if total is None and isinstance(coroutines, Sequence):
            total = len(coroutines)
        with track(self.title, total, unit) as tracker:

            def advance() -> None:
                tracker.advance(1, self.summary())

            return self._runner.run(self._drive(enumerate(coroutines), advance))

    async def answer(self, request: Request) -> Answer:
        """The teacher's answer: from the cache, or asked for and committed.

        Raises EndpointError where the endpoint refuses for good or for too long.
        """
        sent = body(request, self.teacher, self.chat, self.seed)
        text = canonical(request, sent, self._identity)
        key = sha256(text)
        task = self._in_progress.get(key)
        if task is None:
            task = self._in_progress[key] = asyncio.create_task(self._find_or_ask(key, text, sent))
            task.add_done_callback(lambda _: self._in_progress.pop(key, None))
        answer = await asyncio.shield(task)
        self._used.add(key)
        self.counts["answers"] += 1
        self.counts["cached"] += answer.cached
        return answer

    async def _drive(
        self, work: Iterator[tuple[int, Coroutine[Any, Any, T]]], advance: Callable[[], None]
    ) -> list[T]:
        """Keep more conversations open than requests may be in flight: some wait for the cache."""
        results: dict[int, T] = {}

        async def worker() -> None:
            for index, coroutine in work:
                results[index] = await coroutine
                advance()

        workers = [asyncio.create_task(worker()) for _ in range(max(128, 2 * self.teacher.max_in_flight))]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except BaseException:
            await self._stop(workers)
            for _, coroutine in work:
                coroutine.close()
            raise
        return [results[index] for index in sorted(results)]

    async def _stop(self, workers: list[asyncio.Task[None]]) -> None:
        """Send nothing more, let what is in flight finish, then cancel."""
        self._failure = self._failure or EndpointError("stopped")
        tasks: list[asyncio.Task[Any]] = list(self._in_progress.values())
        if count := self._gate.in_flight:
            print(f"{self.title}: waiting for {count} requests in flight; Ctrl-C drops them", file=sys.stderr)
        with suppress(asyncio.CancelledError):
            if tasks:
                await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        for task in [*workers, *tasks]:
            task.cancel()
        await asyncio.gather(*workers, *tasks, return_exceptions=True)

    async def _find_or_ask(self, key: str, text: str, sent: dict[str, Any]) -> Answer:
        if key in self._cache:
            found = self._cache.find_many([key])
            if key in found:
                return _answer(found[key], cached=True)
        bought = await self._ask(key, text, sent)
        row = await asyncio.wrap_future(self._cache.store(bought))
        return _answer(row, cached=False)

    async def _ask(self, key: str, text: str, sent: dict[str, Any]) -> Row:
        """Ask until there is an answer, or until it is clear that there will be none."""
        path = "/chat/completions" if "messages" in sent else "/completions"
        reserved = len(text) / 4 + sent["max_tokens"]
        tries = 0
        while True:
            await self._gate.enter(reserved)
            answered, spent = self.counts["asked"], 0.0
            started = time.monotonic()
            try:
                if self._failure:
                    raise self._failure
                response = await self._client.post(path, cast_to=httpx2.Response, body=sent)
                self._reached = True
                row = self._row(key, text, response, time.monotonic() - started, tries + 1)
                spent = row.prompt_tokens + row.completion_tokens
                self._gate.succeeded()
                self._count(row)
                return row
            except openai.APIStatusError as error:
                self._reached = True
                if _too_long(error):
                    return Row(key, text, "", TOO_LONG, 0, 0)
                self._raise_if_final(error)
                failure, wait = self._describe(error), retry_after(error.response.headers)
                congested = error.status_code in CONGESTION
            except openai.APIConnectionError as error:
                failure, wait, congested = self._describe(error), None, False
            finally:
                self._gate.leave(reserved, spent)
            self.counts["retries"] += 1
            # congestion counts as a failed try only where nobody else got through meanwhile
            tries += not congested or self.counts["asked"] == answered
            self._raise_if_hopeless(failure, tries)
            delay = backoff(tries) if wait is None else wait
            await asyncio.sleep(self._gate.congested(delay) if congested else delay)

    def _is_local(self) -> bool:
        """Whether the endpoint is this machine: no proxy stands between."""
        return httpx2.URL(self.base_url).host in ("127.0.0.1", "localhost", "::1")

    def _count(self, row: Row) -> None:
        self.counts["asked"] += 1
        self.counts["prompt_tokens"] += row.prompt_tokens
        self.counts["completion_tokens"] += row.completion_tokens

    def _row(self, key: str, text: str, response: httpx2.Response, seconds: float, attempts: int) -> Row:
        """The cache row of a response. Raises EndpointError where it is not an OpenAI-style completion."""
        try:
            document = orjson.loads(response.content)
            choice = document["choices"][0]
            content = choice["message"].pop("content") if "message" in choice else choice.pop("text")
            usage = document.get("usage") or {}
            return Row(
                key=key,
                request=text,
                text=content or "",
                finish_reason=choice.get("finish_reason") or "unknown",
                prompt_tokens=usage.get("prompt_tokens", 0),
                completion_tokens=usage.get("completion_tokens", 0),
                served_model=document.get("model"),
                fingerprint=document.get("system_fingerprint"),
                request_id=response.headers.get("x-request-id"),
                response_id=document.get("id"),
                endpoint=str(httpx2.URL(self.base_url).copy_with(userinfo=b"")),
                seconds=round(seconds, 4),
                attempts=attempts,
                time=round(time.time(), 3),
                response=canonical_json(document).decode(),
            )
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
            excerpt = self._redacted(response.text[:200])
            raise self._fail(f"not an OpenAI-style answer: {excerpt}", "base_url should end in /v1") from None

    def _raise_if_final(self, error: openai.APIStatusError) -> None:
        """Raise EndpointError for what a retry will not mend."""
        status, code = error.status_code, error.code
        variable, model = self.teacher.api_key_env, self.teacher.model
        wait = retry_after(error.response.headers)
        hints = {
            401: f"put a valid key into the environment variable {variable}",
            403: f"the key in {variable} may not use the model {model!r}",
            404: f"is there a model {model!r}, and does base_url end in /v1?",
            402: "the account has no credit",
        }
        if code == "insufficient_quota" or (wait is not None and wait > LONGEST_WAIT):
            raise self._fail(
                self._describe(error), "the quota is used up; what is answered is kept, go on later"
            )
        if status in hints:
            raise self._fail(self._describe(error), hints[status])
        if status < 500 and status not in (408, 409, 425, 429):
            hint = "settings that the endpoint does not know can be null: top_k, repetition_penalty"
            raise self._fail(self._describe(error), hint)

    def _raise_if_hopeless(self, failure: str, tries: int) -> None:
        """Raise EndpointError when there were enough tries."""
        if not self._reached and tries >= UNREACHABLE_TRIES:
            raise self._fail(
                f"cannot be reached ({failure})", "is the server up, and common.teacher.base_url right?"
            )
        if tries >= self.teacher.max_attempts:
            hint = "everything answered is kept: run again to go on"
            raise self._fail(f"no answer in {tries} tries ({failure})", hint)

    def _fail(self, what: str, hint: str) -> StillroomError:
        """The error that stops the run; the first one counts."""
        where = f"{httpx2.URL(self.base_url).copy_with(userinfo=b'')} (model {self.teacher.model})"
        self._failure = self._failure or EndpointError(what, where=where, hint=hint)
        return self._failure

    def _describe(self, error: openai.APIError) -> str:
        """Status and the server's own words, one line, without the key."""
        words = error.message
        if isinstance(error, openai.APIStatusError):
            detail = error.body.get("message") if isinstance(error.body, dict) else None
            words = f"{error.status_code}: {detail or error.response.reason_phrase or words}"
        elif error.__cause__ is not None:
            words = str(error.__cause__)
        return self._redacted(" ".join(words.split())[:300])

    def _redacted(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def ask_all(requests: Sequence[Request], asker: Asker) -> list[Answer]:
    """Answers of independent requests, in their order."""
    coroutines = (asker.answer(request) for request in requests)
    return asker.run(coroutines, total=len(requests), unit="requests")


def _answer(row: Row, *, cached: bool) -> Answer:
    return Answer(row.key, row.text, row.finish_reason, row.prompt_tokens, row.completion_tokens, cached)


def _too_long(error: openai.APIStatusError) -> bool:
    """Whether the prompt does not fit: OpenAI's code, or the words of vLLM and others."""
    return error.status_code in (400, 413, 422) and (
        error.code == "context_length_exceeded" or "context length" in error.message.lower()
    )
