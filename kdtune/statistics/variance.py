"""Where the spread comes from: configuration, repeat, epoch, or none of them. Pure functions."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Shares:
    """Parts of the total sum of squares, each in [0, 1]; together 1."""

    configuration: float
    repeat: float
    epoch: float
    residual: float
    """What the three leave, their interactions with one another included."""


@dataclass(frozen=True)
class Agreement:
    """A block of configurations x repeats as an analysis of variance with repeated measures."""

    f: float
    """F of the configurations: ((K - 1), (K - 1)(n - 1)) degrees of freedom."""
    p: float
    icc: float
    """How alike the configurations find the repeats: the intraclass correlation ICC(C,1) of
    McGraw and Wong (1996). What pairing gains is the factor 1 - icc in variance."""


def variance_shares(block: ArrayLike) -> Shares:
    """Shares of configuration, repeat and epoch (main effects) in a block [K, n, E]."""
    x = np.asarray(block, dtype=float)
    mean = x.mean()
    total = float(((x - mean) ** 2).sum())
    if total <= 1e-24 * x.size * mean**2:  # all equal but for rounding
        return Shares(math.nan, math.nan, math.nan, math.nan)
    parts: list[float] = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        levels = x.mean(others)
        parts.append(float(((levels - mean) ** 2).mean() * x.size / total))
    explained = sum(parts)
    if explained > 1:  # by rounding, where nothing is left over
        parts = [part / explained for part in parts]
    return Shares(parts[0], parts[1], parts[2], max(0.0, 1 - explained))


def repeated_measures(block: ArrayLike) -> Agreement:
    """F test and intraclass correlation of a block [K, n]; NaN for K < 2 or n < 2.

    F is that of a design within subjects, the repeats being the subjects.
    """
    x = np.asarray(block, dtype=float)
    k, n = x.shape
    if k < 2 or n < 2:
        return Agreement(math.nan, math.nan, math.nan)
    rows, columns, mean = x.mean(1), x.mean(0), x.mean()
    ms_rows = n * float(((rows - mean) ** 2).sum()) / (k - 1)
    ms_columns = k * float(((columns - mean) ** 2).sum()) / (n - 1)
    rest = x - rows[:, None] - columns[None] + mean
    df = (k - 1) * (n - 1)
    ms_rest = float((rest**2).sum()) / df
    if ms_rest <= 1e-24 * mean**2:
        return Agreement(math.nan, math.nan, math.nan)
    f = ms_rows / ms_rest
    icc = (ms_columns - ms_rest) / (ms_columns + (k - 1) * ms_rest)
    return Agreement(f, float(stats.f.sf(f, k - 1, df)), icc)


@dataclass(frozen=True)
class Importance:
    """How much of the spread between configurations one hyperparameter explains by itself."""

    share: float
    """Of the sum of squares between the configurations' means, in [0, 1] (eta squared)."""
    null: float
    """The share that 95 % of hyperparameters without any effect would stay below."""
    n: int
    """Configurations in which it has an effect."""


def importance(means: ArrayLike, labels: ArrayLike, draws: int = 2000, seed: int = 0) -> Importance:
    """Share of one hyperparameter in the spread of the configurations' means.

    The null permutes the means: with few configurations a hyperparameter without effect explains
    much, and the more values it has, the more.

    Args:
        means: of the configurations, (K,).
        labels: the hyperparameter's value in each, (K,), as whole numbers from 0.
        draws: permutations.
        seed: of the permutations.
    """
    y, index = np.asarray(means, dtype=float), np.asarray(labels)
    total = float(((y - y.mean()) ** 2).sum())
    if total <= 1e-24 * float((y**2).sum()):  # all equal but for rounding
        return Importance(math.nan, math.nan, len(y))
    indicator = np.eye(int(index.max()) + 1)[index]
    sizes = np.maximum(indicator.sum(0), 1)

    def share(values: ArrayLike) -> Any:  # [..., K] -> [...]
        levels = (np.asarray(values) - y.mean()) @ indicator / sizes
        return (levels**2 * indicator.sum(0)).sum(-1) / total

    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(y, (draws, 1)), axis=1)
    return Importance(float(share(y)), float(np.quantile(share(shuffled), 0.95)), len(y))
