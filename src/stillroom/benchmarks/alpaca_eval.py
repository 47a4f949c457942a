"""AlpacaEval 1: from a judge's preferences to a leaderboard row.

annotations.json, model_outputs.json ──▶ win rate, standard error, counts, average length

A preference is 1 where output_1 (the reference) is better, 2 where output_2 (the model) is; 0 is a draw,
1.5, and null was not judged. Figures are those of `alpaca_eval` 0.6's `get_winrate` and of its leaderboard
files.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

from stillroom.artifacts import atomic_write, read_json
from stillroom.errors import InputError


@dataclass(frozen=True)
class Row:
    """A line of a leaderboard; rates in percent, `avg_length` in whole characters."""

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    avg_length: int


def score(preferences: Sequence[float | None], outputs: Sequence[str]) -> Row:
    """The leaderboard row of one model. Raises InputError without a judged preference."""
    wins = [1.5 if p == 0 else p for p in preferences if p is not None and not math.isnan(p)]
    if not wins or not outputs:
        raise InputError("no preference that could be scored", hint="see the annotator's log")
    n = len(wins)
    rates = [p - 1 for p in wins]
    average = sum(rates) / n
    variance = sum((rate - average) ** 2 for rate in rates) / (n - 1) if n > 1 else math.nan
    won, lost = sum(rate > 0.5 for rate in rates), sum(rate < 0.5 for rate in rates)
    draws = n - won - lost
    return Row(
        win_rate=100 * average,
        standard_error=100 * math.sqrt(variance / n),
        n_wins=won,
        n_wins_base=lost,
        n_draws=draws,
        n_total=n,
        discrete_win_rate=100 * (won + draws / 2) / n,
        avg_length=int(sum(map(len, outputs)) / len(outputs)),
    )


def read(folder: Path) -> Row:
    """Score a model's folder in AlpacaEval's layout. Raises InputError naming file and item."""
    preferences = _column(folder / "annotations.json", "preference", (int, float, type(None)))
    outputs = _column(folder / "model_outputs.json", "output", (str,))
    return score(preferences, outputs)


def write_leaderboard(path: Path, rows: dict[str, Row]) -> None:
    """Models by descending win rate, as AlpacaEval's leaderboard CSV."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *(field.name for field in fields(Row))])
    for model, row in sorted(rows.items(), key=lambda item: -item[1].win_rate):
        writer.writerow([model, *astuple(row)])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _column(file: Path, key: str, kinds: tuple[type, ...]) -> list[Any]:
    """One key of a JSON array of objects."""
    items = read_json(file)
    if not isinstance(items, list):
        raise InputError("a JSON array was expected", where=str(file))
    for i, item in enumerate(items):
        if not isinstance(item, dict) or key not in item or not isinstance(item[key], kinds):
            raise InputError(f"item {i} has no usable `{key}`", where=str(file))
    return [item[key] for item in items]
