"""How much of each source a mixture takes.

weights, sizes ──▶ shares ──▶ targets ──▶ how much is taken, how often, and what is lacking
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """In the mixture's unit, by source: its share, what it should give, and what it can."""

    shares: dict[str, float]
    targets: dict[str, float]
    stock: dict[str, float]

    @property
    def taken(self) -> dict[str, float]:
        """What each source gives."""
        return {origin: min(target, self.stock[origin]) for origin, target in self.targets.items()}

    def shortfall(self, origin: str) -> int:
        """What a source lacks."""
        return max(0, round(self.targets[origin] - self.stock[origin]))


def shares(
    weights: Mapping[str, float], sizes: Mapping[str, int], temperature: float | None
) -> dict[str, float]:
    """The sources with a weight, as shares that add up to 1.

    With a temperature T a source's weight is multiplied by its size to the power of 1/T (mT5,
    arXiv:2010.11934): 1 mixes by size, and the higher T, the more equal the sources.
    """
    given = {origin: weight for origin, weight in weights.items() if weight}
    if temperature is not None:
        given = {
            origin: weight * sizes.get(origin, 0) ** (1 / temperature) for origin, weight in given.items()
        }
    total = sum(given.values())
    return {origin: weight / total if total else 0.0 for origin, weight in given.items()}


def plan(shares: Mapping[str, float], sizes: Mapping[str, int], epochs: float, total: int | None) -> Plan:
    """What each source gives: its share, at most `epochs` times all that it has.

    Without a total, the mixture is as large as it can be with every source that has records giving its
    whole share.
    """
    stock = {origin: epochs * sizes.get(origin, 0) for origin in shares}
    scarcest = min((stock[o] / share for o, share in shares.items() if stock[o] and share), default=0.0)
    size = scarcest if total is None else float(total)
    return Plan(dict(shares), {origin: share * size for origin, share in shares.items()}, stock)
