"""Sources of variance: configuration, repeat, epoch, and single hyperparameters."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtrc


@dataclass(frozen=True)
class Shares:
    """Shares of the total sum of squares, each in [0, 1]; their sum is 1."""

    configuration: float
    repeat: float
    epoch: float
    residual: float
    """All that is not a main effect, interactions included."""


@dataclass(frozen=True)
class RepeatedMeasures:
    """Analysis of variance with repeated measures of a block of configurations x repeats."""

    f: float
    """F of the configurations with (K - 1, (K - 1)(n - 1)) degrees of freedom."""
    p: float
    icc: float
    """Intraclass correlation ICC(C,1) of McGraw and Wong (1996): the correlation of two
    configurations over repeats. Pairing multiplies the variance of a difference by 1 - icc."""


def variance_shares(block: ArrayLike) -> Shares:
    """Return the shares of configuration, repeat and epoch in the sum of squares.

    Args:
        block: scores [K, n, E] of K configurations, n repeats and E epochs, without gaps.

    Returns:
        The main effects' shares and the rest; NaN where all scores are equal.
    """
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
    if explained > 1:  # by rounding, where the residual is 0
        parts = [part / explained for part in parts]
    return Shares(parts[0], parts[1], parts[2], max(0.0, 1 - explained))


def repeated_measures(block: ArrayLike) -> RepeatedMeasures:
    """Return the F test and the intraclass correlation of K configurations in n repeats.

    F is that of a within-subjects design in which the repeats are the subjects.

    Args:
        block: scores [K, n], without gaps.

    Returns:
        F, p and ICC; NaN for K < 2, n < 2 or a residual of 0.
    """
    x = np.asarray(block, dtype=float)
    k, n = x.shape
    if k < 2 or n < 2:
        return RepeatedMeasures(math.nan, math.nan, math.nan)
    rows, columns, mean = x.mean(1), x.mean(0), x.mean()
    ms_rows = n * float(((rows - mean) ** 2).sum()) / (k - 1)
    ms_columns = k * float(((columns - mean) ** 2).sum()) / (n - 1)
    rest = x - rows[:, None] - columns[None] + mean
    df = (k - 1) * (n - 1)
    ms_rest = float((rest**2).sum()) / df
    if ms_rest <= 1e-24 * mean**2:
        return RepeatedMeasures(math.nan, math.nan, math.nan)
    f = ms_rows / ms_rest
    icc = (ms_columns - ms_rest) / (ms_columns + (k - 1) * ms_rest)
    return RepeatedMeasures(f, float(fdtrc(k - 1, df, f)), icc)


@dataclass(frozen=True)
class Importance:
    """Share of the variance between configurations that one hyperparameter explains alone."""

    share: float
    """Eta squared: share of the sum of squares between the configurations' means, in [0, 1]."""
    null: float
    """95 % quantile of the share of a hyperparameter that has no effect."""
    n: int
    """Number of configurations in which the hyperparameter is active."""


def importance(means: ArrayLike, labels: ArrayLike, draws: int = 2000, seed: int = 0) -> Importance:
    """Return the share of one hyperparameter in the variance of the configurations' means.

    The null distribution permutes the means. It is needed because with few configurations a
    hyperparameter without effect explains much, and the more values it has, the more.

    Args:
        means: of the configurations, (K,).
        labels: index of the hyperparameter's value in each configuration, (K,), from 0.
        draws: number of permutations.
        seed: of the permutations.

    Returns:
        Share, null quantile and K; NaN where all means are equal.
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
