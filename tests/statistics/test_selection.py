"""Racing, early stopping, selection bias and sources of variance, against references and laws."""

import math

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.api as sm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from kdtune.statistics.intervals import corrected_resampled, crossed, over_repeats
from kdtune.statistics.selection import (
    MIN_COMPLETED,
    Means,
    active,
    adjusted_means,
    bootstrap_corrected,
    importance,
    is_behind,
    leading_counts,
    may_be_best,
    noise,
    probability_best,
    rank_by_common_mean,
    repeated_measures,
    rungs,
    variance_shares,
)
from kdtune.statistics.tests import shrunk

NAN = math.nan


def test_repeats_before_the_first_gap_and_active_configurations() -> None:
    table = np.array([[1, 2, 3], [1, NAN, 3], [NAN, 2, 3], [1, 2, NAN]])
    assert leading_counts(table).tolist() == [3, 1, 0, 2]
    # By hand: t(0.9875; 100) = 2.2757, so with sd 1 the gap may be 3.218 at n = 1, 2.276 at 2.
    table = np.array([[10, 10], [6.9, NAN], [6.7, NAN], [7.8, 7.8], [7.6, 7.8], [NAN, NAN]])
    want = [True, True, False, True, False, False]
    assert active(table, 1.0, 100, 0.025).tolist() == want
    assert active(table, NAN, 0, 0.025).tolist() == [True] * 5 + [False]


def incomplete(
    table: np.ndarray, counts: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a table cut to so many repeats of each row, its numbers, and their dummies."""
    k, n = table.shape
    cells = [(c, r) for c, count in enumerate(counts) for r in range(count)]
    cut, design = np.full((k, n), NAN), np.zeros((len(cells), k + n))
    for row, (c, r) in enumerate(cells):
        cut[c, r] = table[c, r]
        design[row, [c, k + r]] = 1
    return cut, np.array([table[cell] for cell in cells]), design


COUNTS = [(4, 4, 4, 4, 4), (4, 3, 3, 1, 2), (5, 5, 1, 1, 1)]


@pytest.mark.parametrize("counts", COUNTS)
def test_noise_is_the_residual_of_the_two_way_layout(counts: tuple[int, ...]) -> None:
    """Against ordinary least squares on dummies for configurations and repeats."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(5, 5)) + rng.normal(size=(5, 1)) + rng.normal(size=5)
    cut, y, design = incomplete(table, counts)
    fit = design @ np.linalg.lstsq(design, y)[0]
    df = len(y) - np.linalg.matrix_rank(design)
    assert noise(cut) == (pytest.approx(math.sqrt(((y - fit) ** 2).sum() / df)), df)


def test_noise_that_cannot_be_estimated_and_the_order_by_common_repeats() -> None:
    for table in (np.ones((5, 1)), np.array([[1, 2], [1, NAN]]), np.full((3, 2), NAN)):
        sd, df = noise(table)
        assert math.isnan(sd) and df == 0
    table = np.array([[1, 9, 9], [2, 1, NAN], [3, 0, NAN]])
    assert rank_by_common_mean(table, [0, 1, 2]) == [0, 1, 2]  # means of the first two: 5, 1.5, 1.5
    assert rank_by_common_mean(table[:, :1], [0, 1, 2]) == [2, 1, 0]
    assert rank_by_common_mean(table, []) == []
    gap = np.array([[1, 9, 2], [2, NAN, 1]])  # the common repeats are the first and the last
    assert rank_by_common_mean(gap, [0, 1]) == [0, 1]
    assert rank_by_common_mean(np.array([[1, 9, 1], [2, NAN, 1]]), [0, 1]) == [1, 0]


@pytest.mark.parametrize("counts", [*COUNTS, (5, 0, 2)])
def test_adjusted_means_are_those_of_least_squares(counts: tuple[int, ...]) -> None:
    """Against ordinary least squares on dummies, up to the constant that both leave open."""
    rng = np.random.default_rng(1)
    k = len(counts)
    table = rng.normal(size=(k, 5)) + rng.normal(size=(k, 1)) + rng.normal(0, 3, size=5)
    cut, y, design = incomplete(table, counts)
    effects = np.linalg.lstsq(design, y)[0]
    repeats = effects[k : k + max(counts)]
    want = effects[:k] + repeats.mean()
    got = adjusted_means(cut)
    scored = np.array(counts) > 0
    assert got[scored] == pytest.approx(want[scored]) and np.isnan(got[~scored]).all()
    if min(counts) == max(counts):
        assert got == pytest.approx(np.nanmean(cut, axis=1))


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


def test_what_is_never_pruned() -> None:
    """Any trial where the epoch predicts little; the best one, and one among few."""
    rng = np.random.default_rng(1)
    early, late = rng.normal(0.1, 0.01, size=40), rng.normal(0.7, 0.02, size=40)
    others = list(zip(early, late, strict=True))
    assert not any(is_behind(score, others) for score in early)
    falling = [(x, -x) for x in np.linspace(0, 1, 20)]  # the worse now, the better at the end
    assert not any(is_behind(score, falling) for score, _ in falling)
    others = [(0.1 * k, 0.1 * k + 0.001 * (-1) ** k) for k in range(10)]
    assert is_behind(0.3, others) and not is_behind(0.9, others) and not is_behind(2.0, others)
    assert not is_behind(0.0, others[: MIN_COMPLETED - 1])
    assert not is_behind(0.0, [(0.5, 0.6 + 0.01 * k) for k in range(9)])  # the slope is unknown


exact = pytest.approx


def test_bootstrap_corrected_by_hand() -> None:
    # of 2 images a bootstrap draws one twice (else none is left for evaluation): the configuration
    # that is right there is selected, and is wrong on the other
    got = bootstrap_corrected([[1, 0], [0, 1]])
    assert (got.corrected, got.low, got.high) == (0, 0, 0)
    # with one configuration there is no choice; each image is left out equally often
    assert bootstrap_corrected([[1, 0, 1, 1]], draws=20_000).corrected == exact(0.75, abs=0.01)


def test_the_best_of_equal_configurations_is_corrected() -> None:
    # of K = 10 configurations of accuracy 0.7, on 150 images, the best seems to have 0.76
    rng = np.random.default_rng(0)
    tables = rng.uniform(size=(200, 10, 150)) < 0.7
    studies = [bootstrap_corrected(table, draws=200) for table in tables]
    naive = tables.mean(2).max(1) - 0.7
    corrected = np.array([s.corrected for s in studies]) - 0.7
    assert naive.mean() > 0.04
    assert abs(corrected.mean()) < 4 * corrected.std(ddof=1) / math.sqrt(len(studies)) + 0.005
    assert all(s.low <= s.corrected <= s.high for s in studies)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(20, 120))
def test_bootstrap_corrected_laws(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.uniform(size=(k, n)) < rng.uniform(0.3, 1, (k, 1))
    got = bootstrap_corrected(correct, draws=400)
    assert got == bootstrap_corrected(correct, draws=400)
    # selection cannot gain on images that did not select: only the draws' error can exceed naive
    naive = correct.mean(1).max()
    error = 4 * math.sqrt(0.25 / (0.36 * n)) / math.sqrt(400)
    assert got.corrected <= naive + error
    # a configuration that is better on all images is always selected, without bias
    better = correct[0] * 0.5 + 0.5
    sure = bootstrap_corrected([correct[0] * 0.0, better], draws=400)
    assert sure.corrected == exact(better.mean(), abs=error)
    # a tie of shares of three repeats is decided as that of their numbers, which are not rounded
    right = rng.integers(0, 4, (k, n))
    shares, numbers = (bootstrap_corrected(table, draws=400) for table in (right / 3, right))
    assert shares.corrected == exact(numbers.corrected / 3)


pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # pingouin's own


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
    for block in (np.full((2, 3, 4), 0.1 + 0.2), np.zeros((2, 3, 4))):  # all equal
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


@pytest.mark.parametrize(("k", "n"), [(2, 2), (2, 8), (3, 5), (6, 4), (4, 12)])
def test_repeated_measures_are_statsmodels_and_pingouins(k: int, n: int) -> None:
    rng = np.random.default_rng(100 * k + n)
    block = rng.normal(size=(k, n)) + rng.normal(0, 2, n) + np.linspace(0, 1, k)[:, None]
    rows = [(c, r, value) for (c, r), value in np.ndenumerate(block)]
    frame = pd.DataFrame(rows, columns=["config", "repeat", "value"])
    got = repeated_measures(block)
    table = AnovaRM(frame, "value", "repeat", within=["config"]).fit().anova_table
    assert (got.f, got.p) == exact(tuple(table[["F Value", "Pr > F"]].iloc[0]), rel=1e-9)
    anova = pingouin.rm_anova(frame, dv="value", within="config", subject="repeat")
    assert got.f == exact(float(anova["F"].iloc[0]), rel=1e-9)
    if n > 4:  # pingouin wants five targets
        icc = pingouin.intraclass_corr(frame, targets="repeat", raters="config", ratings="value")
        assert got.icc == exact(float(icc.set_index("Type").ICC["ICC(C,1)"]), rel=1e-9)


def test_importance_by_hand_and_numbers_without_repeated_measures() -> None:
    got = repeated_measures([[0.5, 0.5], [0.5, 0.5]])
    assert all(map(math.isnan, (got.f, got.p, got.icc)))
    # the levels' means are 1 and 4, the mean of all is 2.5
    got = importance([0, 2, 3, 5], [0, 0, 1, 1])
    total = 2.5**2 + 0.5**2 + 0.5**2 + 2.5**2
    assert (got.share, got.n) == (exact(4 * 1.5**2 / total), 4)
    # 2 of the 6 ways to halve four numbers have this share, the largest: so has the null quantile
    assert got.null == exact(got.share)
    # undefined: means of the same numbers in another order differ in the last bit
    for means in ([0.5] * 4, [(0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3] * 2):
        got = importance(means, [0, 0, 1, 1])
        assert math.isnan(got.share) and math.isnan(got.null)


@pytest.mark.parametrize("levels", [2, 5])
def test_a_hyperparameter_without_effect_exceeds_its_null_one_time_in_twenty(levels: int) -> None:
    rng = np.random.default_rng(levels)
    labels, trials = np.arange(20) % levels, 600
    above = 0
    for _ in range(trials):
        got = importance(rng.normal(size=20), labels, draws=400)
        above += got.share > got.null
    assert above / trials == exact(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


BEST = np.array([80.0, 82, 81, 83])
BEHIND = np.array([BEST, BEST - [1, 2, 3, 2], BEST - [1, 3, -1, 1]])
"""Differences from the first of mean 2, SD 0.816 (t = 4.90), and mean 1, SD 1.63 (t = 1.22)."""


@pytest.mark.parametrize(
    ("equal", "others", "want"),
    [
        (0.0, None, [True, False, True]),  # t(3, 1 - 0.05 / 2) = 3.18
        (0.0, 4, [True, False, True]),  # t(3, 1 - 0.05 / 4) = 4.18
        (0.0, 8, [True, True, True]),  # t(3, 1 - 0.05 / 8) = 5.39
        (0.65, None, [True, False, True]),  # (2 - 0.65) / 0.408 = 3.31
        (0.75, None, [True, True, True]),  # (2 - 0.75) / 0.408 = 3.06
    ],
)
def test_the_set_of_the_best_by_hand(equal: float, others: int | None, want: list[bool]) -> None:
    assert may_be_best(Means.of(BEHIND), equal, others).tolist() == want
    assert may_be_best(Means.of(-BEHIND)).tolist() == [False, True, True]  # reversed signs
    # three repeats: (2 - 0) / (1 / 3^0.5) = 3.46 and 0.87, beside t(2, 1 - 0.2 / 2) = 1.89
    assert may_be_best(Means.of(BEHIND[:, :3]), level=0.2).tolist() == [True, False, True]


@pytest.mark.parametrize(("repeats", "want"), [(2, True), (3, True), (4, True), (6, False)])
def test_equal_differences_have_a_sign_flip_test(repeats: int, want: bool) -> None:
    """2^-4 is above 0.05, 2^-6 below; below three repeats there is no test and no P(best)."""
    x = np.linspace(0.5, 0.7, repeats)
    means = Means.of([x, x - 0.1])
    assert may_be_best(means).tolist() == [True, want]
    p = [1.0, 0.0] if repeats > 2 else [NAN, NAN]
    assert probability_best(means).tolist() == exact(p, nan_ok=True)
    assert probability_best(Means.of([x, x])).tolist() == exact([sum(p) / 2] * 2, nan_ok=True)


@pytest.mark.parametrize("images", [False, True])
def test_the_probability_of_two_is_a_tail_of_shrunk_differences(images: bool) -> None:
    """Of Student's t over repeats, of the normal distribution over images alone."""
    d = np.array([0.03, -0.01, 0.02, 0.02, -0.02])
    x = np.array([d, 0 * d])
    gap, error = d.mean() / 2, stats.sem(d) / 2
    factor = shrunk([gap, -gap], [error, error], 0) / gap
    tail = stats.norm.cdf if images else stats.t(4).cdf
    means = Means.of(x[:, None].repeat(3, 1) if images else x)
    assert probability_best(means, 200_000)[0] == exact(tail(factor**0.5 * gap / error), abs=0.003)


def effects(rng: np.random.Generator, truth: np.ndarray, r: int, n: int) -> np.ndarray:
    """Return scores [K, R, N] with all effects of the crossed model, two of them common."""
    k = len(truth)
    common = 0.5 * rng.normal(size=(1, r, 1)) + rng.normal(size=(1, 1, n))
    own = 0.3 * rng.normal(size=(k, r, 1)) * np.linspace(0.5, 2, k)[:, None, None]
    own = own + 0.8 * rng.normal(size=(k, 1, n)) + rng.normal(size=(k, r, n))
    return truth[:, None, None] + common + own


@pytest.mark.parametrize("kind", ["images", "repeats", "folds"])
@pytest.mark.parametrize("level", [0.01, 0.2, 0.6])
def test_each_pair_has_the_test_of_a_comparison(kind: str, level: float) -> None:
    rng = np.random.default_rng(3)
    sets = []
    for _ in range(20):
        x = effects(rng, rng.normal(0, 0.15, 5), 5, 40)
        test, overlap = crossed, 0.0
        if kind != "images":
            x, test = x.mean(2), over_repeats
        if kind == "folds":
            overlap = 1 / 4
            test = lambda d: corrected_resampled(d, 1 / 4)  # noqa: E731
        want = []
        for i in range(5):
            each = [test(x[j] - x[i]) for j in range(5) if j != i]
            p, two = each[0].p / 2, Means.of(x[[i, int(i == 0)]], overlap)  # at its very p
            around = [may_be_best(two, level=p * (1 + e))[0] for e in (-1e-6, 1e-6)]
            assert around == [True, not each[0].mean > 0]
            want.append(not any(e.mean > 0 and e.p / 2 <= level / 4 for e in each))
        sets.append(may_be_best(Means.of(x, overlap), level=level).tolist())
        assert sets[-1] == want
    assert 1 < np.mean(np.sum(sets, 1)) < 5


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_the_set_holds_the_best_in_95_percent(gap: float) -> None:
    """Also each one that is within the margin; equal means are the least favourable case."""
    rng, held = np.random.default_rng(1), []
    truth = np.array([0.0, 0.0, -gap / 2, -gap, -gap, -2 * gap])
    for _ in range(400):
        means = Means.of(effects(rng, truth, 5, 50))
        held.append([may_be_best(means)[0], may_be_best(means, gap)[3]])
    assert (np.mean(held, 0) >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / 400)).all()


@pytest.mark.parametrize("sd", [0.2, 1.0])
def test_the_probability_of_the_best_is_calibrated(sd: float) -> None:
    """Also of true means that differ less than their errors, 0.25 for each."""
    rng, said, best = np.random.default_rng(2), [], []
    for _ in range(1000):
        truth = rng.normal(0, sd, 4)
        p = probability_best(Means.of(effects(rng, truth, 6, 30)), draws=500)
        assert p.sum() == exact(1)
        said.append(p.max())
        best.append(p.argmax() == truth.argmax())
    for low, high in ((0.4, 0.6), (0.6, 0.85)):
        inside = (np.array(said) >= low) & (np.array(said) < high)
        assert inside.sum() > 50 and low - 0.05 < np.mean(np.array(best)[inside]) < high + 0.05
