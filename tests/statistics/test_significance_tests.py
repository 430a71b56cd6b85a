"""Adjusted p values, power and always-valid tests, against statsmodels, scipy and laws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from kdtune.statistics.intervals import Components, crossed
from kdtune.statistics.tests import (
    AnytimeTest,
    anytime_interval,
    anytime_p,
    detectable_difference,
    detectable_effect,
    holm,
    max_t,
    non_inferiority,
    repeats_needed,
    shrunk,
    units_needed,
)

exact = pytest.approx


def test_holm() -> None:
    # 4 x .01, 3 x .03, max(.09, 2 x .04), .5: without the running maximum .04 became .08
    assert holm([0.01, 0.04, 0.03, 0.5]) == exact([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.6, 0.7]) == [1, 1]
    # and against statsmodels
    p_values = np.random.default_rng(13).uniform(0, 0.2, 13).round(2)  # some are equal
    want = multipletests(p_values, method="holm")[1]
    assert holm(list(p_values)) == exact(list(want), rel=1e-12, abs=1e-15)


def t_size(d: np.ndarray, axis: int = -1) -> np.ndarray:
    return abs(d.mean(axis)) / (d.std(axis, ddof=1) / math.sqrt(d.shape[axis]))


def slow_max_t(d: np.ndarray) -> list[float]:
    """Return max-T p values by Westfall and Young (1993), algorithm 4.1, over all 2^n patterns."""
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


def sign_flip_p(d: np.ndarray) -> float:
    """Return scipy's p value over all sign patterns of differences [n]."""
    options = {"permutation_type": "samples", "n_resamples": np.inf, "alternative": "greater"}
    return float(stats.permutation_test((d,), t_size, **options).pvalue)


@pytest.mark.parametrize(("n", "m"), [(2, 1), (5, 1), (4, 2), (6, 3), (7, 4)])
def test_max_t_is_the_slow_one(n: int, m: int) -> None:
    rng = np.random.default_rng(10 * n + m)
    d = rng.normal(size=(n, 1)) + rng.normal(size=(n, m)) + np.linspace(0, 3, m)
    assert max_t(d) == exact(slow_max_t(d), abs=1e-12)


def test_max_t_of_drawn_patterns_and_of_equal_differences() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, (15, 1))  # the first n that is not enumerated
    (drawn,), exactly = max_t(d), sign_flip_p(d[:, 0])
    assert 0.01 < exactly < 0.5
    assert drawn == exact(exactly, abs=4 * math.sqrt(exactly * (1 - exactly) / 20_000))
    assert max_t(d, seed=1) != max_t(d) == max_t(d)
    # |t| is infinite where all are equal: for `same` as it is and negated; `mixed` becomes equal,
    # too, under its own two patterns
    zero, same, mixed = [0.0] * 6, [0.01] * 6, [0.01, -0.01] * 3
    assert max_t(np.array([zero, same]).T) == [1.0, 2 / 2**6]
    assert max_t(np.array([zero, same, mixed]).T) == [1.0, 4 / 2**6, 1.0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 5))
def test_max_t_laws(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(n, m)) + rng.normal(0, 2, m)
    got = np.array(max_t(d))
    assert (got >= 2 / 2**n - 1e-12).all() and (got <= 1).all()
    # order of repeats and comparisons, units and signs change nothing
    order = rng.permutation(m)
    units = rng.choice([-3, 0.01, 1, 7], m)
    again = np.array(max_t((rng.permutation(d) * units)[:, order]))
    assert again == exact(got[order], abs=1e-12)
    # never below each comparison alone; the larger |t|, the smaller p
    alone = np.array([max_t(d[:, [j]])[0] for j in range(m)])
    assert (got >= alone - 1e-12).all()
    assert (np.diff(got[np.argsort(-t_size(d, 0))]) >= -1e-12).all()


NAN = math.nan


def repeats_alone(sd: float) -> Components:
    """Return the components of differences that vary with this SD over repeats alone."""
    return Components(sd**2, NAN, NAN)


def exact_power(effect: float, n: int, level: float) -> float:
    return float(TTestPower().power(effect, n, level, alternative="two-sided"))


DESIGNS = [(n, power, 0.05) for n in (3, 5, 16, 50) for power in (0.5, 0.9)]
DESIGNS += [(n, 0.8, 0.05 / m) for n in (8, 20) for m in (1, 4, 10)]
DESIGNS += [(79, 0.8, 0.05 / 4)]  # where scipy takes minutes for the power of large effects


@pytest.mark.parametrize(("n", "power", "level"), DESIGNS)
def test_over_repeats_alone_it_is_statsmodels(n: int, power: float, level: float) -> None:
    want = TTestPower().solve_power(None, n, level, power, alternative="two-sided")
    for sd in (1, 2.5):
        got = detectable_difference(repeats_alone(sd), n, NAN, level, power=power)
        assert got == exact(sd * want, rel=1e-5)


@pytest.mark.parametrize("effect", [0.3, 1, 1.5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_repeats_needed_is_statsmodels(effect: float, level: float) -> None:
    needed = repeats_needed(effect, repeats_alone(1), NAN, level)
    assert needed is not None
    assert exact_power(effect, needed, level) >= 0.8 > exact_power(effect, needed - 1, level)
    # only |effect| in sd counts
    assert repeats_needed(-3 * effect, repeats_alone(3), NAN, level) == needed


@pytest.mark.parametrize("images", [NAN, 500])
@pytest.mark.parametrize("n", [5, 8, 20])
def test_detectable_and_needed_agree(n: int, images: float) -> None:
    parts = repeats_alone(0.02) if math.isnan(images) else Components(4e-4, 0.04, 0.09)
    difference = detectable_difference(parts, n, images)
    assert repeats_needed(difference * 1.0001, parts, images) == n
    assert repeats_needed(difference * 0.9999, parts, images) == n + 1


def test_differences_that_no_feasible_number_of_repeats_detects() -> None:
    one = repeats_alone(1)
    assert math.isnan(detectable_difference(one, 2, NAN))
    assert repeats_needed(0, one, NAN) is None
    assert repeats_needed(0.01, one, NAN) is None  # some 78,000
    assert repeats_needed(1, one, NAN, most=9) is None
    assert repeats_needed(1, one, NAN, most=10) == 10
    assert detectable_difference(repeats_alone(0), 5, NAN) == 0
    # 80 % power at an effect of one sd, at the first of Holm's 1, 3, 10 steps
    assert [repeats_needed(1, one, NAN, 0.05 / m) for m in (1, 3, 10)] == [10, 14, 18]


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
    want = 2 * integrate.trapezoid(weight * t**2 / (t**2 + e), t) / integrate.trapezoid(weight, t)
    assert shrunk(d.tolist(), [e] * 3, 0) == exact(want, rel=1e-2)
    assert shrunk([2.0, 0.1, -0.2, 0.3], [1.0] * 4, 0) < shrunk([2.0], [1.0], 0) < 2
    assert shrunk([20.0], [1.0], 0) > 19.5  # a clear difference stays


@pytest.mark.parametrize(("m", "share_of_zeros"), [(1, 0.0), (4, 0.0), (10, 0.5), (26, 0.5)])
def test_advised_repeats_are_not_too_few(m: int, share_of_zeros: float) -> None:
    """200 studies of 8 repeats without a significant difference, all true differences small.

    Each is 0 or 0.5 to 1 standard error. The best configuration is named, as the verdict does.
    """
    rng, n, level = np.random.default_rng(m), 8, 0.05 / m
    error = math.sqrt(2 / n)
    needed, advised, naive = [], [], []
    while len(needed) < 200:
        true = rng.uniform(0.5, 1, m) * error * (rng.uniform(size=m) >= share_of_zeros)
        scores = true[:, None] + rng.normal(size=(m, n)) - rng.normal(size=n)
        d, sd = scores.mean(1), scores.std(1, ddof=1)
        best = int(d.argmax())
        p = 2 * stats.t.sf(d[best] / sd[best] * math.sqrt(n), n - 1)
        if d[best] <= 0 or p < level:
            continue
        parts = repeats_alone(sd[best])
        gain = shrunk(d.tolist(), (sd / math.sqrt(n)).tolist(), best)
        most = {"level": level, "most": 20_000, "images": NAN}
        needed.append(repeats_needed(true[best], repeats_alone(math.sqrt(2)), **most) or math.inf)
        advised.append(repeats_needed(gain, parts, **most) or math.inf)
        naive.append(repeats_needed(d[best], parts, **most) or math.inf)
    assert np.median(advised) >= np.median(needed)
    assert np.median(naive) < 0.7 * np.median(needed)


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


def test_an_effect_is_detected_and_without_images_it_is_the_test_over_repeats() -> None:
    rng = np.random.default_rng(3)
    found = [anytime_p(rng.normal(1, 1, size=40)) <= 0.05 for _ in range(200)]
    assert np.mean(found) > 0.95
    assert anytime_p([]) == anytime_p([1.0]) == 1
    assert anytime_p([0.02] * 9) == 1  # equal differences have no t
    x = [1.0, 2.5, 0.7, 1.9, 3.1]
    for test in (AnytimeTest.of(x), AnytimeTest.of(x, np.array(x)[:, None])):
        assert test.p == anytime_p(x) and test.interval(0.05) == anytime_interval(x, 0.05)
        assert not test.is_undecidable(0.05)
    assert AnytimeTest.of([]).p == AnytimeTest.of([1.0], np.ones((1, 3))).p == 1
    assert AnytimeTest.of([0.02] * 5, np.full((5, 50), 0.02)).p == 1


def test_a_two_way_interval_by_hand_and_where_it_is_undecidable() -> None:
    """Effects of repeats, images and noise with standard deviations of 0.01, 0.2 and 0.3."""
    rng = np.random.default_rng(8)
    table = 0.1 + rng.normal(0, 0.01, (9, 1)) + rng.normal(0, 0.2, 60) + rng.normal(0, 0.3, (9, 60))
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
    # Equal effects of images in all repeats: only their part, 2.3 sd / sqrt(N), is left.
    images = np.tile([1.0, -1.0], 50)
    repeats = np.linspace(-0.001, 0.001, 12)[:, None]
    limit = stats.t.ppf(1 - 0.05 / 4, 99) * images.std(ddof=1) / 10
    for mean, undecidable in ((0.9 * limit, True), (1.1 * limit, False)):
        table = mean + images + repeats
        test = AnytimeTest.of(table.mean(1), table)
        assert test.least_decidable(0.05) == pytest.approx(limit, rel=1e-6)
        assert test.is_undecidable(0.05) == undecidable
        assert test.excludes_0(0.05) != undecidable


@pytest.mark.parametrize(
    ("low", "high", "sign", "outcome"),
    [  # Piaggio et al. (2012), figure 1, with a margin of 1; A to H
        (0.2, 1.0, 1, "non-inferior"),
        (-0.5, 0.5, 1, "non-inferior"),
        (-0.9, -0.1, 1, "non-inferior"),
        (-1.5, 0.5, 1, "undecided"),
        (-1.0, 0.5, 1, "undecided"),
        (-2.0, -0.5, 1, "undecided"),
        (-3.0, -1.5, 1, "inferior"),
        (-3.0, -1.0, 1, "undecided"),
        (math.nan, math.nan, 1, "undecided"),
        (1.5, 3.0, -1, "inferior"),
        (-3.0, 0.5, -1, "non-inferior"),
    ],
)
def test_non_inferiority_is_that_of_consort(low, high, sign, outcome) -> None:
    assert non_inferiority(low, high, 1.0, sign) == outcome


def test_the_images_needed_are_the_least_that_decide() -> None:
    parts = Components(1e-4, 0.04, 0.06)

    def detectable(images: float) -> float:
        return detectable_difference(parts, 8, images)

    for distance in (0.015, 0.02, 0.1):
        n = units_needed(detectable, distance)
        assert detectable(n) < distance <= detectable(n - 1)
    # without noise of images a t test of 8 repeats, with 80 % power
    limit = detectable_effect(7) * math.sqrt(1e-4 / 8)
    assert units_needed(detectable, limit) == math.inf
    assert detectable(1e9) == pytest.approx(limit, rel=1e-4)
    for distance, n in ((2.0, 2), (0.25, 5), (1e-9, math.inf), (0.9e-9, math.inf)):
        assert units_needed(lambda images: 1 / images, distance) == n
