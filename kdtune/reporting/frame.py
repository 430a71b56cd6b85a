"""Limits of an axis that one wild line does not set alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

MAX_GROWTH = 5.0
"""Lines are left outside if the axis would otherwise be more than this factor longer."""
MARGIN = 0.05
"""Share of the height above and below the lines inside."""


def outside(
    values: Mapping[str, ArrayLike], better: str | None, growth: float = MAX_GROWTH
) -> list[str]:
    """Return the worst lines if an axis is much shorter without them.

    These are the fewest of the worst lines, less than half of all, without which the range of the
    others is less than 1 / growth of the range of all. So the axis shows what most lines do, and
    not what one that diverged or stayed at chance makes of it.

    Args:
        values: numbers of each line, by its name; NaN does not count.
        better: which numbers are better, "higher" or "lower"; None: no line is left outside.
        growth: see above.
    """
    ranges = {name: _range(numbers) for name, numbers in values.items()}
    known = {name: ends for name, ends in ranges.items() if not math.isnan(ends[0])}
    if better is None or not known:
        return []
    if better == "higher":
        worst_first = sorted(known, key=lambda name: known[name][0])
    else:
        worst_first = sorted(known, key=lambda name: -known[name][1])
    whole = _height(list(known.values()))
    for count in range(1, (len(known) + 1) // 2):
        rest = _height([known[name] for name in worst_first[count:]])
        if 0 < growth * rest < whole:
            return worst_first[:count]
    return []


def limits(values: Sequence[ArrayLike]) -> tuple[float, float]:
    """Return the ends of an axis that shows these numbers, with a margin."""
    ends = [end for end in map(_range, values) if not math.isnan(end[0])]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def _range(numbers: ArrayLike) -> tuple[float, float]:
    """Return least and greatest number; NaN without any."""
    known = np.asarray(numbers, dtype=float)
    known = known[np.isfinite(known)]
    return (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)


def _height(ends: Sequence[tuple[float, float]]) -> float:
    return max(high for _, high in ends) - min(low for low, _ in ends)
