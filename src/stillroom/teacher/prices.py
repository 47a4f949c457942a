"""What a run spends: reserved before a request is sent, settled when it is answered, never above the cap.

    reserved = ledger.reserve(prompt_bytes, max_tokens)     # BudgetError where that might exceed max_cost
    cost = ledger.settle(reserved, prompt_bytes, prompt_tokens, completion_tokens)

A request that is sent and not answered (a time-out, a reset) may have been billed: what was reserved for it
counts as spent.
"""

from __future__ import annotations

from stillroom.errors import BudgetError, ParamsError
from stillroom.params import Endpoint, Price

BYTES_PER_TOKEN = 3.0
"""of a prompt, before the first answers tell; low, so that the first reservations are not too small"""
MILLION = 1_000_000


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
    """The money of one run. Without a price nothing is counted: every amount is 0."""

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        self.price = price_of(model, endpoint)
        self.max_cost = endpoint.max_cost
        self.batch = endpoint.backend == "batch"
        self.spent = 0.0
        """settled, and what may have been billed without an answer"""
        self.reserved = 0.0
        self._tokens, self._bytes = 0, 0

    def prompt_tokens(self, prompt_bytes: int) -> float:
        """What a prompt is likely to count, from the answers so far."""
        return prompt_bytes * (self._tokens / self._bytes if self._tokens else 1 / BYTES_PER_TOKEN)

    def reserve(self, prompt_bytes: int, max_tokens: int) -> float:
        """Set money aside for a request. Raises BudgetError where the cap would not hold."""
        amount = self._cost(self.prompt_tokens(prompt_bytes), max_tokens)
        if self.max_cost is not None and self.spent + self.reserved + amount > self.max_cost:
            raise BudgetError(
                f"the next request could exceed max_cost {self.max_cost:g}: {self.spent:.4g} is spent, "
                f"{self.reserved:.4g} reserved for requests in flight",
                where="params.yaml: endpoint.max_cost",
                hint="everything answered is kept; raise it and run again to go on",
            )
        self.reserved += amount
        return amount

    def settle(
        self, reserved: float, prompt_bytes: int, prompt_tokens: int, completion_tokens: int
    ) -> float | None:
        """Turn a reservation into what the answer cost; return that, None without a price."""
        self.reserved -= reserved
        if prompt_tokens:
            self._tokens += prompt_tokens
            self._bytes += prompt_bytes
        money = self._cost(prompt_tokens, completion_tokens)
        self.spent += money
        return money if self.price else None

    def release(self, reserved: float, *, billed: bool) -> None:
        """Give back what was reserved for a request without an answer, or count it where it may be billed."""
        self.reserved -= reserved
        self.spent += reserved if billed else 0.0

    def _cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        if self.price is None:
            return 0.0
        return cost(self.price, prompt_tokens, completion_tokens, batch=self.batch)
