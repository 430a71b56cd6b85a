"""Power of paired t tests."""

import math

from scipy import stats


def detectable_difference(sd: float, n: int, level: float = 0.05, power: float = 0.8) -> float:
    """The true paired difference that n repeats would find with this power.

    NaN for n < 2; infinite where it is more than a million standard deviations.

    Args:
        sd: standard deviation of the paired differences.
        n: repeats.
        level: two-sided level of the t test; level / m allows for Holm's first of m steps.
        power: chance of finding it.
    """
    if n < 2:
        return math.nan
    low, high = 0.0, 1e6
    for _ in range(100):  # the power rises with the effect: bisection in units of sd
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, n, level) < power else (low, middle)
    return sd * high if high < 1e6 else math.inf


def repeats_needed(
    difference: float, sd: float, level: float = 0.05, power: float = 0.8, most: int = 1000
) -> int | None:
    """Repeats that would find this paired difference with this power; None for more than `most`."""
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
    """Power of the two-sided one-sample t test for a mean of `effect` standard deviations."""
    df, shift = n - 1, effect * math.sqrt(n)
    critical = float(stats.t.ppf(1 - level / 2, df))
    # the lower tail as an upper one of -shift: scipy's cdf is NaN far out
    tails = [float(stats.nct.sf(critical, df, sign * shift)) for sign in (1, -1)]
    return sum(tail for tail in tails if not math.isnan(tail))
