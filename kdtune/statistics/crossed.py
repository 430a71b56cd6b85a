"""Means over repeats and images: standard errors, t intervals, variance components.

A table [R, N] holds one number per repeat and image, for example the difference in correctness of
two students. Its mean varies with the repeats (seeds) and with the images, which are both samples.
An interval over repeats alone holds for these images only: with 500 images and 8 repeats of the
default study, a nominal 95 % interval covered the difference on new images in 85 % of the draws
(experiments/coverage.py).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from kdtune.statistics.intervals import MIN_REPEATS, ROUNDING


@dataclass(frozen=True)
class Estimate:
    """An estimated mean with its standard error and degrees of freedom, for Student's t."""

    mean: float
    error: float
    """Standard error; NaN below `MIN_REPEATS` repeats, and where nothing varies."""
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the ends of the t interval: mean +- t(df, (1 + level) / 2) error; NaN without."""
        half = float(stdtrit(self.df, (1 + level) / 2)) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided p value of the t test of a mean of 0; NaN without a standard error."""
        return float(2 * stdtr(self.df, -abs(self.mean) / self.error))


@dataclass(frozen=True)
class Components:
    """Variance components of a table repeats x images, each >= 0."""

    repeat: float
    """Variance of the true means of repeats."""
    image: float
    """Variance of the true means of images."""
    rest: float
    """Variance of the interaction, noise included."""

    def error(self, repeats: float, images: float) -> float:
        """Return the standard error of the mean over so many repeats and images; may be inf."""
        cells = repeats * images
        return math.sqrt(self.repeat / repeats + self.image / images + self.rest / cells)

    def shares(self, repeats: int, images: int) -> tuple[float, float, float]:
        """Return the shares of repeats, images and the rest in the variance of the mean."""
        parts = (self.repeat / repeats, self.image / images, self.rest / (repeats * images))
        total = sum(parts)
        if not total:
            return math.nan, math.nan, math.nan
        return parts[0] / total, parts[1] / total, parts[2] / total


def over_repeats(sample: ArrayLike) -> Estimate:
    """Return the mean of one number per repeat, (R,), as an estimate about these images.

    The error is sd / sqrt(R) with ddof = 1 and R - 1 degrees of freedom, as in
    `scipy.stats.ttest_1samp`.
    """
    x = np.asarray(sample, dtype=float)
    if len(x) < MIN_REPEATS:
        return Estimate(float(x.mean()) if len(x) else math.nan, math.nan, math.nan)
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    if sd <= ROUNDING * float(abs(x).max()):
        return Estimate(mean, math.nan, math.nan)
    return Estimate(mean, sd / math.sqrt(len(x)), len(x) - 1)


def crossed(table: ArrayLike) -> Estimate:
    """Return the mean of a table [R, N] as an estimate about new repeats and new images.

    With the mean squares MS_R of repeats, MS_I of images and MS_E of the interaction, the variance
    of the mean is V = max(MS_R + MS_I - MS_E, MS_R, MS_I) / (R N), with Satterthwaite's degrees of
    freedom (1946) from the three components, at least R - 1. Intervals of 95 % cover 94 to 98 % for
    R in {4, 8, 16} and N from 153 to 5,000 (experiments/coverage.py).

    Args:
        table: one number per repeat and image, [R, N].
    """
    d = np.asarray(table, dtype=float)
    repeats, images = d.shape
    mean = float(d.mean()) if d.size else math.nan
    if repeats < MIN_REPEATS:
        return Estimate(mean, math.nan, math.nan)
    if images < 2:
        return over_repeats(d.mean(1))
    a, b, c = (ms / d.size for ms in mean_squares(d))
    variance = max(a + b - c, a, b)
    if variance <= (ROUNDING * float(abs(d).max())) ** 2:
        return Estimate(mean, math.nan, math.nan)
    own = (a / variance) ** 2 / (repeats - 1) + (b / variance) ** 2 / (images - 1)
    df = 1 / (own + (c / variance) ** 2 / ((repeats - 1) * (images - 1)))
    return Estimate(mean, math.sqrt(variance), max(df, repeats - 1))


def components(table: ArrayLike) -> Components:
    """Return the variance components of a table [R, N], R and N at least 2.

    They are the moment estimates (MS_R - MS_E) / N, (MS_I - MS_E) / R and MS_E of the two-way
    layout with random effects; negative ones become 0.
    """
    d = np.asarray(table, dtype=float)
    repeats, images = d.shape
    ms_repeat, ms_image, ms_rest = mean_squares(d)
    of_repeat, of_image = (ms_repeat - ms_rest) / images, (ms_image - ms_rest) / repeats
    return Components(max(0.0, of_repeat), max(0.0, of_image), ms_rest)


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Return the mean squares of the rows, the columns and the interaction of a table [R, N]."""
    repeats, images = table.shape
    mean, rows, columns = table.mean(), table.mean(1), table.mean(0)
    of_rows = images * float(((rows - mean) ** 2).sum())
    of_columns = repeats * float(((columns - mean) ** 2).sum())
    rest = table - rows[:, None] - columns[None] + mean
    return (
        of_rows / (repeats - 1),
        of_columns / (images - 1),
        float((rest**2).sum()) / ((repeats - 1) * (images - 1)),
    )
