"""Sections of the report that answer the study's question: results in, texts and tables out."""

import math
from dataclasses import dataclass

import pandas as pd

from kdtune.config.metrics import METRICS
from kdtune.config.task import Task
from kdtune.reporting.facts import split_sizes
from kdtune.reporting.figures import MAX_CONFIGS
from kdtune.reporting.learning_curves import LAST_EPOCHS, CurveData
from kdtune.reporting.page import Cell, NotedTable, Table, interval_cell
from kdtune.results.comparison import Criterion
from kdtune.results.conclusion import default_sentences
from kdtune.results.context import NOT_RECORDED, ComparisonContext
from kdtune.results.effort import effort_text
from kdtune.results.study_results import Results
from kdtune.results.tables import cell, comparison_rows, count_of_planned, plus_minus
from kdtune.statistics.intervals import wilson_interval

_FIRST = ("acc", "gap", "ce", "loss", "agreement", "kl", "logit_diff")
_OMITTED = ("distill", "nll")  # undefined for the baseline; equal to ce
SUMMARY_METRICS = (*_FIRST, *(name for name in METRICS if name not in (*_FIRST, *_OMITTED)))
"""Metrics of the summary; those without a value are left out."""


@dataclass(frozen=True)
class Summary:
    """Means over repeats."""

    note: str
    by_config: Table | None = None
    hyperparameter_note: str = ""
    by_hyperparameter: Table | None = None


def summary(results: Results, criterion: Criterion) -> Summary:
    """Return mean ± SD of each configuration, best first, and of each hyperparameter value."""
    metrics = shown_metrics(results)
    table = results.summary((), metrics, criterion.scope, full=True)
    if not len(table):
        return Summary("No trial has completed yet.")
    order = -criterion.sign * table[f"val/{criterion.metric}/mean"]
    table = table.loc[order.sort_values(kind="stable").index]
    note = (
        f"Metrics on val, epoch selection {criterion.scope}: mean ± SD over n repeats"
        f"{results.repeats_phrase}, with the 95% CI (t interval {results.design.single_interval}) "
        f"below."
    )
    if criterion.scope == "best":
        note += (
            " The epoch is selected by the accuracy that is reported, so the values are optimistic."
        )
    by_config = _summary_table(table, results.by, results.task)
    if len(results.by) < 2:
        return Summary(note, by_config)
    marginal = results.marginal(metrics, criterion.scope)
    each = "Each value is averaged over all configurations that have it, within each repeat."
    return Summary(
        note, by_config, each, _summary_table(marginal, ["hyperparameter", "value"], results.task)
    )


def shown_metrics(results: Results) -> list[str]:
    """Return the summary's metrics that the study has recorded or that are derived."""
    columns = set(results.epochs)
    task = results.task
    if not task.is_distillation:
        return list(task.table_metrics)
    return [m for m in SUMMARY_METRICS if m in columns or task.metrics[m].derived is not None]


def _summary_table(table: pd.DataFrame, keys: list[str], task: Task) -> Table:
    names = SUMMARY_METRICS if task.is_distillation else task.table_metrics
    means = {m: f"val/{m}/mean" for m in names if f"val/{m}/mean" in table}
    metrics = [m for m, column in means.items() if m == task.score or table[column].notna().any()]
    rows = []
    for _, row in table.iterrows():
        cells: list[str | Cell] = [cell(row[key]) for key in keys]
        cells.append(count_of_planned(row[f"val/{task.score}/n"], row.n_planned))
        cells += [_mean_cell(row, metric) for metric in metrics]
        rows.append(cells)
    return Table([*keys, "n", *(task.metrics[m].label for m in metrics)], rows)


def _mean_cell(row: pd.Series, metric: str) -> str | Cell:
    mean, sd, low, high = (row[f"val/{metric}/{s}"] for s in ("mean", "std", "low", "high"))
    text = plus_minus(mean, sd)
    if not (math.isfinite(low) and sd > 0):
        return text
    digits = len(text.partition(" ")[0].partition(".")[2])  # as many as the mean has
    return interval_cell(text, f"{low:.{digits}f}", f"{high:.{digits}f}")


def curves_note(results: Results, whole: CurveData, end: CurveData) -> str:
    """Return which configurations and epochs the learning curves leave out.

    Args:
        results: the study.
        whole: data of the curves of all epochs.
        end: data of the curves of the last epochs.
    """
    sentences = []
    configs = results.trials.config_id.nunique()
    if configs > MAX_CONFIGS:
        best = MAX_CONFIGS - 1
        sentences.append(f"The best {best} of {configs} configurations and the baseline are shown.")
    if whole.stride > 1:
        of_end = "all" if end.stride == 1 else f"one in {end.stride}"
        sentences.append(
            f"One epoch in {whole.stride} is drawn; of the last {LAST_EPOCHS} epochs, {of_end}."
        )
    return " ".join(sentences)


def comparisons(results: Results, criterion: Criterion) -> NotedTable:
    """Return the comparison of each configuration with the baseline."""
    table, context = results.compare(criterion), results.context(criterion)
    if not len(table):
        return NotedTable(results.verdict(criterion))
    m = int(table.p_holm.notna().sum())
    selected = ", the best such configuration by the same criterion"
    note = (
        f"Difference in {criterion.label} from {context.baseline}"
        f"{context.repeats_phrase or selected}. Paired by {context.paired_by}: "
        f"{context.method_in_full(m)}. Conclusions are about {context.holds_for}. The win rate is "
        f"the share of repeats in which the configuration is better than the baseline, ties "
        f"counted half. The correlation between the two over repeats shows the gain from pairing: "
        f"the higher it is, the smaller is the variance of the difference. "
        f"{effort_text(results.effort, results.task)}"
    ).rstrip()
    head, rows = comparison_rows(table, results.by, criterion, context.anytime_level, full=True)
    return NotedTable(note, Table(head, rows))


def best(results: Results, criterion: Criterion) -> NotedTable | None:
    """Return the estimates of the selected configuration on val and test.

    Returns None if no trial has completed.
    """
    table = results.selection(criterion)
    if not len(table):
        return None
    context = results.context(criterion)
    if context.held_out:
        kinds = {"val": f"val, {context.kind_of_repeats} repeats", "test": "test"}
    else:
        kinds = {
            "val": "val (used for selection)",
            "corrected": "val, corrected for selection bias",
            "test": "test",
        }
    if not criterion.task.is_distillation:
        kinds.pop("corrected", None)
    table = _with_simultaneous_interval(table, results.compare(criterion))
    rows: list[list[str | Cell]] = []
    for _, row in table.iterrows():
        if row.row == "default" and row.config_id == table.config_id.iloc[0]:
            continue  # it is the best one; the note says so
        name = f"{row.row}: {results.label(row.config_id)}" if row.config_id else row.row
        signed = not row.config_id
        rows.append([name, *(_estimate(row, kind, criterion, signed) for kind in kinds)])
    note = _selection_note(results, criterion, math.isnan(table.iloc[0]["corrected/mean"]))
    n, mean = split_sizes(results).get("test"), table.iloc[0]["test/mean"]
    if n and criterion.has_predictions and math.isfinite(mean):
        low, high = (100 * end for end in wilson_interval(round(mean * n), n))
        note += (
            f" The sampling of {n:,} test images alone gives one trial a 95% CI (Wilson) of "
            f"{low:.1f} to {high:.1f}."
        )
    note = f"{note} {default_sentences(results, criterion)}".strip()
    return NotedTable(note, Table(["", *kinds.values()], rows))


def _with_simultaneous_interval(selection: pd.DataFrame, comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `selection.selection` with the comparison's interval on val."""
    best = selection.config_id[selection.row == "best"]
    ends = comparison[comparison.config_id.isin(best)] if len(comparison) else comparison
    if not len(ends):
        return selection
    selection = selection.copy()
    columns = ["val/low", "val/high"]
    selection.loc[selection.row == "difference", columns] = ends[["low", "high"]].to_numpy()
    return selection


def _selection_note(results: Results, criterion: Criterion, is_uncorrected: bool) -> str:
    """Return how the best configuration was selected, and how that biases its estimates."""
    context = results.context(criterion)
    if context.held_out:
        return f"{_finalists_note(context)} The test split was not used for selection."
    has_fixed_test = context.design.folds is not None and "test" in split_sizes(results)
    on_test = " Those on test are for these test images." * has_fixed_test
    note = (
        f"The best of {results.trials.config_id.nunique()} configurations looks better on val than "
        f"it is, because it was selected on val. {_about_intervals(context, criterion)}{on_test} "
        f"The interval of the difference on val is that of the comparison. The test split was not "
        f"used for selection."
    )
    if criterion.has_predictions and is_uncorrected:
        note += " There is no corrected estimate, because predictions of some trials are missing."
    return note


def _about_intervals(context: ComparisonContext, criterion: Criterion) -> str:
    """Return what the intervals of the selected configuration hold for."""
    if not criterion.task.is_distillation:
        return f"The intervals are for {context.holds_for}."
    return (
        f"The corrected estimate selects on images drawn with replacement and evaluates on the "
        f"images not drawn (BBC-CV, Tsamardinos et al., 2018); its interval reflects the sampling "
        f"of val images alone, the others are for {context.holds_for}."
    )


def _finalists_note(context: ComparisonContext) -> str:
    """Return how the finalists were selected, as far as the records say."""
    if not context.is_recorded:
        return NOT_RECORDED
    if not context.names_recorded_best:
        return (
            "The finalists were selected by the study's metric at the last epoch and recorded "
            "before the first of these repeats. Which of them is the best by this criterion was "
            "chosen on these repeats, so its estimate is optimistic."
        )
    images = "the same" if context.design.folds is None else "of the same pool"
    examples = context.examples
    return (
        f"The finalists, and which of them is the best, were recorded before the first of these "
        f"repeats, so the choice of seeds does not bias these estimates. The val {examples} are "
        f"{images}, so selection bias from the {examples} remains."
    )


def _estimate(row: pd.Series, kind: str, criterion: Criterion, signed: bool) -> str | Cell:
    mean, low, high = (row[f"{kind}/{s}"] for s in ("mean", "low", "high"))
    if math.isnan(mean):
        return "-"
    sign = "+" if signed else ""
    form = f"{sign}.2f" if criterion.in_points else f"{sign}.4g"
    mean, low, high = (criterion.scale * value for value in (mean, low, high))
    text = format(mean, form)
    if not math.isfinite(high - low):
        return text
    return interval_cell(text, format(low, form), format(high, form))
