"""Pruning of trials: whether a trial is predicted to end below the best of the others."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

MIN_COMPLETED = 6
"""Number of other trials that must have completed before one is pruned."""
PRUNING_LEVEL = 0.05
"""Probability, at each rung, of pruning a trial that would have come first."""


def rungs(epochs: int) -> tuple[int, ...]:
    """Return the numbers of epochs after which a trial of this length may be pruned.

    Every eighth of the epochs from a quarter on, rounded up; never the last epoch.
    """
    counts = {math.ceil(epochs * eighths / 8) for eighths in range(2, 8)}
    return tuple(sorted(count for count in counts if count < epochs))


def is_behind(
    score: float, others: Sequence[tuple[float, float]], level: float = PRUNING_LEVEL
) -> bool:
    """Return True if the trial is predicted to end below the best of the others.

    The final scores of the others are regressed on their scores at the same epoch of the same
    repeat (ordinary least squares with slope b, residual standard deviation s, and Sxx the sum of
    squares of the scores at this epoch). The trial is behind if its prediction lies significantly
    below the prediction for the leader, who had x* at this epoch:
    b (x* - x) > t s sqrt(2 + (x* - x)^2 / Sxx). The leader's own final score is not used in place
    of its prediction, because the best of many is lucky and an average trial does not reach it.

    So at an epoch that predicts little, for example while the learning rate still rises, no trial
    is pruned, whereas a fixed share (the median, as in ASHA) prunes the best
    (experiments/README.md).

    Args:
        score: of the trial at this epoch, x.
        others: (score at this epoch, final score) of the completed trials.
        level: of the one-sided t test, in (0, 1).
    """
    n = len(others)
    if n < MIN_COMPLETED:
        return False
    x, y = np.asarray(others, dtype=float).T
    dx = x - x.mean()
    if (sxx := float(dx @ dx)) == 0:
        return False
    slope = float(dx @ y) / sxx
    residuals = y - y.mean() - slope * dx
    spread = math.sqrt(float(residuals @ residuals) / (n - 2))
    gap = float(x[y.argmax()]) - score
    margin = float(stdtrit(n - 2, 1 - level)) * spread * math.sqrt(2 + gap**2 / sxx)
    return slope > 0 and slope * gap > margin
