"""When a run has fallen behind: pure functions of what the others did in the same repeat."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

LEAST = 6
"""Others that must have run to their end before a run is stopped."""
LEVEL = 0.05
"""Chance, at each rung, that a run that would have come first is stopped."""


def rungs(epochs: int) -> tuple[int, ...]:
    """Numbers of epochs after which a run of so many is looked at: every eighth from a quarter."""
    counts = {math.ceil(epochs * eighths / 8) for eighths in range(2, 8)}
    return tuple(sorted(count for count in counts if count < epochs))


def behind(score: float, others: Sequence[tuple[float, float]], level: float = LEVEL) -> bool:
    """Whether a run with this score can hardly end above the best of the others.

    The others' final scores are regressed on their scores at the same epoch of the same repeat
    (ordinary least squares: slope b, residual standard deviation s). The run is behind if what is
    predicted for it lies below what is predicted for the leader, who stood at x*, by more than
    chance: b (x* - x) > t s sqrt(2 + (x* - x)^2 / Sxx). The leader's own final score would not do
    for x*: the best of many is lucky, and no average run is expected to reach it.

    So an epoch that says little about the end, as under a learning rate that still rises, stops
    nothing, where a fixed share (the median, as in ASHA) stops the best (experiments/README.md).

    Args:
        score: of the run at this epoch, x.
        others: (score at this epoch, final score) of the runs that have ended.
        level: of the one-sided t test.
    """
    n = len(others)
    if n < LEAST:
        return False
    x, y = np.asarray(others, dtype=float).T
    dx = x - x.mean()
    if (sxx := float(dx @ dx)) == 0:
        return False
    slope = float(dx @ y) / sxx
    residuals = y - y.mean() - slope * dx
    spread = math.sqrt(float(residuals @ residuals) / (n - 2))
    gap = float(x[y.argmax()]) - score
    chance = float(stdtrit(n - 2, 1 - level)) * spread * math.sqrt(2 + gap**2 / sxx)
    return slope > 0 and slope * gap > chance
