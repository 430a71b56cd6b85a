"""Decisions from tables: least squares, an integral and simulations as references."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from kdtune.statistics.racing import best_first, in_question, leading, noise
from kdtune.statistics.sequential import anytime_interval, anytime_p

NAN = math.nan


def test_leading() -> None:
    table = np.array([[1, 2, 3], [1, NAN, 3], [NAN, 2, 3], [1, 2, NAN]])
    assert leading(table).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("counts", [(4, 4, 4, 4, 4), (4, 3, 3, 1, 2), (5, 5, 1, 1, 1)])
def test_noise_is_the_residual_of_the_two_way_layout(counts: tuple[int, ...]) -> None:
    """Against ordinary least squares on dummies for configurations and repeats."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(5, 5)) + rng.normal(size=(5, 1)) + rng.normal(size=5)
    cells = [(c, r) for c, count in enumerate(counts) for r in range(count)]
    cut = np.full((5, 5), NAN)
    design = np.zeros((len(cells), 10))
    for row, (c, r) in enumerate(cells):
        cut[c, r] = table[c, r]
        design[row, [c, 5 + r]] = 1
    y = np.array([table[cell] for cell in cells])
    fit = design @ np.linalg.lstsq(design, y)[0]
    df = len(cells) - np.linalg.matrix_rank(design)
    assert noise(cut) == (pytest.approx(math.sqrt(((y - fit) ** 2).sum() / df)), df)


def test_noise_that_cannot_be_known() -> None:
    for table in (np.ones((5, 1)), np.array([[1, 2], [1, NAN]]), np.full((3, 2), NAN)):
        sd, df = noise(table)
        assert math.isnan(sd) and df == 0


def test_who_is_in_question() -> None:
    """By hand: t(0.9875; 100) = 2.2757, so with sd 1 the gap may be 3.218 at n = 1, 2.276 at 2."""
    table = np.array([[10, 10], [6.9, NAN], [6.7, NAN], [7.8, 7.8], [7.6, 7.8], [NAN, NAN]])
    want = [True, True, False, True, False, False]
    assert in_question(table, 1.0, 100, 0.025).tolist() == want
    assert in_question(table, NAN, 0, 0.025).tolist() == [True] * 5 + [False]


def test_a_race_drops_one_as_good_no_oftener_than_stated() -> None:
    """4,000 races of a pair of equals among others from which the noise is known."""
    rng, level, dropped = np.random.default_rng(1), 0.2, 0
    for _ in range(4000):
        table = rng.normal(size=(12, 4)) + rng.normal(size=4)
        sd, df = noise(table)
        pair = [table[:2, :n] for n in range(1, 5)]
        dropped += any(not in_question(seen, sd, df, level, looks=4)[0] for seen in pair)
    assert dropped / 4000 < level + 3 * math.sqrt(level * (1 - level) / 4000)
    assert dropped / 4000 > level / 4  # nor idle


def test_best_first_compares_common_repeats() -> None:
    table = np.array([[1, 9, 9], [2, 1, NAN], [3, 0, NAN]])
    assert best_first(table, [0, 1, 2]) == [0, 1, 2]  # means of the first two: 5, 1.5, 1.5
    assert best_first(table[:, :1], [0, 1, 2]) == [2, 1, 0]
    assert best_first(table, []) == []


def test_the_bayes_factor_is_that_of_its_integral() -> None:
    """BF = integral of the noncentral t over the prior of the effect, by the central t."""
    x = np.array([1.0, 2.5, 0.7, 1.9, 3.1])
    n = len(x)
    t = x.mean() / (x.std(ddof=1) / math.sqrt(n))

    def weighted(effect: float) -> float:
        return float(stats.nct.pdf(t, n - 1, effect * math.sqrt(n)) * stats.norm.pdf(effect))

    bf = integrate.quad(weighted, -8, 8)[0] / stats.t.pdf(t, n - 1)
    assert anytime_p(x) == pytest.approx(1 / bf, rel=1e-6)
    assert anytime_p(x) < anytime_p(x[:-1])


def test_a_null_effect_is_found_no_oftener_than_stated_however_often_it_is_looked_at() -> None:
    rng = np.random.default_rng(2)
    for scale, draw in ((3.0, rng.normal), (0.01, rng.normal), (1.0, rng.laplace)):
        samples = (draw(0, scale, size=40) for _ in range(600))
        found = sum(any(anytime_p(x[:n]) <= 0.05 for n in range(2, 41)) for x in samples)
        assert found / 600 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.3])
def test_p_and_interval_say_the_same(level: float) -> None:
    rng = np.random.default_rng(4)
    for n in (2, 3, 5, 12, 40):
        for effect in (0.0, 0.5, 1.0, 3.0):
            x = rng.normal(effect, 1, size=n)
            low, high = anytime_interval(x, level)
            assert (anytime_p(x) <= level) == (low > 0 or high < 0)
            if math.isfinite(low):  # its ends are the means that are just rejected
                assert anytime_p(x - low) == pytest.approx(level)
                assert anytime_p(x - high) == pytest.approx(level)
    assert anytime_interval([0.02] * 9, level) == (-math.inf, math.inf)


def test_an_effect_is_found() -> None:
    rng = np.random.default_rng(3)
    found = [anytime_p(rng.normal(1, 1, size=40)) <= 0.05 for _ in range(200)]
    assert np.mean(found) > 0.95
    assert anytime_p([]) == anytime_p([1.0]) == 1
    assert anytime_p([0.02] * 9) == 1  # equal differences have no t
