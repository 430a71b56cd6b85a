"""Intervals and comparisons over repeats: pure functions of numbers.

A sample is one number a repeat, shape (n,). Standard deviations have ddof = 1, intervals are
Student's t: at n = 4 a bootstrap interval of 95 % covers 80 % (enumerated exactly).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean with its spread and its t interval; NaN where n is too small to say."""

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
    """A comparison paired by repeat: a - b."""

    interval: Interval
    """Of the differences."""
    p: float
    """Two-sided, of the paired t test; NaN for n < 2. Where all differences are equal, of the
    sign-flip test: 2 / 2^n, or 1 if they are 0."""
    correlation: float
    """Of a and b over repeats: what pairing gains is the factor 1 - correlation in variance."""
    wins: int
    """Repeats in which a is greater than b."""
    ties: int
    losses: int

    @property
    def p_greater(self) -> float:
        """Share of the repeats in which a is greater, ties counted half: estimates P(a > b)."""
        n = self.interval.n
        return (self.wins + self.ties / 2) / n if n else math.nan


def mean_interval(sample: ArrayLike, level: float = 0.95) -> Interval:
    """Mean, standard deviation and t interval of a sample (n,)."""
    x = np.asarray(sample, dtype=float)
    n = len(x)
    mean = float(x.mean()) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, n, math.nan, math.nan)
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, n, mean - half, mean + half)


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Difference:
    """Compare two samples (n,) of the same repeats, in the same order."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    d = x - y
    interval = mean_interval(d, level)
    # accuracies that differ by rounding are equal
    tiny = 1e-12 * max(abs(x).max(), abs(y).max()) if len(d) else 0.0
    counts = int((d > tiny).sum()), int((abs(d) <= tiny).sum()), int((d < -tiny).sum())
    if interval.n < 2:
        return Difference(interval, math.nan, math.nan, *counts)
    correlation = math.nan
    if x.std() > 0 and y.std() > 0:
        correlation = float(np.corrcoef(x, y)[0, 1])
    if interval.sd <= tiny:  # all differences equal, no rarity: t is 0/0 or infinite
        p = 1.0 if counts[1] == interval.n else 2.0 ** (1 - interval.n)
    else:
        t = interval.mean / (interval.sd / math.sqrt(interval.n))
        p = float(2 * stats.t.sf(abs(t), interval.n - 1))
    return Difference(interval, p, correlation, *counts)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number m by Holm's step-down rule (1979), in the order given.

    The i-th smallest becomes max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def max_t(differences: ArrayLike, seed: int = 0) -> list[float]:
    """P values of m comparisons (n, m) at once, by flipping signs (step-down max-T).

    Under the null a repeat's differences are as likely as their negatives, all m together; p is
    the share of sign patterns whose largest |t| reaches the observed one, over the comparisons
    not yet rejected (Westfall and Young, 1993, algorithm 4.1). Assumes symmetry only, and keeps
    the correlation of the comparisons; the least possible p is 2 / 2^n, whatever m. All patterns
    are tried for n <= 14, else 20,000 drawn with the seed.
    """
    d = np.asarray(differences, dtype=float)
    n, m = d.shape
    if n < 2:
        return [math.nan] * m
    if n <= 14:  # |t| is the same for a pattern and its negative: the first sign stays
        patterns = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        signs = 1.0 - 2.0 * patterns
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (20_000, n))
        signs[0] = 1.0  # the observed one
    means = signs @ d / n
    # flipping leaves the squares as they are; a comparison whose differences are all 0 has t = 0
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


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion: of one run's accuracy over n examples."""
    interval = stats.binomtest(successes, n).proportion_ci(level, "wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Corrected:
    """Accuracy of the best of K configurations, corrected for its having been selected."""

    corrected: float
    """What selecting by examples promises for others: the mean over bootstraps."""
    low: float
    """Percentile interval of the bootstraps."""
    high: float


def bootstrap_corrected(
    correct: ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Corrected:
    """Correct the accuracy of the best configuration for its having been selected.

    Examples are drawn with replacement; the configuration that is best on those drawn is judged by
    those not drawn: the bootstrap bias correction of Tsamardinos et al. (2018), BBC-CV.

    Args:
        correct: share of repeats that classify an example correctly, [K, N].
        draws: number of bootstraps.
        seed: of the draws.
        level: of the interval.
    """
    c = np.asarray(correct, dtype=float)
    n = c.shape[1]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    out = counts == 0
    counts, out = counts[out.any(1)], out[out.any(1)]  # a tiny split may be drawn whole
    best = (counts @ c.T).argmax(1)
    kept = out.astype(float)
    judged = ((kept @ c.T) / kept.sum(1, keepdims=True))[np.arange(len(best)), best]
    low, high = np.quantile(judged, [(1 - level) / 2, (1 + level) / 2])
    return Corrected(float(judged.mean()), float(low), float(high))


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
