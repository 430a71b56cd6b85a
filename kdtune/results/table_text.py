"""Wording of the comparison in a table of results, no stronger than its numbers allow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from kdtune.config.study import Format
from kdtune.results.advice import detectable, with_unit
from kdtune.results.comparison import DEFAULT, SIGNIFICANCE_LEVEL, have_enough_repeats
from kdtune.results.context import count_comparisons
from kdtune.results.significance import (
    exact_test,
    find_outcome,
    in_every_repeat,
    p_text,
    p_value,
    since_interval,
)
from kdtune.results.tables import (
    amount,
    cell,
    difference_and_interval,
    format_table,
    interval_text,
    interval_words,
    markdown,
    plus_minus,
)
from kdtune.statistics.intervals import MIN_REPEATS

if TYPE_CHECKING:
    from kdtune.results.table_comparison import TableComparison

POOLED = (
    "Pooled: mean ± SD over all epochs of all runs. That SD mixes the learning curve with the "
    "differences between runs; it is not the uncertainty of a result."
)


def text(result: TableComparison, format: Format = "md") -> str:
    """Return the tables and the conclusion; see `TableComparison.text`."""
    summary = result.summary
    if format == "json":
        tables = {"summary": summary, "comparisons": result.comparisons}
        parsed = {name: json.loads(format_table(t, "json")) for name, t in tables.items()}
        return json.dumps(parsed | {"verdict": result.verdict}, indent=2)
    if format == "csv":
        return format_table(summary, "csv")
    if format == "latex":
        slashes = {c: c.replace("/", ".") for c in result.columns.by}
        return format_table(summary.rename(columns=slashes), "latex")
    parts = [summary_note(result), markdown(*summary_rows(result))]
    if len(result.comparisons):
        at = "at the last epoch, " if result.columns.epoch is not None else ""
        parts += [f"Difference from {baseline(result)}, {at}{number_of_runs(result)}:"]
        parts += [markdown(*comparison_rows(result)), method(result)]
    return "\n\n".join([*parts, result.verdict])


def summary_note(result: TableComparison) -> str:
    """Return what the numbers of the summary are."""
    columns = result.columns
    if result.pooled:
        return POOLED
    at = f", last {columns.epoch} of each run" if columns.epoch is not None else ""
    examples = f", each the mean over {columns.example}" if columns.example is not None else ""
    return f"Mean ± SD (ddof = 1) over n runs ({columns.repeat}){examples}{at}"


def summary_rows(result: TableComparison) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the summary; pooled numbers have six decimals, as papers print."""
    columns = result.columns
    rows = []
    for _, row in result.summary.iterrows():
        n = [row[f"{metric}/n"] for metric in columns.metrics]
        cells = [*(cell(row[name]) for name in columns.by), f"{max(n):.0f}"]
        for metric in columns.metrics:
            mean, sd = row[f"{metric}/mean"], row[f"{metric}/std"]
            pooled = result.pooled and math.isfinite(sd)
            cells.append(f"{mean:.6f} ± {sd:.6f}" if pooled else plus_minus(mean, sd))
        rows.append(cells)
    return [*columns.by, "epochs" if result.pooled else "n", *columns.metrics], rows


def baseline(result: TableComparison) -> str:
    """Return the baseline in words."""
    config = result.baseline_config
    return "" if config is None else str(result.runs.labels[config])


def number_of_runs(result: TableComparison) -> str:
    """Return whether the runs are paired."""
    paired = result.comparisons.paired
    if paired.all():
        return f"paired by {result.columns.repeat}"
    return "unpaired" if not paired.any() else "paired where possible"


def comparison_rows(result: TableComparison) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the comparisons with the baseline."""
    table, (scale, is_share) = result.comparisons, result.scale
    unit = "points" if is_share else result.columns.metric
    two_way = _is_two_way(table)
    head = [*result.columns.by, f"difference ({unit})", interval_name(table)]
    head += ["for these examples"] * two_way + ["n"]
    head += ["p (Holm)" if count(table) > 1 else "p"]
    with_max_t, paired = bool(table.p_max_t.notna().any()), bool(table.paired.any())
    head += ["p (max-T)"] * with_max_t + ["wins/ties/losses"] * paired
    head += ["repeats"] * (paired and not bool(table.paired.all()))
    rows = []
    for _, row in table.iterrows():
        cells = [cell(row[f"config/{name}"]) for name in result.columns.by]
        cells += difference_and_interval(row, scale)
        if two_way:
            cells.append(interval_text(row.low_here, row.high_here, scale))
        cells += [_n(row), p_value(row.p_holm)]
        cells += [p_value(row.p_max_t)] if with_max_t else []
        wins = f"{row.wins:.0f}/{row.ties:.0f}/{row.losses:.0f}" if row.paired else "-"
        cells += [wins] if paired else []
        cells += ["paired" if row.paired else f"unpaired: {row.why}"] if "repeats" in head else []
        rows.append(cells)
    return head, rows


def _n(row: pd.Series) -> str:
    return f"{row.n:.0f}" if row.paired else f"{row.n:.0f} and {row.n_baseline:.0f}"


def count(table: pd.DataFrame) -> int:
    """Return the number of comparisons with a p value."""
    return int(table.p_holm.notna().sum()) if len(table) else 0


def interval_name(table: pd.DataFrame) -> str:
    """Return the kind of the interval."""
    return "95% CI (simultaneous)" if count(table) > 1 else "95% CI"


def method(result: TableComparison) -> str:
    """Return how the differences were computed, and what was assumed about the columns."""
    return " ".join(_method(result))


def _method(result: TableComparison) -> Iterator[str]:
    table, columns = result.comparisons, result.columns
    if table.paired.any():
        two_way = "t test over repeats and examples" if _is_two_way(table) else "paired t test"
        yield (
            f"Paired by {columns.repeat} ({two_way}); this assumes that the same {columns.repeat} "
            f"means the same random seed, otherwise use --unpaired."
        )
    if not table.paired.all():
        why = ", ".join(sorted(set(table.why[~table.paired])))
        yield f"Unpaired ({why}): runs are independent samples, Welch's t test."
    if (m := count(table)) > 1:
        yield f"CI Bonferroni-adjusted and p Holm-adjusted for the {m} comparisons."
    if _is_two_way(table):
        yield "CI over repeats and examples; for these examples: the same over repeats alone."
    if len(candidates := result.candidates) > 1:
        yield (
            f"The baseline is the best of {len(candidates)} configurations; p does not account for "
            f"its selection."
        )
    if found := result.runs.confounded:
        yield f"Columns that differ with the configuration, too: {', '.join(found[:5])}."
    if (metric := columns.metric) and not result.direction_given:
        other = "--lower-is-better" if result.higher_is_better else "--higher-is-better"
        word = "Higher" if result.higher_is_better else "Lower"
        yield f"{word} {metric} is taken to be better, by its name ({other}: the opposite)."


def _is_two_way(table: pd.DataFrame) -> bool:
    return bool(table.n_images.notna().any())


def verdict(result: TableComparison) -> str:
    """Return the conclusion.

    As for a study, a difference is significant if its Holm-adjusted p value is below the level and
    its simultaneous interval excludes 0. Conclusions are about new runs on the same evaluation
    data, unless there are values per example.
    """
    table = result.comparisons
    if not result.baseline:
        return (
            "No conclusion: no baseline is named. Name the configurations to compare with: "
            f"--baseline {result.columns.by[0]}=VALUE."
        )
    if not len(table):
        return "No conclusion: there are no configurations other than the baseline."
    table = table[have_enough_repeats(table.n)]
    if not table.p_holm.notna().any():
        least = f"{MIN_REPEATS} repeats of each configuration"
        return f"No conclusion: a comparison needs {least}; 8 are better."
    return f"{_finding(result, table)} {scope(result, table)}"


def _finding(result: TableComparison, table: pd.DataFrame) -> str:
    """Return the sentences about the best configuration that is compared with the baseline."""
    known = table[table.p_holm.notna()]
    found = find_outcome(known, result.sign, SIGNIFICANCE_LEVEL)
    row, metric = found.row, result.columns.metric
    if found.kind == "better":
        return f"{row.label} improved {metric} by {_effect(row, result, signed=False)}."
    worsened = f"{row.label} worsened {metric} by {_effect(row, result, False)}."
    if found.significant == len(known) == 1:
        return worsened
    if found.significant == len(known):
        return (
            f"Every other configuration worsened {metric}, the best one ({row.label}) by "
            f"{_effect(row, result, False)}."
        )
    if found.kind == "worse":
        text = f"{worsened} No other configuration is significantly better."
    else:
        why = since_interval(row.p_holm, row.low, row.high, SIGNIFICANCE_LEVEL)
        text = (
            f"No significant difference in {metric}: {row.label} against {baseline(result)}: "
            f"{_effect(row, result, True)}{why}{in_every_repeat(row)}{_detectable(row, result)}."
        )
    if found.significant:
        text += f" {found.significant} of {len(known)} configurations were significantly worse."
    return text


def _effect(row: pd.Series, result: TableComparison, signed: bool) -> str:
    """Return a difference with its unit, interval, p value and n."""
    (scale, is_share), m = result.scale, count(result.comparisons)
    against = "" if signed else f" compared with {baseline(result)}"
    kind = "simultaneous 95% CI" if m > 1 else "95% CI"
    ends = interval_words(row.low, row.high, scale)
    parts = [f"{kind} {ends}"] if ends else []
    p = p_text(row.p_holm) + exact_test(row.low, row.paired)
    parts.append(f"Holm-adjusted {p} over {m} comparisons" if m > 1 else p)
    n = f"n = {_n(row)}" if row.paired else f"n = {_n(row)}, unpaired"
    if not math.isnan(row.n_images):
        n += f" × {row.n_images:,.0f} examples"
    parts.append(n)
    value = amount(row, scale, "percentage points" * is_share, signed)
    return f"{value}{against} ({', '.join(parts)})"


def _detectable(row: pd.Series, result: TableComparison) -> str:
    """Return the minimum detectable difference of a paired comparison; "" for others."""
    if math.isnan(row.low):
        equal = f"all {row.n:.0f} differences" if row.paired else "the runs of each configuration"
        return f"; {equal} are equal, so there is no interval"
    if not row.paired:
        return ""
    m = max(1, count(result.comparisons))
    least = detectable(row, m)
    if not least < result.largest_difference:
        return f"; {row.n:.0f} repeats are too few for 80% power at any difference"
    is_share = result.scale[1]
    number = with_unit(least / result.largest_difference, DEFAULT) if is_share else f"{least:.2g}"
    images = "" if math.isnan(row.n_images) else f", {row.n_images:,.0f} examples"
    design = f"{row.n:.0f} repeats{images} and {count_comparisons(m)}"
    return f"; minimum detectable difference at 80% power with {design}: {number}"


def scope(result: TableComparison, table: pd.DataFrame) -> str:
    """Return what the intervals generalise to."""
    example = result.columns.example
    if _is_two_way(table):
        return f"This holds for new runs and new examples like these ({example})."
    if example is not None:
        return (
            f"This holds for new runs on the same evaluation data; nothing is said about new "
            f"examples ({example}), since no comparison is paired by several of them."
        )
    return (
        "This holds for new runs on the same evaluation data: without one row per run and image "
        "(--example), nothing is said about new images."
    )
