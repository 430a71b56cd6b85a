"""Power against statsmodels, tabulated numbers and laws."""

import math

import pytest
from statsmodels.stats.power import TTestPower

from kdtune.statistics.power import detectable_difference, repeats_needed

exact = pytest.approx


def exact_power(effect: float, n: int, level: float) -> float:
    return float(TTestPower().power(effect, n, level, alternative="two-sided"))


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


def test_one_repeat_detects_nothing() -> None:
    assert math.isnan(detectable_difference(1, 1))


@pytest.mark.parametrize("effect", [0.3, 0.5, 1, 1.2, 1.5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_repeats_needed_is_statsmodels(effect: float, level: float) -> None:
    needed = repeats_needed(effect, 1, level)
    assert needed is not None
    assert exact_power(effect, needed, level) >= 0.8 > exact_power(effect, needed - 1, level)
    assert repeats_needed(-3 * effect, 3, level) == needed  # only |effect| in sd counts


def test_repeats_needed_by_the_table() -> None:
    # 80 % power at an effect of one sd, at the first of Holm's 1, 3, 10 steps
    assert [repeats_needed(1, 1, 0.05 / m) for m in (1, 3, 10)] == [10, 14, 18]


@pytest.mark.parametrize("n", [5, 8, 20])
def test_detectable_and_needed_agree(n: int) -> None:
    difference = detectable_difference(0.02, n)
    assert repeats_needed(difference * 1.0001, 0.02) == n
    assert repeats_needed(difference * 0.9999, 0.02) == n + 1


def test_differences_that_no_feasible_number_of_repeats_detects() -> None:
    assert repeats_needed(0, 1) is None
    assert repeats_needed(0.01, 1) is None  # some 78,000
    assert repeats_needed(1, 1, most=9) is None
    assert repeats_needed(1, 1, most=10) == 10
    assert detectable_difference(0, 5) == 0
