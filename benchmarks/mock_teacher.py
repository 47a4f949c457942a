"""A teacher to measure clients against: an OpenAI-compatible server with fixed latency, faults and limits.

    python benchmarks/mock_teacher.py [PORT]      prints its address, serves until it is killed

POST …/chat/completions and …/completions ──▶ an answer of about 1 KB, a function of the request alone
PUT /scenario  {"latency": 0.1, …} (see Scenario): starts counting anew
GET /counts    what was asked since then (see Counts)

One process, one core, no framework: a bare protocol, so that the server is never what limits a client (it
answers several times as many requests a second as any client here sends). Times are of CLOCK_MONOTONIC, which
all processes of a machine share. An answer counts as bought when its request is taken in, as vendors bill it,
whether or not the client lives to read it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

FILLER = "It depends on what you want to do with the table, the query and the model. " * 13
ANSWER_TOKENS = 250
SLOW = 10
"""a slow answer's latency, in latencies"""
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
CHAT = '"message": {"role": "assistant", "content": "%s"}'
TEXT = '"text": "%s"'
ANSWER = (
    '{"id": "answer-%s", "object": "%s", "created": 1700000000, "model": "mock-teacher", '
    '"system_fingerprint": "fp_mock", '
    '"choices": [{"index": 0, %s, "logprobs": null, "finish_reason": "stop"}], '
    '"usage": {"prompt_tokens": %d, "completion_tokens": %d, "total_tokens": %d}}'
)


@dataclass
class Scenario:
    """How the server behaves."""

    latency: float = 0.0
    """seconds"""
    faults: dict[str, float] = field(default_factory=dict)
    """share of the requests that end so: 429 (with Retry-After), 500, reset, slow"""
    retry_after: float = 1.0
    """seconds, with a 429"""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """prompt and answer; more than the limits allow is refused with 429, a second's worth may be saved up"""
    slots: int | None = None
    """more than so many at a time are refused with 429"""
    headers: str = "none"
    """what a limit's answers carry: none, retry-after, or x-ratelimit (and retry-after)"""
    seed: int = 7
    """of the faults"""


@dataclass
class Counts:
    """What was asked."""

    bought: int = 0
    """answers"""
    distinct: int = 0
    """different ones"""
    tokens: int = 0
    """of prompts and answers"""
    refused: int = 0
    """429 of a limit"""
    faults: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    dropped: int = 0
    """bought answers whose client was gone before they were sent"""
    first_request: float | None = None
    """monotonic seconds"""
    last_answer: float | None = None


class Bucket:
    """What a limit allows: filled at a rate, a second's worth at most."""

    def __init__(self, per_minute: float) -> None:
        self.per_minute, self.rate = per_minute, per_minute / 60
        self.level = self.rate
        self.filled = time.monotonic()

    def refill(self) -> float:
        now = time.monotonic()
        self.level = min(self.rate, self.level + (now - self.filled) * self.rate)
        self.filled = now
        return self.level

    def headers(self, name: str) -> dict[str, str]:
        full = (self.rate - self.level) / self.rate
        return {
            f"x-ratelimit-limit-{name}": f"{self.per_minute:.0f}",
            f"x-ratelimit-remaining-{name}": f"{max(0.0, self.level):.0f}",
            f"x-ratelimit-reset-{name}": f"{max(0.0, full) * 1000:.0f}ms",
        }


class Teacher:
    """The scenario in force, and its counts."""

    def __init__(self) -> None:
        self.begin({})

    def begin(self, scenario: dict[str, Any]) -> None:
        self.scenario, self.counts = Scenario(**scenario), Counts()
        self.seen: set[int] = set()
        self.random = random.Random(self.scenario.seed)
        limits = {"requests": self.scenario.requests_per_minute, "tokens": self.scenario.tokens_per_minute}
        self.buckets = {name: Bucket(limit) for name, limit in limits.items() if limit}

    def fault(self) -> str | None:
        """How this request fails, if it does."""
        draw = self.random.random()
        for name, share in self.scenario.faults.items():
            draw -= share
            if draw < 0:
                self.counts.faults[name] = self.counts.faults.get(name, 0) + 1
                return name
        return None

    def refusal(self, tokens: int) -> float | None:
        """Seconds until a refused request would be taken; None where it is taken, and what it needs is."""
        wanted = {"requests": 1, "tokens": tokens}
        waits = [
            (min(wanted[name], bucket.rate) - bucket.refill()) / bucket.rate
            for name, bucket in self.buckets.items()
        ]
        slots = self.scenario.slots
        if slots is not None and self.counts.in_flight >= slots:
            waits.append(self.scenario.latency)
        if (wait := max(waits, default=0.0)) > 0:
            self.counts.refused += 1
            return wait
        for name, bucket in self.buckets.items():
            bucket.level -= wanted[name]
        return None

    def limit_headers(self, wait: float | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.scenario.headers == "x-ratelimit":
            for name, bucket in self.buckets.items():
                headers |= bucket.headers(name)
        if wait is not None and self.scenario.headers != "none":
            headers |= {"retry-after-ms": f"{wait * 1000:.0f}", "retry-after": f"{max(1, round(wait))}"}
        return headers

    def buy(self, body: bytes) -> None:
        counts = self.counts
        self.seen.add(hash(body))
        counts.bought += 1
        counts.distinct = len(self.seen)
        counts.tokens += tokens(body)
        counts.in_flight += 1
        counts.most_in_flight = max(counts.most_in_flight, counts.in_flight)


def tokens(body: bytes) -> int:
    """Of a prompt and its answer."""
    return len(body) // 4 + ANSWER_TOKENS


def answer(chat: bool, body: bytes) -> str:
    """The JSON of a completion."""
    digest = hashlib.blake2b(body, digest_size=8).hexdigest()
    total = tokens(body)
    kind = "chat.completion" if chat else "text_completion"
    content = (CHAT if chat else TEXT) % f"Answer {digest}. {FILLER}"
    return ANSWER % (digest, kind, content, total - ANSWER_TOKENS, ANSWER_TOKENS, total)


def error(status: int, message: str) -> str:
    """The JSON of a refusal."""
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


class Connection(asyncio.Protocol):
    """One client connection: a request at a time, as HTTP/1.1 clients send them."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.buffer = bytearray()
        self.due: asyncio.TimerHandle | None = None
        self.counts = teacher.counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self.due:
            self.due.cancel()
            self.counts.in_flight -= 1
            self.counts.dropped += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        if "expect" in fields and len(self.buffer) == end + 4:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "transfer-encoding" in fields:
            self.send(400, error(400, "send content-length"))
            self.transport.close()
            return
        size = end + 4 + int(fields.get("content-length", 0))
        if len(self.buffer) >= size:
            body = bytes(self.buffer[end + 4 : size])
            del self.buffer[:size]
            method, path, _ = head[0].split(" ", 2)
            self.request(method, path, body)

    def request(self, method: str, path: str, body: bytes) -> None:
        if method == "POST" and path.endswith("/completions"):
            self.complete(path.endswith("/chat/completions"), body)
        elif method == "PUT" and path == "/scenario":
            self.teacher.begin(json.loads(body))
            self.send(200, "{}")
        elif path == "/counts":
            self.send(200, json.dumps(asdict(self.teacher.counts)))
        else:
            self.send(404, error(404, f"no {method} {path}"))

    def complete(self, chat: bool, body: bytes) -> None:
        teacher, latency = self.teacher, self.teacher.scenario.latency
        if b'"messages": []' in body[:200]:  # curator asks nothing, to see the headers
            self.send(400, error(400, "[] is too short - 'messages'"), teacher.limit_headers(None))
            return
        teacher.counts.first_request = teacher.counts.first_request or time.monotonic()
        wait = teacher.refusal(tokens(body))
        if wait is not None:
            self.send(429, error(429, "Rate limit reached."), teacher.limit_headers(wait))
            return
        fault = teacher.fault()
        if fault == "reset":
            self.transport.abort()
        elif fault == "429":
            after = {"retry-after": f"{teacher.scenario.retry_after:g}"}
            self.send(429, error(429, "The engine is overloaded."), after)
        elif fault == "500":
            self.send(500, error(500, "The server had an error."))
        else:
            teacher.buy(body)
            self.counts = teacher.counts
            later = latency * SLOW if fault == "slow" else latency
            self.due = asyncio.get_running_loop().call_later(later, self.deliver, chat, body)

    def deliver(self, chat: bool, body: bytes) -> None:
        self.due = None
        self.counts.in_flight -= 1
        self.counts.last_answer = time.monotonic()
        self.send(200, answer(chat, body), self.teacher.limit_headers(None))

    def send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: req-{time.monotonic_ns():x}\r\n{extra}\r\n"
        )
        self.transport.write(head.encode() + body)


async def serve(port: int) -> None:
    """Serve until killed."""
    teacher = Teacher()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(teacher), "127.0.0.1", port, backlog=2048
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
