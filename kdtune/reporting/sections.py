"""Sections of the report: results in, texts and tables out."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune.config.fields import Value, is_named_data
from kdtune.config.files import TEACHER, TEACHER_RECORD
from kdtune.config.records import TeacherAccuracy, read_teacher_accuracy
from kdtune.config.study import Study
from kdtune.config.task import METRICS, Task, ends_of
from kdtune.config.text import printable
from kdtune.reporting.canvas import Cell, NotedTable, Table, interval_cell
from kdtune.reporting.figures import LAST_EPOCHS, MAX_CLASSES, MAX_CONFIGS, CurveData, judged_split
from kdtune.results.comparison import (
    SIGNIFICANCE_LEVEL,
    Criterion,
    cell,
    comparison_rows,
    completed,
    completed_configs,
    count_of_planned,
    have_enough_repeats,
    plus_minus,
)
from kdtune.results.design import describe_teacher_share, is_significant, p_text, p_value
from kdtune.results.examples import (
    Arms,
    class_accuracies,
    count_differences,
    image_type,
    largest_confusions,
    most_different,
    read_thumbnail,
)
from kdtune.results.frames import SCOPES, config_label
from kdtune.results.results import Results, data_name
from kdtune.results.words import (
    NOT_RECORDED,
    ComparisonContext,
    describe_detectable,
    effort_text,
)
from kdtune.statistics.intervals import MIN_REPEATS, wilson_interval
from kdtune.storage.records import parse_teacher, read_provenance, read_saved

# Facts of the report about what was studied.


MAX_LISTED_VALUES = 8
"""Values of a hyperparameter that are listed; of more, the first and the last."""


def study_facts(results: Results, criterion: Criterion) -> dict[str, str]:
    """Return what was studied, by name."""
    trials, sizes, examples = results.trials, split_sizes(results), results.task.examples
    searched = (f"{name} {', '.join(_values(trials[f'config/{name}']))}" for name in results.by)
    planned = trials.n_epochs_planned.dropna()
    facts = {
        "status": results.status,
        **_subject(results),
        "search space": "; ".join(searched),
        "configurations × repeats": _counts(results),
        "epochs": ", ".join(_values(planned.astype(int))),
        examples: ", ".join(f"{split} {n:,}" for split, n in sizes.items()),
    }
    if (n := sizes.get("val")) and criterion.in_points:
        resolution = f"{100 / n:.2g} percentage points (one of {n:,} val {examples})"
        facts[f"resolution of {criterion.declared.label}"] = resolution
    facts["minimum detectable difference"] = _detectable(results, criterion)
    seconds = completed(trials).seconds.sum()
    total = f"{seconds / 3600:.1f} h" if seconds > 7200 else f"{seconds:.0f} s"
    return {name: value for name, value in (facts | {"total trial time": total}).items() if value}


def _subject(results: Results) -> dict[str, str]:
    """Return what was trained."""
    run = results.study.run
    if not results.task.is_distillation:
        return {"training function": data_name(results.study)}
    limit = f", {run.train_images} training images" if run.train_images else ""
    if extra := read_provenance(results.folder).get("data_set", {}).get("extra"):
        limit += f", {extra['examples']:,} images without labels ({extra['source']})"
    return {
        "teacher": run.teacher,
        "student": f"{run.student} (trainable layers: {run.trainable})",
        "data": data_name(results.study) + limit,
    }


def _counts(results: Results) -> str:
    """Return the numbers of configurations and repeats in each phase of the search."""
    parts = []
    trials = {
        phase: results.trials[results.trials.phase == phase] for phase in ("search", "confirm")
    }
    trials |= {"final": results.final_trials}
    final = "held-out: " if results.finalists_are_recorded else "final: "
    phases = {"search": "", "confirm": "confirmation: ", "final": final}
    for phase, prefix in phases.items():
        counts = trials[phase].config_id.value_counts()
        ends = [f"{n}" for n in sorted({counts.min(), counts.max()})] if len(counts) else []
        if phase == "search" and not math.isnan(results.planned_repeats):
            ends = [f"{results.planned_repeats}"]
        if ends:
            parts.append(f"{prefix}{len(counts)} × {' to '.join(ends)}")
    return "; ".join(parts)


def _detectable(results: Results, criterion: Criterion) -> str:
    """Return the minimum detectable difference of the verdict.

    It is of the best configuration of each student that has enough repeats. "" if the number of
    repeats was not fixed in advance.
    """
    table, context = results.compare(criterion), results.context(criterion)
    if not len(table) or not context.is_fixed:
        return ""
    m = max(1, int(table.p_holm.notna().sum()))
    found: list[str] = []
    students = results.compared_students(criterion)
    for student in students:
        own = table[criterion.groups(table) == student]
        own = own[have_enough_repeats(own.n)]
        if not len(own):
            continue
        row = own.iloc[0]
        name = f"{student}: " * (len(students) > 1)
        able = describe_detectable(row, m, criterion)
        found += [f"{name}{able}"] * bool(able)
    return "; ".join(found)


def _values(column: pd.Series) -> Iterator[str]:
    """Yield the values of a hyperparameter as text, at most `MAX_LISTED_VALUES`."""
    values = sorted(column.dropna().unique(), key=lambda v: (isinstance(v, str), v))
    if len(values) > MAX_LISTED_VALUES:
        yield f"{cell(values[0])} … {cell(values[-1])} ({len(values)} values)"
        return
    yield from map(cell, values)


def split_sizes(results: Results) -> dict[str, int]:
    """Return the number of images of each split that was evaluated, as far as known."""
    sizes = results.epochs.groupby("split", sort=False).n_examples.max()
    return {str(split): int(n) for split, n in sizes.items() if n}


# Sections of the report that answer the study's question: results in, texts and tables out.


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
    note = f"{note} {results.default_text(criterion)}".strip()
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


# Sections of the report with background: sensitivity, methods and provenance.


def epoch_selection(results: Results, criterion: Criterion) -> NotedTable | None:
    """Return the mean and rank of each configuration by each way to select the epoch.

    Returns None if no trial has completed.
    """
    table = results.sensitivity(criterion.metric)
    if not len(table):
        return None
    best = {s: table.loc[table[f"{s}/rank"] == 1, "config_id"].iloc[0] for s in SCOPES}
    if len(set(best.values())) == 1:
        same = "The best configuration is the same for every epoch selection"
        note = f"{same}: {results.label(best['last'])}."
    else:
        each = "; ".join(f"{scope}: {results.label(c)}" for scope, c in best.items())
        note = f"The best configuration depends on the epoch selection. {each}."
    rows = [
        [cell(row[f"config/{n}"]) for n in results.by]
        + [_rank_cell(row[f"{s}/mean"], row[f"{s}/rank"], criterion) for s in SCOPES]
        for _, row in table.iterrows()
    ]
    head = [*results.by, *(f"{s}{' (optimistic)' * (s == 'best')}" for s in SCOPES)]
    return NotedTable(note, Table(head, rows))


def _rank_cell(mean: float, rank: float, criterion: Criterion) -> Cell:
    shown = f"{100 * mean:.2f}" if criterion.in_points else f"{mean:.4g}"
    return Cell(shown, f"#{rank:.0f}")


def variance(results: Results, criterion: Criterion) -> NotedTable | None:
    """Return the shares of the sum of squares of configurations, repeats and epochs.

    Returns None if there are too few trials.
    """
    table = results.spread(criterion)
    if not len(table):
        return None
    sources = ("configuration", "repeat", "epoch", "residual")
    rows = [
        [f"{row.epochs} epoch{'s' * (row.epochs == 'all')}"]
        + ["-" if pd.isna(row[k]) else f"{100 * row[k]:.1f}%" for k in sources]
        for _, row in table.iterrows()
    ]
    last = table.iloc[0]
    note = (
        f"Shares of the sum of squares of {criterion.label} over "
        f"{last.n_configs} configurations × {last.n_repeats} repeats."
    )
    if not math.isnan(last.f):
        note += (
            f" At the last epoch, configurations differ with F = {last.f:.3g} ({p_text(last.p)}), "
            f"and repeats correlate across configurations with ICC(C,1) = "
            f"{round(last.icc, 2) + 0:.2f}."
        )
    if len(table) > 1 and not math.isnan(table.iloc[1].epoch):
        note += (
            f" Over all epochs, {100 * table.iloc[1].epoch:.0f}% is due to the epoch: an SD pooled "
            f"over epochs measures training progress, not the variation between repeats."
        )
    if words := describe_teacher_share(results.teacher_share(criterion)):
        note += f" {words}"
    return NotedTable(note, Table(["over", *sources], rows))


def methods(results: Results, criterion: Criterion) -> list[str]:
    """Return what was varied, what was fixed, and how the numbers were computed."""
    context = results.context(criterion)
    sentences = [
        _what_repeats_vary(results),
        results.design.constant,
        f"Each trial contributes one number (epoch selection {criterion.scope}); variation is "
        f"measured over trials, never over epochs. SD has ddof = 1. Intervals of single "
        f"configurations are 95% Student t intervals {results.design.single_interval}; those of "
        f"comparisons and of the best configuration are for {context.holds_for}. They assume that "
        f"means are approximately normal, and end at the range of the metric.",
        context.baseline_note,
        context.significance_rule(criterion.declared.label),
        "Failed, truncated and unfinished trials are listed under Warnings. They and pruned trials "
        "are excluded from all means.",
        _about_teacher_metrics(results),
    ]
    return [sentence[:1].upper() + sentence[1:] for sentence in sentences if sentence]


def _what_repeats_vary(results: Results) -> str:
    same = "All configurations use the same repeats, so comparisons are paired."
    if not results.task.is_distillation:
        own = "Repeats vary what the training function derives from the number of the repeat."
        return f"{own} {same}"
    run, values = results.study.run, results.study.values
    augmented = "" if run.augmentation == "none" else ", the augmentation"
    mixes = any(value != 0 for name in ("mixup", "cutmix") for value in ends_of(values(name)))
    mixed = ", the mixing of images" if mixes else ""
    return (
        f"Repeats vary the student's initial weights, the data order{augmented}{mixed} and "
        f"dropout, all determined by the seed {run.seed} and the number of the repeat. {same}"
    )


def _about_teacher_metrics(results: Results) -> str:
    if not results.task.is_distillation:
        return ""
    labels = [METRICS[name].label for name in ("logit_diff", "agreement", "kl")]
    return (
        f"{', '.join(labels[:-1])} and {labels[-1]} (temperature 1) compare student and teacher on "
        f"the whole split. Precision: {results.study.run.precision}."
    )


@dataclass(frozen=True)
class Provenance:
    """Versions, command and settings that produced the numbers."""

    versions: dict[str, str]
    command: str
    settings: Table


def provenance(results: Results) -> Provenance:
    """Return the study's versions, data fingerprint, command and settings."""
    record = read_provenance(results.folder)
    fingerprints = read_saved(results.folder).fingerprints
    data_set = record.get("data_set", {})
    cut, texts = data_set.get("val_cut"), data_set.get("examples_text", {})
    extra = data_set.get("extra")
    cut_text = (
        "val is {share:.0%} of each class, drawn with seed {seed}".format(**cut) if cut else ""
    )
    versions = {
        "data fingerprint": str(fingerprints.get("data", record.get("data", ""))),
        **{f"examples in {split}": str(text) for split, text in texts.items()},
        "images without labels": f"{extra['examples']:,} ({extra['source']})" if extra else "",
        "cut from train": cut_text,
        "Python": str(record.get("python", "")),
        **{name: str(version) for name, version in record.get("versions", {}).items()},
    }
    command = " ".join(str(word) for word in record.get("command", ()))
    flat = _settings(results.study)
    sources = {row["setting"]: row["source"] for row in record.get("recipe", ())}
    rows = [
        [name, "" if value is None else str(value), sources.get(name, "")]
        for name, value in flat.items()
    ]
    return Provenance(
        {name: value for name, value in versions.items() if value},
        command,
        Table(["setting", "value", "source"], rows),
    )


def _settings(study: Study) -> dict[str, Any]:
    """Return the settings of a study and of its run by name."""
    settings = json.loads(study.to_json())
    run = settings.pop("run", {})
    left_out = ("schema", "fingerprints", "study_values")  # the models once more
    return {name: v for name, v in (run | settings).items() if name not in left_out}


# The head of the report: when, where and with what the numbers were made.


SOFTWARE = ("kdtune", "torch", "torchvision", "ray")
"""Versions at the head; the others are under Provenance."""


def identity(results: Results) -> dict[str, str]:
    """Return date, machine, versions and fingerprints; what was not recorded is left out.

    The date is that of the last record, so that the page does not depend on the clock.
    """
    record = read_provenance(results.folder)
    facts = {
        "last record": _date(results.frames.last_record_time),
        "machine": _machine(results, record),
        "software": _software(record),
    }
    fingerprints = read_saved(results.folder).fingerprints
    known = [f"{name} {value}" for name, value in fingerprints.items()]
    if known or record.get("data"):
        facts["fingerprints"] = ", ".join(known) or f"data {record['data']}"
    return {name: value for name, value in facts.items() if value}


def _date(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _machine(results: Results, record: dict[str, Any]) -> str:
    """Return the processors that models were measured on, and the number of machines."""
    named = list(results.costs.hardware.unique()) if len(results.costs) else []
    own = record.get("machine", {})
    if not named and own.get("processor"):
        named = [own["processor"]]
    parts = [str(name) for name in named]
    if own.get("cores"):
        parts.append(f"{own['cores']} cores")
    if own.get("system"):
        parts.append(str(own["system"]))
    machines = results.trials.node.dropna().nunique()
    if machines > 1:
        parts.append(f"{machines} machines")
    return ", ".join(parts)


def _software(record: dict[str, Any]) -> str:
    versions = record.get("versions", {})
    shown = [f"{name} {versions[name]}" for name in SOFTWARE if name in versions]
    if record.get("python"):
        shown.append(f"Python {record['python']}")
    return ", ".join(shown)


# Comparisons by other metrics and with other baselines, among which a reader can choose.


OFFERED_METRICS = ("acc", "nll", "ece", "macro_f1", "agreement", "kl")
"""Metrics that are offered besides the criterion's, if they were recorded."""
OFFERED_BASELINES = ("student", "teacher", "loss", "lr")
"""Hyperparameters whose values are offered as baselines."""
MAX_VALUES, MAX_BASELINES = 4, 5
"""Values of such a hyperparameter, if it is offered, and baselines altogether."""
MAX_TABLE_ROWS = 300
"""Rows of all tables; with more configurations fewer baselines and metrics are offered."""


@dataclass(frozen=True)
class Choice:
    """A comparison that a reader can choose."""

    metric: str
    """In words."""
    baseline: str
    """In words."""
    content: NotedTable


def choices(results: Results, criterion: Criterion) -> list[Choice]:
    """Return the comparison by the criterion, then those by other metrics and baselines."""
    main = Choice(criterion.label, "", comparisons(results, criterion))
    if main.content.table is None:
        return [main]
    room = MAX_TABLE_ROWS // max(1, len(main.content.table.rows)) - 1
    found = [Choice(main.metric, _words(criterion), main.content)]
    for baseline in _baselines(results, criterion):
        for metric in _metrics(results, criterion):
            other = results.criterion(metric, criterion.scope, baseline)
            same = metric == criterion.metric and baseline == criterion.baseline
            if same or len(found) > room:
                continue
            content = comparisons(results, other)
            if content.table is not None:
                found.append(Choice(other.label, _words(other), content))
    return found


def _words(criterion: Criterion) -> str:
    """Return a baseline in words."""
    if criterion.has_plain_baseline:
        return criterion.task.baseline_words
    values = {f"config/{name}": value for name, value in criterion.fixed.items()}
    return config_label(values, list(criterion.fixed))


def _metrics(results: Results, criterion: Criterion) -> list[str]:
    done = completed(results.trials)
    task = results.task
    offered = OFFERED_METRICS if task.is_distillation else task.comparable
    recorded = [
        name
        for name in offered
        if name in task.comparable and done[f"val/{name}@last"].notna().any()
    ]
    return list(dict.fromkeys([criterion.metric, *recorded]))


def _baselines(results: Results, criterion: Criterion) -> list[Mapping[str, Value]]:
    """Return the criterion's baseline, training without distillation, and single values of it."""
    found: list[Mapping[str, Value]] = [criterion.fixed]
    for baseline in _plain_and_values(results):
        if baseline not in found:
            found.append(baseline)
    return found[:MAX_BASELINES]


def _plain_and_values(results: Results) -> Iterator[Mapping[str, Value]]:
    configs, task = completed_configs(results.search_trials), results.task
    plain = configs[results.default_criterion.is_baseline(configs)]
    if len(plain):
        yield task.baseline
    for name in OFFERED_BASELINES if task.is_distillation else ():
        if name not in results.by:
            continue
        values = list(dict.fromkeys(configs[f"config/{name}"].dropna()))
        if 1 < len(values) <= MAX_VALUES:
            # of the student and of lr the plain configuration with this value
            own = plain[f"config/{name}"].nunique() > 1
            yield from ({**task.baseline, name: v} if own else {name: v} for v in values)


# Section of the report on the teachers: their accuracy and their history.


def teachers(results: Results) -> NotedTable | None:
    """Return the accuracy of each teacher on each split; None if it was not measured."""
    records = read_teacher_accuracy(results.folder)
    if not records:
        return None
    splits = [split for split in ("train", "val", "test") if split in records[0].splits]
    rows = [
        [one.name, *(_accuracy_cell(one, split) for split in splits), _share(one.acc_before)]
        for one in records
    ]
    note = (
        "Accuracy of the teachers, measured before the first run, with 95% Wilson intervals over "
        "the images. Train has the images that students learn from, without augmentation. The "
        "last column is the accuracy on val before the teacher was fine-tuned on these data."
    )
    return NotedTable(note, Table(["teacher", *splits, "val, before fine-tuning"], rows))


def _accuracy_cell(record: TeacherAccuracy, split: str) -> str | Cell:
    if (value := record.splits.get(split)) is None:
        return "-"
    low, high = (f"{100 * end:.1f}" for end in wilson_interval(value.correct, value.n))
    return interval_cell(f"{value} of {value.n:,}", low, high)


def _share(acc: float | None) -> str:
    return "-" if acc is None else f"{100 * acc:.1f}%"


def histories(results: Results) -> NotedTable | None:
    """Return the accuracy of each fine-tuned teacher before and after each epoch.

    Returns None if no teacher was fine-tuned. Of studies of earlier versions only the epoch that
    was kept is known.
    """
    rows: list[list[str]] = []
    for record in _records(results):
        with suppress(ArithmeticError, AttributeError, KeyError, TypeError, ValueError):  # damaged
            rows += list(_history(record))
    if not rows:
        return None
    note = (
        "Accuracy while the teachers were fine-tuned. That on train is of the forward passes that "
        "the teacher learned from, so of augmented images and changing weights."
    )
    return NotedTable(note, Table(["teacher", "after epoch", "train", "val", "kept"], rows))


def _records(results: Results) -> Iterator[dict[str, Any]]:
    """Yield the records of the fine-tuned teachers, the first one first."""
    folder = results.folder / TEACHER
    for file in sorted(folder.rglob(TEACHER_RECORD), key=lambda path: (len(path.parts), path)):
        with suppress(OSError, ValueError):  # missing or damaged: no number depends on it
            record = parse_teacher(file.read_bytes())
            if "run" in record:
                yield record


def _history(record: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row for the start and for each epoch of one teacher that is recorded."""
    name = str(record["run"].get("student", ""))
    kept = record.get("kept_epoch")
    if record.get("acc_before") is not None:
        yield [name, "before", "-", _share(record["acc_before"]), ""]
    epochs = record.get("history") or []
    if not epochs and isinstance(record.get("val"), dict):
        number = record.get("epochs", 0) - 1 if kept is None else kept
        epochs, kept = [{"epoch": number, "val": record["val"].get("acc")}], number
    for epoch in epochs:
        number = epoch["epoch"]
        shares = (_share(epoch.get(split)) for split in ("train", "val"))
        yield [name, str(number + 1), *shares, "kept" * (number == kept)]


# Sections of the report on classes: accuracy by class, confusion.


MAX_NAMED = 5
"""Classes that a sentence names."""


@dataclass(frozen=True)
class ByClass:
    """The section on classes."""

    note: str
    splits: dict[str, NotedTable]
    """By split: what changed in words, and the table."""
    confusions: NotedTable | None
    """For many classes, in place of a matrix."""


def by_class(results: Results, arms: Mapping[str, Arms]) -> ByClass | None:
    """Return accuracy and confusions by class; None without predictions."""
    own = judged_split(arms)
    if own is None:
        return None
    labels = [results.label(config) for config in own.configs]
    note = (
        f"Accuracy on the images of each class, mean over {len(own.repeats)} repeats: the best "
        f"distilled configuration ({labels[0]}) and its baseline ({labels[1]}). "
        f"{_method(own)}, and simultaneous for all classes of a split (Bonferroni); p is "
        f"Holm-adjusted for them."
    )
    if len(set(own.design.units(own.repeats).tolist())) < MIN_REPEATS:
        units = "teachers" if own.design.by_teacher else "repeats"
        note += f" Intervals and p values need three {units}."
    if "test" in arms:
        note += " Val selected the configuration; test did not."
    splits = {split: _accuracies(one) for split, one in arms.items()}
    return ByClass(note, splits, _confusions(own))


def _method(arms: Arms) -> str:
    """Return how the differences were computed, and what their intervals are for."""
    design = arms.design
    if design.folds is not None:
        return (
            f"Differences are paired by repeat. The 95% CI is a t interval over "
            f"{design.units_phrase} for {design.new_units}, on these {arms.split} images"
        )
    return (
        f"Differences are paired by repeat and image. The 95% CI is a t interval over "
        f"{design.units_phrase} and images, for {design.new_units} and new images of the class"
    )


def _accuracies(arms: Arms) -> NotedTable:
    table = class_accuracies(arms)
    sentence = _changes(table, arms.split)
    if len(table) > MAX_CLASSES:  # the first ones are not folded
        table = table.sort_values("p", kind="stable")
        sentence += " Classes with the smallest p come first."
    head = ["class", "images", "baseline", "distilled", "difference (points)", "p (Holm)"]
    rows = [
        [
            *(str(row["class"]), f"{row.images:,}"),
            *(f"{100 * row.baseline:.1f}", f"{100 * row.distilled:.1f}"),
            *(_difference(row), p_value(row.p_holm)),
        ]
        for _, row in table.iterrows()
    ]
    return NotedTable(sentence, Table(head, rows))


def _changes(table: pd.DataFrame, split: str) -> str:
    """Return how many classes have changed significantly, and which changed most."""
    known = int(table.p_holm.notna().sum())
    if not known:
        return f"On {split}:"
    changed = table[is_significant(table.p_holm, table.low, table.high, SIGNIFICANCE_LEVEL)]
    if not len(changed):
        return f"On {split} no class differs significantly (of {known} compared)."
    order = changed["diff"].abs().sort_values(ascending=False, kind="stable").index[:MAX_NAMED]
    named = [f"{table['class'][i]} ({100 * table['diff'][i]:+.1f} points)" for i in order]
    more = f" and {len(changed) - len(named)} more" if len(changed) > len(named) else ""
    verb = "differs" if len(changed) == 1 else "differ"
    return (
        f"On {split}, {len(changed)} of {known} classes {verb} significantly: "
        f"{', '.join(named)}{more}."
    )


def _difference(row: pd.Series) -> str | Cell:
    value = f"{100 * row['diff']:+z.1f}"
    if math.isnan(row.low):
        return value
    return interval_cell(value, f"{100 * row.low:+z.1f}", f"{100 * row.high:+z.1f}")


def _confusions(arms: Arms) -> NotedTable | None:
    """Return the largest confusions as a table; None for so few classes that there is a matrix."""
    if len(arms.classes) <= MAX_CLASSES:
        return None
    table = largest_confusions(arms)
    head = ["label", "predicted as", "images", "baseline", "distilled", "difference (points)"]
    rows = [
        [
            *(str(row.label), str(row.predicted), f"{row.images:,}"),
            *(f"{100 * row.baseline:.1f}", f"{100 * row.distilled:.1f}"),
            f"{100 * row['diff']:+z.1f}",
        ]
        for _, row in table.iterrows()
    ]
    note = (
        f"The {len(table)} largest confusions of the distilled students on {arms.split}: share of "
        f"the images of a class that are predicted as another one, in percent, mean over repeats."
    )
    return NotedTable(note, Table(head, rows))


# Section of the report on the images on which distilled and plain students differ most.


MAX_BYTES = 20_000
"""Of a thumbnail; a larger file in the folder is not one of kdtune's."""


@dataclass(frozen=True)
class ShownImage:
    """An image with what both arms make of it."""

    source: str
    """data: URI of its thumbnail; "" without."""
    name: str
    """Its file, or its index."""
    label: str
    lines: tuple[str, str]
    """What distilled and plain students make of it."""


@dataclass(frozen=True)
class Examples:
    """The section on single images."""

    note: str
    groups: dict[str, list[ShownImage]]
    """Images with thumbnails by heading."""
    table: Table | None
    """The same images as a table, if there are no thumbnails."""


def examples(results: Results, arms: Mapping[str, Arms]) -> Examples | None:
    """Return the val images on which both arms differ most; None if there are none."""
    if (own := arms.get("val")) is None or not len(table := most_different(own)):
        return None
    pictures = {int(i): _thumbnail(results, own, int(i)) for i in table["image"]}
    more, same, fewer = count_differences(own)
    labels = [results.label(config) for config in own.configs]
    note = (
        f"The val images on which students of {labels[0]} (distilled) and of {labels[1]} "
        f"(baseline) differ most, of {len(own.repeats)} students each. More distilled students are "
        f"correct on {more:,} of {len(own.label):,} images, fewer on {fewer:,}, as many on "
        f"{same:,}. Beside the number of correct students stands the most frequent wrong class, "
        f"with its number of students. These are extremes: on new students the differences will be "
        f"smaller."
    )
    if not any(pictures.values()):
        note += " There are no thumbnails: the data are no images, or are no longer there."
        return Examples(note, {}, _as_table(table))
    headings = {
        "More often correct than the baseline": table[table["diff"] > 0],
        "Less often correct than the baseline": table[table["diff"] < 0],
    }
    groups = {
        heading: [_shown(row, pictures[int(row["image"])]) for _, row in rows.iterrows()]
        for heading, rows in headings.items()
        if len(rows)
    }
    return Examples(note, groups, None)


def _thumbnail(results: Results, arms: Arms, image: int) -> bytes:
    data = results.study.run.data
    root = None if is_named_data(data) else Path(data).expanduser()
    orientation = results.study.run.orientation
    content = read_thumbnail(
        results.folder, root, arms.split, image, arms.files[image], orientation
    )
    return content if len(content) <= MAX_BYTES else b""


def _shown(row: pd.Series, content: bytes) -> ShownImage:
    source = ""
    if content:
        text = base64.b64encode(content).decode()
        source = f"data:image/{image_type(content)};base64,{text}"
    lines = (_line("distilled", row), _line("baseline", row))
    return ShownImage(source, _name(row), str(row["label"]), lines)


def _line(arm: str, row: pd.Series) -> str:
    wrong = f"; {row[f'wrong_{arm}']}" if row[f"wrong_{arm}"] else ""
    return f"{arm} {row[arm]} of {row['n']}{wrong}"


def _name(row: pd.Series) -> str:
    return printable(str(row["file"])) if row["file"] is not None else f"val image {row['image']}"


def _as_table(table: pd.DataFrame) -> Table:
    head = ["image", "label", "distilled", "wrong class", "baseline", "wrong class"]
    rows = [
        [
            *(_name(row), str(row["label"])),
            *(f"{row.distilled} of {row.n}", row.wrong_distilled or "-"),
            *(f"{row.baseline} of {row.n}", row.wrong_baseline or "-"),
        ]
        for _, row in table.iterrows()
    ]
    return Table(head, rows)
