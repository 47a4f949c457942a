"""Against scipy, brute force and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from stillroom.benchmarks import statistics as st


def numbers(a, b=None, groups=None, exp=False):
    a = np.asarray(a, dtype=np.float64)
    b = np.ones_like(a) if b is None else np.asarray(b, dtype=np.float64)
    return st.Numbers(a, b, groups or [str(i) for i in range(len(a))], exp)


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 10), (412, 805)])
def test_wilson_is_scipys(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    assert st.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101, 5000])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 12.7])
def test_t_is_scipys(freedom, t):
    assert st.t_within(t, freedom) == pytest.approx(2 * stats.t.cdf(t, freedom) - 1, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 9, 804])
def test_t_quantile_is_scipys(freedom):
    assert st.t_quantile(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)


def test_t_interval_is_scipys():
    values = np.random.default_rng(1).gamma(2, size=23)
    expected = stats.t.interval(0.95, 22, values.mean(), stats.sem(values))
    assert st.t_interval(values) == pytest.approx(expected)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (3, 9), (40, 61), (1200, 1100)])
def test_mcnemar_is_the_binomial_test(won, lost):
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert st.mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)


def test_holm_by_hand():
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.9, 0.8]) == [1.0, 1.0]
    assert st.holm([]) == []


def test_minimum_detectable_difference_is_found_with_80_percent_power():
    random, se = np.random.default_rng(3), 0.7
    seen = random.normal(st.minimum_detectable(se), se, 200_000)
    assert (np.abs(seen) > 1.959964 * se).mean() == pytest.approx(0.8, abs=0.005)


def test_verdicts():
    assert st.verdict(0.2, 0.01, "higher") == "better"
    assert st.verdict(0.2, 0.01, "lower") == "worse"
    assert st.verdict(-0.2, 0.01, "lower") == "better"
    assert st.verdict(0.2, 0.06, "higher") == "unresolved"
    assert st.verdict(0.2, None, "higher") == "unresolved"


def test_the_bootstrap_draws_every_resample():
    """Two groups: the four ordered draws, each as often as the others."""
    weights = np.concatenate(list(st._resamples(2)))
    assert (weights.sum(axis=1) == 2).all()
    shares = [(weights[:, 0] == k).mean() for k in (0, 1, 2)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_a_ratio_is_weighted_by_its_denominator():
    figure = numbers([2.0, 30.0], [2.0, 10.0], exp=True)
    assert figure.value() == pytest.approx(np.exp(32 / 12))


def test_choice_of_interval():
    assert st.estimate(numbers([1, 0, 1, 1])).method == "Wilson"
    assert st.estimate(numbers([0.5, 0.1, 0.7])).method == "t"
    assert st.estimate(numbers([1, 0, 1, 1], groups=["a", "a", "b", "b"])).method == "bootstrap over groups"
    lone = st.estimate(numbers([0.5]))
    assert (lone.low, lone.high, lone.method) == (None, None, "too few groups")


def test_what_is_all_alike_is_not_certain():
    groups = ["a", "a", "b", "b", "c", "c"]
    assert st.estimate(numbers(np.zeros(6), groups=groups)).high == pytest.approx(st.wilson(0, 3)[1])
    assert st.estimate(numbers(np.ones(6), groups=groups)).low == pytest.approx(st.wilson(3, 3)[0])


def test_no_figure_is_below_zero():
    assert st.estimate(numbers([0.0, 0.0, 0.0, 0.1])).low == 0.0


def test_one_group_gets_an_interval_that_says_so():
    values = [0.5, 0.1, 0.7]
    inside = st.estimate(numbers(values, groups=["a"] * 3))
    apart = st.estimate(numbers(values))
    assert (inside.low, inside.high) == (apart.low, apart.high)
    assert (inside.groups, inside.method) == (1, "t, within one group")
    paired = st.compare(numbers([1, 1, 0], groups=["a"] * 3), numbers([0, 1, 0], groups=["a"] * 3))
    assert paired.method == "McNemar exact, within one group"


def coverage(groups, size, runs=300):
    """Share of runs whose interval holds the true mean 0 of clustered data."""
    random, hits = np.random.default_rng(groups), 0
    names = [str(i // size) for i in range(groups * size)]
    for _ in range(runs):
        shared = np.repeat(random.normal(size=groups), size)
        found = st.estimate(numbers(shared + random.normal(size=groups * size), groups=names))
        hits += found.low <= 0 <= found.high
    return hits / runs


@pytest.mark.parametrize("groups", [8, 40])
def test_clustered_interval_covers_95_percent(groups, monkeypatch):
    monkeypatch.setattr(st, "REPLICATES", 2000)
    assert 0.92 <= coverage(groups, 4) <= 0.98


def test_equal_models_are_seldom_called_different(monkeypatch):
    """The paired p is below 0.05 in about 5 % of runs where nothing differs, with few groups too."""
    monkeypatch.setattr(st, "REPLICATES", 2000)
    random = np.random.default_rng(11)
    for groups in (4, 30):
        ps = [
            st.compare(numbers(random.normal(size=groups)), numbers(random.normal(size=groups))).p
            for _ in range(300)
        ]
        assert np.mean(np.array(ps) < 0.05) <= 0.08


def test_pairing_finds_what_two_separate_intervals_do_not():
    random = np.random.default_rng(5)
    hard = random.normal(0, 5, 60)
    ours, baseline = numbers(hard + 0.5 + random.normal(0, 0.5, 60)), numbers(hard)
    paired = st.compare(ours, baseline)
    assert st.verdict(paired.delta, paired.p, "higher") == "better"
    assert paired.low < 0.5 < paired.high
    assert stats.ttest_ind(ours.a, baseline.a).pvalue > 0.05
    assert paired.p == pytest.approx(stats.ttest_rel(ours.a, baseline.a).pvalue, abs=0.001)


def test_right_and_wrong_answers_are_compared_by_mcnemar():
    ours, baseline = [1] * 9 + [0] * 3, [0] * 8 + [1] * 2 + [0] * 2
    found = st.compare(numbers(ours), numbers(baseline))
    assert found.method == "McNemar exact"
    assert found.p == pytest.approx(stats.binomtest(8, 9).pvalue)


def test_perplexity_of_identical_models_does_not_differ():
    figure = numbers([3.0, 5.0, 8.0], [2.0, 3.0, 4.0], exp=True)
    found = st.compare(figure, figure)
    assert (found.delta, found.p, found.method) == (0.0, 1.0, "no group differs")
    assert found.detectable is None


def test_few_groups_cannot_resolve_much():
    """With k groups that all agree, p falls with k, and three are not enough."""
    ps = [
        st.compare(numbers(np.full(k, 1.0) + np.arange(k) / 9), numbers(np.zeros(k))).p for k in (2, 3, 5, 9)
    ]
    assert all(a > b for a, b in itertools.pairwise(ps))
    assert ps[1] > 0.05 > ps[2]


def test_same_input_same_result():
    figure = numbers([1.0, 2.5, 3.0, 9.0], groups=["a", "a", "b", "c"])
    assert st.estimate(figure) == st.estimate(figure)
