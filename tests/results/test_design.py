"""What repeats vary: folds and teachers, pairs by repeat and image, significance."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import at, draw, trials_of

from kdtune.results.comparison import Chosen, Criterion, Judged, compare, selection
from kdtune.results.design import ONE_TEACHER, Design, Pair, is_significant
from kdtune.statistics.intervals import crossed

exact = pytest.approx
LAST = draw({0.1: 0.01, 0.5: 0.03, 1.0: 0.0}, 8, seed=3)
D = np.subtract(LAST[0.5], LAST[1.0])


def compared(design: Design) -> pd.Series:
    table = compare(Judged(trials_of(LAST), Criterion(), design=design))
    return table.set_index("config/alpha").loc[0.5]


def test_with_three_teachers_or_more_these_are_the_sample() -> None:
    """Means of 2 repeats each; the reference is scipy's t test over 4 teachers."""
    row, means = compared(Design(4)), D.reshape(2, 4).mean(0)
    test = stats.ttest_1samp(means, 0)
    assert (row["diff"], row.n, row.n_units) == exact((means.mean(), 8, 4))
    assert row.error == exact(stats.sem(means)) and row.p == exact(test.pvalue)
    assert (row.low, row.high) == exact(tuple(test.confidence_interval(1 - 0.05 / 2)))
    assert (row.low_here, row.high_here) == (row.low, row.high)  # no predictions here
    assert math.isnan(row.p_max_t)  # 4 signs only
    unbalanced = compared(Design(3))  # 3, 3 and 2 repeats
    assert unbalanced["diff"] == exact(np.mean([D[k::3].mean() for k in range(3)]))


def test_folds_have_the_corrected_resampled_t_test() -> None:
    """V = (1/8 + 1/4) s^2 with 5 folds and 7 degrees of freedom (Nadeau and Bengio, 2003)."""
    row = compared(Design(folds=5))
    error = math.sqrt((1 / 8 + 1 / 4) * D.var(ddof=1))
    half = stats.t.ppf(1 - 0.05 / 4, 7) * error
    assert (row["diff"], row.error, row.df, row.n) == exact((D.mean(), error, 7, 8))
    assert (row.low, row.high) == exact((D.mean() - half, D.mean() + half))
    assert row.p == exact(2 * stats.t.sf(abs(D.mean()) / error, 7))
    assert np.isnan([row.low_here, row.high_here, row.p_max_t, row.n_images]).all()
    # images are never paired by their position
    compare(Judged(trials_of(LAST), Criterion(), read=pytest.fail, design=Design(folds=5)))


def test_selection_has_the_same_standard_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trials, design = trials_of(LAST), Design(folds=5)
    trials = trials.assign(**{"test/acc@last": trials["val/acc@last"], "phase": "search"})
    chosen = Chosen(at(0.5).config_id, at(1.0).config_id, at(0.5).config_id)
    rows = selection(tmp_path, Judged(trials, Criterion(), design=design), chosen).set_index("row")
    half = stats.t.ppf(0.975, 7) * math.sqrt((1 / 8 + 1 / 4) * D.var(ddof=1))
    difference = rows.loc["difference"]
    assert rows.loc["best"].config_id == at(0.5).config_id
    for split in ("val", "test"):
        assert difference[f"{split}/high"] - difference[f"{split}/mean"] == exact(half)


def test_repeats_of_few_teachers_do_not_cover_new_teachers() -> None:
    """Teachers vary as much as repeats, 4 teachers in 16 repeats, 100 images: the truth is 0."""
    rng, repeats, n = np.random.default_rng(0), range(16), 100
    covers = {ONE_TEACHER: 0, Design(4): 0}
    draws = 500
    for _ in range(draws):
        teachers, own = rng.normal(size=4), rng.normal(size=16)
        images, noise = rng.normal(size=n), rng.normal(size=(16, n))
        table = (np.tile(teachers, 4) + own)[:, None] + images + noise
        for design in covers:
            low, high = design.estimate(table.mean(1), table, repeats).interval()
            covers[design] += low <= 0 <= high
    assert covers[Design(4)] / draws >= 0.94 > 0.85 > covers[ONE_TEACHER] / draws


REPEATS, IMAGES = 6, 200


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
    return lambda ids, split: {trial: tables[trial] for trial in ids if trial not in lost}


def test_a_comparison_is_that_of_the_two_way_estimator(correct) -> None:
    trials = trials_of({alpha: list(table.mean(1)) for alpha, table in correct.items()})
    table = compare(Judged(trials, Criterion(), read=reader(correct))).set_index("config/alpha")
    for alpha in (0.1, 0.5):
        row, estimate = table.loc[alpha], crossed(correct[alpha] - correct[1.0])
        expected = estimate.mean, estimate.error, estimate.df
        assert (row["diff"], row.error, row.df) == exact(expected)
        assert (row.n, row.n_images, row.p) == (REPEATS, IMAGES, exact(estimate.p))
        assert (row.low, row.high) == exact(estimate.interval(1 - 0.05 / 2))  # two comparisons
        here = stats.ttest_rel(correct[alpha].mean(1), correct[1.0].mean(1))
        interval = here.confidence_interval(1 - 0.05 / 2)
        assert (row.low_here, row.high_here) == exact((interval.low, interval.high))
        parts = (row.var_repeat / REPEATS, row.var_image / IMAGES, row.var_rest / 1200)
        assert sum(parts) >= estimate.error**2 * (1 - 1e-9)  # equal unless a component was negative


def test_a_lost_file_of_predictions_leaves_comparisons_over_repeats(correct) -> None:
    """All of them, so that all rows of a table hold for the same images."""
    trials = trials_of({alpha: list(table.mean(1)) for alpha, table in correct.items()})
    lost = (at(0.5, 3).trial_id,)
    table = compare(Judged(trials, Criterion(), read=reader(correct, lost))).set_index(
        "config/alpha"
    )
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
    row = compare(Judged(trials, Criterion())).iloc[0]
    assert (row.low, row.high) == (-1, 1)


NAN = math.nan


@pytest.mark.parametrize(
    ("p", "low", "high", "or_equal", "want"),
    [
        (0.04, 0.1, 0.2, False, True),
        (0.04, -0.2, -0.1, False, True),
        (0.04, -0.1, 0.2, False, False),  # Holm's p value after a first rejection
        (0.04, NAN, NAN, False, True),  # equal differences
        (0.06, NAN, NAN, False, False),
        (0.06, 0.1, 0.2, False, False),
        (NAN, NAN, NAN, False, False),  # too few repeats
        (0.05, 0.1, 0.2, False, False),
        (0.05, 0.1, 0.2, True, True),
        (0.01, -math.inf, math.inf, False, False),
    ],
)
def test_significance(p: float, low: float, high: float, or_equal: bool, want: bool) -> None:
    assert bool(is_significant(p, low, high, 0.05, or_equal)) == want
    columns = (pd.Series([0.5, value]) for value in (p, low, high))
    assert is_significant(*columns, 0.05, or_equal)[1] == want
