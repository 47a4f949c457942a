"""Seeded draws that depend on names, not on the order in which things come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from random import Random


def rng(seed: int, *names: str | int) -> Random:
    """A generator of its own for each (seed, names): a new record leaves the draws of all others alone."""
    return Random("/".join(str(part) for part in (seed, *names)))


def rank(seed: int, name: str) -> bytes:
    """A place in a random order: sorting names by it shuffles them."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def drawn(names: Iterable[str], share: float, seed: int, purpose: str = "") -> frozenset[str]:
    """`share` of the distinct names, to the nearest whole number, drawn anew for each purpose."""
    ordered = sorted(set(names), key=lambda name: rank(seed, f"{purpose}/{name}"))
    return frozenset(ordered[: round(share * len(ordered))])


def held_out(groups: Iterable[str], share: float, seed: int, *, at_least: int = 1) -> frozenset[str]:
    """`share` of the distinct groups, drawn by the seed.

    With a share above 0 and two groups or more, `at_least` so many are held out and at least one is not.
    """
    ordered = sorted(set(groups), key=lambda group: rank(seed, group))
    return frozenset(ordered[: number_held_out(len(ordered), share, at_least=at_least)])


def number_held_out(groups: int, share: float, *, at_least: int = 1) -> int:
    """How many of so many groups `held_out` draws."""
    if share <= 0 or groups < 2:
        return 0
    return min(max(at_least, round(share * groups)), groups - 1)
