"""Means, differences and their intervals over repeats and images."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, betaln, fdtrc, ndtri, stdtr, stdtrit

# Means, paired differences and their t intervals over repeats.
#
# A sample is one number per repeat, shape (n,). Standard deviations have ddof = 1. Intervals are
# Student's t, because at n = 4 a bootstrap interval of nominal 95 % covers 80 % (exact
# enumeration).
# They are about new repeats with the same images and the same teacher; `crossed` has those for
# new
# images.
#
# Student's distribution is taken from scipy.special, as `scipy.stats.t` does; importing
# scipy.stats
# itself would cost every command 0.4 s.


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


def mean_interval(sample: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean, standard deviation and t interval of a sample.

    The interval is mean +- t(n - 1, (1 + level) / 2) sd / sqrt(n).

    Args:
        sample: one number per repeat, (n,).
        level: coverage of the interval, in (0, 1).
    """
    x = np.asarray(sample, dtype=float)
    n = len(x)
    mean = float(x.mean()) if n else math.nan
    sd = float(x.std(ddof=1)) if n > 1 else math.nan
    if n < MIN_REPEATS or sd <= ROUNDING * float(abs(x).max()):
        return Interval(mean, sd, n, math.nan, math.nan)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Interval(mean, sd, n, mean - half, mean + half)


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


def unpaired_difference(a: ArrayLike, b: ArrayLike) -> "Estimate":
    """Compare two independent samples, of unequal variances, by Welch's t test: mean(a) - mean(b).

    The numbers are those of `scipy.stats.ttest_ind(a, b, equal_var=False)` and of its confidence
    interval. There is no test below `MIN_REPEATS` numbers of a sample. Where both samples are
    constant, t is 0/0 or infinite, and p is that of the permutation test: 1 / C(n_a + n_b, n_a),
    twice that if n_a = n_b, or 1 if the samples are equal.

    Args:
        a: one number per repeat, (n_a,).
        b: one number per repeat of other repeats, (n_b,).
    """
    samples = [np.asarray(sample, dtype=float) for sample in (a, b)]
    n_a, n_b = map(len, samples)
    difference = float(samples[0].mean() - samples[1].mean())
    e_a, e_b = (float(sample.std(ddof=1)) / math.sqrt(len(sample)) for sample in samples)
    error = math.hypot(e_a, e_b)
    if min(n_a, n_b) < MIN_REPEATS:
        return Estimate(difference, error, math.nan)
    tiny = ROUNDING * max(float(abs(sample).max()) for sample in samples)
    if max(float(sample.std()) for sample in samples) <= tiny:
        extreme = (1 + (n_a == n_b)) / math.comb(n_a + n_b, n_a)
        p = 1.0 if abs(difference) <= tiny else extreme
        return Estimate(difference, error, math.nan, p_without_df=p)
    # of shares: the fourth powers of very small errors would be 0
    df = 1 / ((e_a / error) ** 4 / (n_a - 1) + (e_b / error) ** 4 / (n_b - 1))
    return Estimate(difference, error, df)


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


def share_interval(estimate: "Estimate", n: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share that is estimated over repeats and images.

    Wilson's interval of n independent examples depends on z^2 / n alone, in whose place stands
    k = h^2 / (p (1 - p)), with the half width h of the t interval of the share p: its ends are
    (p + k / 2 -+ sqrt(h^2 + k^2 / 4)) / (1 + k). That is Wilson's interval with the effective
    sample size of a survey (Kott and Carr, 1997; Dean and Pagano, 2015). It holds for what the
    estimate holds for. A t interval of a small share is too narrow and ends below 0.

    Args:
        estimate: of the share, such as that of `crossed`.
        n: number of images; a share that is 0 or 1 in all repeats has the interval of one run.
        level: coverage of the interval, in (0, 1).
    """
    p = estimate.mean
    low, high = estimate.interval(level)
    half = (high - low) / 2
    if p in (0, 1):
        k = float(ndtri(0.5 + 0.5 * level)) ** 2 / n
        half = 0.0
    else:
        k = half**2 / (p * (1 - p))
    center, width = (p + k / 2) / (1 + k), math.sqrt(half**2 + k**2 / 4) / (1 + k)
    return max(0.0, center - width), min(1.0, center + width)


# Means over repeats and images: standard errors, t intervals, variance components.
#
# A table [R, N] holds one number per repeat and image, for example the difference in correctness
# of
# two students. Its mean varies with the repeats (seeds) and with the images, which are both
# samples.
# An interval over repeats alone holds for these images only: with 500 images and 8 repeats of the
# default study, a nominal 95 % interval covered the difference on new images in 80 % of the draws
# (experiments/coverage.py).


@dataclass(frozen=True)
class Estimate:
    """An estimated mean with its standard error and degrees of freedom, for Student's t."""

    mean: float
    error: float
    """Standard error; NaN below `MIN_REPEATS` repeats, and where nothing varies."""
    df: float
    here: tuple[float, float] = (math.nan, math.nan)
    """Standard error and degrees of freedom of the same mean for these images only, where the
    estimate is for new images: its t interval is then never narrower, the p value of its t test
    never smaller. Where all repeats are equal the error is 0, and only the images vary."""
    p_without_df: float = math.nan
    """P value where there is no t test, since nothing varies."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the ends of the t interval: mean +- t(df, (1 + level) / 2) error; NaN without."""
        half = t_quantile(self.df, level) * self.error
        if self.here[0] > 0:
            half = max(half, t_quantile(self.here[1], level) * self.here[0])
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided p value of the t test of a mean of 0; NaN without a standard error."""
        if math.isnan(self.df):
            return self.p_without_df
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
        """Return Satterthwaite's degrees of freedom of `error`, with a least value as of `crossed`.

        They are those of `crossed` for a table whose mean squares equal their expectations. For
        infinitely many repeats they are images - 1.
        """
        of_repeat, of_image, of_rest = self._parts(repeats, images)
        total = of_repeat + of_image + of_rest
        if not self.has_images or not total:
            return repeats - 1
        rows, columns = repeats - 1, images - 1
        inverse_df = ((of_repeat + of_rest) / total) ** 2 / rows
        inverse_df += ((of_image + of_rest) / total) ** 2 / columns
        inverse_df += (of_rest / total) ** 2 / (rows * columns)
        return 1 / inverse_df if math.isinf(repeats) else max(1 / inverse_df, min(rows, columns))

    def half_width(self, repeats: float, images: float, level: float = 0.95) -> float:
        """Return the half width of the interval of `crossed` over so many repeats and images."""
        half = t_quantile(self.df(repeats, images), level) * self.error(repeats, images)
        return max(half, t_quantile(repeats - 1, level) * self.error_here(repeats, images))

    def _parts(self, repeats: float, images: float) -> tuple[float, float, float]:
        """Return the parts of repeats, images and the rest in the variance of the mean."""
        if not self.has_images:
            return self.repeat / repeats, 0.0, 0.0
        return self.repeat / repeats, self.image / images, self.rest / (repeats * images)

    def shares(self, repeats: float, images: float) -> tuple[float, float, float]:
        """Return the shares of repeats, images and the rest in the variance of the mean, not 0."""
        parts = self._parts(repeats, images)
        total = sum(parts)
        return parts[0] / total, parts[1] / total, parts[2] / total


def t_quantile(df: float, level: float) -> float:
    """Return the half width of a t interval of this level in standard errors."""
    return float(stdtrit(df, (1 + level) / 2))


def over_repeats(sample: ArrayLike) -> Estimate:
    """Return the mean of one number per repeat, (R,), as an estimate about these images.

    The error is sd / sqrt(R) with ddof = 1 and R - 1 degrees of freedom, as in
    `scipy.stats.ttest_1samp`.
    """
    i = mean_interval(sample)
    if math.isnan(i.low):
        return Estimate(i.mean, math.nan, math.nan)
    return Estimate(i.mean, i.sd / math.sqrt(i.n), i.n - 1)


def crossed(table: ArrayLike) -> Estimate:
    """Return the mean of a table [R, N] as an estimate about new repeats and new images.

    With the mean squares MS_R of repeats, MS_I of images and MS_E of the interaction, the variance
    of the mean is V = max(MS_R + MS_I - MS_E, MS_R, MS_I) / (R N), with Satterthwaite's degrees of
    freedom (1946) from the three components, at least min(R, N) - 1. Those degrees of freedom are
    estimates: where repeats dominate and the few of a study happen to vary little, they come out
    large and the interval narrow. With 4 repeats, 2,000 images and 26 configurations 8.8 % of null
    studies found one that helps. So an interval is at least as wide as that of `over_repeats`,
    which is exact there (it has no width where all repeats differ equally, but the images still
    vary). Intervals of 95 % then cover 94 to 98 % for R in {4, 8, 16} and N from
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
    inverse_df = (a / variance) ** 2 / (repeats - 1) + (b / variance) ** 2 / (images - 1)
    inverse_df += (c / variance) ** 2 / ((repeats - 1) * (images - 1))
    df = 1 / inverse_df
    here = math.sqrt(a), repeats - 1
    return Estimate(mean, math.sqrt(variance), max(df, min(repeats, images) - 1), here)


def by_group(values: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Return a value for each group of images, so that groups can take the place of images.

    With m the mean of a row, S_g and n_g the sum and the number of its images in group g, and G
    groups of I images, it is m + (S_g - m n_g) G / I: the linearised ratio of means over groups of
    unequal sizes (Cochran, 1977, section 9A.1). The mean over groups is m, and the variance between
    them that of a mean over clusters; `crossed` of the table is the two-way interval for new
    groups. Values of groups of one image each are those of the images.

    Args:
        values: Of each image, [..., I].
        groups: Name or number of the group of each image, [I].

    Returns:
        [..., G], in the order of the sorted names.
    """
    x = np.asarray(values, dtype=float)
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    ordered = x[..., np.argsort(number, kind="stable")]
    sums = np.add.reduceat(ordered, np.cumsum(sizes) - sizes, axis=-1)
    mean = x.mean(-1, keepdims=True)
    scaled: NDArray[np.float64] = mean + (sums - mean * sizes) * (len(sizes) / x.shape[-1])
    return scaled


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
    of_rest = float((rest**2).sum()) / ((repeats - 1) * (images - 1))
    return of_rows / (repeats - 1), of_columns / (images - 1), of_rest


# The size of the training set with which a baseline is as good as something else.


POINTS = 32
"""Points between two sizes at which an interval is computed."""


class EquivalentSize(NamedTuple):
    """Size at which a curve has a given height, with its interval.

    0 means below the smallest size measured, infinity beyond the largest.
    """

    size: float
    low: float
    high: float


def equivalent_size(
    sizes: Sequence[int],
    curve: ArrayLike,
    values: ArrayLike,
    estimate: Callable[[NDArray[np.float64]], Estimate] = crossed,
) -> EquivalentSize:
    """Return the size at which a growing curve is as high as other values, within repeats.

    The estimate inverts the isotonic regression of the curve's means, with straight lines in
    1 / sqrt(size) between the sizes: the smallest size at which the curve is as high. They are
    exact where errors fall with the root of the size. Where they fall as n^-b, b from 0.1 to 1, the
    size is 6 % too small to 8 % too large between sizes of a ratio of 3, and 23 % too small to 37 %
    too large at a ratio of 10 (lines in log size: up to 16 % and 86 % too large). Nothing is
    extrapolated. The interval is that of Fieller (1954): all sizes n at which the two-way interval
    of the mean of values - curve(n) includes 0, and what lies between them, where curve(n) is the
    line between the two neighbouring sizes. In this difference repeats and images are paired, so
    that their common part cancels, and the interval has the coverage of `crossed`, that is of new
    repeats and new images. The alternative, percentiles of Owen's bootstrap of repeats and images
    (2007), covered 86 % with 4 repeats that dominate, where this one covered 99 %, and as much
    where images dominate (experiments/label_curve.py).

    Args:
        sizes: ascending, [S], S at least 2.
        curve: one number per size, repeat and image, [S, R, N]; higher is better.
        values: one number per repeat and image, [R, N].
        estimate: of the mean of a table [R, N], with its standard error.
    """
    from scipy.optimize import isotonic_regression  # which takes long to import

    c, y = np.asarray(curve, dtype=float), np.asarray(values, dtype=float)
    scale, last = -1 / np.sqrt(sizes), len(sizes) - 1
    means, height = isotonic_regression(c.mean((1, 2))).x, float(y.mean())
    above = int(np.searchsorted(means, height))
    if above == 0:
        size = float(sizes[0]) if means[0] <= height else 0.0
    elif above > last:
        size = math.inf
    else:
        share = (height - means[above - 1]) / (means[above] - means[above - 1])
        size = float((scale[above - 1] + share * (scale[above] - scale[above - 1])) ** -2)
    position = np.linspace(0, last, POINTS * last + 1)
    left = np.minimum(position.astype(int), last - 1)
    weights = zip(left.tolist(), (position - left).tolist(), strict=True)
    lines = ((1 - w) * c[k] + w * c[k + 1] for k, w in weights)
    ends = np.array([_ends(estimate(y - line)) for line in lines])

    def crossing(end: int, before: int) -> float:
        """Return the size between two points at which an end of the interval is 0."""
        a, b = ends[before : before + 2, end]
        at = position[before] + a / (a - b) * (position[1] - position[0])
        return float(np.interp(at, np.arange(last + 1), scale) ** -2)

    fits, exceeds = np.flatnonzero(ends[:, 0] <= 0), np.flatnonzero(ends[:, 1] >= 0)
    low = crossing(0, fits[0] - 1) if len(fits) and fits[0] else 0.0 if len(fits) else sizes[-1]
    if not len(exceeds):
        high = float(sizes[0])
    else:
        high = math.inf if exceeds[-1] == len(ends) - 1 else crossing(1, exceeds[-1])
    return EquivalentSize(size, min(low, size), max(high, size))


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Return the ends of an interval; the mean where nothing varies."""
    low, high = estimate.interval()
    return (low, high) if high >= low else (estimate.mean, estimate.mean)


# Repeats that also vary the train/val split, or the teacher.


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
    x = np.asarray(values, dtype=float)
    groups = {t: i for i, t in enumerate(dict.fromkeys(teachers))}
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


# Test of an accuracy against chance.


def chance_level(largest_class: int, n: int, classes: int) -> float:
    """Return the accuracy that needs no input: naming the largest class, at least 1 / K.

    Args:
        largest_class: examples of the most frequent class, in [0, n].
        n: number of examples, >= 1.
        classes: K.
    """
    return max(largest_class / n, 1 / classes)


def binomial_p(correct: int, n: int, chance: float) -> float:
    """Return the one-sided p value of the exact binomial test of an accuracy against chance.

    It is P(X >= correct) for X ~ Bin(n, chance), as in
    `scipy.stats.binomtest(correct, n, chance, alternative="greater")`.

    Args:
        correct: examples that are classified correctly, in [0, n].
        n: number of examples, >= 1.
        chance: accuracy without skill, in (0, 1].
    """
    return 1.0 if correct == 0 else float(bdtrc(correct - 1, n, chance))


def fewer_p(correct: int, n: int, other_correct: int, other_n: int) -> float:
    """Return the one-sided p value of Fisher's exact test that a share is below another one.

    It is that of `scipy.stats.fisher_exact(..., alternative="less")`.

    Args:
        correct: successes of n, in [0, n].
        n: size of the sample, >= 1.
        other_correct: successes of the other sample, in [0, other_n].
        other_n: its size, >= 1.
    """
    both = correct + other_correct
    k = np.arange(max(0, both - other_n), correct + 1)
    log_p = _log_choose(n, k) + _log_choose(other_n, both - k)
    return float(np.exp(log_p - _log_choose(n + other_n, both)).sum())


def _log_choose(n: int, k: ArrayLike) -> np.ndarray:
    """Return the logarithm of the binomial coefficient, without overflow."""
    array = np.asarray(k, dtype=float)
    return np.asarray(-np.log(n + 1) - betaln(n - array + 1, array + 1))
