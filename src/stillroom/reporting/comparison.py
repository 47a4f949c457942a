"""Two revisions ──▶ what differs: figures with intervals and verdicts, what made them, metrics, params.

Samples are paired where id and prompt are the same; where fewer than half of them are, the two sides are
compared as they stand, which resolves less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.base import Measure, Sample
from stillroom.reporting import tables
from stillroom.reporting.inputs import Item
from stillroom.reporting.numbers import SAME
from stillroom.reporting.revisions import Revision

PAIRED = 0.5
"""the least share of the smaller side's samples that must be found on the other side"""

Row = dict[str, Any]


def comparison(ours: Revision, base: Revision, models: Sequence[str] = ()) -> Row:
    """Ours against base; of these models, of all where none is named.

    `results`, `made_of_other`, `metrics`, `params`; `not_compared`: what only one of the two has.
    """
    items = [item for item in ours.samples if item in base.samples and (not models or item[0] in models)]
    rows = {item: list(results(item, ours, base)) for item in items}
    return {
        "revision": ours.name,
        "baseline": base.name,
        "results": tables.judged([row for some in rows.values() for row in some]),
        "not_compared": sorted("/".join(item) for item in ours.samples.keys() ^ base.samples.keys()),
        "made_of_other": made_of_other([item for item in items if rows[item]], ours, base),
        "metrics": differing(ours.metrics, base.metrics),
        "params": differing(ours.params, base.params),
    }


def results(item: Item, ours: Revision, base: Revision) -> Iterator[Row]:
    """One model on one benchmark at both revisions, and on its parts, where samples are scored on both."""
    model, name = item
    mine, theirs = ours.samples[item], base.samples[item]
    left, right = matched(mine, theirs)
    shared, *scored = (sum(s.status == "scored" for s in side) for side in (left, mine, theirs))
    enough = shared >= PAIRED * min(scored)
    by_measure = tables.by_measure if enough else tables.by_measure_apart
    sides = (left, right) if enough else (mine, theirs)
    none = dict.fromkeys(("low", "high", "p", "detectable"))
    same = {**none, "method": SAME} if mine == theirs else {}
    benchmark = BENCHMARKS[name]

    def row(measure: Measure, name: str) -> Row | None:
        counts = tables.counts(measure, mine, theirs)
        found = by_measure(measure, *sides)
        return found and {"model": model, "benchmark": name, **found, **counts, **same, "paired": enough}

    headline = (row(measure, name) for measure in benchmark.measures(mine))
    parts = (row(part, f"{name}/{part.key}") for part in benchmark.parts(mine).values())
    yield from filter(None, (next(filter(None, headline), None), *parts))


def made_of_other(items: Sequence[Item], ours: Revision, base: Revision) -> dict[str, list[str]]:
    """model, data, code and the like ──▶ the MODEL/BENCHMARK whose figures were not made of the same.

    Params are compared by name elsewhere; an item whose label either side lacks is not among them.
    """
    found: dict[str, list[str]] = {}
    for item in items:
        mine, theirs = ours.labels.get(item), base.labels.get(item)
        if mine and theirs:
            for key in differing(mine, theirs).keys() - {"settings"}:
                found.setdefault(key, []).append("/".join(item))
    return dict(sorted(found.items()))


def matched(ours: Sequence[Sample], theirs: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The samples of both sides with the same id and prompt, in the same order."""
    other = {(s.id, s.prompt): s for s in theirs}
    kept = [s for s in ours if (s.id, s.prompt) in other]
    return kept, [other[s.id, s.prompt] for s in kept]


def differing(ours: dict[str, Any], base: dict[str, Any]) -> dict[str, list[Any]]:
    """Key ──▶ [base's value, ours] wherever they differ; None where one has none."""
    keys = sorted(key for key in ours.keys() | base.keys() if ours.get(key) != base.get(key))
    return {key: [base.get(key), ours.get(key)] for key in keys}
