"""Means, paired differences and their t intervals over repeats.

A sample is one number per repeat, shape (n,). Standard deviations have ddof = 1. Intervals are
Student's t, because at n = 4 a bootstrap interval of nominal 95 % covers 80 % (exact enumeration).
They are about new repeats with the same images and the same teacher; `crossed` has those for new
images.

Student's distribution is taken from scipy.special, as `scipy.stats.t` does; importing scipy.stats
itself would cost every command 0.4 s.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr, stdtrit

ROUNDING = 1e-12
"""Numbers whose relative difference is at most this are equal."""
MIN_REPEATS = 3
"""Least number of repeats for an interval or a p value: with two, t(1, 0.975) is 12.7."""


@dataclass(frozen=True)
class Interval:
    """A mean with its standard deviation (NaN for n < 2) and the ends of its t interval.

    The ends are NaN for n < `MIN_REPEATS` and where all numbers are equal.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference:
    """A comparison of two samples a and b, paired by repeat: a - b."""

    interval: Interval
    """Of the differences."""
    p: float
    """Two-sided p value of the paired t test; NaN for n < `MIN_REPEATS`. Where all differences are
    equal, t is 0/0 or infinite, and p is that of the sign-flip test: 2 / 2^n, or 1 if they are
    0."""
    correlation: float
    """Of a and b over repeats. Pairing multiplies the variance of the difference by
    1 - correlation; NaN where one sample is constant."""
    wins: int
    """Repeats in which a is greater than b."""
    ties: int
    losses: int

    @property
    def p_greater(self) -> float:
        """Share of the repeats in which a is greater, ties counted half; estimates P(a > b)."""
        n = self.interval.n
        return (self.wins + self.ties / 2) / n if n else math.nan


def mean_interval(
    sample: ArrayLike, level: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Return the mean, standard deviation and t interval of a sample.

    The interval is mean +- t(n - 1, (1 + level) / 2) sd / sqrt(n). It is cut at `bounds`.

    Args:
        sample: one number per repeat, (n,).
        level: coverage of the interval, in (0, 1).
        bounds: least and largest possible mean, such as 0 and 1 for a share.
    """
    x = np.asarray(sample, dtype=float)
    n = len(x)
    mean = float(x.mean()) if n else math.nan
    sd = float(x.std(ddof=1)) if n > 1 else math.nan
    if n < MIN_REPEATS or sd <= ROUNDING * float(abs(x).max()):
        return Interval(mean, sd, n, math.nan, math.nan)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Interval(mean, sd, n, max(mean - half, bounds[0]), min(mean + half, bounds[1]))


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Difference:
    """Compare two samples by the paired t test.

    The p value is that of `scipy.stats.ttest_rel`, except where all differences are equal but for
    rounding: accuracies are multiples of 1 / N, so that this happens, and t is not defined then
    (see `Difference.p`).

    Args:
        a: one number per repeat, (n,).
        b: the same repeats in the same order, (n,).
        level: coverage of the interval, in (0, 1).
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    d = x - y
    interval = mean_interval(d, level)
    tiny = ROUNDING * max(abs(x).max(), abs(y).max()) if len(d) else 0.0
    counts = int((d > tiny).sum()), int((abs(d) <= tiny).sum()), int((d < -tiny).sum())
    if interval.n < MIN_REPEATS:
        return Difference(interval, math.nan, math.nan, *counts)
    correlation = math.nan
    if x.std() > 0 and y.std() > 0:
        correlation = float(np.corrcoef(x, y)[0, 1])
    if interval.sd <= tiny:
        p = 1.0 if counts[1] == interval.n else 2.0 ** (1 - interval.n)
    else:
        t = interval.mean / (interval.sd / math.sqrt(interval.n))
        p = float(2 * stdtr(interval.n - 1, -abs(t)))
    return Difference(interval, p, correlation, *counts)


@dataclass(frozen=True)
class UnpairedDifference:
    """A comparison of two independent samples a and b, of unequal variances: mean(a) - mean(b)."""

    difference: float
    low: float
    """Ends of Welch's t interval; NaN if a sample has less than `MIN_REPEATS` numbers, or if both
    samples are constant."""
    high: float
    df: float
    """Degrees of freedom (Satterthwaite, 1946)."""
    p: float
    """Two-sided p value of Welch's t test. Where both samples are constant, t is 0/0 or infinite,
    and p is that of the permutation test: 1 / C(n_a + n_b, n_a), twice that if n_a = n_b, or 1 if
    the samples are equal."""


def unpaired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> UnpairedDifference:
    """Compare two independent samples by Welch's t test.

    The numbers are those of `scipy.stats.ttest_ind(a, b, equal_var=False)` and of its confidence
    interval, except where both samples are constant (see `UnpairedDifference.p`).

    Args:
        a: one number per repeat, (n_a,).
        b: one number per repeat of other repeats, (n_b,).
        level: coverage of the interval, in (0, 1).
    """
    samples = [np.asarray(sample, dtype=float) for sample in (a, b)]
    n_a, n_b = map(len, samples)
    if not min(n_a, n_b):
        return UnpairedDifference(*[math.nan] * 5)
    difference = float(samples[0].mean() - samples[1].mean())
    if min(n_a, n_b) < MIN_REPEATS:
        return UnpairedDifference(difference, *[math.nan] * 4)
    tiny = ROUNDING * max(float(abs(sample).max()) for sample in samples)
    if max(float(sample.std()) for sample in samples) <= tiny:
        extreme = (1 + (n_a == n_b)) / math.comb(n_a + n_b, n_a)
        p = 1.0 if abs(difference) <= tiny else extreme
        return UnpairedDifference(difference, math.nan, math.nan, math.nan, p)
    e_a, e_b = (float(sample.std(ddof=1)) / math.sqrt(len(sample)) for sample in samples)
    error = math.hypot(e_a, e_b)
    # of shares: the fourth powers of very small errors would be 0
    df = 1 / ((e_a / error) ** 4 / (n_a - 1) + (e_b / error) ** 4 / (n_b - 1))
    half = float(stdtrit(df, (1 + level) / 2)) * error
    p = float(2 * stdtr(df, -abs(difference) / error))
    return UnpairedDifference(difference, difference - half, difference + half, df, p)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a proportion, here the accuracy of one run over n examples.

    Its ends are the shares p with (k / n - p)^2 = z^2 p (1 - p) / n (Wilson, 1927), as in
    `scipy.stats.binomtest(k, n).proportion_ci(level, "wilson")`.

    Args:
        successes: k, in [0, n].
        n: number of examples, >= 1.
        level: coverage of the interval, in (0, 1).
    """
    p = successes / n
    z = float(ndtri(0.5 + 0.5 * level))
    denominator = 2 * (n + z**2)
    center = (2 * n * p + z**2) / denominator
    half = z / denominator * math.sqrt(4 * n * p * (1 - p) + z**2)
    low = 0.0 if successes == 0 else center - half
    return low, 1.0 if successes == n else center + half
