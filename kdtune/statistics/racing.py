"""Decisions from a table of scores: pure functions, the same for a search, its replay and tests.

A table is an array [configurations, repeats] of scores, NaN where there is none; higher is better,
and a column is one repeat, met by all. The model is that of a two-way layout: a score is the
configuration's mean + the repeat's effect, shared by all configurations + noise of one variance.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Table = NDArray[np.float64]


def leading(scores: Table) -> NDArray[np.int64]:
    """The number of repeats of each configuration before its first gap."""
    counts: NDArray[np.int64] = np.cumprod(~np.isnan(scores), axis=1).sum(axis=1)
    return counts


def noise(scores: Table) -> tuple[float, int]:
    """Standard deviation of the noise, and its degrees of freedom (0: it cannot be known).

    Configurations have different numbers of repeats, but each the first ones. The m-th Helmert
    contrast of a row, (x_m - mean(x_0 .. x_{m-1})) sqrt(m / (m + 1)), has the variance of the noise
    and a mean that is the same for all rows that have it: so the variances within contrasts are
    pooled. With no gaps this is the residual of the two-way layout, (k - 1)(n - 1) degrees.
    """
    count, squares, df = leading(scores), 0.0, 0
    for m in range(1, scores.shape[1]):
        rows = scores[count > m, : m + 1]
        if len(rows) < 2:
            break
        contrasts = (rows[:, m] - rows[:, :m].mean(axis=1)) * math.sqrt(m / (m + 1))
        squares += float(((contrasts - contrasts.mean()) ** 2).sum())
        df += len(rows) - 1
    return (math.sqrt(squares / df), df) if df else (math.nan, 0)


def in_question(
    scores: Table, sd: float, df: int, level: float, looks: int | None = None
) -> NDArray[np.bool_]:
    """Which configurations may still be the best.

    One is out as soon as another beats it over their common repeats by a one-sided t test of the
    paired differences, whose variance is that of the pooled noise, 2 sd^2 / n. Each n is a look;
    the level is divided by their number (Bonferroni), so that over all looks a configuration is
    dropped with at most this chance because of another that is as good. It is not divided by the
    number of the others: that the best of many is dropped is likelier.

    Args:
        scores: [configurations, repeats] of those that compete.
        sd: standard deviation of the noise; NaN where df is 0, then none with a score is out.
        df: its degrees of freedom.
        level: chance of the error, in (0, 1).
        looks: how often it is looked at; by default at every number of repeats.
    """
    count = leading(scores)
    alive = count > 0
    if df == 0:
        return alive
    critical = float(stdtrit(df, 1 - level / (looks or scores.shape[1])))
    for n in np.unique(count[alive]):
        means = scores[count >= n, :n].mean(axis=1)
        here = count == n
        gap = means.max() - scores[here, :n].mean(axis=1)
        alive[here] = gap <= critical * sd * math.sqrt(2 / n)
    return alive


def best_first(scores: Table, rows: Sequence[int]) -> list[int]:
    """The rows by their mean over the repeats that all of them have, the best first."""
    chosen = scores[list(rows)]
    common = ~np.isnan(chosen).any(axis=0)
    means = chosen[:, common].mean(axis=1) if common.any() else np.zeros(len(chosen))
    return [rows[i] for i in np.argsort(-means, kind="stable")]
