"""What a run spends: reserved before a request is sent, settled when it is answered, never above the cap.

    reserved = await ledger.room(prompt_bytes, max_tokens)     # BudgetError where that might exceed max_cost
    cost = ledger.settle(reserved, prompt_bytes, prompt_tokens, completion_tokens)

What is reserved is the most that a request can cost: max_tokens, and a prompt token for each of its bytes.
Near the cap fewer requests are in flight: the next waits for what those before it give back, and the run
stops when nothing is left to wait for. A request that is sent and not answered (a time-out, a reset) may have
been billed: what was reserved for it counts as spent; so it does where an answer has no count of tokens.
"""

from __future__ import annotations

import asyncio
import math

from stillroom.errors import BudgetError, ParamsError
from stillroom.params import Endpoint, Price

BYTES_PER_TOKEN = 3.0
"""of a prompt, before the first answers tell"""
MILLION = 1_000_000
UNITS = 1_000_000_000
"""money is counted in billionths: sums of integers are exact in any order"""


def price_of(model: str, endpoint: Endpoint) -> Price | None:
    """The model's entry in the price table. Raises ParamsError where a cap cannot be watched without one."""
    price = endpoint.prices.get(model)
    if price is None and endpoint.max_cost is not None:
        raise ParamsError(
            f"a cap on spending needs the price of {model!r}",
            where="params.yaml: endpoint.prices",
            hint=f"prices: {{{model}: {{prompt: 0.5, completion: 1.5}}}}   # per million tokens",
        )
    return price


def cost(price: Price, prompt_tokens: float, completion_tokens: float, *, batch: bool = False) -> float:
    """Money for tokens, in the price's currency."""
    money = (prompt_tokens * price.prompt + completion_tokens * price.completion) / MILLION
    return money * price.batch_share if batch else money


class Ledger:
    """The money of one run. Without a price nothing is counted: every amount is 0.

    Amounts that `reserve` and `room` return are to be handed back, to `settle` or `release`, as they are.
    """

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        self.price = price_of(model, endpoint)
        self.max_cost = endpoint.max_cost
        self.batch = endpoint.backend == "batch"
        self._spent = self._reserved = 0
        self._tokens, self._bytes, self._densest = 0, 0, 1.0
        self._queue, self._freed = asyncio.Lock(), asyncio.Event()

    @property
    def spent(self) -> float:
        """Money for answers, and what may have been billed without one."""
        return self._spent / UNITS

    @property
    def reserved(self) -> float:
        """Money set aside for requests in flight."""
        return self._reserved / UNITS

    def prompt_tokens(self, prompt_bytes: int) -> float:
        """What a prompt is likely to count, from the answers so far."""
        return prompt_bytes * (self._tokens / self._bytes if self._tokens else 1 / BYTES_PER_TOKEN)

    def reserve(self, prompt_bytes: int, max_tokens: int) -> int:
        """Set money aside for a request. Raises BudgetError where the cap would not hold."""
        amount = self._bound(prompt_bytes, max_tokens)
        if not self._fits(amount):
            raise BudgetError(
                f"the next request could exceed max_cost {self.max_cost:g}: {self.spent:.4g} is spent"
                + (f", {self.reserved:.4g} reserved for requests in flight" if self._reserved else ""),
                where="params.yaml: endpoint.max_cost",
                hint="everything answered is kept; raise it and run again to go on",
            )
        self._reserved += amount
        return amount

    async def room(self, prompt_bytes: int, max_tokens: int) -> int:
        """As `reserve`, but waits, first come first served, while requests in flight may give money back."""
        if self.max_cost is None:
            return self.reserve(prompt_bytes, max_tokens)
        async with self._queue:
            amount = self._bound(prompt_bytes, max_tokens)
            while self._reserved and not self._fits(amount):
                self._freed.clear()
                await self._freed.wait()
            return self.reserve(prompt_bytes, max_tokens)

    def settle(
        self, reserved: float, prompt_bytes: int, prompt_tokens: int, completion_tokens: int
    ) -> float | None:
        """Turn a reservation into what the answer cost; return that, None without a price.

        An endpoint that counts no tokens does not say: all that was reserved is spent, and the cost None.
        """
        if not prompt_tokens and not completion_tokens:
            self.release(reserved, billed=True)
            return None
        if prompt_tokens:
            self._tokens += prompt_tokens
            self._bytes += prompt_bytes
            self._densest = max(self._densest, prompt_tokens / prompt_bytes)
        money = self._units(prompt_tokens, completion_tokens)
        self._free(reserved, money)
        return money / UNITS if self.price else None

    def release(self, reserved: float, *, billed: bool) -> None:
        """Give back what was reserved for a request without an answer, or count it where it may be billed."""
        self._free(reserved, int(reserved) if billed else 0)

    def _free(self, reserved: float, spent: int) -> None:
        """Turn a reservation into money that is spent, and let those who wait for room look again."""
        self._reserved -= int(reserved)
        self._spent += spent
        self._freed.set()

    def _fits(self, amount: int) -> bool:
        return self.max_cost is None or self._spent + self._reserved + amount <= self.max_cost * UNITS

    def _bound(self, prompt_bytes: int, max_tokens: int) -> int:
        """The most that a request can cost: no tokenizer makes more than one token of a byte.

        The bytes are those of the canonical request, whose JSON outweighs the tokens of a chat template; an
        endpoint that all the same counts more is believed.
        """
        return self._units(prompt_bytes * self._densest, max_tokens)

    def _units(self, prompt_tokens: float, completion_tokens: float) -> int:
        """Billionths of the currency, rounded up."""
        if self.price is None:
            return 0
        return math.ceil(cost(self.price, prompt_tokens, completion_tokens, batch=self.batch) * UNITS)
