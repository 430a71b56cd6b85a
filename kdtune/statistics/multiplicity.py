"""P values adjusted for several comparisons: Holm and step-down max-T."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
        differences: one row per repeat, one column per comparison, [n, m].
        seed: of the drawn patterns.

    Returns:
        One p value per comparison; NaN for n < 2.
    """
    d = np.asarray(differences, dtype=float)
    n, m = d.shape
    if n < 2:
        return [math.nan] * m
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
    if n <= 14:  # a pattern and its negative have the same |t|: the first sign stays +
        patterns = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        return 1.0 - 2.0 * patterns.astype(np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (20_000, n))
    signs[0] = 1.0
    return signs
