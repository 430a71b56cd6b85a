"""Racing: which configurations may still be the best, from a table of scores.

A table is an array [configurations, repeats] of scores, NaN where there is none. Higher is better.
A column is one repeat, which all configurations share. The model is the two-way layout without
interaction: a score is the configuration's mean + the repeat's effect + noise of one variance.
Racing after F-race (Birattari et al., GECCO 2002) and irace (Lopez-Ibanez et al., 2016).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

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


def active(
    scores: Table, sd: float, df: int, level: float, analyses: int | None = None
) -> NDArray[np.bool_]:
    """Return which configurations racing has not eliminated.

    A configuration is eliminated when another one is better over their common repeats by a
    one-sided t test of the paired differences, with the variance of the pooled noise, 2 sd^2 / n.
    Each n is an interim analysis. The level is divided by their number (Bonferroni), so that over
    all analyses the probability that a configuration is dropped in favour of an equally good one is
    at most the level. This holds per pair and not family-wise: the best of many configurations is
    dropped with a larger probability.

    Args:
        scores: [configurations, repeats] of those that compete.
        sd: standard deviation of the noise; NaN where df is 0, and then none with a score is out.
        df: its degrees of freedom.
        level: error rate of one pair over all interim analyses, in (0, 1).
        analyses: number of interim analyses; by default one per repeat.

    Returns:
        One flag per configuration; False also for those without a score.
    """
    count = leading_counts(scores)
    alive = count > 0
    if df == 0:
        return alive
    critical = float(stdtrit(df, 1 - level / (analyses or scores.shape[1])))
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
