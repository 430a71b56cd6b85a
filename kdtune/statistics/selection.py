"""Selection of configurations: racing, pruning, bias, which may be the best, variance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtrc, stdtr, stdtrit

from kdtune.statistics.intervals import MIN_REPEATS, ROUNDING
from kdtune.statistics.tests import shrunk

# Racing: which configurations may still be the best, from a table of scores.
#
# A table is an array [configurations, repeats] of scores, NaN where there is none. Higher is
# better.
# A column is one repeat, which all configurations share. The model is the two-way layout without
# interaction: a score is the configuration's mean + the repeat's effect + noise of one variance.
# Racing after F-race (Birattari et al., GECCO 2002) and irace (Lopez-Ibanez et al., 2016).


Table = NDArray[np.float64]


def leading_counts(scores: Table) -> NDArray[np.int64]:
    """Return each configuration's number of repeats before its first gap, (configurations,)."""
    counts: NDArray[np.int64] = np.cumprod(~np.isnan(scores), axis=1).sum(axis=1)
    return counts


def noise(scores: Table) -> tuple[float, int]:
    """Return the standard deviation of the noise and its degrees of freedom.

    Configurations may have different numbers of repeats, but each has the first ones. The m-th
    Helmert contrast of a row, (x_m - mean(x_0 .. x_{m-1})) sqrt(m / (m + 1)), has the variance of
    the noise and a mean that is the same for all rows that have it. So the variances within
    contrasts are pooled. With no gaps this is the residual of the two-way layout with
    (k - 1)(n - 1) degrees of freedom.

    Returns:
        sd, df; (NaN, 0) where no two configurations share two repeats.
    """
    count, squares, df = leading_counts(scores), 0.0, 0
    for m in range(1, scores.shape[1]):
        rows = scores[count > m, : m + 1]
        if len(rows) < 2:
            break
        contrasts = (rows[:, m] - rows[:, :m].mean(axis=1)) * math.sqrt(m / (m + 1))
        squares += float(((contrasts - contrasts.mean()) ** 2).sum())
        df += len(rows) - 1
    return (math.sqrt(squares / df), df) if df else (math.nan, 0)


def active(scores: Table, sd: float, df: int, level: float) -> NDArray[np.bool_]:
    """Return which configurations racing has not eliminated.

    A configuration is eliminated when another one is better over their common repeats by a
    one-sided t test of the paired differences, with the variance of the pooled noise, 2 sd^2 / n.
    Each n is an interim analysis. The level is divided by the repeats (Bonferroni), so that over
    all analyses the probability that a configuration is dropped in favour of an equally good one is
    at most the level. This holds per pair and not family-wise: the best of many configurations is
    dropped with a larger probability.

    Args:
        scores: [configurations, repeats] of those that compete.
        sd: standard deviation of the noise; NaN where df is 0, and then none with a score is out.
        df: its degrees of freedom.
        level: error rate of one pair over all interim analyses, in (0, 1).

    Returns:
        One flag per configuration; False also for those without a score.
    """
    count = leading_counts(scores)
    alive = count > 0
    if df == 0:
        return alive
    critical = float(stdtrit(df, 1 - level / scores.shape[1]))
    for n in np.unique(count[alive]):
        means = scores[count >= n, :n].mean(axis=1)
        here = count == n
        gap = means.max() - scores[here, :n].mean(axis=1)
        alive[here] = gap <= critical * sd * math.sqrt(2 / n)
    return alive


def rank_by_common_mean(scores: Table, rows: Sequence[int]) -> list[int]:
    """Return the rows by their mean over the repeats that all of them have, the best first."""
    chosen = scores[list(rows)]
    common = ~np.isnan(chosen).any(axis=0)
    means = chosen[:, common].mean(axis=1) if common.any() else np.zeros(len(chosen))
    return [rows[i] for i in np.argsort(-means, kind="stable")]


def adjusted_means(scores: Table) -> NDArray[np.float64]:
    """Return the configurations' means with the effects of the repeats removed.

    These are the least-squares means of the two-way layout: a configuration that has only easy
    repeats gets no better mean, and each configuration uses all of its repeats. With no gaps they
    are the plain means. Solved for the repeats' effects alone: (diag(K_r) - M' diag(1 / n_c) M) e =
    sum over c of (x_cr - mean_c), where M [configurations, repeats] marks the scores, and K_r and
    n_c are its sums; the effects sum to 0.

    Args:
        scores: [configurations, repeats], in which any two configurations are connected by a chain
            of common repeats, as when all have repeat 0.

    Returns:
        One mean per configuration; NaN for those without a score.
    """
    has = ~np.isnan(scores)
    counts = has.sum(axis=1)
    sizes = np.maximum(counts, 1)
    filled = np.where(has, scores, 0.0)
    means = filled.sum(axis=1) / sizes
    mask = has.astype(float)
    normal = np.diag(mask.sum(axis=0)) - mask.T @ (mask / sizes[:, None])
    residuals = np.where(has, scores - means[:, None], 0.0).sum(axis=0)
    effects = np.linalg.lstsq(normal, residuals)[0]
    seen = has.any(axis=0)
    effects = np.where(seen, effects - effects[seen].mean() if seen.any() else 0.0, 0.0)
    return np.where(counts > 0, means - mask @ effects / sizes, math.nan)


# Pruning of trials: whether a trial is predicted to end below the best of the others.


MIN_COMPLETED = 6
"""Number of other trials that must have completed before one is pruned."""
PRUNING_LEVEL = 0.05
"""Probability, at each rung, of pruning a trial that would have come first."""


def rungs(epochs: int) -> tuple[int, ...]:
    """Return the numbers of epochs after which a trial of this length may be pruned.

    Every eighth of the epochs from a quarter on, rounded up; never the last epoch.
    """
    counts = {math.ceil(epochs * eighths / 8) for eighths in range(2, 8)}
    return tuple(sorted(count for count in counts if count < epochs))


def is_behind(score: float, others: Sequence[tuple[float, float]]) -> bool:
    """Return True if the trial is predicted to end below the best of the others.

    The final scores of the others are regressed on their scores at the same epoch of the same
    repeat (ordinary least squares with slope b, residual standard deviation s, and Sxx the sum of
    squares of the scores at this epoch). The trial is behind if its prediction lies significantly
    below the prediction for the leader, who had x* at this epoch, by a one-sided t test:
    b (x* - x) > t s sqrt(2 + (x* - x)^2 / Sxx). The leader's own final score is not used in place
    of its prediction, because the best of many is lucky and an average trial does not reach it.

    So at an epoch that predicts little, for example while the learning rate still rises, no trial
    is pruned, whereas a fixed share (the median, as in ASHA) prunes the best
    (experiments/README.md).

    Args:
        score: of the trial at this epoch, x.
        others: (score at this epoch, final score) of the completed trials.
    """
    n = len(others)
    if n < MIN_COMPLETED:
        return False
    x, y = np.asarray(others, dtype=float).T
    dx = x - x.mean()
    if (sxx := float(dx @ dx)) == 0:
        return False
    slope = float(dx @ y) / sxx
    residuals = y - y.mean() - slope * dx
    spread = math.sqrt(float(residuals @ residuals) / (n - 2))
    gap = float(x[y.argmax()]) - score
    margin = float(stdtrit(n - 2, 1 - PRUNING_LEVEL)) * spread * math.sqrt(2 + gap**2 / sxx)
    return slope > 0 and slope * gap > margin


# Correction of the best of several accuracies for selection bias (BBC-CV).


@dataclass(frozen=True)
class Corrected:
    """Accuracy of the best of K configurations, corrected for selection bias."""

    corrected: float
    """Mean over bootstraps of the selected configuration's accuracy on examples not drawn."""
    low: float
    """Lower end of the percentile interval of the bootstraps."""
    high: float
    """Its upper end."""


def bootstrap_corrected(correct: ArrayLike, draws: int = 1000, level: float = 0.95) -> Corrected:
    """Return the accuracy of the best configuration, corrected for selection bias.

    Examples are drawn with replacement. The configuration that is best on the examples drawn is
    evaluated on those not drawn: the bootstrap bias correction BBC-CV of Tsamardinos et al.
    (Machine Learning, 2018).

    Args:
        correct: share of repeats that classify an example correctly, [K, N], in [0, 1].
        draws: number of bootstraps.
        level: coverage of the interval, in (0, 1).
    """
    c = np.asarray(correct, dtype=float)
    n = c.shape[1]
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    out = counts == 0
    counts, out = counts[out.any(1)], out[out.any(1)]  # a tiny split may be drawn whole
    best = (counts @ c.T).round(9).argmax(1)  # the first of those that tie, on every processor
    kept = out.astype(float)
    judged = ((kept @ c.T) / kept.sum(1, keepdims=True))[np.arange(len(best)), best]
    low, high = np.quantile(judged, [(1 - level) / 2, (1 + level) / 2])
    return Corrected(float(judged.mean()), float(low), float(high))


# Which configurations may be the best: multiple comparisons with the best, and P(best).


@dataclass(frozen=True)
class Means:
    """Means of K configurations over the same R repeats and N images, and their covariance.

    The mean products `repeat`, `image` and `rest` are mean squares of `intervals.crossed`, divided
    by R N, for any two configurations. Those of a difference i - j are M_ii + M_jj - 2 M_ij, so
    that all differences need no more than three matrices.
    """

    means: Table
    """(K,)."""
    deviations: Table
    """Of the means of repeats from the mean, divided by sqrt(R (R - 1)), [K, R]."""
    image: Table
    """Mean products of the images' means, [K, K]; 0 where only repeats vary."""
    rest: Table
    """Mean products of the interaction, [K, K]."""
    images: int
    """N; 1 where only repeats vary."""

    @staticmethod
    def of(scores: ArrayLike, val_over_train: float = 0.0) -> "Means":
        """Return the means of scores.

        Args:
            scores: [K, R], or [K, R, N] where images vary as well; higher is better.
            val_over_train: n_val / n_train of repeats that are folds, see
                `intervals.corrected_resampled`; 0: the repeats are independent.
        """
        x = np.asarray(scores, dtype=float)
        x = x[:, :, None] if x.ndim == 2 else x
        _, repeats, images = x.shape
        means = x.mean((1, 2))
        rows, columns = x.mean(2) - means[:, None], x.mean(1) - means[:, None]
        rest = np.zeros((len(x), len(x)))
        for r in range(repeats):  # a table of all residuals would double the memory
            residuals = x[:, r] - rows[:, [r]] - columns - means[:, None]
            rest += residuals @ residuals.T
        df_rows, df_columns = max(1, repeats - 1), max(1, images - 1)
        return Means(
            means,
            rows * math.sqrt((1 / repeats + val_over_train) / df_rows),
            columns @ columns.T / (images * df_columns),
            rest / (repeats * images * df_rows * df_columns),
            images,
        )


def may_be_best(
    scores: Means, equal: float = 0.0, others: int | None = None, level: float = 0.05
) -> NDArray[np.bool_]:
    """Return which configurations are not distinguishable from the best.

    Multiple comparisons with the best (Hsu, Annals of Statistics 1981; Multiple Comparisons, 1996,
    chapter 4): a configuration is out if another one is significantly better by more than `equal`,
    by a one-sided t test of the difference with the two-way variance of `intervals.crossed`, at
    level / (K - 1). The truly best one, of which no other is better, is out only if one of its
    K - 1 tests errs, so with at least 1 - level it is among those returned (Bonferroni). The same
    holds for each one that is within `equal` of the best. Hsu's constant, Dunnett's, is smaller,
    but it takes equal variances and independent errors, and two configurations of kdtune share
    repeats and images and may vary very differently. The tests of the truly best one are defined
    for all configurations, also those that a race has not run to the end, if `others` counts them.

    Args:
        scores: higher is better.
        equal: difference that does not matter, >= 0, in the unit of the scores.
        others: number of other configurations, K - 1 or more. None: K - 1.
        level: probability that the truly best one is missing, in (0, 1).

    Returns:
        One flag per configuration; all True below `MIN_REPEATS` repeats.
    """
    (k, repeats), images = scores.deviations.shape, scores.images
    if repeats < MIN_REPEATS:
        return np.ones(k, dtype=bool)
    gaps = scores.means[:, None] - scores.means - equal  # [j, i]: by how much j is better than i
    products = scores.deviations @ scores.deviations.T, scores.image, scores.rest
    sums = [np.add.outer(np.diag(p), np.diag(p)) for p in products]
    squares = [both - 2 * p for both, p in zip(sums, products, strict=True)]
    # equal differences but for rounding
    a, b, c = (np.where(s > ROUNDING * sum(sums), s, 0.0) for s in squares)
    variance = np.maximum(a + b - c, np.maximum(a, b))
    columns = max(1, images - 1)
    inverse_df = a**2 / (repeats - 1) + b**2 / columns + c**2 / ((repeats - 1) * columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.maximum(variance**2 / inverse_df, min(repeats, images) - 1)
        p = np.fmax(stdtr(df, -gaps / np.sqrt(variance)), stdtr(repeats - 1, -gaps / np.sqrt(a)))
    # of equal differences that of the sign-flip test, as in a comparison
    p = np.where(variance > 0, p, 0.5**repeats)
    return np.asarray(~((gaps > 0) & (p <= level / max(1, others or k - 1))).any(axis=0))


def probability_best(scores: Means, draws: int = 4000, seed: int = 0) -> Table:
    """Return P(best) of each configuration, by a parametric bootstrap of the crossed model.

    Drawn are the errors of the means: the part of the repeats from the multivariate t distribution
    with R - 1 degrees of freedom and the covariance of the repeats' means, the part of the images
    from the normal one with the mean products (image - rest), without its negative variances. They
    are drawn around the observed means, shrunk towards their common mean as in `tests.shrunk`, each
    by a factor f, and are themselves multiplied by sqrt(f): the best of many that are equally good
    is lucky, and around the observed means its P(best) would be far too large. P(best) is the share
    of draws in which a configuration has the largest mean. It describes the data and controls no
    error rate.

    Args:
        scores: higher is better.
        draws: number of draws; the standard error of P is at most 0.5 / sqrt(draws).
        seed: of the draws.

    Returns:
        (K,), with the sum 1; NaN below `MIN_REPEATS` repeats.
    """
    k, repeats = scores.deviations.shape
    if repeats < MIN_REPEATS:
        return np.full(k, math.nan)
    rng, centre = np.random.default_rng(seed), np.eye(k) - 1 / k
    gaps, deviations = centre @ scores.means, centre @ scores.deviations
    variances, axes = np.linalg.eigh(centre @ (scores.image - scores.rest) @ centre)
    # the symmetric root, which does not depend on the signs of the axes
    root = axes * np.sqrt(np.maximum(variances, 0.0)) @ axes.T
    errors = np.maximum(np.sqrt((deviations**2).sum(1) + (root**2).sum(1)), ROUNDING)
    means = np.array([shrunk(gaps, errors, i) for i in range(k)])
    factors = np.divide(means, gaps, out=np.ones(k), where=gaps != 0)
    scale = np.sqrt((repeats - 1) / rng.chisquare(repeats - 1, (draws, 1)))
    drawn = rng.standard_normal((draws, repeats)) @ deviations.T * scale
    drawn = means + np.sqrt(factors) * (drawn + rng.standard_normal((draws, k)) @ root)
    is_top = drawn >= drawn.max(axis=1, keepdims=True)
    return np.asarray((is_top / is_top.sum(axis=1, keepdims=True)).mean(axis=0))


# Sources of variance: configuration, repeat, epoch, and single hyperparameters.


@dataclass(frozen=True)
class Shares:
    """Shares of the total sum of squares, each in [0, 1]; their sum is 1."""

    configuration: float
    repeat: float
    epoch: float
    residual: float
    """All that is not a main effect, interactions included."""


@dataclass(frozen=True)
class RepeatedMeasures:
    """Analysis of variance with repeated measures of a block of configurations x repeats."""

    f: float
    """F of the configurations with (K - 1, (K - 1)(n - 1)) degrees of freedom."""
    p: float
    icc: float
    """Intraclass correlation ICC(C,1) of McGraw and Wong (1996): the correlation of two
    configurations over repeats. Pairing multiplies the variance of a difference by 1 - icc."""


def variance_shares(block: ArrayLike) -> Shares:
    """Return the shares of configuration, repeat and epoch in the sum of squares.

    Args:
        block: scores [K, n, E] of K configurations, n repeats and E epochs, without gaps.

    Returns:
        The main effects' shares and the rest; NaN where all scores are equal.
    """
    x = np.asarray(block, dtype=float)
    mean = x.mean()
    total = float(((x - mean) ** 2).sum())
    if total <= 1e-24 * x.size * mean**2:  # all equal but for rounding
        return Shares(math.nan, math.nan, math.nan, math.nan)
    parts: list[float] = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        levels = x.mean(others)
        parts.append(float(((levels - mean) ** 2).mean() * x.size / total))
    explained = sum(parts)
    if explained > 1:  # by rounding, where the residual is 0
        parts = [part / explained for part in parts]
    return Shares(parts[0], parts[1], parts[2], max(0.0, 1 - explained))


def repeated_measures(block: ArrayLike) -> RepeatedMeasures:
    """Return the F test and the intraclass correlation of K configurations in n repeats.

    F is that of a within-subjects design in which the repeats are the subjects.

    Args:
        block: scores [K, n], K and n at least 2, without gaps.

    Returns:
        F, p and ICC; NaN for a residual of 0.
    """
    x = np.asarray(block, dtype=float)
    k, n = x.shape
    rows, columns, mean = x.mean(1), x.mean(0), x.mean()
    ms_rows = n * float(((rows - mean) ** 2).sum()) / (k - 1)
    ms_columns = k * float(((columns - mean) ** 2).sum()) / (n - 1)
    rest = x - rows[:, None] - columns[None] + mean
    df = (k - 1) * (n - 1)
    ms_rest = float((rest**2).sum()) / df
    if ms_rest <= 1e-24 * mean**2:
        return RepeatedMeasures(math.nan, math.nan, math.nan)
    f = ms_rows / ms_rest
    icc = (ms_columns - ms_rest) / (ms_columns + (k - 1) * ms_rest)
    return RepeatedMeasures(f, float(fdtrc(k - 1, df, f)), icc)


@dataclass(frozen=True)
class Importance:
    """Share of the variance between configurations that one hyperparameter explains alone."""

    share: float
    """Eta squared: share of the sum of squares between the configurations' means, in [0, 1]."""
    null: float
    """95 % quantile of the share of a hyperparameter that has no effect."""
    n: int
    """Number of configurations in which the hyperparameter is active."""


def importance(means: ArrayLike, labels: ArrayLike, draws: int = 2000, seed: int = 0) -> Importance:
    """Return the share of one hyperparameter in the variance of the configurations' means.

    The null distribution permutes the means. It is needed because with few configurations a
    hyperparameter without effect explains much, and the more values it has, the more.

    Args:
        means: of the configurations, (K,).
        labels: index of the hyperparameter's value in each configuration, (K,), from 0.
        draws: number of permutations.
        seed: of the permutations.

    Returns:
        Share, null quantile and K; NaN where all means are equal.
    """
    y, index = np.asarray(means, dtype=float), np.asarray(labels)
    total = float(((y - y.mean()) ** 2).sum())
    if total <= 1e-24 * float((y**2).sum()):  # all equal but for rounding
        return Importance(math.nan, math.nan, len(y))
    indicator = np.eye(int(index.max()) + 1)[index]
    sizes = np.maximum(indicator.sum(0), 1)

    def share(values: ArrayLike) -> Any:  # [..., K] -> [...]
        levels = (np.asarray(values) - y.mean()) @ indicator / sizes
        return (levels**2 * indicator.sum(0)).sum(-1) / total

    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(y, (draws, 1)), axis=1)
    return Importance(float(share(y)), float(np.quantile(share(shuffled), 0.95)), len(y))
