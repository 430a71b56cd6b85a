"""Correction of the best of several accuracies for selection bias (BBC-CV)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Corrected:
    """Accuracy of the best of K configurations, corrected for selection bias."""

    corrected: float
    """Mean over bootstraps of the selected configuration's accuracy on examples not drawn."""
    low: float
    """Lower end of the percentile interval of the bootstraps."""
    high: float
    """Its upper end."""


def bootstrap_corrected(
    correct: ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Corrected:
    """Return the accuracy of the best configuration, corrected for selection bias.

    Examples are drawn with replacement. The configuration that is best on the examples drawn is
    evaluated on those not drawn: the bootstrap bias correction BBC-CV of Tsamardinos et al.
    (Machine Learning, 2018).

    Args:
        correct: share of repeats that classify an example correctly, [K, N], in [0, 1].
        draws: number of bootstraps.
        seed: of the bootstraps.
        level: coverage of the interval, in (0, 1).
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
