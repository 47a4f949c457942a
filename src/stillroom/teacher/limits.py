"""How fast a teacher may be asked: requests in flight, requests and tokens per minute, and back-off.

    await gate.enter(tokens)   …ask…   gate.leave(reserved, spent)

Only 429 and 503 are congestion. A stray one delays its own request; when a fifth of the last answers were
such, the number in flight is cut by a quarter once, all wait, and it grows back by one per round of
successes. Other failures (500, resets, time-outs) are retried with jitter and leave the limit alone:
shrinking on them made a faulty server twelve times slower.
"""

from __future__ import annotations

import asyncio
import collections
import email.utils
import random
import time
from collections.abc import Mapping

WINDOW, SHARE = 40, 0.2
"""congestion is when at least this share of the last WINDOW answers were 429 or 503"""
LONGEST_BACKOFF = 30.0


class Bucket:
    """A token bucket: `per_minute` units a minute, at most one second's worth saved up."""

    def __init__(self, per_minute: float) -> None:
        self.rate = per_minute / 60
        self.level = self.capacity = max(1.0, self.rate)
        self._filled = time.monotonic()

    def delay(self, units: float) -> float:
        """Seconds until `units` may be taken; more than the capacity needs a full bucket."""
        now = time.monotonic()
        self.level = min(self.capacity, self.level + (now - self._filled) * self.rate)
        self._filled = now
        return max(0.0, (min(units, self.capacity) - self.level) / self.rate)

    def take(self, units: float) -> None:
        """Take units, or give back negative ones."""
        self.level -= units


class Gate:
    """Lets requests through, first come first served, as the limits allow."""

    def __init__(
        self, most: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        self.most, self.limit = most, float(most)
        self.in_flight = 0
        self._requests = Bucket(requests_per_minute) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute) if tokens_per_minute else None
        self._pause_until = 0.0
        self._last_cut = 0.0
        self._recent: collections.deque[bool] = collections.deque(maxlen=WINDOW)
        self._door = asyncio.Lock()
        self._room = asyncio.Event()

    async def enter(self, tokens: float) -> None:
        """Wait for a place, and reserve one request and `tokens` tokens."""
        async with self._door:
            while self.in_flight >= int(self.limit):
                self._room.clear()
                await self._room.wait()
            while (delay := self._delay(tokens)) > 0:
                await asyncio.sleep(delay)
            self.in_flight += 1
            if self._requests:
                self._requests.take(1)
            if self._tokens:
                self._tokens.take(tokens)

    def leave(self, reserved: float, spent: float) -> None:
        """Free the place, and give back the tokens that were reserved and not spent."""
        self.in_flight -= 1
        self._room.set()
        if self._tokens:
            self._tokens.take(spent - reserved)

    def succeeded(self) -> None:
        """Note an answer: room for one more after each round of them."""
        self._recent.append(False)
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def congested(self, wait: float) -> float:
        """Note a 429 or 503 that asks for `wait` seconds; return how long its own request should wait."""
        self._recent.append(True)
        enough = len(self._recent) >= WINDOW / 2
        if not enough or sum(self._recent) < SHARE * len(self._recent):
            return jittered(wait)
        now = time.monotonic()
        if now - self._last_cut > max(1.0, wait):
            self._last_cut = now
            self._recent.clear()
            self.limit = max(1.0, self.limit * 0.75)
        self._pause_until = max(self._pause_until, now + wait)
        return jittered(wait)

    def _delay(self, tokens: float) -> float:
        requests = self._requests.delay(1) if self._requests else 0.0
        reserve = self._tokens.delay(tokens) if self._tokens else 0.0
        return max(self._pause_until - time.monotonic(), requests, reserve)


def backoff(attempt: int) -> float:
    """Seconds before the next try after the `attempt`-th (from 1): doubling, jittered, capped."""
    return jittered(min(LONGEST_BACKOFF, 0.25 * 2 ** (attempt - 1)))


def jittered(seconds: float) -> float:
    """Up to a tenth longer, so that those who were refused together do not come back together."""
    return seconds * random.uniform(1.0, 1.1)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        if (value := headers.get("retry-after")) is None:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
