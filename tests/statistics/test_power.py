"""Power against statsmodels, tabulated numbers, simulations and laws."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from kdtune.statistics.intervals import Components, crossed
from kdtune.statistics.tests import detectable_difference, repeats_needed, shrunk

exact = pytest.approx
NAN = math.nan


def repeats_alone(sd: float) -> Components:
    """Return the components of differences that vary with this SD over repeats alone."""
    return Components(sd**2, NAN, NAN)


def exact_power(effect: float, n: int, level: float) -> float:
    return float(TTestPower().power(effect, n, level, alternative="two-sided"))


@pytest.mark.parametrize("n", [3, 4, 5, 8, 16, 50])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.9])
def test_over_repeats_alone_it_is_statsmodels(n: int, power: float) -> None:
    want = TTestPower().solve_power(None, n, 0.05, power, alternative="two-sided")
    one, other = repeats_alone(1), repeats_alone(2.5)
    assert detectable_difference(one, n, NAN, power=power) == exact(want, rel=1e-5)
    assert detectable_difference(other, n, NAN, power=power) == exact(2.5 * want, rel=1e-5)


@pytest.mark.parametrize("m", [1, 4, 10])
@pytest.mark.parametrize("n", [8, 12, 20])
def test_detectable_difference_after_holm(n: int, m: int) -> None:
    effect = detectable_difference(repeats_alone(1), n, NAN, 0.05 / m)
    assert exact_power(effect, n, 0.05 / m) == exact(0.8, abs=1e-6)


def test_two_repeats_detect_nothing() -> None:
    assert math.isnan(detectable_difference(repeats_alone(1), 2, NAN))


@pytest.mark.parametrize("effect", [0.3, 0.5, 1, 1.2, 1.5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_repeats_needed_is_statsmodels(effect: float, level: float) -> None:
    needed = repeats_needed(effect, repeats_alone(1), level=level)
    assert needed is not None
    assert exact_power(effect, needed, level) >= 0.8 > exact_power(effect, needed - 1, level)
    # only |effect| in sd counts
    assert repeats_needed(-3 * effect, repeats_alone(3), level=level) == needed


def test_repeats_needed_by_the_table() -> None:
    # 80 % power at an effect of one sd, at the first of Holm's 1, 3, 10 steps
    needed = [repeats_needed(1, repeats_alone(1), level=0.05 / m) for m in (1, 3, 10)]
    assert needed == [10, 14, 18]


@pytest.mark.parametrize("images", [NAN, 500])
@pytest.mark.parametrize("n", [5, 8, 20])
def test_detectable_and_needed_agree(n: int, images: float) -> None:
    parts = repeats_alone(0.02) if math.isnan(images) else Components(4e-4, 0.04, 0.09)
    difference = detectable_difference(parts, n, images)
    assert repeats_needed(difference * 1.0001, parts, images) == n
    assert repeats_needed(difference * 0.9999, parts, images) == n + 1


def test_differences_that_no_feasible_number_of_repeats_detects() -> None:
    one = repeats_alone(1)
    assert repeats_needed(0, one) is None
    assert repeats_needed(0.01, one) is None  # some 78,000
    assert repeats_needed(1, one, most=9) is None
    assert repeats_needed(1, one, most=10) == 10
    assert detectable_difference(repeats_alone(0), 5, NAN) == 0


def test_the_limit_that_images_set() -> None:
    """By hand: sd 0.2 over 100 images gives an error of 0.02 with 99 degrees of freedom."""
    parts = Components(0.01, 0.04, 0.5)
    limit = detectable_difference(parts, math.inf, 100)
    df, critical = 99, stats.t.ppf(0.975, 99)
    power = stats.nct.sf(critical, df, limit / 0.02) + stats.nct.cdf(-critical, df, limit / 0.02)
    assert power == exact(0.8, abs=1e-6)
    falling = [detectable_difference(parts, n, 100) for n in (4, 8, 100, 10_000)]
    assert falling == sorted(falling, reverse=True) and falling[-1] == exact(limit, rel=1e-2)
    assert repeats_needed(0.99 * limit, parts, 100, most=10**6) is None


def test_the_two_way_t_test_has_the_power_stated() -> None:
    rng, parts, shape = np.random.default_rng(0), Components(1e-3, 0.5, 1.0), (8, 120)
    difference = detectable_difference(parts, *shape)
    found = 0
    for _ in range(1500):
        table = difference + rng.normal(0, math.sqrt(parts.repeat), (shape[0], 1))
        table = table + rng.normal(0, math.sqrt(parts.image), shape[1])
        found += crossed(table + rng.normal(0, math.sqrt(parts.rest), shape)).p < 0.05
    assert found / 1500 == exact(0.8, abs=4 * math.sqrt(0.16 / 1500))


def test_the_shrunk_estimate_is_the_posterior_mean_of_its_integral() -> None:
    """tau ~ half-Cauchy(2 errors), by quadrature: E[d tau^2 / (tau^2 + e^2) | d]."""
    d, e = np.array([2.0, 0.5, -1.0]), 1.0
    t = np.linspace(1e-6, 4000, 2_000_001)
    weight = np.prod([stats.norm.pdf(x, 0, np.sqrt(t**2 + e)) for x in d], 0) / (1 + (t / 2) ** 2)
    want = 2 * np.trapezoid(weight * t**2 / (t**2 + e), t) / np.trapezoid(weight, t)
    assert shrunk(d.tolist(), [e] * 3, 0) == exact(want, rel=1e-2)
    assert shrunk([2.0, 0.1, -0.2, 0.3], [1.0] * 4, 0) < shrunk([2.0], [1.0], 0) < 2
    assert shrunk([20.0], [1.0], 0) > 19.5  # a clear difference stays


@pytest.mark.parametrize("m", [1, 4, 10, 26])
@pytest.mark.parametrize("share_of_zeros", [0.0, 0.5])
def test_advised_repeats_are_not_too_few(m: int, share_of_zeros: float) -> None:
    """200 studies of 8 repeats without a significant difference, all true differences small.

    Each is 0 or 0.5 to 1 standard error. The best configuration is named, as the verdict does.
    """
    rng, n, level = np.random.default_rng(m), 8, 0.05 / m
    error = math.sqrt(2 / n)
    needed, advised, naive = [], [], []
    while len(needed) < 200:
        true = rng.uniform(0.5, 1, m) * error * (rng.uniform(size=m) >= share_of_zeros * (m > 1))
        scores = true[:, None] + rng.normal(size=(m, n)) - rng.normal(size=n)
        d, sd = scores.mean(1), scores.std(1, ddof=1)
        best = int(d.argmax())
        p = 2 * stats.t.sf(d[best] / sd[best] * math.sqrt(n), n - 1)
        if d[best] <= 0 or p < level:
            continue
        parts = repeats_alone(sd[best])
        gain = shrunk(d.tolist(), (sd / math.sqrt(n)).tolist(), best)
        most = {"level": level, "most": 20_000}
        needed.append(repeats_needed(true[best], repeats_alone(math.sqrt(2)), **most) or math.inf)
        advised.append(repeats_needed(gain, parts, **most) or math.inf)
        naive.append(repeats_needed(d[best], parts, **most) or math.inf)
    assert np.median(advised) >= np.median(needed)
    assert np.median(naive) < 0.7 * np.median(needed)
