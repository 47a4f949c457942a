"""An event loop whose clock jumps to the next timer, and endpoints with limits: hours of asking in a second.

run(main)                 as asyncio.run, in virtual time; `asyncio.get_running_loop().time()` is the clock
ask(gate, server, n, …)   n requests by as many workers as places, retried until they are answered
"""

import asyncio
import collections
import random
import selectors
from dataclasses import dataclass, field


class _NoSockets(selectors.SelectSelector):
    """A selector that advances the loop's clock instead of waiting."""

    def select(self, timeout=None):
        assert timeout is not None, "everybody waits for somebody else"
        self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        selector = _NoSockets()
        selector.loop, self.now = self, 1000.0
        super().__init__(selector)

    def time(self):
        return self.now


def run(main):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class TokenBucket:
    """What OpenAI has: refilled all the time."""

    def __init__(self, rate, burst):
        self.rate, self.burst, self.level, self.at = rate, burst, burst, 1000.0

    def admit(self, now, units=1):
        """Seconds to wait; 0 if let in."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < units:
            return (units - self.level) / self.rate
        self.level -= units
        return 0

    def allowed(self, seconds):
        return self.burst + self.rate * seconds

    def headers(self, now, unit="requests"):
        return {
            f"x-ratelimit-limit-{unit}": f"{self.rate * 60:.0f}",
            f"x-ratelimit-remaining-{unit}": f"{int(self.level)}",
            f"x-ratelimit-reset-{unit}": f"{(self.burst - self.level) / self.rate:.3f}s",
        }


class Window:
    """At most `limit` in any `window` seconds (sliding), or in each (fixed)."""

    def __init__(self, limit, window, *, sliding):
        self.limit, self.window, self.sliding, self.times = limit, window, sliding, collections.deque()

    def admit(self, now, units=1):
        start = now - self.window if self.sliding else now // self.window * self.window
        while self.times and self.times[0] <= start - 1e-9 * (not self.sliding):
            self.times.popleft()
        if len(self.times) >= self.limit:
            return (self.times[0] if self.sliding else start) + self.window - now
        self.times.append(now)
        return 0

    def allowed(self, seconds):
        return self.limit * -(-seconds // self.window)


@dataclass
class Server:
    limiter: object = None
    latency: float = 0.1
    say: str = "retry-after"
    """nothing, retry-after, headers (both)"""
    whole_seconds: bool = False
    places: int | None = None
    """more than that at a time are refused with 503"""
    faults: float = 0.0
    """share of stray refusals"""
    tokens: float = 1
    """units that a request takes from the limiter"""
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    busy: int = 0
    most_busy: int = 0
    answered: int = 0
    refused: int = 0
    rejected_at: list = field(default_factory=list)

    async def ask(self):
        """(answered, seconds to wait or None, headers) after the latency; a refusal comes back at once."""
        now = asyncio.get_running_loop().time()
        wait = self.limiter.admit(now, self.tokens) if self.limiter else 0
        full = self.places is not None and self.busy >= self.places
        if wait or full or self.rng.random() < self.faults:
            self.refused += 1
            self.rejected_at.append(now)
            headers = self._headers(now)
            await asyncio.sleep(0.004 + 0.002 * self.rng.random())
            asked = max(1.0, -(-wait // 1)) if self.whole_seconds else max(wait, 0.001)
            return False, None if self.say == "nothing" else asked, headers
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        headers = self._headers(now)
        await asyncio.sleep(self.latency * self.rng.uniform(0.7, 1.3))
        self.busy -= 1
        self.answered += 1
        return True, None, headers

    def _headers(self, now):
        unit = "requests" if self.tokens == 1 else "tokens"
        return self.limiter.headers(now, unit) if self.say == "headers" else {}


async def ask(gate, server, count, *, tokens=1.0, spent=1.0, seconds=None):
    """Ask until `count` are answered, or for some seconds; return the seconds that it took."""
    loop = asyncio.get_running_loop()
    began, left = loop.time(), iter(range(count))

    async def one():
        while True:
            await gate.enter(tokens)
            good, wait, headers = await server.ask()
            if good:
                gate.succeeded(headers)
            gate.leave(tokens, spent if good else 0)
            if good:
                return
            await asyncio.sleep(gate.congested(wait, headers))

    async def worker():
        for _ in left:
            if seconds is not None and loop.time() - began > seconds:
                return
            await one()

    await asyncio.gather(*(worker() for _ in range(2 * gate.most)))
    return loop.time() - began
