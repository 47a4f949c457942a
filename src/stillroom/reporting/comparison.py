"""Two revisions ──▶ what differs: figures with intervals and verdicts, metrics, params.

Samples are paired where id and prompt are the same; where fewer than half of them are, the two sides are
compared as they stand, which resolves less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stillroom.benchmarks.base import Sample
from stillroom.reporting import tables
from stillroom.reporting.inputs import Item
from stillroom.reporting.numbers import SAME
from stillroom.reporting.revisions import Revision

PAIRED = 0.5
"""the least share of the smaller side's samples that must be found on the other side"""

Row = dict[str, Any]


def comparison(ours: Revision, base: Revision, models: Sequence[str] = ()) -> Row:
    """Ours against base: `results`, `metrics`, `params`; of these models, of all where none is named."""
    items = [item for item in ours.samples if item in base.samples and (not models or item[0] in models)]
    rows = [row for item in items if (row := result(item, ours, base))]
    return {
        "revision": ours.name,
        "baseline": base.name,
        "results": tables.judged(rows),
        "not_compared": sorted("/".join(item) for item in ours.samples.keys() ^ base.samples.keys()),
        "metrics": differing(ours.metrics, base.metrics),
        "params": differing(ours.params, base.params),
    }


def result(item: Item, ours: Revision, base: Revision) -> Row | None:
    """One model on one benchmark at both revisions; None where a side has no samples that are scored."""
    model, name = item
    mine, theirs = ours.samples[item], base.samples[item]
    left, right = matched(mine, theirs)
    scored = [sum(s.status == "scored" for s in side) for side in (mine, theirs)]
    pairs = sum(s.status == "scored" for s in left)
    if enough := pairs >= PAIRED * min(scored):
        found = tables.compared(name, left, right)
    else:
        found = tables.compared_apart(name, mine, theirs)
    if found is None:
        return None
    if mine == theirs:
        found |= {"p": None, "detectable": None, "method": SAME}
    counts = {"paired": enough, "samples": scored[0], "baseline_samples": scored[1]}
    return {"model": model, "benchmark": name, **found, **counts}


def matched(ours: Sequence[Sample], theirs: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The samples of both sides with the same id and prompt, in the same order."""
    other = {(s.id, s.prompt): s for s in theirs}
    kept = [s for s in ours if (s.id, s.prompt) in other]
    return kept, [other[s.id, s.prompt] for s in kept]


def differing(ours: dict[str, Any], base: dict[str, Any]) -> dict[str, list[Any]]:
    """Key ──▶ [base's value, ours] wherever they differ; None where one has none."""
    keys = sorted(key for key in ours.keys() | base.keys() if ours.get(key) != base.get(key))
    return {key: [base.get(key), ours.get(key)] for key in keys}
