"""Always-valid p values and intervals: an integral, simulations and laws as references."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from kdtune.statistics.tests import AnytimeTest, anytime_interval, anytime_p


def test_the_bayes_factor_is_that_of_its_integral() -> None:
    """BF = integral of the noncentral t density over the effect's prior / the central density."""
    x = np.array([1.0, 2.5, 0.7, 1.9, 3.1])
    n = len(x)
    t = x.mean() / (x.std(ddof=1) / math.sqrt(n))

    def weighted(effect: float) -> float:
        return float(stats.nct.pdf(t, n - 1, effect * math.sqrt(n)) * stats.norm.pdf(effect))

    bf = integrate.quad(weighted, -8, 8)[0] / stats.t.pdf(t, n - 1)
    assert anytime_p(x) == pytest.approx(1 / bf, rel=1e-6)
    assert anytime_p(x) < anytime_p(x[:-1])


def test_the_error_rate_over_all_interim_analyses_is_at_most_the_level() -> None:
    rng = np.random.default_rng(2)
    for scale, draw in ((3.0, rng.normal), (0.01, rng.normal), (1.0, rng.laplace)):
        samples = (draw(0, scale, size=40) for _ in range(600))
        found = sum(any(anytime_p(x[:n]) <= 0.05 for n in range(2, 41)) for x in samples)
        assert found / 600 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.3])
def test_p_and_interval_agree(level: float) -> None:
    rng = np.random.default_rng(4)
    for n in (2, 3, 5, 12, 40):
        for effect in (0.0, 0.5, 1.0, 3.0):
            x = rng.normal(effect, 1, size=n)
            low, high = anytime_interval(x, level)
            assert (anytime_p(x) <= level) == (low > 0 or high < 0)
            if math.isfinite(low):  # its ends are the means whose p is the level
                assert anytime_p(x - low) == pytest.approx(level)
                assert anytime_p(x - high) == pytest.approx(level)
    assert anytime_interval([0.02] * 9, level) == (-math.inf, math.inf)


def test_an_effect_is_found() -> None:
    rng = np.random.default_rng(3)
    found = [anytime_p(rng.normal(1, 1, size=40)) <= 0.05 for _ in range(200)]
    assert np.mean(found) > 0.95
    assert anytime_p([]) == anytime_p([1.0]) == 1
    assert anytime_p([0.02] * 9) == 1  # equal differences have no t


# -- new images ------------------------------------------------------------------------------------


def draw_table(
    rng: np.random.Generator, shape: tuple[int, int], mean: float, of_image: float = 0.2
) -> np.ndarray:
    """Draw differences [R, N]: normal effects of repeats (sd 0.01), images and noise (0.3)."""
    table = mean + rng.normal(0, 0.01, (shape[0], 1)) + rng.normal(0, of_image, shape[1])
    return table + rng.normal(0, 0.3, shape)


def ends(table: np.ndarray, level: float = 0.05) -> tuple[bool, bool, bool]:
    """Return whether a study that looks after each repeat ends decided or undecidable.

    The third is whether the test over repeats alone would have decided it.
    """
    decided = undecidable = alone = False
    for n in range(2, len(table) + 1):
        means = table[:n].mean(1).tolist()
        alone = alone or anytime_p(means) <= level
        if not (decided or undecidable):
            test = AnytimeTest.of(means, table[:n])
            decided = test.excludes_0(level)
            undecidable = not decided and test.is_undecidable(level)
    return decided, undecidable, alone


def test_false_decisions_about_new_images_are_at_most_the_level() -> None:
    """In half of the studies 20 looks at 200 images end with one over repeats alone."""
    rng = np.random.default_rng(5)
    decided, undecidable, alone = np.mean(
        [ends(draw_table(rng, (20, 200), 0)) for _ in range(200)], 0
    )
    assert decided <= 0.05 and alone > 0.25 and undecidable > 0.4


def test_a_difference_that_images_can_show_is_found() -> None:
    """The part of 500 images is 2.3 x 0.2 / sqrt(500) = 2 points, a true difference of 5."""
    rng = np.random.default_rng(6)
    decided, undecidable, _ = np.mean(
        [ends(draw_table(rng, (16, 500), 0.05)) for _ in range(60)], 0
    )
    assert decided > 0.8 and undecidable == 0
    # 3 points where the images have no effect of their own
    found = [ends(draw_table(rng, (24, 500), 0.03, of_image=0.0)) for _ in range(60)]
    assert np.mean(found, 0)[0] > 0.9


def test_a_two_way_interval_by_hand() -> None:
    rng = np.random.default_rng(8)
    table = draw_table(rng, (9, 60), 0.1)
    means = table.mean(1)
    ms_image = 9 * table.mean(0).var(ddof=1)
    of_images = stats.t.ppf(1 - 0.05 / 4, 59) * math.sqrt(ms_image / (9 * 60))
    low, high = anytime_interval(means, 0.025)
    test = AnytimeTest.of(means, table)
    assert test.interval(0.05) == (pytest.approx(low - of_images), pytest.approx(high + of_images))
    # p is the level at which an end is 0
    assert 0.05 < test.p < 1
    assert min(map(abs, test.interval(test.p))) == pytest.approx(0, abs=1e-9)
    assert test.excludes_0(1.001 * test.p) and not test.excludes_0(0.999 * test.p)


def test_without_images_it_is_the_test_over_repeats() -> None:
    x = [1.0, 2.5, 0.7, 1.9, 3.1]
    for test in (AnytimeTest.of(x), AnytimeTest.of(x, np.array(x)[:, None])):
        assert test.p == anytime_p(x) and test.interval(0.05) == anytime_interval(x, 0.05)
        assert not test.is_undecidable(0.05)
    assert AnytimeTest.of([]).p == AnytimeTest.of([1.0], np.ones((1, 3))).p == 1
    assert AnytimeTest.of([0.02] * 5, np.full((5, 50), 0.02)).p == 1


def test_undecidable_by_hand() -> None:
    """Equal effects of images in all repeats: only their part, 2.3 sd / sqrt(N), is left."""
    images = np.tile([1.0, -1.0], 50)
    repeats = np.linspace(-0.001, 0.001, 12)[:, None]
    limit = stats.t.ppf(1 - 0.05 / 4, 99) * images.std(ddof=1) / 10
    for mean, undecidable in ((0.9 * limit, True), (1.1 * limit, False)):
        table = mean + images + repeats
        test = AnytimeTest.of(table.mean(1), table)
        assert test.least_decidable(0.05) == pytest.approx(limit, rel=1e-6)
        assert test.is_undecidable(0.05) == undecidable
        assert test.excludes_0(0.05) != undecidable
