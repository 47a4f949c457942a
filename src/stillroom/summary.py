"""Figures of a stage's metrics: how long things are, in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

PERCENTILES = (50, 90, 99)


def lengths(values: Sequence[int]) -> dict[str, int]:
    """Sum, percentiles (nearest rank) and maximum of lengths; zeros where there are none."""
    ordered = sorted(values) or [0]
    ranks = {f"p{p}": ordered[max(0, -(-p * len(ordered) // 100) - 1)] for p in PERCENTILES}
    return {"total": sum(ordered), **ranks, "max": ordered[-1]}
