"""Turns in the event loop: a few tasks in each of its passes, so that the network is served in between.

tasks that woke together ──▶ Turnstile.passed ──▶ some in this pass of the loop, some in the next, in order

A loop runs all that is ready before it reads and writes again. Were 64 answers that arrived together dealt
with in one pass, the 64 next requests would leave together after it and be answered together: the client
waits while the teacher works, and the teacher while the client does. With a few a pass, the first of the next
requests are under way while the other answers are dealt with.
"""

from __future__ import annotations

import asyncio
import collections


class Turnstile:
    """Lets `width` tasks through in each pass of the running event loop, first come first served."""

    def __init__(self, width: int) -> None:
        self._width, self._passed = width, 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def passed(self) -> None:
        """Return at once, or in the first pass of the loop that has room."""
        loop = asyncio.get_running_loop()
        if self._passed < self._width:
            if not self._passed:
                loop.call_soon(self._next_pass)
            self._passed += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_pass(self) -> None:
        """Wake the next ones; who comes before they have gone through waits, so that nobody overtakes."""
        woken = 0
        while self._waiting and woken < self._width:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                woken += 1
        self._passed = self._width if woken else 0
        if woken:
            asyncio.get_running_loop().call_soon(self._next_pass)
