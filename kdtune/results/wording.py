"""Conclusions of a study in words, no stronger than its numbers allow."""

import math
from collections.abc import Sequence

import pandas as pd

from kdtune.results.advice import power_text, too_small, undecided_text, what_would_help
from kdtune.results.comparison import (
    Criterion,
    have_enough_repeats,
)
from kdtune.results.context import ComparisonContext, count_comparisons
from kdtune.results.labels import config_label
from kdtune.results.significance import (
    Outcome,
    exact_test,
    find_outcome,
    in_every_repeat,
    p_text,
    since_interval,
)
from kdtune.results.tables import (
    amount,
    count_of_planned,
    difference_and_interval,
    interval_words,
)
from kdtune.statistics.intervals import MIN_REPEATS


def verdict(
    table: pd.DataFrame,
    criterion: Criterion,
    by: Sequence[str],
    context: ComparisonContext,
    m: int | None = None,
) -> str:
    """Return the conclusion of a study about one student.

    A difference is significant if its Holm-adjusted p value is below the level and its simultaneous
    interval excludes 0. Holm's p value alone does not suffice: after a first rejection it can be
    below the level while the interval of the named configuration, one of several, holds 0. The
    conclusion names the best configuration that is significantly better; if there is none, the best
    of all, with the minimum detectable difference and the repeats that 80 % power needs.

    Args:
        table: of `comparison.compare`.
        criterion: by which the table was made.
        by: hyperparameters that tell the configurations apart.
        context: baseline and repeats of the comparison.
        m: number of comparisons that p values and intervals account for; those of the table if it
            has them all.
    """
    if not len(table):
        return _no_comparison(criterion, context.baseline)
    m = int(table.p_holm.notna().sum()) if m is None else m
    table = table[have_enough_repeats(table.n)]
    if m == 0 or table.n.max() < MIN_REPEATS or not table.p_holm.notna().any():
        return _no_test(table, context)
    untested = int(table.p_holm.isna().sum())
    table = table[table.p_holm.notna()]
    found = find_outcome(table, criterion.sign, *_rule(context))
    if found.kind == "better":
        return _improved(found.row, criterion, by, context, m)
    if found.kind == "worse":
        return _worsened(found, len(table), untested, criterion, by, context, m)
    text = _not_significant(found.row, criterion, by, context, m)
    if context.anytime_level is None:
        text = f"{too_small(found.row, m, criterion)}{text}{power_text(table, m, criterion)}"
    else:
        text += undecided_text(table, criterion, context)
    if found.significant:
        text += f" {found.significant} of {len(table)} configurations were significantly worse."
    return text


def short_verdict(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """Return the conclusion of `verdict` in a few words, e.g. "better: +3.1 points, p = 0.002"."""
    known = table[table.p_holm.notna()] if len(table) else table
    if not len(known):
        return "no comparison"
    found = find_outcome(known[have_enough_repeats(known.n)], criterion.sign, *_rule(context))
    unit = " points" if criterion.in_points else ""
    value = difference_and_interval(found.row, criterion.scale)[0]
    return f"{found.kind}: {value}{unit}, {p_text(found.row.p_holm)}"


def _rule(context: ComparisonContext) -> tuple[float, bool]:
    """Return the level, and whether p = level is significant: such a study stops at p <= level."""
    return context.level, context.anytime_level is not None


def _improved(
    row: pd.Series, criterion: Criterion, by: Sequence[str], context: ComparisonContext, m: int
) -> str:
    by_how_much = _effect(row, criterion, context, m)
    text = f"{_subject(row, criterion, by)} improved {criterion.label} by {by_how_much}"
    help_ = "" if context.anytime_level is not None else what_would_help(row, m, criterion)
    return f"{text} {help_}".rstrip()


def _worsened(
    found: Outcome,
    configs: int,
    untested: int,
    criterion: Criterion,
    by: Sequence[str],
    context: ComparisonContext,
    m: int,
) -> str:
    row = found.row
    by_how_much = _effect(row, criterion, context, m)
    if found.significant < configs or configs == 1 or untested:
        text = f"{_subject(row, criterion, by)} worsened {criterion.label} by {by_how_much}"
        rest = " No other configuration has a better mean." * (configs > 1)
        if untested:
            have = "configuration has" if untested == 1 else "configurations have"
            rest = f" {untested} other {have} too few common repeats for a test."
        return f"{text}{rest}"
    subject = _task_subject(criterion)
    every = f"{subject} in every" if subject else "Every other"
    best = f"the best one ({config_label(row, by)})"
    return f"{every} configuration worsened {criterion.label}, {best} by {by_how_much}"


def _subject(row: pd.Series, criterion: Criterion, by: Sequence[str]) -> str:
    who = config_label(row, by)
    subject = _task_subject(criterion)
    return f"{subject} ({who})" if subject else who


def _task_subject(criterion: Criterion) -> str:
    """Return "Distillation" if all configurations but the baseline are distilled, else ""."""
    return criterion.task.subject if criterion.has_plain_baseline else ""


def _effect(row: pd.Series, criterion: Criterion, context: ComparisonContext, m: int) -> str:
    """Return the size of a significant difference, baseline and evidence; ends the sentence."""
    evidence = _evidence(row, criterion, context, m)
    here = _for_these_images(row, criterion, context)
    value = amount(row, criterion.scale, criterion.unit)
    return f"{value}{_compared_with(criterion, context)} ({evidence}).{here}"


def _for_these_images(row: pd.Series, criterion: Criterion, context: ComparisonContext) -> str:
    """Return a sentence with the interval over repeats alone; "" where it is the only one."""
    ends = interval_words(row.low_here, row.high_here, criterion.scale)
    if context.images is None or not ends:
        return ""
    count = f"{context.images:,} val {context.examples}"
    return f" For these {count} alone the interval is {ends}."


def _not_significant(
    row: pd.Series, criterion: Criterion, by: Sequence[str], context: ComparisonContext, m: int
) -> str:
    """Return the estimate that is not significant; a sentence without its end."""
    text = (
        f"No significant difference in {criterion.label}: {config_label(row, by)} against "
        f"{context.baseline}: {amount(row, criterion.scale, criterion.unit, signed=True)} "
        f"({_evidence(row, criterion, context, m)})"
    )
    text += since_interval(row.p_holm, row.low, row.high, *_rule(context))
    return text + in_every_repeat(row)


def _compared_with(criterion: Criterion, context: ComparisonContext) -> str:
    """Return the baseline unless "distillation" implies it."""
    implied = bool(_task_subject(criterion)) and context.baseline == criterion.task.baseline_words
    return "" if implied else f" compared with {context.baseline}"


def _no_test(table: pd.DataFrame, context: ComparisonContext) -> str:
    """Return why no comparison has a p value."""
    n = int(table.n.max()) if len(table) else 0
    units = int(table.n_units.max()) if len(table) else 0
    if n >= MIN_REPEATS and units < MIN_REPEATS:
        return (
            f"No conclusion: the common repeats have {units} teacher{'s' * (units != 1)}, but a "
            f"comparison over teachers needs at least {MIN_REPEATS}."
        )
    if n >= MIN_REPEATS:
        return f"No conclusion: all {n} differences of a configuration are equal."
    repeats = f"{n or 'no'} common repeat{'s' * (n != 1)}"
    text = f"No conclusion: {repeats}, but a comparison needs at least {MIN_REPEATS}"
    hint = "; four are rarely enough, use --repeats 8" * (context.anytime_level is None)
    return f"{text}{hint}."


def _no_comparison(criterion: Criterion, baseline: str) -> str:
    if not criterion.fixed:
        return "No conclusion: the study has no baseline (baseline={...}) to compare with."
    if criterion.has_plain_baseline and criterion.task.is_distillation:
        return (
            "No conclusion: the study needs completed runs both with alpha = 1 (no distillation) "
            "and with alpha < 1."
        )
    return f"No conclusion: completed runs of {baseline} and of other configurations are needed."


def _evidence(row: pd.Series, criterion: Criterion, context: ComparisonContext, m: int) -> str:
    """Return interval, p value and n of a comparison."""
    kind = f" {context.kind_of_repeats}" * context.held_out
    n = f"n = {count_of_planned(row.n, context.planned)}{kind} repeats"
    if row.n_units < row.n:
        n += f" of {row.n_units:.0f} teachers"
    if not math.isnan(row.n_images):
        n += f" × {row.n_images:,.0f} {context.examples}"
    interval = interval_words(row.low, row.high, criterion.scale)
    kind = "95% CI" if m == 1 and context.anytime_level is None else context.interval
    parts = [f"{kind} {interval}"] if interval else []
    if context.anytime_level is not None:
        parts.append(f"always-valid {p_text(row.p_holm)}")
    elif m == 1:
        parts.append(p_text(row.p_holm) + exact_test(row.low))
    else:
        parts.append(
            f"Holm-adjusted {p_text(row.p_holm)}{exact_test(row.low)} over {count_comparisons(m)}"
        )
    return ", ".join([*parts, n])


def best_sentence(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """Return the performance of the best configuration, from the table of `selection.selection`."""
    if not len(selection):
        return ""
    form = ".1f" if criterion.in_points else ".4g"
    rows = selection.set_index("row")
    best = rows.loc["best"]
    names = {"val": "validation", "corrected": "corrected for selection", "test": "test"}
    parts = [
        f"{what} {criterion.scale * best[f'{column}/mean']:{form}}"
        for column, what in names.items()
        if not math.isnan(best[f"{column}/mean"])
    ]
    parts[0] += f" ({context.bias_of_best})"
    if criterion.has_predictions and not context.held_out and math.isnan(best["corrected/mean"]):
        parts.insert(1, "not corrected for selection, since predictions of a run are missing")
    percent = " (%)" if criterion.in_points else ""
    metric = criterion.declared.label
    text = f"Best configuration: {name}. Mean {metric}{percent}: {', '.join(parts)}."
    if "difference" in rows.index and not math.isnan(rows.loc["difference", "test/low"]):
        row = rows.loc["difference"].rename(index={f"test/{s}": s for s in ("low", "high")})
        row = pd.Series({"diff": row["test/mean"], "low": row.low, "high": row.high})
        kind = "95% CI" if context.anytime_level is None else context.interval
        text += (
            f" Test {metric}, not used for the selection, differs from {context.baseline} by "
            f"{amount(row, criterion.scale, criterion.unit, signed=True)} ({kind} "
            f"{interval_words(row.low, row.high, criterion.scale)})."
        )
    return text
