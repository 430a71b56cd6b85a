"""Sections of the report with background: sensitivity, methods and provenance."""

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdtune.config.hyperparameters import ends_of
from kdtune.config.metrics import METRICS
from kdtune.config.study import Study
from kdtune.reporting.page import Cell, NotedTable, Table
from kdtune.results.comparison import Criterion
from kdtune.results.design import describe_teacher_share
from kdtune.results.frames import SCOPES
from kdtune.results.significance import p_text
from kdtune.results.study_results import Results
from kdtune.results.tables import cell
from kdtune.storage.records import read_provenance, read_saved


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
