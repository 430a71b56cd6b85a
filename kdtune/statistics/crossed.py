"""Means over repeats and images: standard errors, t intervals, variance components.

A table [R, N] holds one number per repeat and image, for example the difference in correctness of
two students. Its mean varies with the repeats (seeds) and with the images, which are both samples.
An interval over repeats alone holds for these images only: with 500 images and 8 repeats of the
default study, a nominal 95 % interval covered the difference on new images in 80 % of the draws
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
    here: tuple[float, float] = (math.nan, math.nan)
    """Standard error and degrees of freedom of the same mean for these images only, where the
    estimate is for new images: its interval is then never narrower, its p value never smaller."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the ends of the t interval: mean +- t(df, (1 + level) / 2) error; NaN without."""
        half = t_quantile(self.df, level) * self.error
        if self.here[0] > 0:
            half = max(half, t_quantile(self.here[1], level) * self.here[0])
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided p value of the t test of a mean of 0; NaN without a standard error."""
        p = float(2 * stdtr(self.df, -abs(self.mean) / self.error))
        if self.here[0] > 0:
            p = max(p, float(2 * stdtr(self.here[1], -abs(self.mean) / self.here[0])))
        return p


@dataclass(frozen=True)
class Components:
    """Variance components of a table repeats x images, each >= 0."""

    repeat: float
    """Variance of the true means of repeats."""
    image: float
    """Variance of the true means of images; NaN where only repeats vary, as is `rest`."""
    rest: float
    """Variance of the interaction, noise included."""

    @property
    def has_images(self) -> bool:
        """Whether images vary as well."""
        return not math.isnan(self.image)

    def error(self, repeats: float, images: float) -> float:
        """Return the standard error of the mean over so many repeats and images; may be inf."""
        return math.sqrt(sum(self._parts(repeats, images)))

    def error_here(self, repeats: float, images: float) -> float:
        """Return the standard error over so many repeats on the same images."""
        of_repeat, _, of_rest = self._parts(repeats, images)
        return math.sqrt(of_repeat + of_rest)

    def df(self, repeats: float, images: float) -> float:
        """Return Satterthwaite's degrees of freedom of `error`, at least repeats - 1.

        They are those of `crossed` for a table whose mean squares equal their expectations. For
        infinitely many repeats they are images - 1.
        """
        of_repeat, of_image, of_rest = self._parts(repeats, images)
        total = of_repeat + of_image + of_rest
        if not self.has_images or not total:
            return repeats - 1
        rows, columns = repeats - 1, images - 1
        own = ((of_repeat + of_rest) / total) ** 2 / rows
        own += ((of_image + of_rest) / total) ** 2 / columns
        own += (of_rest / total) ** 2 / (rows * columns)
        return 1 / own if math.isinf(repeats) else max(1 / own, rows)

    def _parts(self, repeats: float, images: float) -> tuple[float, float, float]:
        """Return the parts of repeats, images and the rest in the variance of the mean."""
        if not self.has_images:
            return self.repeat / repeats, 0.0, 0.0
        return self.repeat / repeats, self.image / images, self.rest / (repeats * images)

    def shares(self, repeats: float, images: float) -> tuple[float, float, float]:
        """Return the shares of repeats, images and the rest in the variance of the mean."""
        parts = self._parts(repeats, images)
        total = sum(parts)
        if not total:
            return math.nan, math.nan, math.nan
        return parts[0] / total, parts[1] / total, parts[2] / total


def t_quantile(df: float, level: float) -> float:
    """Return the half width of a t interval of this level in standard errors."""
    return float(stdtrit(df, (1 + level) / 2))


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
    freedom (1946) from the three components, at least R - 1. Those degrees of freedom are
    estimates: where repeats dominate and the few of a study happen to vary little, they come out
    large and the interval narrow. With 4 repeats, 2,000 images and 26 configurations 8.8 % of null
    studies found one that helps. So an interval is at least as wide as that of `over_repeats`,
    which is exact there. Intervals of 95 % then cover 94 to 98 % for R in {4, 8, 16} and N from
    153 to 5,000 (experiments/coverage.py).

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
    here = math.sqrt(a), repeats - 1
    return Estimate(mean, math.sqrt(variance), max(df, repeats - 1), here)


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
