"""Repeats that also vary the train/val split, or the teacher."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtrc

from kdtune.statistics.crossed import Estimate
from kdtune.statistics.intervals import MIN_REPEATS, ROUNDING


class TeacherShare(NamedTuple):
    """How much of the variance over repeats the teachers explain, by one-way random effects."""

    share: float
    """Variance between teachers divided by the sum of that between and within, in [0, 1]."""
    f: float
    """F statistic of the teachers with (k - 1, n - k) degrees of freedom."""
    p: float
    teachers: int
    """Number of teachers k."""
    n: int
    """Number of repeats."""


def corrected_resampled(differences: ArrayLike, val_over_train: float) -> Estimate:
    """Return the mean over train/val splits of the same examples, with a corrected standard error.

    The train sets overlap, so the differences are correlated, and the naive standard error, the
    root of s^2 / n, is too small: its intervals get narrower with every further repeat. The
    corrected variance of the mean is (1 / n + n_val / n_train) s^2 with df = n - 1 (Nadeau and
    Bengio, 2003; for repeated k-fold cross-validation Bouckaert and Frank, 2004). The correction is
    a heuristic: it assumes a correlation of n_val / (n_val + n_train).

    Args:
        differences: One per repeat, [n].
        val_over_train: n_val / n_train; 1 / (N - 1) with N folds.
    """
    d = np.asarray(differences, dtype=float)
    n = len(d)
    mean = float(d.mean()) if n else math.nan
    if n < MIN_REPEATS:
        return Estimate(mean, math.nan, math.nan)
    error = math.sqrt((1 / n + val_over_train) * d.var(ddof=1))
    if error <= ROUNDING * float(abs(d).max()):
        return Estimate(mean, math.nan, math.nan)
    return Estimate(mean, error, n - 1)


def teacher_share(values: ArrayLike, teachers: Sequence[Hashable]) -> TeacherShare | None:
    """Return the share of the teachers in the variance of a value over repeats.

    The share is the intraclass correlation ICC(1) of one-way random effects: with mean squares
    between and within the teachers, MSB and MSW, the variance between teachers is
    (MSB - MSW) / n0, at least 0, where n0 is the number of repeats per teacher (its effective value
    if teachers differ in it); see Searle, Casella and McCulloch (1992), section 3.6.

    Args:
        values: One per repeat, [n].
        teachers: The teacher of each.

    Returns:
        None with fewer than two teachers, no teacher with two repeats, or equal values.
    """
    x, groups = (
        np.asarray(values, dtype=float),
        {t: i for i, t in enumerate(dict.fromkeys(teachers))},
    )
    index = np.array([groups[t] for t in teachers])
    n, k = len(x), len(groups)
    if k < 2 or n <= k:
        return None
    counts = np.bincount(index)
    means = np.bincount(index, weights=x) / counts
    between = float((counts * (means - x.mean()) ** 2).sum()) / (k - 1)
    within = float(((x - means[index]) ** 2).sum()) / (n - k)
    scale = 1e-24 * max(float((x**2).mean()), 1e-300)  # rounding
    if between <= scale and within <= scale:
        return None
    n0 = (n - float((counts**2).sum()) / n) / (k - 1)
    component = max(0.0, (between - within) / n0)
    f = between / within if within > scale else math.inf
    p = float(fdtrc(k - 1, n - k, f)) if math.isfinite(f) else 0.0
    return TeacherShare(component / (component + within), f, p, k, n)
