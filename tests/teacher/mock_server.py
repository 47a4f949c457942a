"""An OpenAI-compatible server with latency, faults and limits, for tests: `with MockServer(...) as server`.

It runs in a process of its own. Answers are a function of the request alone. Every request that it answered
with 200 is appended to a log file, one JSON body a line, so that a test sees what was bought, and how often;
`refused()` counts those that a limit turned away. More routes: `mount`, functions (app, mock) -> None.
"""

import asyncio
import hashlib
import json
import multiprocessing
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web


class Allowance:
    """So many units a minute, at most `burst` seconds' worth saved up.

    They are refilled all the time, or `at_once` every `burst` seconds.
    """

    def __init__(self, unit, per_minute, burst, at_once=False):
        self.unit, self.per_minute, self.rate = unit, per_minute, per_minute / 60
        self.level = self.most = self.rate * burst
        self.window = burst if at_once else None
        self.at = time.monotonic()

    def wait(self, units):
        """Seconds until so many may be taken."""
        passed = time.monotonic() - self.at
        if self.window:
            passed -= passed % self.window
        self.level = min(self.most, self.level + passed * self.rate)
        self.at += passed
        missing = max(0.0, min(units, self.most) - self.level)
        return self.resets_in() if missing and self.window else missing / self.rate

    def resets_in(self):
        """Seconds until all of it is back."""
        if self.window:
            return self.at + self.window - time.monotonic()
        return (self.most - self.level) / self.rate

    def headers(self):
        return {
            f"x-ratelimit-limit-{self.unit}": f"{self.per_minute:.0f}",
            f"x-ratelimit-remaining-{self.unit}": f"{max(0, int(self.level))}",
            f"x-ratelimit-reset-{self.unit}": f"{self.resets_in() * 1000:.0f}ms",
        }


@dataclass
class MockServer:
    log: Path
    latency: float = 0.0
    faults: dict = field(default_factory=dict)
    """fault name -> share of the requests: 429, 500, reset, slow"""
    seed: int = 7
    """of the faults"""
    retry_after: str | None = "0.05"
    """of the refusals among the faults"""
    slow: float = 1.0
    """latency in seconds of a slow answer"""
    always: int | None = None
    """a status that every request gets"""
    error: dict | None = None
    key: str | None = None
    """the only API key that is served"""
    requests_per_second: float | None = None
    """more than that are refused with 429"""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """prompt and max_tokens; what was not used is given back"""
    burst: float = 1.0
    """seconds' worth of requests_per_minute and tokens_per_minute that may come at once"""
    at_once: bool = False
    """whether that much is back every `burst` seconds, and nothing in between"""
    say: str = "headers"
    """what refusals by a limit say: nothing, retry-after, resets (x-ratelimit-*, on answers too), headers
    (both), body (x-ratelimit-reset in the error, as OpenRouter does)"""
    mount: tuple = ()

    def __enter__(self):
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe()
        self.counter = context.Value("l", 0)
        self.process = context.Process(target=_serve, args=(self, sender), daemon=True)
        self.process.start()
        self.url = f"http://127.0.0.1:{receiver.recv()}/v1"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def bought(self):
        """Bodies of all requests that were answered, in order; of a line that is half-written, nothing."""
        *lines, _ = self.log.read_text().split("\n") if self.log.exists() else [""]
        return [json.loads(line) for line in lines]

    def refused(self):
        """How many requests a limit or a fault turned away with 429."""
        return self.counter.value


def answer(body):
    """What the server says to a body: readable, and different for different bodies."""
    text = json.dumps(body, sort_keys=True)
    return f"Answer {hashlib.sha256(text.encode()).hexdigest()[:12]}."


def completion(body):
    """The document that answers a body."""
    asked = json.dumps(body)
    finish = "length" if "be long" in asked else "content_filter" if "be filtered" in asked else "stop"
    text = answer(body)
    shape = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    usage = {"prompt_tokens": _prompt_tokens(body), "completion_tokens": 4}
    return {"id": f"r{time.time_ns()}", "model": "mock", "usage": usage} | {
        "choices": [{"index": 0, "finish_reason": finish, **shape}]
    }


def _prompt_tokens(body):
    return len(json.dumps(body)) // 4


def _failed(status, message, headers=None, **error):
    return web.json_response({"error": {"message": message, **error}}, status=status, headers=headers)


def _as_openrouter(wait):
    moment = f"{(time.time() + wait) * 1000:.0f}"
    return {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": moment}


def _serve(mock, sender):
    rng = random.Random(mock.seed)
    served = []
    limits = [
        Allowance(unit, per_minute, mock.burst, mock.at_once)
        for unit, per_minute in (("requests", mock.requests_per_minute), ("tokens", mock.tokens_per_minute))
        if per_minute
    ]

    def refusal(headers=None, **error):
        mock.counter.value += 1
        return _failed(429, "slow down", headers, **error)

    def said():
        shown = limits if mock.say in ("headers", "resets") else []
        return {name: value for limit in shown for name, value in limit.headers().items()}

    def limited(body):
        """The refusal of a request that is too many."""
        if mock.requests_per_second is not None:
            now = time.monotonic()
            served[:] = [t for t in served if t > now - 1]
            if len(served) >= mock.requests_per_second:
                return refusal()
            served.append(now)
        units = {"requests": 1, "tokens": _prompt_tokens(body) + body.get("max_tokens", 16)}
        if limits and (wait := max(limit.wait(units[limit.unit]) for limit in limits)):
            if mock.say == "body":
                return refusal(metadata={"headers": _as_openrouter(wait)})
            asked = {} if mock.say in ("nothing", "resets") else {"retry-after-ms": f"{wait * 1000:.0f}"}
            return refusal({**said(), **asked})
        for limit in limits:
            limit.level -= units[limit.unit]
        return None

    async def complete(request):
        body = await request.json()
        if mock.key and request.headers.get("Authorization") != f"Bearer {mock.key}":
            return _failed(401, "Incorrect API key provided", code="invalid_api_key")
        if mock.always:
            error = mock.error or {"message": f"no, with {request.headers.get('Authorization')}"}
            return web.json_response({"error": error}, status=mock.always)
        if response := limited(body):
            return response
        shares = [1 - sum(mock.faults.values()), *mock.faults.values()]
        fault = rng.choices([None, *mock.faults], shares)[0]
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        if fault == 429:
            return refusal({"retry-after": mock.retry_after} if mock.retry_after else None)
        if fault not in (None, "slow"):
            return _failed(fault, "oops")
        headers = said()
        await asyncio.sleep(mock.slow if fault else mock.latency)
        with mock.log.open("a") as file:
            file.write(json.dumps(body) + "\n")
        document = completion(body)
        for limit in limits:
            if limit.unit == "tokens":
                limit.level += body.get("max_tokens", 16) - document["usage"]["completion_tokens"]
        return web.json_response(document, headers=headers)

    async def main():
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_post("/v1/completions", complete)
        for mount in mock.mount:
            mount(app, mock)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sender.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())
