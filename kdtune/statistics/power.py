"""Power of t tests over repeats and images: detectable differences, repeats needed.

A design is a number of repeats and images; `Components` say how much each varies.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import nctdtr, stdtrit

from kdtune.statistics.crossed import Components
from kdtune.statistics.intervals import MIN_REPEATS

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
    difference: float,
    parts: Components,
    images: float = math.nan,
    level: float = 0.05,
    power: float = 0.8,
    most: int = 1000,
) -> int | None:
    """Return the number of repeats that detect a true difference with this power.

    Args:
        difference: the true difference, in the unit of the data; its sign does not matter.
        parts: variance components of the differences.
        images: number of images, which stays the same.
        level: two-sided level of the t test.
        power: probability of a significant result, in (0, 1).
        most: largest number of repeats considered.

    Returns:
        The smallest such number, or None if it exceeds `most` or nothing varies.
    """
    if difference == 0 or not parts.error(1, images):
        return None

    def reaches(repeats: int) -> bool:
        return all(
            _power(abs(difference) / error, df, level) >= power
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


def shrunk(differences: Sequence[float], errors: Sequence[float], index: int) -> float:
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
    # the upper tail as the lower one of -effect, by symmetry: as accurate where it is small; scipy
    # returns NaN where a tail is 0 to all digits
    tails = [float(nctdtr(df, -sign * effect, -critical)) for sign in (1, -1)]
    return sum(tail for tail in tails if not math.isnan(tail))
