"""Estimates over repeats and images, against hand-worked numbers, a reference and their law."""

import math

import numpy as np
import pytest
from scipy import stats

from kdtune.statistics.intervals import Components, components, crossed, over_repeats

TABLE = np.array([[1.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 3.0], [2.0, 1.0, 3.0, 4.0]])
"""3 repeats of 4 images."""


def test_a_table_worked_by_hand() -> None:
    """Mean squares 9.5/2 = 3, 4.75 ... of `TABLE`, computed with fractions."""
    # means: rows 1, 1, 5/2; columns 1, 1/3, 2, 8/3; all 3/2
    ms_repeat = 4 * (0.25 + 0.25 + 1) / 2
    ms_image = 3 * (1 / 4 + 49 / 36 + 1 / 4 + 49 / 36) / 3
    total = sum((x - 1.5) ** 2 for x in TABLE.ravel())
    ms_rest = (total - 2 * ms_repeat - 3 * ms_image) / 6
    variance = (ms_repeat + ms_image - ms_rest) / 12
    df = variance**2 / (
        (ms_repeat / 12) ** 2 / 2 + (ms_image / 12) ** 2 / 3 + (ms_rest / 12) ** 2 / 6
    )
    estimate = crossed(TABLE)
    assert estimate.mean == pytest.approx(1.5)
    assert estimate.error == pytest.approx(math.sqrt(variance))
    assert estimate.df == pytest.approx(max(df, 2))
    low, high = estimate.interval(0.9)
    half = stats.t.ppf(0.95, estimate.df) * estimate.error
    assert (low, high) == (pytest.approx(1.5 - half), pytest.approx(1.5 + half))
    p = 2 * stats.t.sf(1.5 / estimate.error, estimate.df)
    p_here = 2 * stats.t.sf(1.5 / math.sqrt(ms_repeat / 12), 2)
    assert estimate.p == pytest.approx(max(p, p_here))
    parts = components(TABLE)
    assert parts.repeat == pytest.approx((ms_repeat - ms_rest) / 4)
    assert parts.image == pytest.approx((ms_image - ms_rest) / 3)
    assert parts.rest == pytest.approx(ms_rest)
    assert parts.error(3, 4) == pytest.approx(estimate.error)
    assert sum(parts.shares(3, 4)) == pytest.approx(1)


def test_over_repeats_is_the_t_test_of_scipy() -> None:
    sample = np.random.default_rng(0).normal(0.3, 1, 7)
    reference, estimate = stats.ttest_1samp(sample, 0), over_repeats(sample)
    interval = reference.confidence_interval(0.95)
    assert estimate.p == pytest.approx(reference.pvalue)
    assert estimate.interval() == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("repeats", [1, 2])
def test_two_repeats_give_no_interval(repeats: int) -> None:
    table = np.random.default_rng(0).normal(size=(repeats, 9))
    for estimate in (crossed(table), over_repeats(table.mean(1))):
        assert estimate.mean == pytest.approx(table.mean())
        assert all(map(math.isnan, (estimate.error, estimate.p, *estimate.interval())))


def test_equal_numbers_give_no_interval() -> None:
    """Nothing varies, so that nothing is known about new repeats."""
    for table in (np.zeros((6, 5)), np.full((6, 5), 0.1)):
        assert math.isnan(crossed(table).error) and math.isnan(over_repeats(table.mean(1)).error)


def test_equal_repeats_still_vary_over_images() -> None:
    """Six equal differences, each of the same image: the error is that of the images."""
    row = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    estimate = crossed(np.tile(row, (6, 1)))
    assert estimate.error == pytest.approx(row.std(ddof=1) / math.sqrt(5))
    assert math.isnan(over_repeats(np.tile(row, (6, 1)).mean(1)).error)


def test_new_images_never_narrow_an_interval() -> None:
    """Repeats that dominate: the interval is Student's over repeats, and p is its p value."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        table = rng.normal(0, 1, (4, 1)) + rng.normal(0, 1, (4, 30))
        reference = stats.ttest_1samp(table.mean(1), 0)
        estimate = crossed(table)
        for level in (0.95, 0.998):
            alone = reference.confidence_interval(level)
            low, high = estimate.interval(level)
            assert low <= alone.low + 1e-12 and high >= alone.high - 1e-12
        assert estimate.p >= reference.pvalue * (1 - 1e-9)


def test_far_tails_hold_their_level_with_few_repeats() -> None:
    """4 repeats vary 10 times as much as the images: errors at 1 % stay below 1.4 %, not 2 %."""
    rng, draws = np.random.default_rng(4), 4000
    repeat, image = rng.normal(0, math.sqrt(10), (draws, 4, 1)), rng.normal(0, 5, (draws, 1, 25))
    found = sum(crossed(own).p < 0.01 for own in repeat + image)
    assert found / draws < 0.014


@pytest.mark.parametrize(("repeats", "images"), [(4, 153), (8, 500), (16, 153)])
def test_intervals_cover_the_mean_of_the_population(repeats: int, images: int) -> None:
    """1,500 draws of normal effects: at least 94 %, where repeats alone cover at most 90 %."""
    rng, true, draws = np.random.default_rng(repeats), Components(0.02, 3.0, 1.0), 1500
    covered = alone = 0
    for _ in range(draws):
        table = rng.normal(0, math.sqrt(true.repeat), (repeats, 1))
        table = table + rng.normal(0, math.sqrt(true.image), images)
        table = table + rng.normal(0, math.sqrt(true.rest), (repeats, images))
        low, high = crossed(table).interval()
        covered += low <= 0 <= high
        low, high = over_repeats(table.mean(1)).interval()
        alone += low <= 0 <= high
    assert 0.935 <= covered / draws <= 0.985
    assert alone / draws <= 0.9


def test_degrees_of_freedom_of_a_design() -> None:
    """Those of the table whose components these are; without images those of the t test."""
    parts, estimate = components(TABLE), crossed(TABLE)
    assert parts.df(3, 4) == pytest.approx(estimate.df)
    alone = Components(4.0, math.nan, math.nan)
    assert (alone.df(9, math.nan), alone.error(9, math.nan)) == (8, pytest.approx(2 / 3))
    images = Components(1.0, 2.0, 3.0)
    assert images.df(math.inf, 50) == pytest.approx(49)
    assert images.error(math.inf, 50) == pytest.approx(0.2)
    assert Components(1.0, 0.0, 0.0).df(6, 1000) == pytest.approx(5)
