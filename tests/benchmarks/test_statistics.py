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


def test_holm_is_the_closed_test_of_bonferronis():
    """A hypothesis falls where every set that holds it does: each set's p is its least p times its size."""
    draw = np.random.default_rng(15)
    for k in (2, 5):
        for ps in draw.beta(0.4, 1, (20, k)):
            sets = [s for size in range(1, k + 1) for s in itertools.combinations(range(k), size)]
            of_set = {s: min(1.0, len(s) * min(ps[i] for i in s)) for s in sets}
            expected = [max(p for s, p in of_set.items() if i in s) for i in range(k)]
            assert st.holm(list(ps)) == pytest.approx(expected)


def test_minimum_detectable_difference_is_found_with_80_percent_power():
    random, se = np.random.default_rng(3), 0.7
    seen = random.normal(st.minimum_detectable(se), se, 200_000)
    assert (np.abs(seen) > 1.959964 * se).mean() == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("many", [st.MANY, 0], ids=["bootstrap", "linearised"])
@pytest.mark.parametrize("test", [st.compare, st.compare_apart])
def test_a_difference_of_that_size_is_resolved_in_80_percent_of_repetitions(test, many, monkeypatch):
    """Clusters of three; paired, the two sides share what is hard about a cluster."""
    monkeypatch.setattr(st, "REPLICATES", 400)
    monkeypatch.setattr(st, "MANY", many)
    draw, paired = np.random.default_rng(16), test is st.compare

    def repetition(gain):
        theirs = clustered(draw, 60, 3)
        ours = (
            numbers(theirs.a + draw.normal(size=180), groups=theirs.groups)
            if paired
            else clustered(draw, 60, 3)
        )
        return test(numbers(ours.a + gain, groups=ours.groups), theirs)

    gain = np.mean([repetition(0).detectable for _ in range(50)])
    assert 0.74 < np.mean([repetition(gain).p < 0.05 for _ in range(400)]) < 0.86


@pytest.mark.parametrize("counts", [(3, 9, 8, 11), (0, 5, 0, 9), (40, 90, 61, 88), (700, 1000, 650, 1000)])
def test_fisher_is_scipys(counts):
    k, n, other_k, other_n = counts
    expected = stats.fisher_exact([[k, n - k], [other_k, other_n - other_k]]).pvalue
    assert st.fisher(*counts) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ],
)
def test_newcombes_interval_is_his(counts, expected):
    """Method 10 of his table II (1998)."""
    assert st.newcombe(*counts) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((14, 5, 0, 22), (0.011, 0.226)), ((1, 1, 7, 12), (-0.507, -0.026))],
)
def test_newcombes_paired_interval_is_the_published_one(counts, expected):
    """Altman et al. 2000, table 6.2; Bentur et al. 2009 in Fagerland et al. 2017, chapter 8."""
    assert st.newcombe_paired(*counts) == pytest.approx(expected, abs=6e-4)


def test_newcombes_paired_interval_by_its_neighbours():
    """Without correlation it is the unpaired one; the models' places only turn the sign."""
    assert st.newcombe_paired(4, 4, 4, 4) == pytest.approx(st.newcombe(8, 16, 8, 16))
    low, high = st.newcombe_paired(9, 7, 2, 12)
    assert st.newcombe_paired(9, 2, 7, 12) == pytest.approx((-high, -low))


def test_newcombes_paired_interval_covers_even_near_the_ends():
    draw = np.random.default_rng(11)
    for share, other, n in ((0.95, 0.9, 10), (0.5, 0.3, 20), (0.6, 0.4, 200)):
        ease = draw.random((1000, n))
        again = np.where(draw.random((1000, n)) < 0.3, ease, draw.random((1000, n)))
        covered = []
        for ours, theirs in zip(ease < share, again < other, strict=True):
            found = st.compare(numbers(ours), numbers(theirs))
            covered.append(found.low <= share - other <= found.high)
        assert np.mean(covered) >= 0.93


def test_influences_are_what_leaving_a_group_out_changes():
    figure = clustered(np.random.default_rng(6), 50, 2)
    figure = numbers(figure.a, np.random.default_rng(7).uniform(5, 9, 100), figure.groups, exp=True)
    without = [[i for i, g in enumerate(figure.groups) if g != group] for group in map(str, range(50))]
    left = [numbers(figure.a[k], figure.b[k], list(np.array(figure.groups)[k]), exp=True) for k in without]
    jackknife = np.sqrt(49 / 50 * sum((one.value() - figure.value()) ** 2 for one in left))
    assert np.sqrt((st.influence(figure) ** 2).sum()) == pytest.approx(jackknife, rel=0.05)


def test_means_are_compared_as_scipy_does(monkeypatch):
    draw = np.random.default_rng(10)
    ours, theirs = draw.normal(1, 1, 9), draw.normal(0, 2, 14)
    apart, welch = (
        st.compare_apart(numbers(ours), numbers(theirs)),
        stats.ttest_ind(ours, theirs, equal_var=False),
    )
    half = stats.t.ppf(0.975, np.floor(welch.df)) * (welch.confidence_interval().high - apart.delta)
    assert apart.high - apart.delta == pytest.approx(half / stats.t.ppf(0.975, welch.df))
    monkeypatch.setattr(st, "MANY", 0)
    paired, expected = st.compare(numbers(ours), numbers(theirs[:9])), stats.ttest_rel(ours, theirs[:9])
    assert paired.p == pytest.approx(expected.pvalue)
    assert (paired.low, paired.high) == pytest.approx(expected.confidence_interval())


def test_se_of_a_mean_of_tasks():
    ses = [0.5, 1.0, 2.0]
    means = np.random.default_rng(9).normal(0, ses, (200_000, 3)).mean(axis=1)
    assert st.se_of_mean(ses) == pytest.approx(means.std(), rel=0.01)


def test_the_paired_test_has_more_power_than_the_unpaired_one(monkeypatch):
    monkeypatch.setattr(st, "REPLICATES", 1000)
    draw = np.random.default_rng(12)
    pairs = [shares(draw, 80, 0.6, 0.5) for _ in range(200)]
    paired, apart = ([test(*pair).p < 0.05 for pair in pairs] for test in (st.compare, st.compare_apart))
    assert np.mean(paired) > np.mean(apart) + 0.3


def test_verdicts():
    assert st.verdict(0.2, 0.01, "higher") == "better"
    assert st.verdict(0.2, 0.01, "lower") == "worse"
    assert st.verdict(-0.2, 0.01, "lower") == "better"
    assert st.verdict(0.2, 0.06, "higher") == "unresolved"
    assert st.verdict(0.2, None, "higher") == "unresolved"


def test_the_bootstrap_draws_every_resample():
    """Two groups: the four ordered draws, each as often as the others."""
    weights = np.concatenate(list(st._resamples(np.ones(2))))
    assert (weights.sum(axis=1) == 2).all()
    shares = [(weights[:, 0] == k).mean() for k in (0, 1, 2)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_a_ratio_is_weighted_by_its_denominator():
    figure = numbers([2.0, 30.0], [2.0, 10.0], exp=True)
    assert figure.value() == pytest.approx(np.exp(32 / 12))


def test_choice_of_interval():
    assert st.estimate(numbers([1, 0, 1, 1])).method == "Wilson"
    assert st.estimate(numbers([0.5, 0.1, 0.7])).method == "t"
    assert st.estimate(numbers([1, 0, 1, 1], groups=["a", "a", "b", "b"])).method == "Wilson over groups"
    assert st.estimate(numbers([1, 0, 3, 1], groups=["a", "a", "b", "b"])).method == "bootstrap over groups"
    lone = st.estimate(numbers([0.5]))
    assert (lone.low, lone.high, lone.method) == (None, None, "too few groups")


def test_what_is_all_alike_is_not_certain():
    groups = ["a", "a", "b", "b", "c", "c"]
    assert st.estimate(numbers(np.zeros(6), groups=groups)).high == pytest.approx(st.wilson(0, 3)[1])
    assert st.estimate(numbers(np.ones(6), groups=groups)).low == pytest.approx(st.wilson(3, 3)[0])


def test_a_share_in_groups_of_one_size_is_wilsons_of_what_they_are_worth():
    """Groups that agree in themselves are worth a sample each, groups of independent samples all of them."""
    right = np.array([1.0] * 300 + [0.0] * 700)
    alike = st.estimate(numbers(right.repeat(3), groups=[str(i // 3) for i in range(3000)]))
    assert (alike.low, alike.high) == pytest.approx(st.wilson(300, 1000), abs=2e-4)
    draw = np.random.default_rng(1)
    apart = st.estimate(
        numbers((draw.random(3000) < 0.3).astype(float), groups=[str(i // 3) for i in range(3000)])
    )
    assert (apart.low, apart.high) == pytest.approx(st.wilson(round(3000 * apart.value), 3000), abs=1e-3)


def test_no_figure_is_below_zero_and_no_mean_of_scores_up_to_1_above_it():
    assert st.estimate(numbers([0.0, 0.0, 0.0, 0.1])).low == 0.0
    assert st.estimate(numbers([0.9, 0.2])).high == 1.0
    assert st.estimate(numbers([0.9, 2.0])).high > 2.0


@pytest.mark.parametrize("groups", [None, [f"g{i // 3}" for i in range(27)]])
@pytest.mark.parametrize(("ours", "method"), [(1, "every group differs alike"), (0, "no group differs")])
def test_a_difference_that_is_the_same_in_all_groups_is_not_certain(groups, ours, method):
    found = st.compare(numbers(np.full(27, ours), groups=groups), numbers(np.zeros(27), groups=groups))
    beyond = st.wilson(0, 9)[1]
    unseen = (ours - beyond, min(1.0, ours + beyond)) if groups else st.newcombe(27 * ours, 27, 0, 27)
    assert (found.delta, found.method, found.detectable) == (ours, method, None)
    assert (found.low, found.high) == pytest.approx(unseen)
    assert (found.p < 0.05) is bool(ours)
    rest = numbers(np.full(27, 0.7), groups=groups)
    gain = st.compare(numbers(rest.a + ours / 10, groups=groups), rest)
    assert (gain.low, gain.high, gain.method) == (None, None, method)


def test_what_mcnemar_can_never_resolve_has_no_detectable_difference():
    for n, found in ((5, False), (6, True)):
        ours = numbers([0] + [1] * (n - 1))
        assert (st.compare(ours, numbers(np.zeros(n))).detectable is not None) is found


def test_one_group_gets_an_interval_that_says_so():
    values = [0.5, 0.1, 0.7]
    inside = st.estimate(numbers(values, groups=["a"] * 3))
    apart = st.estimate(numbers(values))
    assert (inside.low, inside.high) == (apart.low, apart.high)
    assert (inside.groups, inside.method) == (1, "t, within one group")
    paired = st.compare(numbers([1, 1, 0], groups=["a"] * 3), numbers([0, 1, 0], groups=["a"] * 3))
    assert paired.method == "McNemar exact, within one group"


def test_the_interval_of_a_ratio_is_scipys_bootstrap_at_the_widened_level():
    draw = np.random.default_rng(17)
    figure = numbers(draw.gamma(3, 900, 12), draw.integers(800, 1200, 12))
    tail = stats.norm.cdf(-np.sqrt(12 / 11) * stats.t.ppf(0.975, 11))
    expected = stats.bootstrap(
        (figure.a, figure.b),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        confidence_level=1 - 2 * tail,
        n_resamples=20_000,
        rng=draw,
    ).confidence_interval
    found = st.estimate(figure)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)


def test_the_widened_interval_of_a_mean_is_students():
    """The bootstrap's draws are too narrow by √((k − 1) / k) and know no t: both are put back."""
    values = np.random.default_rng(18).normal(5, 1, 8)
    spread = values.std() / np.sqrt(8)
    low, high = st._expanded_percentiles(stats.norm.ppf(np.linspace(1e-6, 1 - 1e-6, 400_001), 0, spread), 8)
    assert (low + values.mean(), high + values.mean()) == pytest.approx(st.t_interval(values), rel=1e-3)


def test_p_is_the_level_at_which_the_interval_reaches_zero(monkeypatch):
    draw = np.random.default_rng(19)
    pair = numbers(draw.normal(0.4, 1, 25)), numbers(draw.normal(0, 1, 25))
    found = st.compare(*pair)
    assert 0.01 < found.p < 0.5
    monkeypatch.setattr(st, "LEVEL", 1 - found.p)
    again = st.compare(*pair)
    assert again.low == pytest.approx(0, abs=0.01 * (again.high - again.low))


def test_samples_of_one_group_are_not_taken_as_independent(monkeypatch):
    """Positions of one question: taken as independent, the interval is too narrow and misses too often."""
    monkeypatch.setattr(st, "REPLICATES", 600)
    draw, missed = np.random.default_rng(20), {"groups": 0, "samples": 0}
    for _ in range(150):
        right = draw.beta(0.6, 0.6, 40).repeat(8)
        figure = numbers((draw.random(320) < right).astype(float), groups=[str(i // 8) for i in range(320)])
        found = {"groups": st.estimate(figure), "samples": st.estimate(figure.split())}
        for name, one in found.items():
            missed[name] += not one.low <= 0.5 <= one.high
    assert found["groups"].high - found["groups"].low > 1.6 * (found["samples"].high - found["samples"].low)
    assert missed["groups"] < 0.1 * 150 < 0.25 * 150 < missed["samples"]


RUNS = 600


def clustered(draw, groups, size):
    """Samples of groups that share half of their variance, with true mean 0."""
    shared = np.repeat(draw.normal(size=groups), size)
    names = [str(i // size) for i in range(groups * size)]
    return numbers(shared + draw.normal(size=groups * size), groups=names)


def book(draw, groups):
    """A perplexity of 2 over books of differing lengths, and another model's on the same books."""
    size = draw.integers(800, 1200, groups).astype(float)
    hard = draw.normal(0, 0.1, groups)
    models = [size * (np.log(2) + hard + draw.normal(0, 0.05, groups)) for _ in range(2)]
    return [numbers(nll, size, exp=True) for nll in models]


def shares(draw, n, *chances):
    """Right and wrong answers that the difficulty of the questions makes alike."""
    hard = draw.random(n)
    return [numbers((0.7 * hard + 0.3 * draw.random(n) < chance).astype(float)) for chance in chances]


def positions(draw, groups, *gains):
    """Right and wrong answers to questions asked at four places, of models that differ by question."""
    hard = draw.uniform(0.2, 0.8, groups).repeat(4)
    names = [str(i // 4) for i in range(4 * groups)]
    tastes = [draw.uniform(-0.2, 0.2, groups).repeat(4) for _ in gains]
    return [
        numbers((draw.random(4 * groups) < hard + taste + gain).astype(float), groups=names)
        for taste, gain in zip(tastes, gains, strict=True)
    ]


def rare(draw, groups, chance):
    """Right answers, seldom, to questions asked twice, half of them alike."""
    alike = draw.random(2 * groups) < 0.7
    right = np.where(alike, (draw.random(groups) < chance).repeat(2), draw.random(2 * groups) < chance)
    return numbers(right.astype(float), groups=[str(i // 2) for i in range(2 * groups)])


INTERVALS = {
    "shares in clusters": (lambda d: st.estimate(positions(d, 40, 0)[0]), 0.5),
    "rare in clusters": (lambda d: st.estimate(rare(d, 58, 0.04)), 0.04),
    "paired shares in clusters": (lambda d: st.compare(*positions(d, 40, 0, 0)), 0),
    "t": (lambda d: st.estimate(numbers(d.normal(5, 1, 12))), 5),
    "8 clusters": (lambda d: st.estimate(numbers(5 + (x := clustered(d, 8, 4)).a, groups=x.groups)), 5),
    "40 clusters": (lambda d: st.estimate(numbers(5 + (x := clustered(d, 40, 4)).a, groups=x.groups)), 5),
    "perplexity": (lambda d: st.estimate(book(d, 30)[0]), 2),
    "paired perplexity": (lambda d: st.compare(*book(d, 30)), 0),
    "paired shares": (lambda d: st.compare(*shares(d, 60, 0.5, 0.5)), 0),
    "apart, means": (lambda d: st.compare_apart(clustered(d, 20, 3), clustered(d, 31, 2)), 0),
    "apart, shares": (lambda d: st.compare_apart(shares(d, 90, 0.6)[0], shares(d, 70, 0.6)[0]), 0),
}


@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("many", [st.MANY, 0], ids=["bootstrap", "linearised"])
def test_95_percent_intervals_cover_93_to_97_percent(name, many, monkeypatch):
    """`many` 0: as if there were more groups than the bootstrap is asked to draw."""
    monkeypatch.setattr(st, "REPLICATES", 600)
    monkeypatch.setattr(st, "MANY", many)
    draw, (interval, truth) = np.random.default_rng(2), INTERVALS[name]
    found = [interval(draw) for _ in range(RUNS)]
    assert 0.93 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.97


def test_wilson_covers_93_to_97_percent():
    """Exactly, over all outcomes, on average over the true shares."""
    k = np.arange(61)
    ends = np.array([st.wilson(int(i), 60) for i in k])
    chances = np.linspace(0.02, 0.98, 97)[:, None]
    held = (ends[:, 0] <= chances) & (chances <= ends[:, 1])
    coverage = (stats.binom.pmf(k, 60, chances) * held).sum(axis=1)
    assert 0.93 <= coverage.mean() <= 0.97


def test_many_groups_say_what_the_bootstrap_says(monkeypatch):
    draw = np.random.default_rng(8)
    figure, (ours, theirs) = clustered(draw, 400, 3), book(draw, 400)
    drawn = [st.estimate(figure), st.compare(ours, theirs)]
    monkeypatch.setattr(st, "MANY", 100)
    linear = [st.estimate(numbers(5 + figure.a, groups=figure.groups)), st.compare(ours, theirs)]
    assert [one.method for one in linear] == ["t over groups", "paired t over groups"]
    width = linear[1].high - linear[1].low
    assert linear[1].low == pytest.approx(drawn[1].low, abs=0.03 * width)
    assert linear[1].high == pytest.approx(drawn[1].high, abs=0.03 * width)
    assert linear[1].p == pytest.approx(drawn[1].p, abs=0.02)
    assert linear[1].detectable == pytest.approx(drawn[1].detectable, rel=0.03)
    assert linear[0].high - linear[0].low == pytest.approx(drawn[0].high - drawn[0].low, rel=0.5)


def test_groups_that_are_alike_are_drawn_together(monkeypatch):
    """500 groups of four kinds: the same interval as when each is drawn by itself."""
    draw = np.random.default_rng(4)
    right = draw.binomial(3, 0.4, 500)
    groups = [str(i // 3) for i in range(1500)]
    a = np.concatenate([np.arange(3) < k for k in right]).astype(float)
    apart = st.estimate(numbers(2 * a, groups=groups))
    monkeypatch.setattr(st, "MANY", 4)
    together = st.estimate(numbers(2 * a, groups=groups))
    assert together.method == apart.method == "bootstrap over groups"
    assert (together.low, together.high) == pytest.approx((apart.low, apart.high), abs=0.004)


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
