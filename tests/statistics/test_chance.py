"""The test of an accuracy against chance: numbers worked by hand, and scipy's own test."""

import pytest
from scipy.stats import binomtest

from kdtune.statistics.intervals import binomial_p, chance_level


def test_worked_by_hand() -> None:
    # 3 or 4 of 4 with a fair coin: (4 + 1) / 16
    assert binomial_p(3, 4, 0.5) == pytest.approx(5 / 16, rel=1e-12)
    # 2 of 2 where one in three is right
    assert binomial_p(2, 2, 1 / 3) == pytest.approx(1 / 9, rel=1e-12)
    assert binomial_p(0, 4, 0.5) == 1.0
    assert binomial_p(4, 4, 1.0) == 1.0  # one class only: nothing can be better than chance


@pytest.mark.parametrize(
    ("correct", "n", "chance"), [(55, 500, 0.1), (90, 153, 0.542), (1, 9, 0.1)]
)
def test_as_scipy(correct: int, n: int, chance: float) -> None:
    want = binomtest(correct, n, chance, alternative="greater").pvalue
    assert binomial_p(correct, n, chance) == pytest.approx(want, rel=1e-9)


def test_chance_is_the_largest_class_or_one_in_k() -> None:
    assert chance_level(80, 100, 10) == 0.8
    assert chance_level(1, 20, 10) == 0.1  # few examples: no class of a split can be rarer
