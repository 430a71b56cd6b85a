"""Intervals and comparisons against scipy, statsmodels, hand-worked numbers and laws.

The sleep data are Student's (1908), with the numbers that R documents for its t test.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from kdtune.stats import (
    detectable_difference,
    holm,
    mean_interval,
    paired_difference,
    repeats_needed,
)

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
