"""Comparisons over repeats and images, against the estimator of the research note."""

import math

import numpy as np
import pytest
from scipy import stats
from study_folders import at, trials_of

from kdtune.results.comparison import Criterion, compare
from kdtune.results.design import Design, Pair

REPEATS, IMAGES = 6, 200
exact = pytest.approx


def reference(d: np.ndarray) -> tuple[float, float, float]:
    """Return mean, standard error and degrees of freedom, term by term as DESIGN section 8 says."""
    repeats, images = d.shape
    m, rows, columns = d.mean(), d.mean(1), d.mean(0)
    ms_r = images * sum((row - m) ** 2 for row in rows) / (repeats - 1)
    ms_i = repeats * sum((column - m) ** 2 for column in columns) / (images - 1)
    rest = d - rows[:, None] - columns[None] + m
    ms_e = (rest**2).sum() / ((repeats - 1) * (images - 1))
    a, b, c = ms_r / d.size, ms_i / d.size, ms_e / d.size
    v = max(a + b - c, a, b)
    df = v**2 / (a**2 / (repeats - 1) + b**2 / (images - 1) + c**2 / ((repeats - 1) * (images - 1)))
    return float(m), math.sqrt(v), max(df, repeats - 1)


@pytest.fixture
def correct() -> dict[float, np.ndarray]:
    """By alpha, whether each image is right in each repeat, [R, N]."""
    rng = np.random.default_rng(5)
    hard = rng.normal(size=IMAGES)
    return {
        alpha: (hard + shift + rng.normal(0, 0.8, (REPEATS, IMAGES)) > 0).astype(float)
        for alpha, shift in ((0.1, 0.3), (0.5, 0.1), (1.0, 0.0))
    }


def reader(correct: dict[float, np.ndarray], lost: tuple[str, ...] = ()):
    """Return the function that gives `compare` the values per example."""
    tables = {
        at(alpha, repeat).trial_id: table[repeat]
        for alpha, table in correct.items()
        for repeat in range(REPEATS)
    }
    return lambda ids: {trial: tables[trial] for trial in ids if trial not in lost}


def test_a_comparison_is_that_of_the_two_way_estimator(correct) -> None:
    trials = trials_of({alpha: list(table.mean(1)) for alpha, table in correct.items()})
    table = compare(trials, Criterion(), read=reader(correct)).set_index("config/alpha")
    for alpha in (0.1, 0.5):
        row, (mean, error, df) = table.loc[alpha], reference(correct[alpha] - correct[1.0])
        assert (row["diff"], row.error, row.df) == exact((mean, error, df))
        assert (row.n, row.n_images) == (REPEATS, IMAGES)
        here = stats.ttest_rel(correct[alpha].mean(1), correct[1.0].mean(1))
        interval = here.confidence_interval(1 - 0.05 / 2)  # two comparisons
        half = stats.t.ppf(1 - 0.05 / 4, df) * error
        half = max(half, (interval.high - interval.low) / 2)  # never narrower than here
        assert (row.low, row.high) == exact((mean - half, mean + half))
        assert row.p == exact(max(2 * stats.t.sf(abs(mean) / error, df), here.pvalue))
        assert (row.low_here, row.high_here) == exact((interval.low, interval.high))
        parts = (row.var_repeat / REPEATS, row.var_image / IMAGES, row.var_rest / 1200)
        assert sum(parts) >= error**2 * (1 - 1e-9)  # equal unless a component was negative


def test_a_lost_file_of_predictions_leaves_comparisons_over_repeats(correct) -> None:
    """All of them, so that all rows of a table hold for the same images."""
    trials = trials_of({alpha: list(table.mean(1)) for alpha, table in correct.items()})
    lost = (at(0.5, 3).trial_id,)
    table = compare(trials, Criterion(), read=reader(correct, lost)).set_index("config/alpha")
    assert table.n_images.isna().all()
    row = table.loc[0.5]
    assert (row.low, row.high) == (row.low_here, row.high_here)
    assert row.p == exact(stats.ttest_rel(correct[0.5].mean(1), correct[1.0].mean(1)).pvalue)


def test_one_image_alone_does_not_vary() -> None:
    rows = np.array([[1.0], [0.0], [1.0], [1.0]])
    pair = Pair(rows[:, 0], np.zeros(4), rows)
    assert pair.statistics(1, 0.95)["error"] == exact(rows.std(ddof=1) / 2)
    assert math.isnan(pair.components.image)


def test_equal_differences_over_folds_have_no_test() -> None:
    """0.72 - 0.70 and 0.82 - 0.80 differ by rounding."""
    a, b = np.array([0.72, 0.82, 0.92, 0.62]), np.array([0.7, 0.8, 0.9, 0.6])
    row = Pair(a, b, None, range(4), Design(folds=4)).statistics(1, 0.95)
    assert all(map(math.isnan, (row["p"], row["low"], row["high"])))


def test_an_interval_never_exceeds_what_is_possible() -> None:
    trials = trials_of({0.5: [0.0, 1.0, 0.1], 1.0: [0.9, 0.1, 0.2]})
    row = compare(trials, Criterion()).iloc[0]
    assert (row.low, row.high) == (-1, 1)
