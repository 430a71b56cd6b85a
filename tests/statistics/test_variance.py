"""Sources of variance: hand-worked blocks, statsmodels, pingouin, a published table."""

import math

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from statsmodels.stats.anova import AnovaRM

from kdtune.statistics.selection import importance, repeated_measures, variance_shares

exact = pytest.approx
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # pingouin's own
# Shrout and Fleiss (1979), table 2: six targets by four judges
SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]


def long(block: np.ndarray) -> pd.DataFrame:
    rows = [(c, r, value) for (c, r), value in np.ndenumerate(block)]
    return pd.DataFrame(rows, columns=["config", "repeat", "value"])


# -- shares ----------------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    # x = 2 c + r + 4 e at c, r, e in {-1, 1}: squares 4, 1 and 16 of 21 a number
    signs = np.array([-1.0, 1.0])
    block = 2 * signs[:, None, None] + signs[:, None] + 4 * signs
    got = variance_shares(block)
    assert (got.configuration, got.repeat, got.epoch) == exact((4 / 21, 1 / 21, 16 / 21))
    assert got.residual == exact(0, abs=1e-12)
    # an interaction counts as residual: x = c r + e
    got = variance_shares(signs[:, None, None] * signs[:, None] + signs)
    assert (got.configuration, got.repeat, got.epoch) == exact((0, 0, 0.5), abs=1e-12)
    assert got.residual == exact(0.5)


def test_shares_of_numbers_that_are_all_equal() -> None:
    for block in (np.full((2, 3, 4), 0.1 + 0.2), np.zeros((2, 3, 4))):
        got = variance_shares(block)
        assert all(map(math.isnan, (got.configuration, got.repeat, got.epoch, got.residual)))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 5)] * 3), st.booleans())
@example(448, (1, 3, 1), True)  # rounding puts one share above 1
def test_shares_laws(seed: int, shape: tuple, additive: bool) -> None:
    rng = np.random.default_rng(seed)
    block = rng.normal(size=shape)
    if additive:  # no interaction: the residual is 0 but for rounding
        effects = [
            rng.normal(size=[s if i == a else 1 for i, s in enumerate(shape)]) for a in range(3)
        ]
        block = sum(effects)
    got = variance_shares(block)
    shares = np.array([got.configuration, got.repeat, got.epoch, got.residual])
    if block.size == 1:
        assert np.isnan(shares).all()
        return
    assert shares.sum() == exact(1) and (shares >= 0).all() and (shares <= 1).all()
    # unit, origin and order of the levels change nothing
    again = variance_shares(3 - 7 * block[rng.permutation(shape[0])][:, rng.permutation(shape[1])])
    assert (again.configuration, again.epoch) == exact((shares[0], shares[2]), abs=1e-9)


# -- repeated measures -----------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(2, 2), (2, 8), (3, 5), (6, 4), (4, 12)])
def test_repeated_measures_are_statsmodels_and_pingouins(k: int, n: int) -> None:
    rng = np.random.default_rng(100 * k + n)
    block = rng.normal(size=(k, n)) + rng.normal(0, 2, n) + np.linspace(0, 1, k)[:, None]
    frame = long(block)
    got = repeated_measures(block)
    table = AnovaRM(frame, "value", "repeat", within=["config"]).fit().anova_table
    assert (got.f, got.p) == exact(tuple(table[["F Value", "Pr > F"]].iloc[0]), rel=1e-9)
    anova = pingouin.rm_anova(frame, dv="value", within="config", subject="repeat")
    assert got.f == exact(float(anova["F"].iloc[0]), rel=1e-9)
    if n > 4:  # pingouin wants five targets
        icc = pingouin.intraclass_corr(frame, targets="repeat", raters="config", ratings="value")
        assert got.icc == exact(float(icc.set_index("Type").ICC["ICC(C,1)"]), rel=1e-9)


def test_a_comparison_of_two_is_the_paired_t_test() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 9))
    d = a - b
    got = repeated_measures([a, b])
    assert got.f == exact((d.mean() / (d.std(ddof=1) / 3)) ** 2)


def test_shrout_and_fleiss() -> None:
    got = repeated_measures(np.transpose(SHROUT_FLEISS))
    # as published: mean squares 11.24 (targets), 32.49 (judges), 1.02 (residual), ICC(3,1) = .71
    assert got.icc == exact(0.71, abs=5e-3)
    assert got.icc == exact((11.24 - 1.02) / (11.24 + 3 * 1.02), abs=5e-3)
    assert got.f == exact(32.49 / 1.02, rel=5e-3)


def test_too_few_for_repeated_measures() -> None:
    for block in ([[1.0, 2.0, 3.0]], [[1.0], [2.0]], [[0.5, 0.5], [0.5, 0.5]]):
        got = repeated_measures(block)
        assert all(map(math.isnan, (got.f, got.p, got.icc)))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 8))
def test_repeated_measures_laws(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    block = rng.normal(size=(k, n))
    got = repeated_measures(block)
    moved = 5 - 0.01 * block[rng.permutation(k)][:, rng.permutation(n)]
    again = repeated_measures(moved)
    assert (again.f, again.icc) == exact((got.f, got.icc), rel=1e-6, abs=1e-9)
    # an effect of the repeat that all configurations share changes the ICC, not F
    shifted = repeated_measures(block + rng.normal(0, 3, n))
    assert shifted.f == exact(got.f, rel=1e-6)
    assert -1 / (k - 1) - 1e-9 <= got.icc <= 1


# -- importance ------------------------------------------------------------------------------------


def test_importance_by_hand() -> None:
    # the levels' means are 1 and 4, the mean of all is 2.5
    got = importance([0, 2, 3, 5], [0, 0, 1, 1])
    total = 2.5**2 + 0.5**2 + 0.5**2 + 2.5**2
    assert (got.share, got.n) == (exact(4 * 1.5**2 / total), 4)
    # 2 of the 6 ways to halve four numbers have this share, the largest: so has the null quantile
    assert got.null == exact(got.share)


def test_importance_is_eta_squared() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 30)
    means = rng.normal(size=30) + labels
    table = pingouin.anova(
        pd.DataFrame({"y": means, "g": labels}), dv="y", between="g", effsize="n2"
    )
    assert importance(means, labels).share == exact(float(table.n2.iloc[0]), rel=1e-9)


@pytest.mark.parametrize("levels", [2, 5])
def test_a_hyperparameter_without_effect_exceeds_its_null_one_time_in_twenty(levels: int) -> None:
    rng = np.random.default_rng(levels)
    labels, trials = np.arange(20) % levels, 600
    above = 0
    for _ in range(trials):
        got = importance(rng.normal(size=20), labels, draws=400)
        above += got.share > got.null
    assert above / trials == exact(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(4, 20))
def test_importance_laws(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(k) % 3)
    means = rng.normal(size=k)
    got = importance(means, labels, draws=100)
    assert 0 <= got.share <= 1 and 0 <= got.null <= 1
    assert importance(means, labels, draws=100) == got
    order, names = rng.permutation(k), rng.permutation(3)
    again = importance(2 - 3 * means[order], names[labels[order]], draws=100)
    assert again.share == exact(got.share, abs=1e-9)


def test_importance_of_equal_means_is_undefined() -> None:
    # means of the same numbers in another order differ in the last bit
    for means in ([0.5] * 4, [(0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3] * 2):
        got = importance(means, [0, 0, 1, 1])
        assert math.isnan(got.share) and math.isnan(got.null)
