"""When a run has fallen behind: pure functions of the others' scores at the same epoch."""

from collections.abc import Sequence

LEAST = 5
"""Others that must have come as far before a run is stopped."""
KEEP = 0.5
"""Share of those at a rung that go on."""


def rungs(epochs: int) -> tuple[int, ...]:
    """Numbers of epochs after which a run of so many is looked at: a quarter and a half of it."""
    return tuple(sorted({count for count in (-(-epochs // 4), -(-epochs // 2)) if count < epochs}))


def behind(score: float, others: Sequence[float]) -> bool:
    """Whether the score is not among the best share of the others and itself."""
    if len(others) < LEAST:
        return False
    better = sum(other > score for other in others)
    return better >= KEEP * (len(others) + 1)
