"""Always-valid p values and confidence sequences of paired differences.

They hold however often the data are examined and whenever the study stops. `anytime_p` and
`anytime_interval` are about new repeats on the same images, `AnytimeTest` is about new images, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from kdtune.statistics.crossed import mean_squares

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
