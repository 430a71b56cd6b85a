"""Intervals and paired comparisons against scipy, hand-worked numbers and laws.

The sleep data are Student's (1908), with the numbers that R documents for its t test.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdtune.statistics.intervals import (
    mean_interval,
    paired_difference,
    unpaired_difference,
    wilson_interval,
)

# extra hours of sleep under two drugs, ten patients
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)

exact = pytest.approx
samples = st.lists(st.floats(-100, 100), min_size=3, max_size=12)


def test_mean_interval_by_hand() -> None:
    interval = mean_interval([1, 2, 3])
    assert (interval.mean, interval.sd, interval.n) == (2, 1, 3)
    # t(0.975, 2 df) = 4.302653, over the root of 3
    assert interval.half_width == exact(4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.high - interval.mean == exact(interval.mean - interval.low)
    # n = 2: sd = |a - b| / root of 2, but no interval: t(0.975, 1 df) = 12.7
    two = mean_interval([0, 2])
    assert (two.mean, two.n, two.sd) == (1, 2, exact(math.sqrt(2), abs=1e-15))
    assert math.isnan(two.low) and math.isnan(two.high)
    # of a share: 0.5 -+ 4.302653 * 0.4 / sqrt(3) lies outside of [0, 1]
    share = mean_interval([0.1, 0.5, 0.9], bounds=(0, 1))
    assert (share.low, share.high) == (0, 1)


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


def test_too_few_repeats_for_a_spread() -> None:
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


def test_equal_numbers_have_no_spread() -> None:
    interval = mean_interval([0.5, 0.5, 0.5])
    assert (interval.mean, interval.sd, interval.n) == (0.5, 0, 3)
    assert math.isnan(interval.low) and math.isnan(interval.high)


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


def test_three_repeats_by_hand() -> None:
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = sqrt(12) with two df:
    # p = 1 - t / sqrt(2 + t^2)
    got = paired_difference([2, 4, 5], [1, 2, 2])
    assert got.interval.mean == 2
    assert got.p == exact(1 - math.sqrt(12 / 14), rel=1e-9)


def test_two_repeats_are_too_few() -> None:
    got = paired_difference([2, 5], [1, 2])
    assert (got.interval.mean, got.interval.n, got.wins) == (2, 2, 2)
    assert all(map(math.isnan, (got.p, got.correlation, got.interval.low)))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_paired_difference_laws(seed: int, n: int) -> None:
    a, b, both = np.random.default_rng(seed).normal(size=(3, n))
    got = paired_difference(a, b)
    assert got.p == exact(stats.ttest_rel(a, b).pvalue, rel=1e-8)
    swapped = paired_difference(b, a)
    assert swapped.p == exact(got.p)
    assert (swapped.interval.low, swapped.interval.high) == exact(
        (-got.interval.high, -got.interval.low)
    )
    # a shared effect of any size changes nothing
    shifted = paired_difference(a + 10 * both, b + 10 * both)
    assert shifted.p == exact(got.p, rel=1e-6)
    # nor does the order of the repeats
    assert paired_difference(a[::-1], b[::-1]).p == exact(got.p, rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 20), st.sampled_from([0, 0.002, 0.05]))
def test_the_paired_t_test_is_scipys(seed: int, n: int, effect: float) -> None:
    """To the rounding of t: the relative error of p is at most n times that of t."""
    a, b = np.random.default_rng(seed).normal(0.7, 0.01, size=(2, n))
    want = stats.ttest_rel(a + effect, b)
    got = paired_difference(a + effect, b)
    assert got.p == exact(want.pvalue, rel=1e-12 * n)
    ends = want.confidence_interval(0.95)
    assert (got.interval.low, got.interval.high) == exact(
        (ends.low, ends.high), rel=1e-12, abs=1e-15
    )


@pytest.mark.parametrize("n", [3, 4, 8, 20, 1000])
def test_students_distribution_is_that_of_scipy_stats(n: int) -> None:
    """Bit for bit: scipy.stats takes its quantiles and tails from scipy.special, too."""
    a = np.random.default_rng(n).normal(size=n)
    got, t = paired_difference(a, 0 * a), a.mean() / (a.std(ddof=1) / math.sqrt(n))
    assert got.p == 2 * stats.t.sf(abs(t), n - 1)
    half = stats.t.ppf(0.975, n - 1) * a.std(ddof=1) / math.sqrt(n)
    assert got.interval.high == a.mean() + half


def test_ties() -> None:
    same = paired_difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (same.interval.mean, same.p) == (0, 1)
    assert math.isnan(same.interval.low)
    assert same.correlation == exact(1)
    flat = paired_difference([0.5] * 3, [0.5] * 3)
    assert flat.p == 1
    assert math.isnan(flat.correlation)
    assert paired_difference([1.5, 2.5, 3.5], [1, 2, 3]).p == 0.25  # sign-flip: 2 / 2^3


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


@pytest.mark.filterwarnings("ignore:Precision loss")  # of scipy, for samples that are constant
@settings(deadline=None)
@given(samples, samples, st.sampled_from([0.8, 0.95, 0.99]))
def test_unpaired_difference_is_scipys_welch_test(a: list, b: list, level: float) -> None:
    got = unpaired_difference(a, b, level)
    if max(np.std(a), np.std(b)) < 1e-6 * max(map(abs, (*a, *b, 1))):  # scipy warns of rounding
        return
    want = stats.ttest_ind(a, b, equal_var=False)
    interval = want.confidence_interval(level)
    numbers = (want.pvalue, want.df, interval.low, interval.high)
    assert (got.p, got.df, got.low, got.high) == exact(numbers, rel=1e-6, abs=1e-9)
    assert got.difference == exact(np.mean(a) - np.mean(b), abs=1e-12)


def test_the_unit_of_unpaired_samples_does_not_matter() -> None:
    """Also if the square of their variance is less than the least number."""
    one = unpaired_difference([0.0, 0.0, 0.0], [0.0, 1.0, 1.0])
    tiny = unpaired_difference([0.0, 0.0, 0.0], [0.0, 1e-122, 1e-122])
    assert (tiny.p, tiny.df) == exact((one.p, one.df), rel=1e-12)
    assert tiny.high == exact(1e-122 * one.high, rel=1e-12, abs=0)


def test_unpaired_difference_of_the_sleep_data() -> None:
    # R: t.test(extra ~ group): t = -1.8608, df = 17.776, p = 0.07939, -3.3654832 to 0.2054832
    got = unpaired_difference(DRUG_1, DRUG_2)
    assert (got.df, got.p) == (exact(17.776, abs=5e-4), exact(0.07939, abs=5e-6))
    assert (got.low, got.high) == exact((-3.3654832, 0.2054832), abs=5e-8)


def test_unpaired_difference_of_constant_samples_and_of_too_few() -> None:
    assert unpaired_difference([2, 2, 2], [1, 1, 1]).p == 2 / 20  # of C(6, 3), both extremes
    assert unpaired_difference([2] * 4, [1] * 3).p == 1 / 35  # of C(7, 3), the other is -3/4
    assert unpaired_difference([1] * 4, [1] * 3).p == 1
    one = unpaired_difference([2, 2], [1, 2, 3])
    assert one.difference == 0 and math.isnan(one.p) and math.isnan(one.low)
    assert math.isnan(unpaired_difference([], [1, 2]).difference)


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


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(level: float) -> None:
    for n in (1, 2, 7, 153, 500, 10_000):
        for successes in {0, 1, n // 3, n - 1, n}:
            want = stats.binomtest(successes, n).proportion_ci(level, "wilson")
            assert wilson_interval(successes, n, level) == (want.low, want.high)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 4, 8])
def test_the_t_interval_covers_what_it_says(n: int) -> None:
    samples = np.random.default_rng(n).normal(0.3, 2, (10_000, n))
    intervals = [mean_interval(sample) for sample in samples]
    covered = np.mean([i.low <= 0.3 <= i.high for i in intervals])
    four_standard_errors = 4 * math.sqrt(0.95 * 0.05 / len(samples))
    assert covered == exact(0.95, abs=four_standard_errors)
