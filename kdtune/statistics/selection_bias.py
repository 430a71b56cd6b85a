"""Correction of the best of several accuracies for its selection."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


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
