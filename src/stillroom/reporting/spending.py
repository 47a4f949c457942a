"""What the teacher's answers cost: distill's counts and the recipe's prices ──▶ money and cache share."""

from __future__ import annotations

from typing import Any

from stillroom.params import Endpoint, Teacher
from stillroom.teacher.prices import cost


def spending(distill: dict[str, Any], teacher: Teacher, endpoint: Endpoint) -> dict[str, Any]:
    """The cost of buying each answer once, at the prices of today, and how many were asked for again.

    cost: None where the recipe names no price. cache_share: of the answers used, those whose request was made
    before, and so bought once. Empty where nothing was bought.
    """
    bought, turns = distill.get("bought_answers"), distill.get("turns")
    if not bought or not turns:
        return {}
    price = endpoint.prices.get(teacher.model)
    tokens = [distill.get(f"bought_{kind}_tokens", 0) for kind in ("prompt", "completion")]
    money = cost(price, *tokens, batch=endpoint.backend == "batch") if price else None
    return {
        "cost": None if money is None else round(money, 4),
        "cost_per_1000_answers": None if money is None else round(1000 * money / turns, 4),
        "cache_share": round(max(0.0, 1 - bought / turns), 6),
    }
