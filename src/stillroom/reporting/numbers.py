"""Numbers as people read them, the same on the page, in Markdown and in the terminal."""

from __future__ import annotations

from typing import Any

MINUS = "\N{MINUS SIGN}"
NONE = "–"
SAME = "the same answers"
"""the method of a comparison of what does not differ at all"""
WITHIN = "within one group"
"""the end of a comparison's method where all samples are of one group: it says nothing about others"""
VERDICTS = {"better": "▲", "worse": "▼", "unresolved": "≈"}


def figure(value: Any) -> str:
    """A number for people: thousands apart, three decimals below a hundred.

    >>> figure(12345), figure(0.12345), figure(-7.5), figure(None)
    ('12,345', '0.123', '−7.500', '–')
    """
    if value is None:
        return NONE
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        text = f"{int(value):,}"
    else:
        text = f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def plain(value: float | None, digits: int) -> str:
    """A published number, with the digits that it was published with; counts without."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    text = figure(value)
    return text if value is None or text[0] == MINUS or not text.strip("0.") else f"+{text}"


def p_value(value: float | None) -> str:
    """A p-value for people."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def price(row: dict[str, Any]) -> str:
    """What the answers of a row of `stillroom.reporting.spending` cost."""
    if row["model"] == "embedded":
        return "nothing: served on this machine"
    return "no price in endpoint.prices" if row["cost"] is None else figure(row["cost"])


def between(low: float | None, high: float | None) -> str:
    """An interval; empty where there is none."""
    return f"{figure(low)} to {figure(high)}" if low is not None else ""


def change(row: dict[str, Any]) -> str:
    """A comparison's difference with its interval."""
    within = f" ({signed(row['low'])} to {signed(row['high'])})" if row["low"] is not None else ""
    return f"{signed(row['delta'])}{within}"


def shared(row: dict[str, Any]) -> str:
    """Of a comparison on fewer samples than either model has a score for, on how many; else nothing."""
    most = max(row["samples"], row["baseline_samples"])
    return f"on {figure(row['n'])} of {figure(most)}" if row["n"] < most else ""


def ruling(row: dict[str, Any]) -> str:
    """A comparison's verdict with its p, and what is to be known of it."""
    if row["method"] == SAME:
        return SAME
    return f"{VERDICTS[row['verdict']]} {row['verdict']}, {reasons(row)}"


def reasons(row: dict[str, Any]) -> str:
    """p; of an unresolved comparison, what could have been found; whether it tells of one group alone."""
    parts = [f"p {p_value(row.get('p_holm'))}"]
    if row["verdict"] == "unresolved":
        if row["method"].startswith("no group differs"):
            parts.append("no difference seen")
        elif row["detectable"] is None:
            parts.append("too few groups")
        else:
            parts.append(f"could find ±{figure(row['detectable'])}")
    if row["method"].endswith(WITHIN):
        parts.append(WITHIN)
    return "; ".join(parts)


def counted(number: int, what: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{figure(number)} {what}" if number == 1 else f"{figure(number)} {what}s"


def agreement(row: dict[str, Any]) -> str:
    """Of a row whose judge was asked twice, with the answers swapped: how often it said the same."""
    share = row.get("judge_consistency")
    return "" if share is None else f"judge consistent on {100 * share:.0f} %"


def samples(row: dict[str, Any]) -> str:
    """Samples scored, and in how many groups; how many were not, or are cut; how sure a judge is."""
    if "n" not in row:
        return "not examined"
    n, groups = row["n"], row.get("groups")
    parts = [figure(n)] + ([counted(groups, "group")] if groups not in (None, n) else [])
    counts = ("failed", "skipped", "cut")
    parts += [f"{figure(row[key])} {key}" for key in counts if row.get(key)]
    return ", ".join(filter(None, (*parts, agreement(row))))
