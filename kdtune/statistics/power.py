"""Power of paired t tests: minimum detectable differences and repeats needed."""

import math

from scipy.special import nctdtr, stdtrit

MAX_EFFECT = 1e6
"""Largest effect searched, in standard deviations."""


def detectable_difference(sd: float, n: int, level: float = 0.05, power: float = 0.8) -> float:
    """Return the true paired difference that n repeats detect with this power.

    Args:
        sd: standard deviation of the paired differences.
        n: number of repeats.
        level: two-sided level of the t test; level / m is that of the first of Holm's m steps.
        power: probability of a significant result, in (0, 1).

    Returns:
        The difference in the unit of sd; NaN for n < 2, infinite above `MAX_EFFECT` sd.
    """
    if n < 2:
        return math.nan
    low, high = 0.0, MAX_EFFECT
    for _ in range(100):  # bisection: the power rises with the effect
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, n, level) < power else (low, middle)
    return sd * high if high < MAX_EFFECT else math.inf


def repeats_needed(
    difference: float, sd: float, level: float = 0.05, power: float = 0.8, most: int = 1000
) -> int | None:
    """Return the number of repeats that detect a true paired difference with this power.

    Args:
        difference: the true difference, in the unit of sd; its sign does not matter.
        sd: standard deviation of the paired differences.
        level: two-sided level of the t test.
        power: probability of a significant result, in (0, 1).
        most: largest number of repeats considered.

    Returns:
        The smallest such number, or None if it exceeds `most` or nothing varies.
    """
    if sd == 0 or difference == 0:
        return None
    effect = abs(difference) / sd
    if _power(effect, most, level) < power:
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _power(effect, middle, level) < power else (low, middle)
    return high


def _power(effect: float, n: int, level: float) -> float:
    """Return the power of the two-sided one-sample t test for a mean of `effect` sd."""
    df, shift = n - 1, effect * math.sqrt(n)
    critical = float(stdtrit(df, 1 - level / 2))
    # the upper tail as the lower one of -shift, by symmetry: as accurate where it is small; scipy
    # returns NaN where a tail is 0 to all digits
    tails = [float(nctdtr(df, -sign * shift, -critical)) for sign in (1, -1)]
    return sum(tail for tail in tails if not math.isnan(tail))
