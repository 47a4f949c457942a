"""Intervals, paired tests and verdicts of the benchmark figures.

A figure is a ratio of sums over samples, f(Σ a / Σ b): a mean (b = 1), or a perplexity (a = NLL, b = bytes,
f = exp). Samples of one group (a question asked with several numbers of documents, the chapters of a book)
are not independent, so that groups are what is resampled.

    estimate(numbers)            value and 95 % interval of one model
    compare(ours, baseline)      difference, interval and p of two models on the same samples
    compare_apart(ours, theirs)  the same, where the samples are others
    holm([p, …])                 the p of several benchmarks, looked at together
    verdict(comparison, …)       better, worse, unresolved

Everything is deterministic: draws have a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "unresolved"]

E = TypeVar("E", "Estimate", "Comparison")

LEVEL = 0.95
REPLICATES = 10_000
SEED = 20_230_728
MANY = 1_000
"""groups above which those that are alike are drawn together, and figures of unlike ones taken as linear"""
_NORMAL = NormalDist()
_CHUNK = 4_000_000
"""most draws held in memory at a time"""
_NO_SPREAD = 1e-12
"""standard error below which resamples differ by rounding alone"""
_NEARLY_NORMAL = 100_000
"""degrees of freedom from which on t is taken as normal; the probability differs by less than 1e-5"""


@dataclass(frozen=True)
class Numbers:
    """The samples of a figure: f(Σ a / Σ b), with the group of each; a, b: float64 [samples].

    tasks: of each sample; the figure is then the plain mean of the tasks' own.
    """

    a: Floats
    b: Floats
    groups: Sequence[str]
    exp: bool = False
    tasks: Sequence[str] | None = None

    def value(self) -> float:
        """The figure itself; NaN without samples."""
        if self.tasks is not None:
            return mean_of([part.value() for part in self.by_task()])
        return float(self.of(self.a.sum(), self.b.sum()))

    def by_task(self) -> list[Numbers]:
        """The samples of each task, in order of first appearance."""
        assert self.tasks is not None
        place: dict[str, list[int]] = {}
        for i, task in enumerate(self.tasks):
            place.setdefault(task, []).append(i)
        return [
            Numbers(self.a[rows], self.b[rows], [self.groups[i] for i in rows], self.exp)
            for rows in place.values()
        ]

    def of(self, a: Floats | float, b: Floats | float) -> Floats:
        """f(a / b), elementwise."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.divide(a, b)
        return np.exp(ratio) if self.exp else ratio

    def grouped(self) -> Floats:
        """Sums of a and b per group [groups, 2], in order of first appearance."""
        index = {group: i for i, group in enumerate(dict.fromkeys(self.groups))}
        place = [index[group] for group in self.groups]
        return np.stack([np.bincount(place, x, len(index)) for x in (self.a, self.b)], axis=1)

    @property
    def independent(self) -> bool:
        """Whether every sample is a group of its own."""
        return len(set(self.groups)) == len(self.groups)

    def split(self) -> Numbers:
        """The same samples, each a group of its own."""
        return replace(self, groups=[str(i) for i in range(len(self.groups))])


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; low and high are None where there are too few groups for one."""

    value: float
    low: float | None
    high: float | None
    n: int
    groups: int
    method: str


@dataclass(frozen=True)
class Comparison:
    """Ours minus baseline on the same samples; p is two-sided.

    detectable: the difference that 80 % of repetitions of this benchmark would resolve; None where the groups
    are so few that no difference can be resolved, or where none differs.
    """

    delta: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    n: int
    groups: int
    method: str


def estimate(numbers: Numbers) -> Estimate:
    """Value and interval: Wilson for proportions, t for means, the cluster bootstrap for everything else.

    Of more than MANY groups that are not alike, t over linearised groups takes the bootstrap's place, which
    would say the same after seconds.

    Samples that are all of one group get an interval within it, which says nothing about other groups. No
    figure is below 0, and no mean of scores up to 1 above 1.
    """
    if numbers.tasks is not None:
        return _estimate_mean(numbers)
    n, groups = len(numbers.groups), len(set(numbers.groups))
    if groups == 1 < n:
        return _within(estimate(numbers.split()))
    value = numbers.value()
    low: float | None = None
    high: float | None = None
    mean = not numbers.exp and bool((numbers.b == 1).all())
    shares = not numbers.exp and _shares(numbers)
    if shares and numbers.independent and n:
        method = "Wilson"
        low, high = wilson(int(numbers.a.sum()), n)
    elif shares and n:
        method = "Wilson over groups"
        low, high = _wilson_over_groups(numbers)
    elif mean and numbers.independent and n > 1:
        method = "t"
        low, high = _possible(numbers, *t_interval(numbers.a))
    elif groups > 1:
        sums, counts = _alike(numbers.grouped())
        if len(sums) > MANY:
            method = "t over groups"
            half = t_quantile(LEVEL, groups - 1) * _standard_error(influence(numbers))
            low, high = _possible(numbers, value - half, value + half)
        else:
            method = "bootstrap over groups"
            low, high = _expanded_percentiles(_draws(lambda x: numbers.of(*x.T), sums, counts), groups)
    else:
        method = "too few groups"
    return Estimate(value, low, high, n, groups, method)


def compare(ours: Numbers, baseline: Numbers) -> Comparison:
    """Paired difference of two models; both hold the same samples in the same order.

    McNemar's exact test and Newcombe's interval for independent right/wrong samples; else the paired cluster
    bootstrap, or t over linearised groups as in `estimate`. Where all groups differ alike, or none does,
    resampling would give an interval of no width: shares get Wilson's bound on what so few groups cannot
    show, other figures none.
    """
    assert list(ours.groups) == list(baseline.groups), "samples are not paired"
    if ours.tasks is not None:
        return _compare_means(ours, baseline)
    n, groups = len(ours.groups), len(set(ours.groups))
    delta = ours.value() - baseline.value()
    if groups == 1 < n:
        return _within(compare(ours.split(), baseline.split()))
    if groups < 2:
        return Comparison(delta, None, None, None, None, n, groups, "too few groups")
    shares = not ours.exp and _shares(ours) and _shares(baseline)
    if shares and ours.independent:
        return _compare_answers(ours.a > 0, baseline.a > 0)
    sums, counts = _alike(np.hstack([ours.grouped(), baseline.grouped()]))
    if len(sums) > MANY:
        low, high, p, se = _t_test(delta, _standard_error(influence(ours) - influence(baseline)), groups - 1)
        method, resolvable = "paired t over groups", True
    else:
        draws = _draws(lambda x: ours.of(*x[:, :2].T) - ours.of(*x[:, 2:].T), sums, counts)
        low, high = _expanded_percentiles(draws, groups)
        method, p = "paired bootstrap over groups", _bootstrap_p(draws, groups)
        se = float(draws.std(ddof=1))
        resolvable = _bootstrap_p(np.ones(len(draws)), groups) <= 1 - LEVEL
    if se < _NO_SPREAD:
        unseen, method = wilson(0, groups)[1], _alike_in(delta)
        if not shares:
            return Comparison(delta, None, None, p, None, n, groups, method)
        low, high = max(-1.0, delta - unseen), min(1.0, delta + unseen)
        return Comparison(delta, low, high, p, None, n, groups, method)
    detectable = minimum_detectable(se) if resolvable else None
    return Comparison(delta, low, high, p, detectable, n, groups, method)


def compare_apart(ours: Numbers, theirs: Numbers) -> Comparison:
    """Difference of two models on samples that are not the same; n and groups count both sides.

    Fisher's exact test and Newcombe's interval for independent right/wrong samples; else Welch's t over
    groups.
    """
    if ours.tasks is not None:
        return _compare_means_apart(ours, theirs)
    n = len(ours.groups) + len(theirs.groups)
    sides = [side.split() if len(set(side.groups)) == 1 else side for side in (ours, theirs)]
    groups = sum(len(set(side.groups)) for side in sides)
    delta = ours.value() - theirs.value()
    if min(len(side.groups) for side in sides) < 2:
        return Comparison(delta, None, None, None, None, n, groups, "too few groups")
    ses = [_standard_error(influence(side)) for side in sides]
    detectable = minimum_detectable(math.hypot(*ses)) if any(ses) else None
    if all(side.independent and not side.exp and _shares(side) for side in sides):
        (k, m), (other_k, other_m) = ((int(side.a.sum()), len(side.a)) for side in sides)
        low, high = newcombe(k, m, other_k, other_m)
        p = fisher(k, m, other_k, other_m)
        return Comparison(delta, low, high, p, detectable, n, groups, "Fisher exact, not paired")
    if not any(ses):
        return Comparison(delta, None, None, None, None, n, groups, _alike_in(delta))
    freedom = _welch(ses, [len(set(side.groups)) for side in sides])
    low, high, p, _ = _t_test(delta, math.hypot(*ses), freedom)
    return Comparison(delta, low, high, p, detectable, n, groups, "Welch's t over groups, not paired")


def influence(numbers: Numbers) -> Floats:
    """What each group adds to the figure's error, to first order [groups].

    Of a mean: (group's sum − its size × mean) / n. The figure's standard error is the root of their sum of
    squares (Woodruff 1971).
    """
    a, b = numbers.grouped().T
    ratio = a.sum() / b.sum()
    slope = math.exp(ratio) if numbers.exp else 1.0
    found: Floats = slope * (a - ratio * b) / b.sum()
    return found


def standard_error(numbers: Numbers) -> float | None:
    """Of a figure, over its groups; of a mean of tasks √(Σ se²) / k. None of a single sample."""
    if numbers.tasks is None:
        numbers = _independent(numbers)
        return _standard_error(influence(numbers)) if len(numbers.groups) > 1 else None
    ses = [se for part in numbers.by_task() if (se := standard_error(part)) is not None]
    return se_of_mean(ses) if len(ses) == len(set(numbers.tasks)) else None


def mean_of(values: Sequence[float]) -> float:
    """Plain mean of the figures of several tasks."""
    return math.fsum(values) / len(values) if values else math.nan


def se_of_mean(ses: Sequence[float]) -> float:
    """Standard error of the plain mean of k tasks that share no samples: √(Σ se²) / k."""
    return math.hypot(*ses) / len(ses)


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927), right near 0 and 1 too."""
    return _wilson(successes / n, n, _NORMAL.inv_cdf((1 + level) / 2))


def t_interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of the mean of at least two values."""
    half = t_quantile(level, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p of McNemar's test: of the samples on which two models differ, who is right."""
    differing = won + lost
    ways = tail = 1
    for i in range(min(won, lost)):
        ways = ways * (differing - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << differing))


def fisher(k: int, n: int, other_k: int, other_n: int) -> float:
    """Two-sided p of Fisher's exact test: k of n right against other_k of other_n."""
    right = k + other_k
    first, last = max(0, right - other_n), min(n, right)
    logs = [_log_ways(n, i) + _log_ways(other_n, right - i) for i in range(first, last + 1)]
    chances = np.exp(np.array(logs) - max(logs))
    as_rare = chances <= chances[k - first] * (1 + 1e-7)
    return min(1.0, float(chances[as_rare].sum() / chances.sum()))


def newcombe(k: int, n: int, other_k: int, other_n: int) -> tuple[float, float]:
    """Interval of the difference of two proportions (Newcombe 1998, method 10), from Wilson's of each."""
    share, other = k / n, other_k / other_n
    (low, high), (other_low, other_high) = wilson(k, n), wilson(other_k, other_n)
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return share - other - below, share - other + above


def newcombe_paired(both: int, won: int, lost: int, neither: int) -> tuple[float, float]:
    """Interval of the difference of two proportions on the same samples (Newcombe 1998, paired method 10).

    Wilson's limits of each, joined by the correlation of the two, which is drawn towards 0 where positive.
    """
    n = both + won + lost + neither
    right, other = both + won, both + lost
    (low, high), (other_low, other_high) = wilson(right, n), wilson(other, n)
    spread = math.sqrt(right * (n - right) * other * (n - other))
    excess = float(both * neither - won * lost)
    phi = (max(excess - n / 2, 0.0) if excess > 0 else excess) / spread if spread else 0.0

    def joined(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    below = joined(right / n - low, other_high - other / n)
    above = joined(high - right / n, other / n - other_low)
    return (won - lost) / n - below, (won - lost) / n + above


def holm(ps: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that all stand together (Holm 1979), in the order given."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def minimum_detectable(se: float, level: float = LEVEL, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at 1 − level finds with that power."""
    return (_NORMAL.inv_cdf((1 + level) / 2) + _NORMAL.inv_cdf(power)) * se


def verdict(
    delta: float, p: float | None, better: Literal["higher", "lower"], level: float = LEVEL
) -> Verdict:
    """What can be said of a difference at that level; `better` is the direction of a gain."""
    if p is None or p > 1 - level or delta == 0:
        return "unresolved"
    return "better" if (delta > 0) == (better == "higher") else "worse"


@lru_cache
def t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| < t) = level, by bisection."""
    low, high = 0.0, 1.0
    while t_within(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def t_within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    if freedom > _NEARLY_NORMAL:
        return math.erf(t / math.sqrt(2))
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    if freedom == 1:
        total = 0.0
    for k in range(3 if odd else 2, freedom, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _within(found: E) -> E:
    """Say that samples of one group were taken as independent."""
    return replace(found, groups=1, method=f"{found.method}, within one group")


def _independent(numbers: Numbers) -> Numbers:
    """Samples that are all of one group, taken as independent."""
    return numbers.split() if len(set(numbers.groups)) == 1 else numbers


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval of a share of n samples, at z standard errors."""
    denominator = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / denominator
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)


def _wilson_over_groups(numbers: Numbers) -> tuple[float, float]:
    """Wilson's interval of a share in two groups or more, of as many samples as theirs are worth.

    That is the number of independent samples with the same standard error, and t instead of z for few groups
    (Korn & Graubard 1998). Near 0 and 1 a bootstrap over groups is too narrow. Of what is all alike, groups
    count as one sample each.
    """
    share, n, groups = numbers.value(), len(numbers.groups), len(set(numbers.groups))
    if share in (0.0, 1.0):
        return wilson(int(share) * groups, groups)
    se = _standard_error(influence(numbers))
    worth = min(float(n), share * (1 - share) / se**2) if se else float(n)
    return _wilson(share, worth, t_quantile(LEVEL, groups - 1))


def _estimate_mean(numbers: Numbers) -> Estimate:
    """The plain mean of several tasks, by t over the tasks' standard errors."""
    parts = [_independent(part) for part in numbers.by_task()]
    value, n, counts = numbers.value(), len(numbers.groups), [len(set(part.groups)) for part in parts]
    if min(counts, default=0) < 2:
        return Estimate(value, None, None, n, sum(counts), "too few groups")
    ses = [_standard_error(influence(part)) for part in parts]
    low, high, _, _ = _t_test(value, se_of_mean(ses), _welch(ses, counts))
    low, high = _possible(numbers, low, high)
    return Estimate(value, low, high, n, sum(counts), f"t over {len(parts)} tasks")


def _compare_answers(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Comparison:
    """Paired difference of two models' right answers on at least two independent samples."""
    n = len(ours)
    both, won, lost = (int(x.sum()) for x in (ours & theirs, ours & ~theirs, ~ours & theirs))
    low, high = newcombe_paired(both, won, lost, n - both - won - lost)
    delta = (won - lost) / n
    se = math.sqrt(((won + lost) / n - delta * delta) / n)
    detectable = minimum_detectable(se) if se and mcnemar(n, 0) <= 1 - LEVEL else None
    method = "McNemar exact" if se else _alike_in(delta)
    return Comparison(delta, low, high, mcnemar(won, lost), detectable, n, n, method)


def _compare_means(ours: Numbers, baseline: Numbers) -> Comparison:
    """Paired difference of two plain means over the same tasks."""
    pairs = zip(map(_independent, ours.by_task()), map(_independent, baseline.by_task()), strict=True)
    errors = [influence(mine) - influence(theirs) for mine, theirs in pairs]
    delta, n = ours.value() - baseline.value(), len(ours.groups)
    counts = [len(error) for error in errors]
    if min(counts, default=0) < 2:
        return Comparison(delta, None, None, None, None, n, sum(counts), "too few groups")
    ses = [_standard_error(error) for error in errors]
    return _t_of_means(delta, ses, counts, len(ses), n, f"paired t over {len(ses)} tasks")


def _compare_means_apart(ours: Numbers, theirs: Numbers) -> Comparison:
    """Difference of two plain means over the same tasks, each on its own samples."""
    tasks = set(ours.tasks or ())
    parts = [_independent(part) for side in (ours, theirs) for part in side.by_task()]
    counts = [len(set(part.groups)) for part in parts]
    delta, n = ours.value() - theirs.value(), len(ours.groups) + len(theirs.groups)
    if tasks != set(theirs.tasks or ()) or min(counts, default=0) < 2:
        method = "too few groups" if tasks == set(theirs.tasks or ()) else "not the same tasks"
        return Comparison(delta, None, None, None, None, n, sum(counts), method)
    ses = [_standard_error(influence(part)) for part in parts]
    return _t_of_means(delta, ses, counts, len(tasks), n, f"Welch's t over {len(tasks)} tasks, not paired")


def _t_of_means(
    delta: float, ses: Sequence[float], counts: Sequence[int], tasks: int, n: int, method: str
) -> Comparison:
    """Test a difference of two means of `tasks` tasks by the errors that it is made of.

    ses, counts: standard error and groups of each.
    """
    se = math.hypot(*ses) / tasks
    if not se:
        return Comparison(delta, None, None, None if delta else 1.0, None, n, sum(counts), _alike_in(delta))
    low, high, p, _ = _t_test(delta, se, _welch(ses, counts))
    return Comparison(delta, low, high, p, minimum_detectable(se), n, sum(counts), method)


def _welch(ses: Sequence[float], groups: Sequence[int]) -> int:
    """Degrees of freedom of a sum of independent errors (Welch 1947, Satterthwaite 1946), at least 1."""
    spread = sum(se**4 / (k - 1) for se, k in zip(ses, groups, strict=True))
    return max(1, math.floor(sum(se**2 for se in ses) ** 2 / spread)) if spread else 1


def _log_ways(n: int, k: int) -> float:
    """Logarithm of the ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _shares(numbers: Numbers) -> bool:
    """Whether the samples are right or wrong."""
    return bool((numbers.b == 1).all() and np.isin(numbers.a, (0.0, 1.0)).all())


def _alike_in(delta: float) -> str:
    """The method where the difference is the same in all groups: there is no spread to test it by."""
    return "every group differs alike" if delta else "no group differs"


def _possible(numbers: Numbers, low: float, high: float) -> tuple[float, float]:
    """An interval cut off where no figure can be: below 0, or above 1 where no score is."""
    scores = not numbers.exp and bool((numbers.b == 1).all() and (numbers.a <= 1).all())
    return max(0.0, low), min(1.0, high) if scores else high


def _alike(sums: Floats) -> tuple[Floats, Floats]:
    """Rows [distinct, k] and how many groups each stands for; of few groups every one stands for itself."""
    if len(sums) <= MANY:
        return sums, np.ones(len(sums))
    rows, counts = np.unique(sums, axis=0, return_counts=True)
    return rows, counts.astype(np.float64)


def _draws(figure: Callable[[Floats], Floats], sums: Floats, counts: Floats) -> Floats:
    """The figure of every resample; figure: sums [draws, k] ──▶ [draws]."""
    return np.concatenate([figure(weights @ sums) for weights in _resamples(counts)])


def _resamples(counts: Floats) -> Iterator[Floats]:
    """How often rows are drawn that stand for `counts` groups: chunks of [draws, rows], REPLICATES in all."""
    random = np.random.default_rng(SEED)
    groups, size = int(counts.sum()), max(1, _CHUNK // len(counts))
    for start in range(0, REPLICATES, size):
        count = min(size, REPLICATES - start)
        yield random.multinomial(groups, counts / groups, size=count).astype(np.float64)


def _standard_error(influences: Floats) -> float:
    """Of a figure, from its groups' influences, with the correction for few groups."""
    groups = len(influences)
    return math.sqrt(groups / (groups - 1) * float((influences**2).sum()))


def _t_test(delta: float, se: float, freedom: int) -> tuple[float, float, float, float]:
    """Interval, p and the standard error again."""
    half = t_quantile(LEVEL, freedom) * se
    p = max(0.0, 1 - t_within(abs(delta) / se, freedom)) if se else 1.0
    return delta - half, delta + half, p, se


def _expanded_percentiles(draws: Floats, groups: int) -> tuple[float, float]:
    """Percentile interval, widened for few groups (Hesterberg 2015: the bootstrap's narrowness bias).

    With k groups the plain interval is too narrow by √((k − 1)/k) and ignores that t is wider than z.
    """
    t = t_quantile(LEVEL, groups - 1)
    tail = _NORMAL.cdf(-math.sqrt(groups / (groups - 1)) * t)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _bootstrap_p(draws: Floats, groups: int) -> float:
    """The level at which that interval just reaches 0, as a two-sided p."""
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    tail = min((min(below, above) + 1) / (len(draws) + 1), 0.5)
    t = -_NORMAL.inv_cdf(tail) * math.sqrt((groups - 1) / groups)
    return max(0.0, 1 - t_within(t, groups - 1))
