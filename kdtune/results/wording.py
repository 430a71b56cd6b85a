"""Does distilling beat plain training: in words, and no stronger than the numbers carry."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdtune.results.comparison import (
    DEFAULT,
    SIGNIFICANCE_LEVEL,
    Criterion,
    config_label,
    have_enough_repeats,
)
from kdtune.results.tables import cell, count_of_planned, plus_minus
from kdtune.results.terms import ComparisonContext
from kdtune.statistics.power import detectable_difference, repeats_needed

MOST_REPEATS = 200
"""Repeats beyond which the verdict does not send anyone."""


def verdict(
    table: pd.DataFrame, criterion: Criterion, by: Sequence[str], context: ComparisonContext
) -> str:
    """The answer of a study.

    A difference is sure where Holm's p is below SIGNIFICANCE_LEVEL and the interval for all comparisons together
    excludes 0: the one named is chosen among them, and after a first step that another has paid for
    Holm's p alone would let an interval through that holds 0. Of those surely better the best is
    named; where there is none, the best of all, with what the study could have seen and what would
    show more.

    Args:
        table: of `comparison.compare`.
        criterion: by which it was made.
        by: hyperparameters that tell the configurations apart.
        context: what it is of.
    """
    if not len(table):
        return _no_sides(criterion, context.baseline)
    m = int(table.p_holm.notna().sum())
    table = table[have_enough_repeats(table.n)]  # one that has hardly run stands for nothing
    if m == 0 or table.n.max() < 2:
        return _too_little(len(table), context)
    sure = table[_is_low(table.p_holm, context) & ((table.low_all > 0) | (table.high_all < 0))]
    helpful = sure[criterion.sign * sure["diff"] > 0]
    best = (helpful if len(helpful) else table).iloc[0]
    proof = _proof(best, m, context)
    who, other = config_label(best, by), context.baseline
    subject = "Distillation" if criterion.has_plain_baseline else who
    if len(helpful):
        gain = _difference(best, criterion, criterion.sign)
        return f"{subject} helps: {who} beats {other} by {gain} {proof}."
    if len(sure) == len(table):
        loss = _difference(best, criterion, -criterion.sign)
        closest = f"even {who}, the closest," if len(table) > 1 else who
        return f"{subject} hurts: {closest} is behind {other} by {loss} {proof}."
    shown = _difference(best, criterion, signed=True)
    found = "No difference is sure" if _is_low(best.p_holm, context) else "No difference found"
    text = f"{found}: {who} against {other}: {shown} {proof}; "
    text += (
        _power(best, m, criterion)
        if context.anytime_level is None
        else _undecided(table, criterion, context)
    )
    return text + f" {len(sure)} of {_comparisons(m)} found it behind." * bool(len(sure))


def _is_low(p: Any, context: ComparisonContext) -> Any:
    """Whether p, or which of some, is low enough; a search that asks it stops at the level."""
    return p < SIGNIFICANCE_LEVEL if context.anytime_level is None else p <= context.anytime_level


def _too_little(configs: int, context: ComparisonContext) -> str:
    text = f"No verdict: {'1' if configs else 'no'} common repeat; a difference needs two"
    hint = ", and four seldom carry one (--repeats 8)" * (context.anytime_level is None)
    return f"{text}{hint}."


def _proof(best: pd.Series, m: int, context: ComparisonContext) -> str:
    n = f"n = {count_of_planned(best.n, context.planned)}"
    n += " fresh repeats" * context.held_out
    if context.anytime_level is not None:
        return f"({n}, p = {best.p_holm:.2g} whenever it had stopped)"
    p = f"Holm p = {best.p_holm:.2g} over {_comparisons(m)}" if m > 1 else f"p = {best.p_holm:.2g}"
    return f"({n}, {p})"


def _undecided(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """The search adds repeats while p of the accuracy is above the level, and a budget is left."""
    text = f"{table.n.iloc[0]:.0f} repeats have not decided it"
    if criterion != DEFAULT:
        return f"{text} (more are added for acc at the last epoch alone)."
    return (
        f"{text} (a larger --budget adds more)." if (table.p > context.level).all() else f"{text}."
    )


def _power(best: pd.Series, m: int, criterion: Criterion) -> str:
    """What the study could have seen, and what would show the difference it has."""
    n, gain, level = int(best.n), criterion.sign * best["diff"], SIGNIFICANCE_LEVEL / m
    if best.sd <= 1e-9 * abs(best["diff"]):  # all differences are equal, but for rounding
        if best["diff"] == 0:
            return f"all {n} repeats came out equal."
        least = math.floor(2 - math.log2(level))  # with 2 / 2^n < level
        more = f"{least} repeats would show them (--repeats {least})"
        return f"all {n} differences are equal, so their signs alone count: {more}."
    seen = detectable_difference(best.sd, n, level)
    needed = repeats_needed(best["diff"], best.sd, level, most=MOST_REPEATS)
    could = (
        f"could have seen {with_unit(seen, criterion)}" if math.isfinite(seen) else "is too small"
    )
    if gain <= 0:
        more = "it is not ahead, so more repeats promise little"
    elif needed:
        more = f"{needed} repeats would show {with_unit(gain, criterion)} (--repeats {needed})"
    else:
        more = f"even {MOST_REPEATS} would not show {with_unit(gain, criterion)}"
    return f"with {n} repeats this study {could}; {more}."


def _no_sides(criterion: Criterion, other: str) -> str:
    if criterion.has_plain_baseline:
        return (
            "No verdict: the study needs completed runs both with alpha = 1 (plain training) "
            "and with alpha < 1."
        )
    return f"No verdict: no completed runs both of {other} and of others."


def _comparisons(m: int) -> str:
    return f"{m} comparison{'s' * (m > 1)}"


def _difference(row: pd.Series, criterion: Criterion, sign: int = 1, signed: bool = False) -> str:
    """A row's difference, or its negative, with the interval for all comparisons together."""
    return _amount(sign * row["diff"], _half(row), criterion, signed)


def _half(row: pd.Series) -> float:
    """Half of a row's interval for all comparisons together."""
    return float(row.high_all - row.low_all) / 2


def _amount(value: float, half: float, criterion: Criterion, signed: bool = False) -> str:
    """A mean and half of its interval, in words."""
    text = plus_minus(criterion.scale * value, criterion.scale * half)
    unit = " points" if criterion.in_points else ""
    return f"{'+' if signed and value > 0 else ''}{text}{unit}{_what(criterion)}"


def with_unit(value: float, criterion: Criterion) -> str:
    """A difference, e.g. "1.3 points"."""
    return f"{100 * value:.1f} points" if criterion.in_points else f"{value:.2g}"


def _what(criterion: Criterion) -> str:
    return "" if criterion.metric == "acc" else f" in val {criterion.metric}"


def comparison_rows(
    table: pd.DataFrame, by: Sequence[str], criterion: Criterion
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of `comparison.compare` as text."""
    unit = "points" if criterion.in_points else f"val {criterion.metric}"
    head = [*by, f"difference ({unit})", "n", "p Holm", "p max-T", "win/tie/loss"]
    head += ["P(better)", "correlation"]
    rows = []
    for _, row in table.iterrows():
        cells = [cell(row[f"config/{name}"]) for name in by]
        cells += [_cell(row, criterion), str(int(row.n))]
        cells += [_p(row.p_holm), _p(row.p_max_t), f"{row.wins}/{row.ties}/{row.losses}"]
        cells += [_two(row.p_better), _two(row.correlation)]
        rows.append(cells)
    return head, rows


def _cell(row: pd.Series, criterion: Criterion) -> str:
    half = (row.high - row.low) / 2
    if math.isnan(half):  # of a study that stopped when it knew, or of one repeat
        half = _half(row)
    sign = "+" if row["diff"] > 0 else ""
    return sign + plus_minus(criterion.scale * row["diff"], criterion.scale * half)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def best_sentence(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """The best configuration beyond val, from the table of `insight.selection`."""
    if not len(selection):
        return ""
    form = ".1f" if criterion.in_points else ".4g"
    rows = selection.set_index("row")
    best = rows.loc["best"]
    parts = [
        f"{what} {criterion.scale * best[f'{column}/mean']:{form}}"
        for column, what in (("val", "val"), ("corrected", "corrected for that"), ("test", "test"))
        if not math.isnan(best[f"{column}/mean"])
    ]
    parts[0] += " of fresh repeats" if context.held_out else ", which chose it"
    if criterion.has_predictions and not context.held_out and math.isnan(best["corrected/mean"]):
        parts.insert(1, "not corrected for that, since predictions of a run are missing")
    text = f"Best: {name}; {criterion.metric} on {'; '.join(parts)}."
    if "difference" in rows.index and not math.isnan(rows.loc["difference", "test/low"]):
        row = rows.loc["difference"]
        half = (row["test/high"] - row["test/low"]) / 2
        gain = _amount(row["test/mean"], half, criterion, signed=True)
        text += f" On test against {context.baseline}: {gain.replace(' in val', ' in test')}."
    return text
