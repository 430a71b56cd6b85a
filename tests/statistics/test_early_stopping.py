"""Rungs by hand, the prediction against statsmodels, laws of pruning."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from kdtune.statistics.selection import MIN_COMPLETED, is_behind, rungs


@pytest.mark.parametrize(
    ("epochs", "want"),
    [(1, ()), (2, (1,)), (4, (1, 2, 3)), (8, (2, 3, 4, 5, 6, 7)), (60, (15, 23, 30, 38, 45, 53))],
)
def test_rungs(epochs: int, want: tuple[int, ...]) -> None:
    assert rungs(epochs) == want


def test_the_prediction_is_that_of_ordinary_least_squares() -> None:
    """Two new observations differ by b (x* - x) with variance 2 s^2 + (x* - x)^2 var(b)."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.2, 0.7, size=12)
    y = 0.1 + 0.8 * x + rng.normal(0, 0.02, size=12)
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    grid = np.linspace(0, 1, 400)
    gap = x[y.argmax()] - grid
    sd = np.sqrt(2 * fit.mse_resid + gap**2 * fit.bse[1] ** 2)
    want = fit.params[1] * gap > stats.t.ppf(0.95, 10) * sd
    others = list(zip(x, y, strict=True))
    assert [is_behind(score, others) for score in grid] == list(want)
    assert 0 < np.sum(want) < 400


def test_an_epoch_that_predicts_little_prunes_nothing() -> None:
    rng = np.random.default_rng(1)
    early, late = rng.normal(0.1, 0.01, size=40), rng.normal(0.7, 0.02, size=40)
    others = list(zip(early, late, strict=True))
    assert not any(is_behind(score, others) for score in early)
    falling = [(x, -x) for x in np.linspace(0, 1, 20)]  # the worse now, the better at the end
    assert not any(is_behind(score, falling) for score, _ in falling)


def test_neither_the_best_nor_a_trial_among_few_is_pruned() -> None:
    others = [(0.1 * k, 0.1 * k + 0.001 * (-1) ** k) for k in range(10)]
    assert is_behind(0.3, others) and not is_behind(0.9, others) and not is_behind(2.0, others)
    assert not is_behind(0.0, others[: MIN_COMPLETED - 1])
    assert not is_behind(0.0, [(0.5, 0.6 + 0.01 * k) for k in range(9)])  # the slope is unknown
