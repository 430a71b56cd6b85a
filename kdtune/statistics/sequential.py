"""P values and intervals that stay valid however often the data are looked at."""

import math
from collections.abc import Sequence

import numpy as np


def anytime_p(differences: Sequence[float]) -> float:
    """P value of paired differences that holds at any time, however often it is looked at.

    1 / BF, at most 1, where BF is the Bayes factor of a standardised mean ~ N(0, 1) with Jeffreys'
    prior on the variance (Gonen et al., The American Statistician 2005): with t on n - 1 = v
    degrees of freedom,

        BF = (1 + n)^(-1/2) ((1 + t^2 / v) / (1 + t^2 / (v (1 + n))))^((v + 1) / 2).

    For normal differences of mean 0 and any variance it is a martingale (Hendriksen, de Heide and
    Grunwald, Bayesian Analysis 2021), so P(ever BF >= 1 / p) <= p (Ville, 1939). It is that of the
    whole sample, not the least so far: runs that were under way when it was decided count, too,
    and p and `anytime_interval` say the same. 1 for n < 2, and for equal differences, no rarity
    among accuracies, which have no t.
    """
    n, mean, sd = _sample(differences)
    if not sd:
        return 1.0
    ratio = n / (n - 1) * (mean / sd) ** 2  # t^2 / v
    log_bf = -0.5 * math.log1p(n)
    log_bf += n / 2 * (math.log1p(ratio) - math.log1p(ratio / (1 + n)))
    return min(1.0, math.exp(-log_bf))


def anytime_interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Interval of the mean of paired differences that holds at any time, with 1 - level.

    All means that `anytime_p` does not reject at the level: the mean +- s sqrt(r (n - 1) / n), with
    t^2 / v = r where BF = 1 / level. Infinite while n is too small, and for equal differences.
    """
    n, mean, sd = _sample(differences)
    growth = (math.sqrt(1 + n) / level) ** (2 / max(n, 1))
    if not sd or growth >= 1 + n:
        return -math.inf, math.inf
    ratio = (growth - 1) / (1 - growth / (1 + n))
    half = sd * math.sqrt(ratio * (n - 1) / n)
    return mean - half, mean + half


def _sample(differences: Sequence[float]) -> tuple[int, float, float]:
    """Size, mean and standard deviation; the last is 0 where all are equal, but for rounding."""
    x = np.asarray(differences, dtype=float)
    if len(x) < 2:
        return len(x), math.nan, 0.0
    sd = float(x.std(ddof=1))
    return len(x), float(x.mean()), sd if sd > 1e-6 * float(np.abs(x).max()) else 0.0
