"""The plain mean of several tasks: by hand, against scipy, by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from stillroom.benchmarks import statistics as st
from stillroom.benchmarks.base import Measure, Sample
from stillroom.benchmarks.leaderboard import Leaderboard
from stillroom.stages import evaluate

SIZES = {"a": 20, "b": 60, "c": 35}
MEANS = {"a": 0.9, "b": 0.3, "c": 0.5}


def numbers(values, groups=None):
    """`values` by task; each sample its own group unless told."""
    names = [(task, i) for task, found in values.items() for i in range(len(found))]
    a = np.concatenate([np.asarray(found, dtype=np.float64) for found in values.values()])
    own = [f"{task}/{i}" for task, i in names]
    return st.Numbers(a, np.ones_like(a), groups or own, tasks=[task for task, _ in names])


def drawn(random, shift=0.0):
    return {task: (random.random(n) < MEANS[task] + shift).astype(float) for task, n in SIZES.items()}


def test_every_task_weighs_the_same():
    found = st.estimate(numbers({"a": [1, 1, 1, 0], "b": [0, 0, 0, 0, 0, 1]}))
    assert found.value == pytest.approx((3 / 4 + 1 / 6) / 2)
    assert (found.n, found.groups, found.method) == (10, 10, "t over 2 tasks")


def test_the_standard_error_is_the_root_of_the_tasks_squares_over_their_number():
    values = drawn(np.random.default_rng(1))
    ses = [stats.sem(found) for found in values.values()]
    expected = math.sqrt(sum(se**2 for se in ses)) / 3
    assert st.standard_error(numbers(values)) == pytest.approx(expected) == st.se_of_mean(ses)
    found = st.estimate(numbers(values))
    freedom = sum(se**2 for se in ses) ** 2 / sum(
        se**4 / (n - 1) for se, n in zip(ses, SIZES.values(), strict=True)
    )
    half = stats.t.ppf(0.975, math.floor(freedom)) * expected
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_of_two_samples_alike_in_size_it_is_welchs():
    """Ours against theirs on other samples of one task is scipy's Welch, but for whole degrees of freedom."""
    random = np.random.default_rng(2)
    ours, theirs = random.normal(size=40), random.normal(0.5, 2, size=25)
    found = st.compare_apart(numbers({"a": ours}), numbers({"a": theirs}))
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    t = found.delta / math.hypot(stats.sem(ours), stats.sem(theirs))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), math.floor(expected.df)))


def test_groups_of_a_task_are_not_taken_as_independent():
    values = {"a": np.repeat([1.0, 0.0, 1.0, 0.0], 10), "b": np.tile([0.0, 1.0], 20)}
    groups = [f"a/{i // 10}" for i in range(40)] + [f"b/{i}" for i in range(40)]
    assert st.standard_error(numbers(values, groups)) > 1.5 * st.standard_error(numbers(values))


def test_the_interval_covers_in_95_percent_of_repetitions():
    random, truth = np.random.default_rng(3), sum(MEANS.values()) / 3
    found = [st.estimate(numbers(drawn(random))) for _ in range(1500)]
    covered = sum(e.low <= truth <= e.high for e in found) / len(found)
    assert 0.93 < covered < 0.97


def test_the_paired_test_finds_more_than_the_unpaired_and_errs_in_5_percent():
    random = np.random.default_rng(4)

    def ps(gain):
        theirs = drawn(random)
        ours = {
            t: np.where(random.random(len(v)) < 0.15, random.random(len(v)) < MEANS[t], v)
            for t, v in theirs.items()
        }
        ours = {t: np.where(random.random(len(v)) < gain, 1.0, v) for t, v in ours.items()}
        mine, other = numbers(ours), numbers(theirs)
        return st.compare(mine, other).p <= 0.05, st.compare_apart(mine, other).p <= 0.05

    assert 0.02 < np.mean([ps(0.0)[0] for _ in range(800)]) < 0.08
    paired, apart = np.mean([ps(0.12) for _ in range(200)], axis=0)
    assert paired > apart + 0.1


def test_a_difference_is_the_mean_of_the_tasks_differences():
    random = np.random.default_rng(5)
    ours, theirs = drawn(random, 0.05), drawn(random)
    found = st.compare(numbers(ours), numbers(theirs))
    deltas = [ours[task] - theirs[task] for task in SIZES]
    assert found.delta == pytest.approx(np.mean([delta.mean() for delta in deltas]))
    se = st.se_of_mean([stats.sem(delta) for delta in deltas])
    assert found.detectable == pytest.approx(st.minimum_detectable(se))
    assert found.low < found.delta < found.high


def test_what_cannot_be_said_is_not():
    same, one = numbers({"a": [1, 0, 1], "b": [0, 1, 1]}), numbers({"a": [1, 0, 1], "b": [0]})
    assert st.compare(same, same).method == "no group differs"
    assert st.estimate(one).low is None
    assert st.standard_error(one) is None
    assert st.compare(one, one).p is None
    assert st.compare_apart(same, numbers({"a": [1, 0, 1]})).method == "not the same tasks"


def test_a_measure_takes_the_task_from_the_id():
    samples = [Sample(f"{t}/{i}", f"{t}/{i}", "", "", (), {"s": float(i)}) for t in "ab" for i in range(3)]
    found = Measure("s", "mean", "share", "higher", tasks=True).numbers(samples)
    assert found.tasks == ["a"] * 3 + ["b"] * 3
    assert found.value() == 1.0


def test_what_a_task_has_no_score_of_counts_with_that_task():
    samples = [
        Sample(f"{task}/{i}", f"{task}/{i}", "", "", (), {"score": 1.0, task: 1.0} if i else {}, status)
        for task, missing in (("gsm8k", "failed"), ("winogrande", "skipped"))
        for i, status in enumerate((missing, "scored", "scored"))
    ]
    metrics = evaluate.metrics(Leaderboard(), samples)
    counted = {task: (part["failed"], part["skipped"]) for task, part in metrics["parts"].items()}
    assert counted == {"gsm8k": (1, 0), "winogrande": (0, 1)}
    assert (metrics["n"], metrics["failed"], metrics["skipped"]) == (4, 1, 1)
