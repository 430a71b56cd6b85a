"""When a difference is significant, and p values as text, for every comparison.

Studies, studies side by side, classes and tables made elsewhere follow the same rules.
"""

import math
from typing import Any, Literal, NamedTuple

import pandas as pd


def is_significant(p: Any, low: Any, high: Any, level: float, or_equal: bool = False) -> Any:
    """Return whether a difference is significant: p below the level, and an interval without 0.

    Holm's p value alone does not suffice, since it can be below the level while the simultaneous
    interval holds 0. Equal differences have no interval: p, of a sign-flip test, decides alone.

    Args:
        p: adjusted p value, or a column of them; NaN is not significant.
        low: lower end of the simultaneous interval, or a column; NaN: no interval.
        high: upper end.
        level: of the test, in (0, 1).
        or_equal: whether p = level is significant, as where repeats are added until p <= level.
    """
    excludes_0 = (low > 0) | (high < 0) | (low != low)  # NaN only differs from itself
    return (p <= level if or_equal else p < level) & excludes_0


class Outcome(NamedTuple):
    """What a comparison of configurations with a baseline has found."""

    kind: Literal["better", "worse", "not significant"]
    """Of `row`."""
    row: pd.Series
    """The best configuration that is significantly better; else the one with the best mean."""
    significant: int
    """Number of significant differences, in either direction."""


def find_outcome(table: pd.DataFrame, sign: int, level: float, or_equal: bool = False) -> Outcome:
    """Return what a comparison has found.

    Args:
        table: rows of `comparison.compare`, best first, all with a p value.
        sign: 1 if higher values are better, else -1.
        level: see `is_significant`.
        or_equal: see `is_significant`.
    """
    clear = is_significant(table.p_holm, table.low, table.high, level, or_equal)
    better = table[clear & (sign * table["diff"] > 0)]
    if len(better):
        return Outcome("better", better.iloc[0], int(clear.sum()))
    kind: Literal["worse", "not significant"] = "worse" if clear.iloc[0] else "not significant"
    return Outcome(kind, table.iloc[0], int(clear.sum()))


def since_interval(p: float, low: float, high: float, level: float, or_equal: bool = False) -> str:
    """Return why a difference is not significant although its p value is; else "".

    The arguments are those of `is_significant`.
    """
    below = p <= level if or_equal else p < level
    return ", since the interval includes 0" if below and low <= 0 <= high else ""


def p_value(p: float) -> str:
    """Return a p value for a table with two digits: "0.032", "< 0.001", or "-" if there is none."""
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def p_text(p: float) -> str:
    """Return a p value for a sentence: "p = 0.032" or "p < 0.001"."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def exact_test(low: float, paired: bool = True) -> str:
    """Return the test behind a p value where there is no interval, " (sign-flip test)"; else "".

    See `intervals.Difference.p` and `intervals.UnpairedDifference.p`.
    """
    if not math.isnan(low):
        return ""
    return " (sign-flip test)" if paired else " (permutation test)"


def in_every_repeat(row: pd.Series) -> str:
    """Return that a configuration was better or worse in every repeat; "" if it was not.

    Args:
        row: of the table of `comparison.compare`.
    """
    for count, word in ((row.wins, "better"), (row.losses, "behind")):
        if count == row.n:
            return f"; it was {word} in all {count:.0f} repeats"
    return ""
