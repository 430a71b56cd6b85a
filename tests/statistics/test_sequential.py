"""Always-valid p values and intervals: an integral, simulations and laws as references."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from kdtune.statistics.sequential import anytime_interval, anytime_p


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
