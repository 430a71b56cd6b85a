"""Adjusted p values, non-inferiority, power, and always-valid tests."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, stdtrit

from kdtune.statistics.intervals import MIN_REPEATS, Components, mean_squares

# P values adjusted for several comparisons: Holm and step-down max-T.


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number m by Holm's step-down method (1979).

    The i-th smallest becomes max over j <= i of min(1, (m - j + 1) p_(j)). Valid under any
    dependence of the tests.

    Args:
        p_values: m p values in [0, 1].

    Returns:
        The adjusted p values, in the order given.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def max_t(differences: ArrayLike, seed: int = 0) -> list[float]:
    """Return p values of m comparisons, adjusted by the step-down max-T sign-flip test.

    Under the null hypothesis all m differences of a repeat are together as likely as their
    negatives. p is the share of sign patterns whose largest |t| over the comparisons not yet
    rejected reaches the observed one (Westfall and Young, 1993, algorithm 4.1). The test assumes
    symmetry only and keeps the correlation of the comparisons. The smallest possible p is 2 / 2^n
    for any m. All patterns are enumerated for n <= 14, else 20,000 are drawn.

    Args:
        differences: one row per repeat, one column per comparison, [n, m], n at least 2.
        seed: of the drawn patterns.

    Returns:
        One p value per comparison.
    """
    d = np.asarray(differences, dtype=float)
    n, m = d.shape
    signs = _sign_patterns(n, seed)
    means = signs @ d / n
    # signs do not change the squares; a comparison whose differences are all 0 has t = 0
    variances = np.maximum((d**2).mean(0) - means**2, 0) * n / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(abs(means) / np.sqrt(variances / n), posinf=np.inf)
    observed = t[0]
    adjusted, running = [0.0] * m, 0.0
    order = np.argsort(-observed, kind="stable")
    highest = np.maximum.accumulate(t[:, order[::-1]], axis=1)[:, ::-1]
    for rank, i in enumerate(order):
        reached = highest[:, rank] >= observed[i] * (1 - 1e-9)
        running = max(running, float(reached.mean()))
        adjusted[i] = running
    return adjusted


def _sign_patterns(n: int, seed: int) -> NDArray[np.float64]:
    """Return patterns of n signs, the observed one (all +) first: all for n <= 14, else 20,000."""
    if n <= 14:  # a pattern and its negative have the same |t|: the last sign stays +
        patterns = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        return 1.0 - 2.0 * patterns.astype(np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (20_000, n))
    signs[0] = 1.0
    return signs


# Non-inferiority: whether a loss of more than a margin is excluded.


Outcome = Literal["non-inferior", "inferior", "undecided"]


def non_inferiority(low: float, high: float, margin: float, sign: int = 1) -> Outcome:
    """Return whether the interval of a difference excludes a loss of more than a margin.

    It is "non-inferior" if its worse end is better than a loss of `margin`, "inferior" if its
    better end is worse than that, else "undecided" (Piaggio et al., JAMA 2012, figure 1). With a
    two-sided interval of 95 % each of the two is a one-sided test at 2.5 %.

    Args:
        low: lower end of the interval of new minus reference; NaN without an interval.
        high: its upper end.
        margin: largest loss that is accepted, > 0, in the unit of the difference.
        sign: 1 if higher values are better, else -1.
    """
    worst, best = (low, high) if sign > 0 else (-high, -low)
    return "non-inferior" if worst > -margin else "inferior" if best < -margin else "undecided"


def units_needed(detectable: Callable[[float], float], distance: float) -> float:
    """Return the least number of images with which a test detects less than a distance.

    Args:
        detectable: difference that is detected, by the number of images, falling.
        distance: between the estimate and what the test must exclude, >= 0.

    Returns:
        A whole number, at least 2; infinity if no number up to a billion will do.
    """
    low, high = 1, 10**9
    if not detectable(high) < distance:
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(middle) < distance else (middle, high)
    return high


# Power of t tests over repeats and images: detectable differences, repeats needed.
#
# A design is a number of repeats and images; `Components` say how much each varies.


MAX_EFFECT = 1e6
"""Largest effect searched, in standard errors."""
PRIOR_SCALE = 2.0
"""Scale of the prior of `shrunk`, in standard errors. In simulation (tests/statistics) the median
of the advised repeats is 1.8 to 3.7 times that of the repeats needed, where the estimate itself
gives 0.16 to 0.58 of it."""
_PRIOR_POINTS = 200


def detectable_difference(
    parts: Components, repeats: float, images: float, level: float = 0.05, power: float = 0.8
) -> float:
    """Return the true difference that a design detects with this power.

    The t test has the standard error and Satterthwaite's degrees of freedom of the design; its
    power is that of the noncentral t distribution. The t test for these images alone, which a
    difference passes as well (see `crossed`), has at least the same power.

    Args:
        parts: variance components of the differences; without images only repeats vary.
        repeats: number of repeats; infinity gives the limit that the images set.
        images: number of images; of no effect without their components.
        level: two-sided level of the t test; level / m is that of the first of Holm's m steps.
        power: probability of a significant result, in (0, 1).

    Returns:
        The difference in the unit of the data; NaN below `MIN_REPEATS` repeats, infinite above
        `MAX_EFFECT` standard errors, 0 if nothing varies.
    """
    if repeats < MIN_REPEATS:
        return math.nan
    tests = _tests(parts, repeats, images)
    return max(error * detectable_effect(df, level, power) if error else 0.0 for error, df in tests)


def _tests(parts: Components, repeats: float, images: float) -> list[tuple[float, float]]:
    """Return error and df of the t tests that a significant difference passes, see `Estimate`."""
    both = [(parts.error(repeats, images), parts.df(repeats, images))]
    if math.isfinite(repeats):
        both.append((parts.error_here(repeats, images), repeats - 1))
    return both


def detectable_effect(df: float, level: float = 0.05, power: float = 0.8) -> float:
    """Return the true mean that a t test detects with this power, in standard errors.

    Infinite above `MAX_EFFECT`. The other arguments are those of `detectable_difference`.
    """
    low, high = 0.0, MAX_EFFECT
    for _ in range(100):  # bisection: the power rises with the effect
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, df, level) < power else (low, middle)
    return high if high < MAX_EFFECT else math.inf


def repeats_needed(
    difference: float, parts: Components, images: float, level: float = 0.05, most: int = 1000
) -> int | None:
    """Return the number of repeats that detect a true difference with a power of 80 %.

    Args:
        difference: the true difference, in the unit of the data; its sign does not matter.
        parts: variance components of the differences.
        images: number of images, which stays the same; of no effect without their components.
        level: two-sided level of the t test.
        most: largest number of repeats considered.

    Returns:
        The smallest such number, or None if it exceeds `most` or nothing varies.
    """
    if difference == 0 or not parts.error(1, images):
        return None

    def reaches(repeats: int) -> bool:
        return all(
            _power(abs(difference) / error, df, level) >= 0.8
            for error, df in _tests(parts, repeats, images)
            if error
        )

    low, high = MIN_REPEATS - 1, most
    if not reaches(most):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def shrunk(differences: ArrayLike, errors: ArrayLike, index: int) -> float:
    """Return the estimate of one of m true differences, shrunk towards 0.

    The largest of several estimates is too large on average, and so is an estimate that is only
    reported because it is positive. The posterior mean in a hierarchical model has no such bias if
    the model holds: true differences ~ N(0, tau^2), estimates ~ N(true difference, error^2), and
    tau has a half-Cauchy prior (Gelman, Bayesian Analysis 2006) with scale `PRIOR_SCALE` times
    the root mean square of the errors.

    Args:
        differences: the m estimates, (m,).
        errors: their standard errors, (m,), positive.
        index: of the estimate that is returned.
    """
    d, e = np.asarray(differences, dtype=float), np.asarray(errors, dtype=float)
    scale = PRIOR_SCALE * math.sqrt(float(np.mean(e**2)))
    quantiles = (np.arange(_PRIOR_POINTS) + 0.5) / _PRIOR_POINTS
    prior = (scale * np.tan(quantiles * np.pi / 2)) ** 2  # tau^2 of equal probability
    total = prior[:, None] + e**2
    log_likelihood = -0.5 * (np.log(total) + d**2 / total).sum(1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    factor = float(weights @ (prior / total[:, index])) / float(weights.sum())
    return float(d[index]) * factor


def _power(effect: float, df: float, level: float) -> float:
    """Return the power of the two-sided t test for a mean of `effect` standard errors."""
    critical = float(stdtrit(df, 1 - level / 2))
    if effect > 10 * (critical + 10):  # 1 to all digits; scipy takes minutes, or returns NaN
        return 1.0
    # the upper tail as the lower one of -effect, by symmetry: as accurate where it is small; scipy
    # returns NaN where a tail is 0 to all digits
    tails = [float(nctdtr(df, -sign * effect, -critical)) for sign in (1, -1)]
    return sum(tail for tail in tails if not math.isnan(tail))


# Always-valid p values and confidence sequences of paired differences.
#
# They hold however often the data are examined and whenever the study stops. `anytime_p` and
# `anytime_interval` are about new repeats on the same images, `AnytimeTest` is about new images,
# too.


_P_STEPS = 40
"""Bisections of log p: a relative precision of 1e-11 from 1e-12 to 1."""
_LEAST_P = 1e-12


@dataclass(frozen=True)
class AnytimeTest:
    """The always-valid test of a mean difference over repeats and, if they vary, images.

    With images the interval at a level is the mean +- (h_repeats + h_images), each at half of the
    level (union bound). h_repeats is the half width of `anytime_interval`, a confidence sequence
    for the mean on these images. h_images = t(N - 1, 1 - level / 4) sqrt(MS_I / (R N)) bounds the
    distance of that mean from the mean of all images, which does not change when repeats are added.
    MS_I contains the interaction, so the bound is conservative.
    """

    differences: tuple[float, ...]
    """By repeat, (R,)."""
    images: int = 0
    """Number N of images; 0 if only repeats vary."""
    image_error: float = 0.0
    """sqrt(MS_I / (R N)), the standard error of the mean over images."""
    image_limit: float = 0.0
    """The same after infinitely many repeats: sqrt(image variance / N), >= 0."""

    @staticmethod
    def of(
        differences: Sequence[float], table: NDArray[np.floating] | None = None
    ) -> "AnytimeTest":
        """Return the test of differences by repeat, (R,).

        Args:
            differences: one per repeat, (R,).
            table: the same differences for each image, [R, N]; None: the test is about the same
                images. It needs two repeats and two images.
        """
        sample = tuple(float(d) for d in differences)
        if table is None or min(table.shape) < 2:
            return AnytimeTest(sample)
        repeats, images = table.shape
        _, of_images, rest = mean_squares(table)
        limit = max(0.0, of_images - rest) / (repeats * images)
        error = math.sqrt(of_images / (repeats * images))
        return AnytimeTest(sample, images, error, math.sqrt(limit))

    @property
    def n(self) -> int:
        """Number of repeats."""
        return len(self.differences)

    @cached_property
    def p(self) -> float:
        """The always-valid p value: the least level at which the interval excludes 0."""
        if not self.images:
            return anytime_p(self.differences)
        low, high = math.log(_LEAST_P), 0.0
        if not self.excludes_0(math.nextafter(1, 0)):
            return 1.0
        for _ in range(_P_STEPS):  # the interval narrows as the level rises
            middle = (low + high) / 2
            low, high = (low, middle) if self.excludes_0(math.exp(middle)) else (middle, high)
        return math.exp(high)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the ends of the interval at an error rate in (0, 1); infinite for small n."""
        if not self.images:
            return anytime_interval(self.differences, level)
        low, high = anytime_interval(self.differences, level / 2)
        extra = self._quantile(level) * self.image_error
        return low - extra, high + extra

    def excludes_0(self, level: float) -> bool:
        """Return True if the interval at an error rate excludes 0, so that p <= level."""
        low, high = self.interval(level)
        return low > 0 or high < 0

    def is_undecidable(self, level: float) -> bool:
        """Return True if more repeats of the same images cannot make p <= level.

        Infinitely many would leave the mean on these images, known exactly, and the part of the
        images. It is so if the whole interval of that mean is closer to 0 than the images allow.
        """
        if not self.images:
            return False
        low, high = anytime_interval(self.differences, level / 2)
        return max(-low, high) <= self.least_decidable(level)

    def least_decidable(self, level: float) -> float:
        """Return the least mean on these images that infinitely many repeats make significant."""
        return self._quantile(level) * self.image_limit

    def _quantile(self, level: float) -> float:
        return float(stdtrit(self.images - 1, 1 - level / 4)) if self.images else 0.0


def anytime_p(differences: Sequence[float]) -> float:
    """Return the always-valid p value of the mean of paired differences.

    It is 1 / BF, at most 1, where BF is the Bayes factor of a standardised mean ~ N(0, 1) with
    Jeffreys' prior on the variance (Gonen et al., The American Statistician 2005): with t on
    n - 1 = v degrees of freedom,

        BF = (1 + n)^(-1/2) ((1 + t^2 / v) / (1 + t^2 / (v (1 + n))))^((v + 1) / 2).

    For normal differences of mean 0 and any variance BF is a martingale (Hendriksen, de Heide and
    Grunwald, Bayesian Analysis 2021), so P(ever BF >= 1 / p) <= p (Ville, 1939). The p value is
    that of the whole sample and not the smallest so far: runs in flight at the time of the decision
    count as well, and p agrees with `anytime_interval`.

    Args:
        differences: one per repeat, (n,).

    Returns:
        The p value; 1 for n < 2 and for equal differences, which have no t. (Equal differences of
        accuracies are not rare.)
    """
    n, mean, sd = _sample(differences)
    if not sd:
        return 1.0
    ratio = n / (n - 1) * (mean / sd) ** 2  # t^2 / v
    log_bf = -0.5 * math.log1p(n)
    log_bf += n / 2 * (math.log1p(ratio) - math.log1p(ratio / (1 + n)))
    return min(1.0, math.exp(-log_bf))


def anytime_interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Return the confidence sequence of the mean of paired differences at this n.

    It contains all means that `anytime_p` does not reject at the level: mean +- s sqrt(r (n - 1) /
    n), with r the t^2 / v at which BF = 1 / level.

    Args:
        differences: one per repeat, (n,).
        level: error rate over all n together, in (0, 1); the coverage is 1 - level.

    Returns:
        Both ends; infinite while n is too small, and for equal differences.
    """
    n, mean, sd = _sample(differences)
    growth = (math.sqrt(1 + n) / level) ** (2 / max(n, 1))
    if not sd or growth >= 1 + n:
        return -math.inf, math.inf
    ratio = (growth - 1) / (1 - growth / (1 + n))
    half = sd * math.sqrt(ratio * (n - 1) / n)
    return mean - half, mean + half


def _sample(differences: Sequence[float]) -> tuple[int, float, float]:
    """Return n, mean and sd; the sd is 0 where all differences are equal but for rounding."""
    x = np.asarray(differences, dtype=float)
    if len(x) < 2:
        return len(x), math.nan, 0.0
    sd = float(x.std(ddof=1))
    return len(x), float(x.mean()), sd if sd > 1e-6 * float(np.abs(x).max()) else 0.0
