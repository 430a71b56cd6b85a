"""Always-valid p values and confidence sequences of paired differences.

They hold however often the data are examined and whenever the study stops.
"""

import math
from collections.abc import Sequence

import numpy as np


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
