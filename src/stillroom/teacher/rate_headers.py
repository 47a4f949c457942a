"""What an endpoint says about its limits: how long to wait, what it allows, what is left of it.

response headers ──▶ asked_wait, retry_after, allowance, used_up, resets_in

Understood: `retry-after` and `retry-after-ms`; OpenAI's and Azure's `x-ratelimit-{limit,remaining,reset}-
{requests,tokens}`; Anthropic's `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`; OpenRouter's
`x-ratelimit-{limit,remaining,reset}`, but not their limit, which may be of a minute or of a day.
"""

from __future__ import annotations

import datetime
import email.utils
import math
import re
import time
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

NAMES = ("x-ratelimit-{part}-{unit}", "anthropic-ratelimit-{unit}-{part}")
UNITS = ("requests", "tokens")
UNSAID = ""
"""the unit of an endpoint that does not say what it limits"""
DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ms|us|µs|ns|s|m|h|d))+")
PART = re.compile(r"(\d+(?:\.\d*)?)(ms|us|µs|ns|s|m|h|d)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
EPOCH = 1e9
"""a plain number above this is a moment in seconds since 1970, not a duration; a thousand times that, in
milliseconds"""


class Allowance(NamedTuple):
    """Requests or tokens: how many a minute (None: not said), and how many are left just now."""

    limit: float | None
    remaining: float


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal asks to wait: its Retry-After, else until there is more of what is used up."""
    if (wait := retry_after(headers)) is not None:
        return wait
    resets = (resets_in(headers, unit) for unit in used_up(headers))
    return max((wait for wait in resets if wait is not None), default=None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait, however many: `retry-after-ms`, or `retry-after`; else None."""
    milliseconds = number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    return None if value is None else seconds(value, headers.get("date"))


def allowance(headers: Mapping[str, str], unit: str) -> Allowance | None:
    """What is allowed of a unit (`requests`, `tokens`); None where it is not said.

    A limit that is −1, 0 or empty, and a rest that is negative or empty, mean unknown (Azure).
    """
    left = number(_named(headers, "remaining", unit))
    if left is None:
        return None
    said = _named(headers, "limit", unit)
    limit = number(said) or None
    return Allowance(limit, left) if limit or (said is None and left > 0) else None


def used_up(headers: Mapping[str, str]) -> list[str]:
    """Units of which nothing is left."""
    found = {unit: allowance(headers, unit) for unit in (*UNITS, UNSAID)}
    return [unit for unit, allowed in found.items() if allowed and allowed.remaining == 0]


def resets_in(headers: Mapping[str, str], unit: str) -> float | None:
    """Seconds until the allowance of a unit is whole again: `6m0s`, `120ms`, `1`, or a date; else None."""
    value = _named(headers, "reset", unit)
    return None if value is None else seconds(value, headers.get("date"))


def seconds(value: str, sent: str | None = None) -> float | None:
    """A wait in seconds, from a number, a duration or a date; never negative; None for anything else.

    sent: the response's own `date`, against which a date is read: the two machines' clocks may differ.
    """
    value = value.strip()
    if (plain := number(value)) is not None:
        if plain < EPOCH:
            return plain
        return max(0.0, (plain if plain < 1000 * EPOCH else plain / 1000) - time.time())
    if DURATION.fullmatch(value):
        return sum(float(amount) * SECONDS[unit] for amount, unit in PART.findall(value))
    moment = _moment(value)
    if moment is None:
        return None
    now = _moment(sent) if sent else None
    return max(0.0, moment - (time.time() if now is None else now))


def number(text: str | None) -> float | None:
    """A finite number that is not negative, or None."""
    try:
        value = float(text) if text else -1.0
    except ValueError:
        return None
    return value if value >= 0 and math.isfinite(value) else None


def _named(headers: Mapping[str, str], part: str, unit: str) -> str | None:
    """A header's value, in whose style ever."""
    for name in _names(part, unit):
        if (value := headers.get(name)) is not None:
            return value
    return None


@cache
def _names(part: str, unit: str) -> list[str]:
    return [style.format(part=part, unit=unit).removesuffix("-") for style in NAMES]


def _moment(text: str) -> float | None:
    """Seconds since 1970 of an HTTP or ISO 8601 date; one without a zone is UTC."""
    for parse in (email.utils.parsedate_to_datetime, datetime.datetime.fromisoformat):
        try:
            date = parse(text)
        except ValueError:
            continue
        return (date if date.tzinfo else date.replace(tzinfo=datetime.UTC)).timestamp()
    return None
