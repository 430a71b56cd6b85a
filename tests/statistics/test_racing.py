"""Racing from tables of scores: least squares, hand-worked numbers and simulations."""

import math

import numpy as np
import pytest

from kdtune.statistics.selection import (
    active,
    adjusted_means,
    leading_counts,
    noise,
    rank_by_common_mean,
)

NAN = math.nan


def test_repeats_before_the_first_gap() -> None:
    table = np.array([[1, 2, 3], [1, NAN, 3], [NAN, 2, 3], [1, 2, NAN]])
    assert leading_counts(table).tolist() == [3, 1, 0, 2]


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


def test_noise_that_cannot_be_estimated() -> None:
    for table in (np.ones((5, 1)), np.array([[1, 2], [1, NAN]]), np.full((3, 2), NAN)):
        sd, df = noise(table)
        assert math.isnan(sd) and df == 0


def test_active_configurations() -> None:
    """By hand: t(0.9875; 100) = 2.2757, so with sd 1 the gap may be 3.218 at n = 1, 2.276 at 2."""
    table = np.array([[10, 10], [6.9, NAN], [6.7, NAN], [7.8, 7.8], [7.6, 7.8], [NAN, NAN]])
    want = [True, True, False, True, False, False]
    assert active(table, 1.0, 100, 0.025).tolist() == want
    assert active(table, NAN, 0, 0.025).tolist() == [True] * 5 + [False]


def test_the_error_rate_of_a_pair_over_all_interim_analyses_is_at_most_the_level() -> None:
    """4,000 races of two equal configurations among others that estimate the noise."""
    rng, level, dropped = np.random.default_rng(1), 0.2, 0
    for _ in range(4000):
        table = rng.normal(size=(12, 4)) + rng.normal(size=4)
        sd, df = noise(table)
        pair = [table[:2, :n] for n in range(1, 5)]
        dropped += any(not active(seen, sd, df, level, analyses=4)[0] for seen in pair)
    assert dropped / 4000 < level + 3 * math.sqrt(level * (1 - level) / 4000)
    assert dropped / 4000 > level / 4  # and it does eliminate


def test_the_order_compares_common_repeats() -> None:
    table = np.array([[1, 9, 9], [2, 1, NAN], [3, 0, NAN]])
    assert rank_by_common_mean(table, [0, 1, 2]) == [0, 1, 2]  # means of the first two: 5, 1.5, 1.5
    assert rank_by_common_mean(table[:, :1], [0, 1, 2]) == [2, 1, 0]
    assert rank_by_common_mean(table, []) == []


@pytest.mark.parametrize("counts", [(4, 4, 4, 4, 4), (4, 3, 3, 1, 2), (5, 5, 1, 1, 1), (5, 0, 2)])
def test_adjusted_means_are_those_of_least_squares(counts: tuple[int, ...]) -> None:
    """Against ordinary least squares on dummies, up to the constant that both leave open."""
    rng = np.random.default_rng(1)
    k = len(counts)
    table = rng.normal(size=(k, 5)) + rng.normal(size=(k, 1)) + rng.normal(0, 3, size=5)
    cells = [(c, r) for c, count in enumerate(counts) for r in range(count)]
    cut, design = np.full((k, 5), NAN), np.zeros((len(cells), k + 5))
    for row, (c, r) in enumerate(cells):
        cut[c, r] = table[c, r]
        design[row, [c, k + r]] = 1
    effects = np.linalg.lstsq(design, np.array([table[cell] for cell in cells]))[0]
    repeats = effects[k : k + max(counts)]
    want = effects[:k] + repeats.mean()
    got = adjusted_means(cut)
    scored = np.array(counts) > 0
    assert got[scored] == pytest.approx(want[scored]) and np.isnan(got[~scored]).all()
    if min(counts) == max(counts):
        assert got == pytest.approx(np.nanmean(cut, axis=1))


def test_adjusted_means_do_not_depend_on_the_repeats_effects() -> None:
    rng = np.random.default_rng(2)
    table = np.where(np.arange(6) < rng.integers(1, 7, size=(9, 1)), rng.normal(size=(9, 6)), NAN)
    shifted = adjusted_means(table + rng.normal(0, 10, size=6))
    differences = shifted - adjusted_means(table)
    assert differences == pytest.approx(differences[0])
    assert np.isnan(adjusted_means(np.full((2, 3), NAN))).all()
