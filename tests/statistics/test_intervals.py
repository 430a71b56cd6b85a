"""Intervals and comparisons against scipy, statsmodels, hand-worked numbers and laws.

The sleep data are Student's (1908), with the numbers that R documents for its t test.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from kdtune.statistics.intervals import mean_interval, paired_difference, wilson_interval
from kdtune.statistics.multiplicity import holm, max_t
from kdtune.statistics.power import detectable_difference, repeats_needed
from kdtune.statistics.selection_bias import bootstrap_corrected

# extra hours of sleep under two drugs, ten patients
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)

exact = pytest.approx
samples = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def exact_power(effect: float, n: int, level: float) -> float:
    return float(TTestPower().power(effect, n, level, alternative="two-sided"))


def test_mean_interval_by_hand() -> None:
    interval = mean_interval([1, 2, 3])
    assert (interval.mean, interval.sd, interval.n) == (2, 1, 3)
    # t(0.975, 2 df) = 4.302653, over the root of 3
    assert interval.half_width == exact(4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.high - interval.mean == exact(interval.mean - interval.low)
    # n = 2: sd = |a - b| / root of 2; t(0.975, 1 df) = tan(0.475 pi) = 12.706205
    two = mean_interval([0, 2])
    assert (two.mean, two.n, two.sd) == (1, 2, exact(math.sqrt(2), abs=1e-15))
    assert two.high == exact(1 + math.tan(0.475 * math.pi), rel=1e-9)


@settings(deadline=None)
@given(samples, st.sampled_from([0.8, 0.95, 0.99]))
def test_mean_interval_is_scipys(sample: list[float], level: float) -> None:
    interval = mean_interval(sample, level)
    assert interval.mean == exact(np.mean(sample), abs=1e-12)
    assert interval.sd == exact(np.std(sample, ddof=1), abs=1e-12)
    if interval.sd > 1e-9:
        low, high = stats.t.interval(
            level, len(sample) - 1, loc=np.mean(sample), scale=stats.sem(sample)
        )
        assert (interval.low, interval.high) == exact((low, high), rel=1e-9, abs=1e-9)


def test_too_few_to_say() -> None:
    one = mean_interval([0.7])
    assert (one.mean, one.n) == (0.7, 1)
    assert all(math.isnan(x) for x in (one.sd, one.low, one.high, one.half_width))
    none = mean_interval([])
    assert none.n == 0
    assert math.isnan(none.mean)
    difference = paired_difference([0.7], [0.5])
    assert difference.interval.mean == exact(0.2)
    assert math.isnan(difference.p)
    assert math.isnan(difference.correlation)
    assert math.isnan(detectable_difference(1, 1))


def test_equal_numbers_have_no_spread() -> None:
    interval = mean_interval([0.5, 0.5, 0.5])
    assert (interval.mean, interval.sd, interval.low, interval.high) == (0.5, 0, 0.5, 0.5)


def test_students_sleep() -> None:
    got = paired_difference(DRUG_1, DRUG_2)
    want = stats.ttest_rel(DRUG_1, DRUG_2)
    ends = want.confidence_interval(0.95)
    assert (got.interval.low, got.interval.high) == exact((ends.low, ends.high), rel=1e-12)
    assert got.p == exact(want.pvalue, rel=1e-9)
    # as R prints them
    assert got.p == exact(0.002832890, abs=1e-9)
    assert (got.interval.low, got.interval.high) == exact((-2.459886, -0.700114), abs=1e-6)
    assert got.interval.mean == exact(-1.58)
    assert got.interval.mean / (got.interval.sd / math.sqrt(10)) == exact(-4.062128, abs=1e-6)
    assert got.correlation == exact(0.7952, abs=1e-4)


def test_two_repeats_by_hand() -> None:
    # differences 1 and 3: mean 2, standard error 1, t = 2 with one df: p = 1 - 2 atan(2) / pi
    got = paired_difference([2, 5], [1, 2])
    assert got.interval.mean == 2
    assert got.p == exact(1 - 2 * math.atan(2) / math.pi, rel=1e-9)
    assert got.correlation == exact(1)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_paired_difference_laws(seed: int, n: int) -> None:
    a, b, both = np.random.default_rng(seed).normal(size=(3, n))
    got = paired_difference(a, b)
    assert got.p == exact(stats.ttest_rel(a, b).pvalue, rel=1e-8)
    swapped = paired_difference(b, a)
    assert swapped.p == exact(got.p)
    assert (swapped.interval.low, swapped.interval.high) == exact(
        (-got.interval.high, -got.interval.low)
    )
    # what both share, however large, is not seen
    shifted = paired_difference(a + 10 * both, b + 10 * both)
    assert shifted.p == exact(got.p, rel=1e-6)
    # nor is the order of the repeats
    assert paired_difference(a[::-1], b[::-1]).p == exact(got.p, rel=1e-9)


def test_ties() -> None:
    same = paired_difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (same.interval.mean, same.interval.low, same.interval.high, same.p) == (0, 0, 0, 1)
    assert same.correlation == exact(1)
    flat = paired_difference([0.5, 0.5], [0.5, 0.5])
    assert flat.p == 1
    assert math.isnan(flat.correlation)
    assert paired_difference([1.5, 2.5], [1, 2]).p == 0.5  # sign-flip: 2 / 2^2


def test_holm_by_hand() -> None:
    # 4 x .01, 3 x .03, max(.09, 2 x .04), .5: without the running maximum .04 became .08
    assert holm([0.01, 0.04, 0.03, 0.5]) == exact([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.6, 0.7]) == [1, 1]


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 13])
def test_holm_is_statsmodels(m: int) -> None:
    p_values = np.random.default_rng(m).uniform(0, 0.2, m).round(2)  # some are equal
    want = multipletests(p_values, method="holm")[1]
    assert holm(list(p_values)) == exact(list(want), rel=1e-12, abs=1e-15)


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms(use_true_random=False))
def test_holm_laws(p_values: list[float], random) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in zip(p_values, adjusted, strict=True))
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("n", [3, 4, 5, 8, 16, 50])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.9])
def test_detectable_difference_is_statsmodels(n: int, power: float) -> None:
    want = TTestPower().solve_power(None, n, 0.05, power, alternative="two-sided")
    assert detectable_difference(1, n, power=power) == exact(want, rel=1e-5)
    assert detectable_difference(2.5, n, power=power) == exact(2.5 * want, rel=1e-5)


@pytest.mark.parametrize("m", [1, 4, 10])
@pytest.mark.parametrize("n", [8, 12, 20])
def test_detectable_difference_after_holm(n: int, m: int) -> None:
    effect = detectable_difference(1, n, 0.05 / m)
    assert exact_power(effect, n, 0.05 / m) == exact(0.8, abs=1e-6)


@pytest.mark.parametrize("effect", [0.3, 0.5, 1, 1.2, 1.5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_repeats_needed_is_statsmodels(effect: float, level: float) -> None:
    needed = repeats_needed(effect, 1, level)
    assert needed is not None
    assert exact_power(effect, needed, level) >= 0.8 > exact_power(effect, needed - 1, level)
    assert repeats_needed(-3 * effect, 3, level) == needed  # only the size in sd counts


def test_repeats_needed_by_the_table() -> None:
    # research/stats.md: 80 % power at an effect of one sd, Holm's first of 1, 3, 10 steps
    assert [repeats_needed(1, 1, 0.05 / m) for m in (1, 3, 10)] == [10, 14, 18]


@pytest.mark.parametrize("n", [5, 8, 20])
def test_detectable_and_needed_agree(n: int) -> None:
    difference = detectable_difference(0.02, n)
    assert repeats_needed(difference * 1.0001, 0.02) == n
    assert repeats_needed(difference * 0.9999, 0.02) == n + 1


def test_what_more_repeats_would_not_show() -> None:
    assert repeats_needed(0, 1) is None
    assert repeats_needed(0.01, 1) is None  # some 78,000
    assert repeats_needed(1, 1, most=9) is None
    assert repeats_needed(1, 1, most=10) == 10
    assert detectable_difference(0, 5) == 0


def test_equal_differences_of_accuracies_are_ties_whatever_the_rounding() -> None:
    for images in (153, 500):
        b = [400 / 500, 380 / 500, 371 / 500]
        a = [value + 10 / images for value in b]
        assert paired_difference(a, b).p == 2.0 ** (1 - 3)


def test_wins_ties_losses_by_hand() -> None:
    # accuracies of 500 images; the second pair is equal but for rounding
    got = paired_difference([0.9, 0.1 + 0.2, 0.5, 0.7], [0.8, 0.3, 0.6, 0.6])
    assert (got.wins, got.ties, got.losses) == (2, 1, 1)
    assert got.p_greater == (2 + 0.5) / 4
    assert math.isnan(paired_difference([], []).p_greater)


# -- max-T -----------------------------------------------------------------------------------------


def t_size(d: np.ndarray, axis: int = -1) -> np.ndarray:
    return abs(d.mean(axis)) / (d.std(axis, ddof=1) / math.sqrt(d.shape[axis]))


def slow_max_t(d: np.ndarray) -> list[float]:
    """Westfall and Young (1993), algorithm 4.1, pattern by pattern, over all 2^n of them."""
    n, m = d.shape
    observed = [float(t_size(d[:, j])) for j in range(m)]
    order = sorted(range(m), key=lambda j: -observed[j])
    counts = [0] * m
    for signs in itertools.product([1, -1], repeat=n):
        flipped = d * np.array(signs)[:, None]
        for rank, j in enumerate(order):
            rest = max(float(t_size(flipped[:, k])) for k in order[rank:])
            counts[rank] += rest >= observed[j] - 1e-9
    steps = np.maximum.accumulate(np.array(counts) / 2**n)
    return [float(steps[order.index(j)]) for j in range(m)]


@pytest.mark.parametrize("n", [2, 5, 9])
def test_max_t_of_one_is_scipys_sign_flip(n: int) -> None:
    d = np.random.default_rng(n).normal(0.5, 1, n)
    want = stats.permutation_test(
        (d,), t_size, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert max_t(d[:, None]) == exact([want.pvalue], abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4, 2), (6, 3), (7, 4)])
def test_max_t_is_the_slow_one(n: int, m: int) -> None:
    rng = np.random.default_rng(10 * n + m)
    d = rng.normal(size=(n, 1)) + rng.normal(size=(n, m)) + np.linspace(0, 3, m)
    assert max_t(d) == exact(slow_max_t(d), abs=1e-12)


def test_max_t_of_drawn_patterns_is_near_the_exact() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, (15, 1))  # the first n that is not enumerated
    (drawn,) = max_t(d)
    exactly = stats.permutation_test(
        (d[:, 0],), t_size, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    ).pvalue
    assert 0.01 < exactly < 0.5
    assert drawn == exact(exactly, abs=4 * math.sqrt(exactly * (1 - exactly) / 20_000))
    assert max_t(d, seed=1) != max_t(d) == max_t(d)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 5))
def test_max_t_laws(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(n, m)) + rng.normal(0, 2, m)
    got = np.array(max_t(d))
    assert (got >= 2 / 2**n - 1e-12).all() and (got <= 1).all()
    # neither the order of repeats or comparisons, nor a unit, nor which side is which, is seen
    order = rng.permutation(m)
    units = rng.choice([-3, 0.01, 1, 7], m)
    again = np.array(max_t((rng.permutation(d) * units)[:, order]))
    assert again == exact(got[order], abs=1e-12)
    # never below each comparison alone; the larger |t|, the smaller p
    alone = np.array([max_t(d[:, [j]])[0] for j in range(m)])
    assert (got >= alone - 1e-12).all()
    assert (np.diff(got[np.argsort(-t_size(d, 0))]) >= -1e-12).all()


def test_max_t_of_equal_differences() -> None:
    # |t| is infinite where all are equal: for `same` as it is and negated; `mixed` becomes equal,
    # too, under its own two patterns
    zero, same, mixed = [0.0] * 6, [0.01] * 6, [0.01, -0.01] * 3
    assert max_t(np.array([zero, same]).T) == [1.0, 2 / 2**6]
    assert max_t(np.array([zero, same, mixed]).T) == [1.0, 4 / 2**6, 1.0]
    assert all(map(math.isnan, max_t([[0.1, 0.2]])))


# -- one run, and the best of many -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(179, 200, 0.8448, 0.9303), (50, 100, 0.4038, 0.5962), (146, 153, 0.909, 0.978)],
)
def test_wilson_as_tabulated(successes: int, n: int, low: float, high: float) -> None:
    digits = 5e-4 if n == 153 else 5e-5
    assert wilson_interval(successes, n) == exact((low, high), abs=digits)


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_by_its_equation(n: int, share: float, level: float) -> None:
    # its ends are the shares p at which (k/n - p)^2 = z^2 p (1 - p) / n
    k, z = round(share * n), stats.norm.ppf((1 + level) / 2)
    for p in wilson_interval(k, n, level):
        assert (k / n - p) ** 2 == exact(z**2 * p * (1 - p) / n, abs=1e-12)
    low, high = wilson_interval(k, n, level)
    mirrored = wilson_interval(n - k, n, level)
    assert 0 <= low <= k / n + 1e-12 and mirrored == exact((1 - high, 1 - low), abs=1e-12)


def test_bootstrap_corrected_by_hand() -> None:
    # of 2 images a bootstrap draws one twice (else nothing is left to judge by): the configuration
    # that is right there is chosen, and is wrong on the other
    got = bootstrap_corrected([[1, 0], [0, 1]])
    assert (got.corrected, got.low, got.high) == (0, 0, 0)
    # with one configuration there is no choice; each image is left out equally often
    assert bootstrap_corrected([[1, 0, 1, 1]], draws=20_000).corrected == exact(0.75, abs=0.01)


def test_the_best_of_equal_configurations_is_corrected() -> None:
    # BBC-CV: of K = 10 that are right with 0.7, on 150 images, the best seems to be 0.76
    rng = np.random.default_rng(0)
    tables = rng.uniform(size=(200, 10, 150)) < 0.7
    studies = [bootstrap_corrected(table, draws=200) for table in tables]
    naive = tables.mean(2).max(1) - 0.7
    corrected = np.array([s.corrected for s in studies]) - 0.7
    assert naive.mean() > 0.04
    assert abs(corrected.mean()) < 4 * corrected.std(ddof=1) / math.sqrt(len(studies)) + 0.005
    assert all(s.low <= s.corrected <= s.high for s in studies)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(20, 120))
def test_bootstrap_corrected_laws(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.uniform(size=(k, n)) < rng.uniform(0.3, 1, (k, 1))
    got = bootstrap_corrected(correct, draws=400)
    assert got == bootstrap_corrected(correct, draws=400)
    # choosing cannot gain on images that did not choose: above it by the draws' error alone
    naive = correct.mean(1).max()
    error = 4 * math.sqrt(0.25 / (0.36 * n)) / math.sqrt(400)
    assert got.corrected <= naive + error
    # the better by far is chosen always, and its mean is its own
    better = correct[0] * 0.5 + 0.5
    sure = bootstrap_corrected([correct[0] * 0.0, better], draws=400)
    assert sure.corrected == exact(better.mean(), abs=error)


# -- over many studies -----------------------------------------------------------------------------


def within(share: float, n: int) -> float:
    """Four standard errors of a share over n studies."""
    return 4 * math.sqrt(share * (1 - share) / n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_t_interval_covers_what_it_says(n: int) -> None:
    samples = np.random.default_rng(n).normal(0.3, 2, (10_000, n))
    intervals = [mean_interval(sample) for sample in samples]
    covered = np.mean([i.low <= 0.3 <= i.high for i in intervals])
    assert covered == exact(0.95, abs=within(0.95, len(samples)))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(6, 3), (8, 10)])
def test_family_wise_error_without_any_effect(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    studies = 4000
    baseline, others = rng.normal(size=(studies, n, 1)), rng.normal(size=(studies, n, m))
    by_holm = by_max_t = 0
    for d in others - baseline:
        by_holm += min(holm([paired_difference(column, 0 * column).p for column in d.T])) < 0.05
        by_max_t += min(max_t(d)) <= 0.05
    # Holm holds under any dependence; max-T knows of the common baseline and comes close to 5 %,
    # down to the steps of 2 / 2^n
    assert by_holm / studies <= 0.05 + within(0.05, studies)
    steps = math.floor(0.05 / (2 / 2**n)) * (2 / 2**n)
    assert by_max_t / studies == exact(steps, abs=within(steps, studies))
