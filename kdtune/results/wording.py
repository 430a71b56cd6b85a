"""Does distilling beat plain training: in words, and no stronger than the numbers carry."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdtune.results.comparison import DEFAULT, LEVEL, Rule, has_run_well, name_of
from kdtune.results.tables import cell, of_planned, plus_minus
from kdtune.results.terms import Terms
from kdtune.statistics.power import detectable_difference, repeats_needed

MOST_REPEATS = 200
"""Repeats beyond which the verdict does not send anyone."""


def verdict(table: pd.DataFrame, rule: Rule, by: Sequence[str], terms: Terms) -> str:
    """The answer of a study.

    A difference is sure where Holm's p is below LEVEL and the interval for all comparisons together
    excludes 0: the one named is chosen among them, and after a first step that another has paid for
    Holm's p alone would let an interval through that holds 0. Of those surely better the best is
    named; where there is none, the best of all, with what the study could have seen and what would
    show more.

    Args:
        table: of `comparison.compare`.
        rule: by which it was made.
        by: hyperparameters that tell the configurations apart.
        terms: what it is of.
    """
    if not len(table):
        return _no_sides(rule, terms.other)
    m = int(table.p_holm.notna().sum())
    table = table[has_run_well(table.n)]  # one that has hardly run stands for nothing
    if m == 0 or table.n.max() < 2:
        return _too_little(len(table), terms)
    sure = table[_is_low(table.p_holm, terms) & ((table.low_all > 0) | (table.high_all < 0))]
    helpful = sure[rule.sign * sure["diff"] > 0]
    best = (helpful if len(helpful) else table).iloc[0]
    proof = _proof(best, m, terms)
    who, other = name_of(best, by), terms.other
    subject = "Distillation" if rule.is_plain else who
    if len(helpful):
        gain = _difference(best, rule, rule.sign)
        return f"{subject} helps: {who} beats {other} by {gain} {proof}."
    if len(sure) == len(table):
        loss = _difference(best, rule, -rule.sign)
        closest = f"even {who}, the closest," if len(table) > 1 else who
        return f"{subject} hurts: {closest} is behind {other} by {loss} {proof}."
    shown = _difference(best, rule, signed=True)
    found = "No difference is sure" if _is_low(best.p_holm, terms) else "No difference found"
    text = f"{found}: {who} against {other}: {shown} {proof}; "
    text += _power(best, m, rule) if terms.anytime is None else _undecided(table, rule, terms)
    return text + f" {len(sure)} of {_comparisons(m)} found it behind." * bool(len(sure))


def _is_low(p: Any, terms: Terms) -> Any:
    """Whether p, or which of some, is low enough; a search that asks it stops at the level."""
    return p < LEVEL if terms.anytime is None else p <= terms.anytime


def _too_little(configs: int, terms: Terms) -> str:
    text = f"No verdict: {'1' if configs else 'no'} common repeat; a difference needs two"
    hint = ", and four seldom carry one (--repeats 8)" * (terms.anytime is None)
    return f"{text}{hint}."


def _proof(best: pd.Series, m: int, terms: Terms) -> str:
    n = f"n = {of_planned(best.n, terms.planned)}"
    n += " fresh repeats" * terms.fresh
    if terms.anytime is not None:
        return f"({n}, p = {best.p_holm:.2g} whenever it had stopped)"
    p = f"Holm p = {best.p_holm:.2g} over {_comparisons(m)}" if m > 1 else f"p = {best.p_holm:.2g}"
    return f"({n}, {p})"


def _undecided(table: pd.DataFrame, rule: Rule, terms: Terms) -> str:
    """The search adds repeats while p of the accuracy is above the level, and a budget is left."""
    text = f"{table.n.iloc[0]:.0f} repeats have not decided it"
    if rule != DEFAULT:
        return f"{text} (more are added for acc at the last epoch alone)."
    return f"{text} (a larger --budget adds more)." if (table.p > terms.level).all() else f"{text}."


def _power(best: pd.Series, m: int, rule: Rule) -> str:
    """What the study could have seen, and what would show the difference it has."""
    n, gain, level = int(best.n), rule.sign * best["diff"], LEVEL / m
    if best.sd <= 1e-9 * abs(best["diff"]):  # all differences are equal, but for rounding
        if best["diff"] == 0:
            return f"all {n} repeats came out equal."
        least = math.floor(2 - math.log2(level))  # with 2 / 2^n < level
        more = f"{least} repeats would show them (--repeats {least})"
        return f"all {n} differences are equal, so their signs alone count: {more}."
    seen = detectable_difference(best.sd, n, level)
    needed = repeats_needed(best["diff"], best.sd, level, most=MOST_REPEATS)
    could = f"could have seen {in_units(seen, rule)}" if math.isfinite(seen) else "is too small"
    if gain <= 0:
        more = "it is not ahead, so more repeats promise little"
    elif needed:
        more = f"{needed} repeats would show {in_units(gain, rule)} (--repeats {needed})"
    else:
        more = f"even {MOST_REPEATS} would not show {in_units(gain, rule)}"
    return f"with {n} repeats this study {could}; {more}."


def _no_sides(rule: Rule, other: str) -> str:
    if rule.is_plain:
        return (
            "No verdict: the study needs completed runs both with alpha = 1 (plain training) "
            "and with alpha < 1."
        )
    return f"No verdict: no completed runs both of {other} and of others."


def _comparisons(m: int) -> str:
    return f"{m} comparison{'s' * (m > 1)}"


def _difference(row: pd.Series, rule: Rule, sign: int = 1, signed: bool = False) -> str:
    """A row's difference, or its negative, with the interval for all comparisons together."""
    return _amount(sign * row["diff"], _half(row), rule, signed)


def _half(row: pd.Series) -> float:
    """Half of a row's interval for all comparisons together."""
    return float(row.high_all - row.low_all) / 2


def _amount(value: float, half: float, rule: Rule, signed: bool = False) -> str:
    """A mean and half of its interval, in words."""
    text = plus_minus(rule.scale * value, rule.scale * half)
    unit = " points" if rule.in_points else ""
    return f"{'+' if signed and value > 0 else ''}{text}{unit}{_what(rule)}"


def in_units(value: float, rule: Rule) -> str:
    """A difference, e.g. "1.3 points"."""
    return f"{100 * value:.1f} points" if rule.in_points else f"{value:.2g}"


def _what(rule: Rule) -> str:
    return "" if rule.metric == "acc" else f" in val {rule.metric}"


def comparison_rows(
    table: pd.DataFrame, by: Sequence[str], rule: Rule
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of `comparison.compare` as text."""
    unit = "points" if rule.in_points else f"val {rule.metric}"
    head = [*by, f"difference ({unit})", "n", "p Holm", "p max-T", "win/tie/loss"]
    head += ["P(better)", "correlation"]
    rows = []
    for _, row in table.iterrows():
        cells = [cell(row[f"config/{name}"]) for name in by]
        cells += [_cell(row, rule), str(int(row.n))]
        cells += [_p(row.p_holm), _p(row.p_max_t), f"{row.wins}/{row.ties}/{row.losses}"]
        cells += [_two(row.p_better), _two(row.correlation)]
        rows.append(cells)
    return head, rows


def _cell(row: pd.Series, rule: Rule) -> str:
    half = (row.high - row.low) / 2
    if math.isnan(half):  # of a study that stopped when it knew, or of one repeat
        half = _half(row)
    sign = "+" if row["diff"] > 0 else ""
    return sign + plus_minus(rule.scale * row["diff"], rule.scale * half)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def best_sentence(selection: pd.DataFrame, rule: Rule, name: str, terms: Terms) -> str:
    """The best configuration beyond val, from the table of `insight.selection`."""
    if not len(selection):
        return ""
    form = ".1f" if rule.in_points else ".4g"
    rows = selection.set_index("row")
    best = rows.loc["best"]
    parts = [
        f"{what} {rule.scale * best[f'{column}/mean']:{form}}"
        for column, what in (("val", "val"), ("corrected", "corrected for that"), ("test", "test"))
        if not math.isnan(best[f"{column}/mean"])
    ]
    parts[0] += " of fresh repeats" if terms.fresh else ", which chose it"
    if rule.has_predictions and not terms.fresh and math.isnan(best["corrected/mean"]):
        parts.insert(1, "not corrected for that, since predictions of a run are missing")
    text = f"Best: {name}; {rule.metric} on {'; '.join(parts)}."
    if "difference" in rows.index and not math.isnan(rows.loc["difference", "test/low"]):
        row = rows.loc["difference"]
        half = (row["test/high"] - row["test/low"]) / 2
        gain = _amount(row["test/mean"], half, rule, signed=True)
        text += f" On test against {terms.other}: {gain.replace(' in val', ' in test')}."
    return text
