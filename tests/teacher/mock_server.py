"""An OpenAI-compatible server with latency and faults, for tests: `with MockServer(...) as server`.

It runs in a process of its own. Answers are a function of the request alone. Every request that it answered
with 200 is appended to a log file, one JSON body a line, so that a test sees what was bought, and how often.
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


@dataclass
class MockServer:
    log: Path
    latency: float = 0.0
    faults: dict = field(default_factory=dict)
    """fault name -> share of the requests: 429, 500, reset"""
    always: int | None = None
    """a status that every request gets"""
    error: dict | None = None
    requests_per_second: float | None = None
    """more than that are refused with 429"""

    def __enter__(self):
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe()
        self.process = context.Process(target=_serve, args=(self, sender), daemon=True)
        self.process.start()
        self.url = f"http://127.0.0.1:{receiver.recv()}/v1"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def bought(self):
        """Bodies of all requests that were answered, in order."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def answer(body):
    """What the server says to a body: readable, and different for different bodies."""
    text = json.dumps(body, sort_keys=True)
    return f"Answer {hashlib.sha256(text.encode()).hexdigest()[:12]}."


def _serve(mock, sender):
    random.seed(7)
    served = []

    async def complete(request):
        body = await request.json()
        if mock.always:
            error = mock.error or {"message": f"no, with {request.headers.get('Authorization')}"}
            return web.json_response({"error": error}, status=mock.always)
        if mock.requests_per_second is not None:
            now = time.monotonic()
            served[:] = [t for t in served if t > now - 1]
            if len(served) >= mock.requests_per_second:
                return web.json_response({"error": {"message": "slow down"}}, status=429)
            served.append(now)
        fault = random.choices([None, *mock.faults], [1 - sum(mock.faults.values()), *mock.faults.values()])[
            0
        ]
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        if fault == 429:
            return web.json_response(
                {"error": {"message": "busy"}}, status=429, headers={"Retry-After": "0.05"}
            )
        if fault:
            return web.json_response({"error": {"message": "oops"}}, status=fault)
        await asyncio.sleep(mock.latency)
        with mock.log.open("a") as file:
            file.write(json.dumps(body) + "\n")
        finish = "length" if "be long" in json.dumps(body) else "stop"
        text = answer(body)
        shape = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        usage = {"prompt_tokens": len(json.dumps(body)) // 4, "completion_tokens": 4}
        return web.json_response(
            {"id": f"r{time.time_ns()}", "model": "mock", "usage": usage}
            | {"choices": [{"index": 0, "finish_reason": finish, **shape}]}
        )

    async def main():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_post("/v1/completions", complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sender.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())
