"""Sections of the report: results in, numbers and tables out. Their text stands in report.html."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from kdtune.config.fields import Value, folder_of_data
from kdtune.config.files import TEACHER, TEACHER_RECORD
from kdtune.config.records import TeacherAccuracy, read_teacher_accuracy
from kdtune.config.task import METRICS, Task, ends_of
from kdtune.config.text import printable
from kdtune.reporting.canvas import Cell, PageTable, interval_cell
from kdtune.reporting.figures import MAX_MATRIX_CLASSES, judged_split
from kdtune.results import examples as by_example
from kdtune.results import formatting
from kdtune.results.comparison import (
    SIGNIFICANCE_LEVEL,
    Criterion,
    best_to_worst,
    completed,
    completed_configs,
    have_enough_repeats,
)
from kdtune.results.costs import COST_AXES
from kdtune.results.design import is_significant, p_value
from kdtune.results.examples import BothArms, read_thumbnail
from kdtune.results.formatting import cell, comparison_rows, without_empty
from kdtune.results.frames import SCOPES, config_label
from kdtune.results.results import Results, data_name
from kdtune.results.words import ComparisonContext, choice_text, describe_detectable
from kdtune.statistics.intervals import MIN_REPEATS, wilson_interval
from kdtune.storage.records import parse_object, read_provenance, read_saved

# What was studied, and the head of the report: when, where and with what the numbers were made.

MAX_LISTED_VALUES = 8
"""Values of a hyperparameter that are listed; of more, the first and the last."""
SOFTWARE = ("kdtune", "torch", "torchvision", "ray")
"""Versions at the head; the others are under Provenance."""


def study_facts(results: Results, criterion: Criterion) -> dict[str, str]:
    """Return what was studied, by name; "" for what is not known."""
    trials, task, sizes = results.trials, results.task, split_sizes(results)
    facts = {"status": results.status} | _subject(results)
    facts["search space"] = "; ".join(f"{n} {_values(trials[f'config/{n}'])}" for n in results.by)
    facts["configurations × repeats"] = _counts(results)
    facts["epochs"] = _values(trials.n_epochs_planned.dropna().astype(int))
    facts[task.examples] = ", ".join(f"{split} {n:,}" for split, n in sizes.items())
    if (n := sizes.get("val")) and criterion.in_points:
        resolution = f"{100 / n:.2g} percentage points (one of {n:,} val {task.examples})"
        facts[f"resolution of {criterion.declared.label}"] = resolution
    facts["minimum detectable difference"] = _detectable(results, criterion)
    seconds = completed(trials).seconds.sum()
    hours = f"{seconds / 3600:.1f} h"
    facts["total trial time"] = hours if seconds > 7200 else f"{seconds:.0f} s"
    return facts


def _subject(results: Results) -> dict[str, str]:
    run, images = results.study.run, results.task.examples
    if not results.task.is_distillation:
        return {"training function": data_name(results.study)}
    data = data_name(results.study)
    if run.train_images:
        counts = sorted(ends_of(results.study.values("train_images")))
        drawn = "" if run.repeat_of_draw is None else ", drawn anew in each repeat"
        data += f", {', '.join(map(str, counts))} training {images}{drawn}"
    if extra := read_provenance(results.folder).get("data_set", {}).get("extra"):
        data += f", {extra['examples']:,} {images} without labels ({extra['source']})"
    student = f"{run.student} (trainable layers: {run.trainable})"
    return {"teacher": run.teacher, "student": student, "data": data}


def _counts(results: Results) -> str:
    """Return the numbers of configurations and repeats in each phase of the search."""
    trials = results.trials
    phases = {
        "": trials[trials.phase == "search"],
        "confirmation: ": trials[trials.phase == "confirm"],
        "held-out: " if results.frames.round else "final: ": results.final_trials,
    }
    parts = []
    for prefix, phase in phases.items():
        counts = phase.config_id.value_counts()
        repeats = sorted({counts.min(), counts.max()}) if len(counts) else []
        if not prefix and not math.isnan(results.planned_repeats):
            repeats = [results.planned_repeats]
        if repeats:
            parts.append(f"{prefix}{len(counts)} × {' to '.join(map(str, repeats))}")
    return "; ".join(parts)


def _detectable(results: Results, criterion: Criterion) -> str:
    """Return the minimum detectable difference of each student's best configuration.

    Those with too few repeats do not count. "" if the number of repeats was not fixed in advance.
    """
    table = results.compare(criterion)
    if not len(table) or math.isnan(results.context(criterion).planned):
        return ""
    m = max(1, int(table.p_holm.notna().sum()))
    students = results.compared_students(criterion)
    parts = []
    for student in students:
        rows = table[criterion.groups(table) == student]
        rows = rows[have_enough_repeats(rows.n)]
        if len(rows) and (text := describe_detectable(rows.iloc[0], m, criterion)):
            several = f"{results.group_name(student)}: " if len(students) > 1 else ""
            parts.append(f"{several}{text}")
    return "; ".join(parts)


def _values(column: pd.Series) -> str:
    """Return the values of a hyperparameter as text, at most `MAX_LISTED_VALUES`."""
    values = sorted(column.dropna().unique(), key=lambda v: (isinstance(v, str), v))
    if len(values) > MAX_LISTED_VALUES:
        return f"{cell(values[0])} … {cell(values[-1])} ({len(values)} values)"
    return ", ".join(map(cell, values))


def split_sizes(results: Results) -> dict[str, int]:
    """Return the number of images of each split that was evaluated, as far as it is recorded."""
    sizes = results.epochs.groupby("split", sort=False).n_examples.max()
    return {str(split): int(n) for split, n in sizes.items() if n}


def identity(results: Results) -> dict[str, str]:
    """Return date, machine, versions and fingerprints; "" for what was not recorded.

    The date is that of the last record, so that the page does not depend on the clock.
    """
    record, time = read_provenance(results.folder), results.frames.last_record_time
    versions, python = record.get("versions", {}), record.get("python")
    software = [f"{name} {versions[name]}" for name in SOFTWARE if name in versions]
    fingerprints = read_saved(results.folder).fingerprints
    return {
        "last record": f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC" if time else "",
        "machine": ", ".join(_machine(results, record.get("machine", {}))),
        "software": ", ".join([*software, f"Python {python}"] if python else software),
        "fingerprints": ", ".join(f"{name} {value}" for name, value in fingerprints.items()),
    }


def _machine(results: Results, recorded: Mapping[str, Any]) -> Iterator[str]:
    """Yield the processors that models were measured on, and the number of machines."""
    if len(results.costs):
        yield from map(str, results.costs.hardware.unique())
    elif recorded.get("processor"):
        yield str(recorded["processor"])
    if recorded.get("cores"):
        yield f"{recorded['cores']} cores"
    if recorded.get("system"):
        yield str(recorded["system"])
    machines = results.trials.node.dropna().nunique()
    if machines > 1:
        yield f"{machines} machines"


def provenance(results: Results) -> dict[str, Any]:
    """Return versions (by name), command (text) and settings (table) that made the numbers."""
    record = read_provenance(results.folder)
    data_set = record.get("data_set", {})
    cut, extra = data_set.get("val_cut"), data_set.get("extra")
    fingerprints = read_saved(results.folder).fingerprints
    versions = {"data fingerprint": fingerprints.get("data", "")}
    for split, text in data_set.get("examples_text", {}).items():
        versions[f"examples in {split}"] = text
    if extra:
        name = f"{results.task.examples} without labels"
        versions[name] = f"{extra['examples']:,} ({extra['source']})"
    if cut:
        about = "about " if data_set.get("groups") else ""
        share = f"val is {about}{cut['share']:.0%} of each class, drawn with seed {cut['seed']}"
        versions["cut from train"] = share
    versions |= {"Python": record.get("python", "")} | record.get("versions", {})
    settings = json.loads(results.study.to_json())
    settings = settings.pop("run", {}) | settings.pop("space") | settings
    sources = {row["setting"]: row["source"] for row in record.get("recipe", ())}
    # the last two hold models and numbers of images once more
    unshown = ("schema", "fingerprints", "study_values", "largest_train_images")
    rows = [
        [name, _setting(value), sources.get(name, "")]
        for name, value in settings.items()
        if value is not None and name not in unshown
    ]
    return {
        "versions": {name: str(version) for name, version in versions.items()},
        "command": " ".join(str(word) for word in record.get("command", ())),
        "settings": PageTable(["setting", "value", "source"], rows),
    }


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return "" if value is None else str(value)


# Sections that answer the study's question.

_FIRST = ("acc", "gap", "ce", "loss", "agreement", "kl", "logit_diff")
_OMITTED = ("distill", "nll")  # undefined for the baseline; equal to ce
SUMMARY_METRICS = (*_FIRST, *(name for name in METRICS if name not in (*_FIRST, *_OMITTED)))
"""Metrics of the summary; those without a value are left out."""


def summary_table(results: Results, criterion: Criterion) -> PageTable | None:
    """Return mean ± SD of each configuration, best first; None if no trial has completed."""
    table = results.summary((), shown_metrics(results), criterion.scope, full=True)
    if not len(table):
        return None
    table = table.loc[best_to_worst(table[f"val/{criterion.metric}/mean"], criterion.sign)]
    return _summary_table(table, results.by, results.task, criterion)


def marginal_table(results: Results, criterion: Criterion) -> PageTable | None:
    """Return mean ± SD of each value of a hyperparameter; None if only one was searched."""
    if len(results.by) < 2 or not len(completed(results.search_trials)):
        return None
    table = results.marginal(shown_metrics(results), criterion.scope)
    return _summary_table(table, ["hyperparameter", "value"], results.task, criterion)


def shown_metrics(results: Results) -> list[str]:
    """Return the summary's metrics that the study has recorded or that are derived."""
    task = results.task
    if not task.is_distillation:
        return list(task.table_metrics)
    recorded = set(results.epochs)
    shown = dict.fromkeys((task.score, *SUMMARY_METRICS))
    return [m for m in shown if m in recorded or task.metrics[m].derived is not None]


def _summary_table(
    table: pd.DataFrame, keys: list[str], task: Task, criterion: Criterion
) -> PageTable:
    names = (task.score, *SUMMARY_METRICS) if task.is_distillation else task.table_metrics
    means = {m: f"val/{m}/mean" for m in names if f"val/{m}/mean" in table}
    metrics = [m for m, column in means.items() if m == task.score or table[column].notna().any()]
    if "teacher_acc" in metrics and table["val/teacher_acc/mean"].nunique() == 1:
        # the same in all rows; without SD, too, the gap is what accuracy lacks of it
        no_news = {"teacher_acc"} if table["val/teacher_acc/std"].any() else {"teacher_acc", "gap"}
        metrics = [m for m in metrics if m not in no_news - {criterion.metric}]
    rows = []
    for _, row in table.iterrows():
        cells: list[str | Cell] = [cell(row[key]) for key in keys]
        cells.append(formatting.count_of_planned(row[f"val/{task.score}/n"], row.n_planned))
        cells += [_mean_cell(row, metric) for metric in metrics]
        rows.append(cells)
    return PageTable([*keys, "n", *(task.metrics[m].label for m in metrics)], rows)


def _mean_cell(row: pd.Series, metric: str) -> str | Cell:
    mean, sd, low, high = (row[f"val/{metric}/{s}"] for s in ("mean", "std", "low", "high"))
    text = formatting.plus_minus(mean, sd)
    if not (math.isfinite(low) and sd > 0):
        return text
    digits = len(text.partition(" ")[0].partition(".")[2])  # as many as the mean has
    return interval_cell(text, f"{low:.{digits}f}", f"{high:.{digits}f}")


def labels_table(results: Results, criterion: Criterion) -> PageTable | None:
    """Return what distilling is worth in labelled images; None without a label curve."""
    table = results.label_curve(criterion)
    return PageTable(*formatting.label_curve_rows(table, criterion)) if len(table) else None


def frontier_table(results: Results, criterion: Criterion) -> PageTable | None:
    """Return the numbers of the figures of accuracy against cost; None if there are none."""
    table = results.frontier(criterion)
    if not len(table):
        return None
    form = ".1f" if criterion.in_points else ".4g"
    rows = []
    for _, row in table.iterrows():
        mean, low, high = (f"{criterion.scale * row[k]:{form}}" for k in ("mean", "low", "high"))
        on = [name.partition(" ")[0] for k, name in COST_AXES.items() if row[f"efficient/{k}"]]
        cells: list[str | Cell] = [row.student, row.arm, row.label]
        cells.append(mean if pd.isna(row.low) else interval_cell(mean, low, high))
        cells += [f"{row.n}", f"{row.latency_ms:.3g}", f"{row.params:,.0f}", ", ".join(on) or "-"]
        rows.append(cells)
    head = ["student", "training", "configuration", criterion.label + " (%)" * criterion.in_points]
    return PageTable([*head, "n", *COST_AXES.values(), "on the frontier of"], rows)


def choosing(results: Results, criterion: Criterion) -> dict[str, Any]:
    """Return which configurations may be the best: a sentence ("" if it cannot be told), a table.

    The table has every configuration, with P(best) and what it costs.
    """
    table = results.contenders(criterion)
    if not (text := choice_text(table, criterion, results.design)):
        return {"text": ""}
    formats = {"mean": ".1f" if criterion.in_points else ".4g", "p_best": ".2f"}
    formats |= {"latency_ms": ".3g", "params": ",.0f", "epochs": ".0f", "seconds": ",.1f"}
    rows = []
    for _, row in table.assign(mean=criterion.scale * table["mean"]).iterrows():
        states = ("no", "yes") if row.p_best == row.p_best else ("stopped", "too few repeats")
        state = states[int(row.may_be_best)]
        cells: list[str | Cell] = [cell(row[f"config/{n}"]) for n in results.by]
        cells += [f"{row.n}", Cell(state, "choice") if row.cheapest else state]
        cells += ["-" if pd.isna(row[n]) else format(row[n], form) for n, form in formats.items()]
        rows.append(cells)
    head = [*results.by, "n", "may be the best", criterion.label + " (%)" * criterion.in_points]
    head += ["P(best)", *COST_AXES.values(), "epochs", "seconds of a run"]
    return {"text": text, "table": PageTable(head, rows)}


def best(results: Results, criterion: Criterion) -> dict[str, Any] | None:
    """Return the estimates of the selected configuration on val and test.

    Returns None if no trial has completed, else the table; lacks_predictions, whether the estimate
    on val cannot be corrected for the selection for this reason; and test_interval, the 95% Wilson
    interval of one trial over the test images, e.g. "70.1 to 73.4" ("" without).
    """
    table = results.selection(criterion)
    if not len(table):
        return None
    context = results.context(criterion)
    kinds = {
        "val": "val (used for selection)",
        "corrected": "val, corrected for selection bias",
        "test": "test",
    }
    if context.held_out:
        kinds = {"val": f"val, {context.sentence('kind of repeats')} repeats", "test": "test"}
    kinds = {kind: words for kind, words in kinds.items() if table[f"{kind}/mean"].notna().any()}
    table = _with_simultaneous_interval(table, results.compare(criterion))
    rows: list[list[str | Cell]] = []
    for _, row in table.iterrows():
        if row.row == "default" and row.config_id == table.config_id.iloc[0]:
            continue  # it is the best one; the note says so
        name = f"{row.row}: {results.label(row.config_id)}" if row.config_id else row.row
        is_difference = not row.config_id
        rows.append([name, *(_estimate(row, kind, criterion, is_difference) for kind in kinds)])
    n, mean = split_sizes(results).get("test"), table.iloc[0]["test/mean"]
    on_test = ""
    if n and criterion.has_predictions and math.isfinite(mean):
        low, high = wilson_interval(round(mean * n), n)
        on_test = f"{100 * low:.1f} to {100 * high:.1f}"
    is_uncorrected = not context.held_out and math.isnan(table.iloc[0]["corrected/mean"])
    return {
        "table": PageTable(["", *kinds.values()], rows),
        "lacks_predictions": is_uncorrected and criterion.has_predictions,
        "test_interval": on_test,
    }


def _with_simultaneous_interval(selection: pd.DataFrame, comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `Results.selection` with the comparison's interval on val."""
    best = selection.config_id[selection.row == "best"]
    ends = comparison[comparison.config_id.isin(best)] if len(comparison) else comparison
    if not len(ends):
        return selection
    selection = selection.copy()
    columns = ["val/low", "val/high"]
    selection.loc[selection.row == "difference", columns] = ends[["low", "high"]].to_numpy()
    return selection


def _estimate(row: pd.Series, kind: str, criterion: Criterion, signed: bool) -> str | Cell:
    mean, low, high = (criterion.scale * row[f"{kind}/{s}"] for s in ("mean", "low", "high"))
    if math.isnan(mean):
        return "-"
    form = "+" * signed + (".2f" if criterion.in_points else ".4g")
    if not math.isfinite(high - low):
        return format(mean, form)
    return interval_cell(format(mean, form), format(low, form), format(high, form))


# Comparisons with the baseline; by other metrics and with other baselines a reader can choose.

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
    """A comparison of each configuration with a baseline, which a reader can choose."""

    criterion: Criterion
    context: ComparisonContext
    baseline: str
    """In words; "" if there is no other choice."""
    m: int = 0
    """Number of tests."""
    table: PageTable | None = None
    """None without a comparison."""


def choices(results: Results, criterion: Criterion) -> list[Choice]:
    """Return the comparison by the criterion, then those by other metrics and baselines."""
    main = _comparison(results, criterion)
    if main.table is None:
        return [Choice(criterion, main.context, "")]
    room = MAX_TABLE_ROWS // max(1, len(main.table.rows))
    comparisons = [main]
    for baseline in _baselines(results, criterion):
        for metric in _metrics(results, criterion):
            other = results.criterion(metric, criterion.scope, baseline)
            same = metric == criterion.metric and baseline == criterion.baseline
            if same or len(comparisons) >= room:
                continue
            comparison = _comparison(results, other)
            if comparison.table is not None:
                comparisons.append(comparison)
    return comparisons


def _comparison(results: Results, criterion: Criterion) -> Choice:
    table, context = results.compare(criterion), results.context(criterion)
    values = {f"config/{name}": value for name, value in criterion.fixed.items()}
    baseline = config_label(values, list(criterion.fixed))
    if criterion.has_task_baseline:
        baseline = criterion.task.baseline_words
    if not len(table):
        return Choice(criterion, context, baseline)
    rows = comparison_rows(table, results.by, criterion, context.anytime_level, full=True)
    return Choice(criterion, context, baseline, int(table.p_holm.notna().sum()), PageTable(*rows))


def _metrics(results: Results, criterion: Criterion) -> list[str]:
    trials, task = completed(results.trials), results.task
    offered = OFFERED_METRICS if task.is_distillation else task.comparable
    comparable = [name for name in offered if name in task.comparable]
    recorded = [name for name in comparable if trials[f"val/{name}@last"].notna().any()]
    return list(dict.fromkeys([criterion.metric, *recorded]))


def _baselines(results: Results, criterion: Criterion) -> list[Mapping[str, Value]]:
    """Return the criterion's baseline, training without distillation, and single values of it."""
    configs, task = completed_configs(results.search_trials), results.task
    undistilled = configs[results.default_criterion.is_baseline(configs)]
    baselines: list[Mapping[str, Value]] = [criterion.fixed]
    if len(undistilled):
        baselines.append(task.baseline)
    for name in OFFERED_BASELINES if task.is_distillation else ():
        if name not in results.by:
            continue
        values = list(dict.fromkeys(configs[f"config/{name}"].dropna()))
        if 1 < len(values) <= MAX_VALUES:
            # of the student and of lr the configuration without distillation that has this value
            varies = undistilled[f"config/{name}"].nunique() > 1
            baselines += [{**(task.baseline if varies else {}), name: v} for v in values]
    unique = [values for i, values in enumerate(baselines) if values not in baselines[:i]]
    return unique[:MAX_BASELINES]


# Sensitivity of the ranking, and the teachers.


def epoch_selection(results: Results, criterion: Criterion) -> dict[str, Any] | None:
    """Return the best configuration by epoch selection, and the table of means and ranks.

    Returns None if no trial has completed.
    """
    table = results.sensitivity(criterion.metric)
    if not len(table):
        return None
    best = {s: table.loc[table[f"{s}/rank"] == 1, "config_id"].iloc[0] for s in SCOPES}
    rows = []
    for _, row in table.iterrows():
        cells: list[str | Cell] = [cell(row[f"config/{n}"]) for n in results.by]
        for scope in SCOPES:
            mean = row[f"{scope}/mean"]
            text = f"{100 * mean:.2f}" if criterion.in_points else f"{mean:.4g}"
            cells.append(Cell(text, f"#{row[f'{scope}/rank']:.0f}"))
        rows.append(cells)
    head = [*results.by, *(f"{s}{' (optimistic)' * (s == 'best')}" for s in SCOPES)]
    labels = {scope: results.label(config) for scope, config in best.items()}
    return {"best": labels, "table": PageTable(head, rows)}


def variance(results: Results, criterion: Criterion) -> dict[str, Any] | None:
    """Return the shares of the sum of squares of configurations, repeats and epochs.

    Returns None if there are too few trials, else the table; last, the row of the last epoch; and
    epoch, the share of epochs over all of them (NaN if unknown).
    """
    table = results.spread(criterion)
    if not len(table):
        return None
    sources = ("configuration", "repeat", "epoch", "residual")
    rows = []
    for _, row in table.iterrows():
        shares = ["-" if pd.isna(row[k]) else f"{100 * row[k]:.1f}%" for k in sources]
        rows.append(["last epoch" if row.epochs == "last" else "all epochs", *shares])
    return {
        "table": PageTable(["over", *sources], rows),
        "last": table.iloc[0],
        "epoch": table.iloc[1].epoch if len(table) > 1 else math.nan,
    }


def mixes_images(results: Results) -> bool:
    """Return True if a study trains on mixtures of images."""
    ends = (ends_of(results.study.values(name)) for name in ("mixup", "cutmix"))
    return any(value != 0 for values in ends for value in values)


def teacher_table(results: Results) -> PageTable | None:
    """Return the accuracy of each teacher on each split; None if it was not measured."""
    records = read_teacher_accuracy(results.folder)
    if not records:
        return None
    splits = [split for split in ("train", "val", "test") if split in records[0].splits]
    rows = [
        [record.name, *(_accuracy_cell(record, s) for s in splits), _share(record.acc_before)]
        for record in records
    ]
    return PageTable(*without_empty(["teacher", *splits, "val, before fine-tuning"], rows))


def _accuracy_cell(record: TeacherAccuracy, split: str) -> str | Cell:
    if (value := record.splits.get(split)) is None:
        return "-"
    low, high = (f"{100 * end:.1f}" for end in wilson_interval(value.correct, value.n))
    total = f" (of {value.of:,})" if value.of else ""
    return interval_cell(f"{value} of {value.n:,}{total}", low, high)


def _share(acc: float | None) -> str:
    return "-" if acc is None else f"{100 * acc:.1f}%"


def histories(results: Results) -> PageTable | None:
    """Return the accuracy of each fine-tuned teacher before and after each epoch.

    Returns None if no teacher was fine-tuned. Of studies of earlier versions only the epoch that
    was kept is known. Records that are missing or damaged are left out: no number depends on them.
    """
    rows: list[list[str]] = []
    files = (results.folder / TEACHER).rglob(TEACHER_RECORD)
    for file in sorted(files, key=lambda path: (len(path.parts), path)):  # the first teacher first
        with suppress(OSError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            rows += _history(parse_object(file.read_bytes()))
    return PageTable(["teacher", "after epoch", "train", "val", "kept"], rows) if rows else None


def _history(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for the start and for each epoch of one teacher; [] if it was not fine-tuned."""
    if "run" not in record:
        return []
    rows, name = [], str(record["run"].get("student", ""))
    if record.get("acc_before") is not None:
        rows.append([name, "before", "-", _share(record["acc_before"]), ""])
    epochs, selected = record.get("history") or [], record.get("kept_epoch")
    if not epochs and isinstance(record.get("val"), dict):
        selected = record.get("epochs", 0) - 1 if selected is None else selected
        epochs = [{"epoch": selected, "val": record["val"].get("acc")}]
    for epoch in epochs:
        number, shares = epoch["epoch"], [_share(epoch.get(split)) for split in ("train", "val")]
        rows.append([name, str(number + 1), *shares, "kept" * (number == selected)])
    return rows


# Accuracy by class, confusions, and the images on which both arms differ most.

_MAX_NAMED_CLASSES = 5
"""Classes that a sentence names."""


def by_class(results: Results, arms: Mapping[str, BothArms]) -> dict[str, Any] | None:
    """Return accuracy and confusions by class; None without predictions.

    Keys are arms, the predictions on the split that confusions are of; labels of the distilled
    configuration and its baseline; is_small, whether there are too few repeats for intervals;
    splits, see `_changes`; and confusions, a table for many classes in place of a matrix.
    """
    judged = judged_split(arms)
    if judged is None:
        return None
    return {
        "arms": judged,
        "labels": [results.label(config) for config in judged.configs],
        "is_small": len(set(judged.design.units(judged.repeats).tolist())) < MIN_REPEATS,
        "splits": {split: _changes(part) for split, part in arms.items()},
        "confusions": _confusions(judged) if len(judged.classes) > MAX_MATRIX_CLASSES else None,
    }


def _changes(arms: BothArms) -> dict[str, Any]:
    """Return numbers of classes compared and changed, names of the largest, is_sorted, table."""
    table = by_example.class_accuracies(arms)
    changed = table[is_significant(table.p_holm, table.low, table.high, SIGNIFICANCE_LEVEL)]
    largest = changed.sort_values("diff", ascending=False, kind="stable", key=abs)
    names = [
        f"{row['class']} ({100 * row['diff']:+.1f} points)"
        for _, row in largest.head(_MAX_NAMED_CLASSES).iterrows()
    ]
    is_sorted = len(table) > MAX_MATRIX_CLASSES  # the first rows are not folded
    rows = []
    for _, row in (table.sort_values("p", kind="stable") if is_sorted else table).iterrows():
        cells: list[str | Cell] = [str(row["class"]), f"{row.images:,}"]
        cells += [f"{100 * row.baseline:.1f}", f"{100 * row.distilled:.1f}"]
        diff, low, high = (f"{100 * row[k]:+z.1f}" for k in ("diff", "low", "high"))
        cells.append(diff if math.isnan(row.low) else interval_cell(diff, low, high))
        rows.append([*cells, p_value(row.p_holm)])
    head = ["class", arms.design.examples, "baseline", "distilled", "difference (points)"]
    compared = int(table.p_holm.notna().sum())
    return {
        "compared": compared,
        "changed": len(changed),
        "largest": names,
        "is_sorted": is_sorted,
        "table": PageTable([*head, "p (Holm)"], rows),
    }


def _confusions(arms: BothArms) -> PageTable:
    head = ["label", "predicted as", arms.design.examples]
    rows = []
    for _, row in by_example.largest_confusions(arms).iterrows():
        names = [str(row.label), str(row.predicted), f"{row.images:,}"]
        shares = [f"{100 * row.baseline:.1f}", f"{100 * row.distilled:.1f}"]
        rows.append([*names, *shares, f"{100 * row['diff']:+z.1f}"])
    return PageTable([*head, "baseline", "distilled", "difference (points)"], rows)


@dataclass(frozen=True)
class ShownImage:
    """An image with what both arms make of it."""

    source: str
    """data: URI of its thumbnail; "" without."""
    name: str
    """Its file, or its index."""
    label: str
    lines: tuple[str, str]
    """What students make of it, with and without distillation."""


def examples(results: Results, arms: Mapping[str, BothArms]) -> dict[str, Any] | None:
    """Return the val images on which both arms differ most; None if there are none.

    Keys are the numbers of students of each arm, of images, and of images on which more, as many
    (same) and fewer distilled students are correct; groups of images with thumbnails by heading;
    and the same images as a table, if there are no thumbnails.
    """
    if (val := arms.get("val")) is None or not len(table := by_example.most_different(val)):
        return None
    distilled, baseline = val.correct.sum(1)
    groups = {
        "More often correct than the baseline": table[table["diff"] > 0],
        "Less often correct than the baseline": table[table["diff"] < 0],
    }
    shown = {
        heading: [_shown(row, _thumbnail(results, val, int(row["image"]))) for row in rows]
        for heading, group in groups.items()
        if (rows := [row for _, row in group.iterrows()])
    }
    has_pictures = any(image.source for images in shown.values() for image in images)
    return {
        "students": len(val.repeats),
        "images": len(val.label),
        "more": int((distilled > baseline).sum()),
        "same": int((distilled == baseline).sum()),
        "fewer": int((distilled < baseline).sum()),
        "groups": shown if has_pictures else {},
        "table": None if has_pictures else _as_table(table, val.design.examples[:-1]),
    }


def _thumbnail(results: Results, arms: BothArms, image: int) -> bytes:
    run = results.study.run
    return read_thumbnail(results.folder, folder_of_data(run.data), arms, image, run.orientation)


def _shown(row: pd.Series, content: bytes) -> ShownImage:
    text = base64.b64encode(content).decode()
    source = f"data:image/{by_example.image_type(content)};base64,{text}" if content else ""
    lines = []
    for arm in ("distilled", "baseline"):
        wrong = f"; {row[f'wrong_{arm}']}" if row[f"wrong_{arm}"] else ""
        lines.append(f"{arm} {row[arm]} of {row['n']}{wrong}")
    return ShownImage(source, _name(row, "image"), str(row["label"]), (lines[0], lines[1]))


def _name(row: pd.Series, noun: str) -> str:
    return printable(str(row["file"])) if row["file"] is not None else f"val {noun} {row['image']}"


def _as_table(table: pd.DataFrame, noun: str) -> PageTable:
    rows = []
    for _, row in table.iterrows():
        distilled = [f"{row.distilled} of {row.n}", row.wrong_distilled or "-"]
        baseline = [f"{row.baseline} of {row.n}", row.wrong_baseline or "-"]
        rows.append([_name(row, noun), str(row["label"]), *distilled, *baseline])
    return PageTable([noun, "label", "distilled", "wrong class", "baseline", "wrong class"], rows)
