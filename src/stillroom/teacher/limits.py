"""How fast a teacher may be asked: requests in flight, requests and tokens per minute and day, back-off.

    await gate.enter(tokens)   …ask…   gate.succeeded(headers)   gate.leave(reserved, spent)
                                   or   gate.leave(reserved, 0)   await sleep(gate.congested(wait, headers))

Limits come from params.yaml or else from the endpoint's headers; token buckets keep them, and are only ever
lowered to what the endpoint says is left. Requests go through first come first served, and those that failed
before those that were never sent.

Only 429 and 503 are congestion. A stray one delays its own request. Where the endpoint says that nothing is
left, all wait. When a fifth of the last answers were refusals, and many more than usual, that is one event:
all wait, the number in flight is cut by a quarter and grows back by one per round of successes; and where the
limit is not known, what the endpoint let through becomes the pace. Other failures (500, resets, time-outs)
leave the limits alone: shrinking on them made a faulty server twelve times slower.
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from stillroom.errors import EndpointError
from stillroom.params import Endpoint
from stillroom.teacher.rate_headers import UNITS, allowance, used_up

WINDOW, SHARE = 60, 0.2
"""congestion is when at least this share of the last WINDOW answers were 429 or 503"""
USUAL, MOST_USUAL, TIMES = 1 / 200, 0.12, 3.0
"""… and TIMES the usual share (a mean that forgets USUAL at each answer): strays all along are none"""
CUT = 0.75
BURST = 0.25
"""seconds' worth of an allowance that may be saved up while nobody asks"""
LONGEST_BACKOFF = 30.0
SHORTEST_WHOLE = 1.0
"""seconds; the shortest Retry-After that whole seconds can say: where a bucket sets the pace, no pause"""
RAMP = 0.5
"""seconds over which a full round of requests sets out after a pause, rather than all at once"""
FASTER, SLOWER = 0.0002, 0.02
"""what an answer adds to a learnt pace, and a refusal takes from it: they balance at 1 % refusals"""
CLEAN, LARGEST_STEP = 32, 0.02
"""each CLEAN answers without a refusal double what one answer adds, up to LARGEST_STEP"""
ENOUGH, MANY, FEW = 100, 0.2, 0.03
"""answers that show a pace: MANY of them refused, or at most FEW until they suddenly were"""
DAY, HOUR = 86_400.0, 3_600.0
INSTANT = 1e-6
"""seconds; shorter waits are none"""


class Bucket:
    """A token bucket: `rate` units a second, at most BURST seconds' worth saved up; starts with one."""

    def __init__(self, rate: float, now: float) -> None:
        self.set(rate)
        self.level = 1.0
        self._filled = now

    def set(self, rate: float) -> None:
        """Change the rate; the level stays."""
        self.rate, self.capacity = rate, max(1.0, rate * BURST)

    def delay(self, units: float, now: float) -> float:
        """Seconds until `units` may be taken; more than the capacity needs a full bucket."""
        self.level = min(self.capacity, self.level + (now - self._filled) * self.rate)
        self._filled = now
        wait = ((units if units < self.capacity else self.capacity) - self.level) / self.rate
        return wait if wait > INSTANT else 0.0

    def lower(self, level: float) -> None:
        """Let no more than `level` be left."""
        self.level = min(self.level, level)


class Daily:
    """Requests and tokens of the last 24 hours, counted by the hour.

    Raises EndpointError when one more would be too many; `used` before the start counts as of the start.
    """

    def __init__(self, endpoint: Endpoint, used: tuple[float, float], now: float) -> None:
        self._limits = (endpoint.requests_per_day, endpoint.tokens_per_day)
        self._hours = collections.deque([[now, *used]])
        self._used = [float(amount) for amount in used]

    def check(self, tokens: float, now: float) -> None:
        """Raise EndpointError where one request of so many tokens would go beyond a limit."""
        while self._hours and self._hours[0][0] <= now - DAY:
            for i, amount in enumerate(self._hours.popleft()[1:]):
                self._used[i] -= amount
        for limit, used, more, unit in zip(self._limits, self._used, (1, tokens), UNITS, strict=True):
            if limit is not None and used + more > limit:
                raise _used_up(unit, limit, used, self._hours[0][0] + DAY - now if self._hours else None)

    def room(self, tokens: float) -> bool:
        """Whether so many tokens, reserved by now, would fit."""
        return self._limits[1] is None or self._used[1] + tokens <= self._limits[1]

    def count(self, requests: float, tokens: float, now: float) -> None:
        """Add to what is used."""
        if not self._hours or self._hours[-1][0] <= now - HOUR:
            self._hours.append([now, 0.0, 0.0])
        for i, amount in enumerate((requests, tokens)):
            self._hours[-1][i + 1] += amount
            self._used[i] += amount


class Pace:
    """Requests a second that an endpoint lets through, found out from its refusals alone.

    At congestion the pace becomes what was answered since the last one. From there each answer adds a little
    and each refusal takes more, which settles where one in a hundred is refused: then the endpoint gives
    all it has. Without refusals it grows faster and faster.
    """

    def __init__(self, now: float) -> None:
        self.bucket: Bucket | None = None
        self._slowest = 0.0
        self._since, self._answered, self._refused = now, 0, 0
        self._clean = 0

    def answered(self) -> None:
        """Note an answer; the pace grows if it is what holds requests back."""
        self._answered += 1
        if self.bucket and self.bucket.level < 1:
            self._clean += 1
            step = min(LARGEST_STEP, FASTER * 2.0 ** min(self._clean // CLEAN, 10))
            self.bucket.set(self.bucket.rate * (1 + step))

    def refused(self, now: float) -> None:
        """Note a refusal; the pace falls, but not far below what was learnt: it may be a stray one."""
        self._refused, self._clean = self._refused + 1, 0
        if self.bucket:
            self.bucket.set(max(self._slowest, self.bucket.rate * (1 - SLOWER)))
            self.learn(now, self._refused)

    def learn(self, now: float, lately: int) -> None:
        """Congestion, of `lately` refusals: take what was answered as the pace, where it tells.

        Some refusals all along have other reasons, and a slower pace would not mend them.
        """
        total = self._answered + self._refused
        if self._answered < WINDOW or total < ENOUGH or now <= self._since:
            return
        sudden = self.bucket is None and self._refused - lately <= FEW * total
        if sudden or self._refused >= MANY * total:
            rate = self._answered / (now - self._since)
            if self.bucket is None:
                self.bucket = Bucket(rate, now)
            self.bucket.set(min(rate, self.bucket.rate))
            self.bucket.lower(0)
            self._slowest = self.bucket.rate * CUT
        self._since, self._answered, self._refused = now, 0, 0


Line: TypeAlias = collections.deque[tuple[asyncio.Future[None], float]]
"""of those who wait, each with the tokens to reserve"""


class Gate:
    """Lets requests through, first come first served, as the limits allow.

    endpoint: its limits; those of requests and tokens that are null are taken from the headers.
    used_today: requests and tokens of the last 24 hours, by all runs.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        used_today: tuple[float, float] = (0, 0),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.limit = endpoint.max_in_flight, float(endpoint.max_in_flight)
        self.in_flight = 0
        self._clock = clock
        now = clock()
        given = (endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._given = [limit is not None for limit in given]
        self._buckets = [Bucket(limit / 60, now) if limit else None for limit in given]
        self._pace = Pace(now)
        daily = endpoint.requests_per_day is not None or endpoint.tokens_per_day is not None
        self._daily = Daily(endpoint, used_today, now) if daily else None
        self._reserved = 0.0
        self._again, self._waiting = Line(), Line()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._opens = self._ramp_ends = now
        self._step = 0.0
        self._recent: collections.deque[bool] = collections.deque(maxlen=WINDOW)
        self._stale = 0
        self._usual = 0.0
        self._barren = 0

    async def enter(self, tokens: float, *, again: bool = False) -> None:
        """Wait for a place, and reserve one request and `tokens` tokens.

        again: it has been here, and goes before those that have not, lest the unlucky pile up at the end.
        Raises EndpointError where a daily limit is used up.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._again if again else self._waiting).append((turn, tokens))
        if self._line()[0][0] is turn:
            self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._count_request(-1, self._clock())
                self.leave(tokens, 0)
            else:
                self._admit()
            raise

    def leave(self, reserved: float, spent: float) -> None:
        """Free the place, and give back the tokens that were reserved and not spent."""
        self.in_flight -= 1
        self._reserved -= reserved
        self._stale = max(0, self._stale - 1)
        if bucket := self._buckets[1]:
            bucket.level += reserved - spent
        if self._daily:
            self._daily.count(0, spent, self._clock())
        if self._line():
            self._admit()

    def succeeded(self, headers: Mapping[str, str] | None = None) -> None:
        """Note an answer: room for one more after each round of them."""
        self._barren = 0
        if headers:
            self._heed(headers)
        if not self._stale:
            self._recent.append(False)
            self._usual *= 1 - USUAL
        self._pace.answered()
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def congested(
        self, wait: float | None = None, headers: Mapping[str, str] | None = None, tries: int = 1
    ) -> float:
        """Note a 429 or 503; return how many seconds its own request should wait, never less than asked.

        wait: what the response asks for (see `asked_wait`); None where it does not say.
        tries: how often the request has failed while nobody else got through.
        """
        if headers:
            self._heed(headers)
        if wait is None:
            wait = _doubling(max(tries, 1 + self._barren))
        if headers and used_up(headers):
            self._pause(wait)
        elif not self._stale:
            self._pace.refused(self._clock())
            self._recent.append(True)
            self._usual += USUAL * (1 - self._usual)
            least = max(SHARE, TIMES * min(self._usual, MOST_USUAL))
            if len(self._recent) == WINDOW and sum(self._recent) >= least * WINDOW:
                self._cut(wait)
        return jittered(wait)

    def _cut(self, wait: float) -> None:
        """An event of congestion. What is in flight now belongs to it and does not count again."""
        self.limit = max(1.0, self.limit * CUT)
        self._pace.learn(self._clock(), sum(self._recent))
        self._recent.clear()
        self._stale = self.in_flight
        self._barren += 1
        self._pause(wait)

    def _pause(self, seconds: float) -> None:
        """Let nobody through for so long, then one after the other; a short one is left to the buckets."""
        if seconds <= SHORTEST_WHOLE and (self._pace.bucket or any(self._buckets)):
            return
        until = self._clock() + seconds
        if until > self._opens:
            self._opens, self._ramp_ends = until, until + RAMP
            self._step = RAMP / self.limit

    def _heed(self, headers: Mapping[str, str]) -> None:
        """Take limits and what is left of them from headers."""
        for i, unit in enumerate(UNITS):
            if (allowed := allowance(headers, unit)) is None:
                continue
            bucket, now = self._buckets[i], self._clock()
            if allowed.limit and not self._given[i]:
                bucket = self._buckets[i] = bucket or Bucket(allowed.limit / 60, now)
                if bucket.rate != allowed.limit / 60:
                    bucket.set(allowed.limit / 60)
            if bucket:
                bucket.delay(0, now)
                bucket.lower(allowed.remaining)

    def _line(self) -> Line:
        """Whoever is next stands first in it."""
        return self._again or self._waiting

    def _admit(self) -> None:
        """Let those through who may go now, and see to it that the next is thought of in time."""
        now = self._clock()
        while line := self._line():
            turn, tokens = line[0]
            if not turn.done():
                if self._is_full(tokens, now):
                    return
                if (delay := self._delay(tokens, now)) > 0:
                    return self._wake_in(delay)
                self._take(tokens, now)
                turn.set_result(None)
            line.popleft()

    def _is_full(self, tokens: float, now: float) -> bool:
        """Whether the next waits until somebody leaves. A daily limit that is used up ends all waits."""
        if self._daily:
            try:
                self._daily.check(tokens, now)
            except EndpointError as error:
                while line := self._line():
                    turn, _ = line.popleft()
                    if not turn.done():
                        turn.set_exception(error)
                return True
            if not self._daily.room(self._reserved + tokens):
                return True
        return self.in_flight >= int(self.limit)

    def _delay(self, tokens: float, now: float) -> float:
        """Seconds until the next may go."""
        delay = self._opens - now
        requests, reserve = self._buckets
        if requests:
            delay = max(delay, requests.delay(1, now))
        if reserve:
            delay = max(delay, reserve.delay(tokens, now))
        if self._pace.bucket:
            delay = max(delay, self._pace.bucket.delay(1, now))
        return delay if delay > INSTANT else 0.0

    def _take(self, tokens: float, now: float) -> None:
        self.in_flight += 1
        self._reserved += tokens
        if bucket := self._buckets[1]:
            bucket.level -= tokens
        self._count_request(1, now)
        if now < self._ramp_ends:
            self._opens = max(self._opens, now - self._step) + self._step

    def _count_request(self, count: int, now: float) -> None:
        for bucket in (self._buckets[0], self._pace.bucket):
            if bucket:
                bucket.level -= count
        if self._daily:
            self._daily.count(count, 0, now)

    def _wake_in(self, delay: float) -> None:
        """Come back after `delay` seconds, if not sooner."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        if self._timer:
            if self._due <= due:
                return
            self._timer.cancel()
        self._timer, self._due = loop.call_later(delay, self._woken), due

    def _woken(self) -> None:
        self._timer = None
        self._admit()


def backoff(attempt: int) -> float:
    """Seconds before the next try after the `attempt`-th (from 1): doubling, jittered, capped."""
    return jittered(_doubling(attempt))


def jittered(seconds: float) -> float:
    """Up to a tenth longer, so that those who were refused together do not come back together."""
    return seconds * random.uniform(1.0, 1.1)


def _doubling(attempt: int) -> float:
    return min(LONGEST_BACKOFF, 0.25 * 2.0 ** min(attempt - 1, 16))


def _used_up(unit: str, limit: float, used: float, wait: float | None) -> EndpointError:
    when = ""
    if wait is not None:
        moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=wait)
        hours, minutes = divmod(round(wait / 60), 60)
        when = f" after {moment:%Y-%m-%d %H:%M} UTC (in {hours} h {minutes} min) at the latest"
    return EndpointError(
        f"{used:,.0f} {unit} in 24 hours: the next would be more than the {limit:,.0f} allowed",
        where=f"endpoint.{unit}_per_day",
        hint=f"everything answered is kept: go on{when}, or raise the limit",
    )
