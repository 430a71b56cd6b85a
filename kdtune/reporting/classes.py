"""Sections of the report on classes: accuracy by class, confusion."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from kdtune.reporting.class_figures import MAX_CLASSES, judged_split
from kdtune.reporting.page import Cell, NotedTable, Table, interval_cell
from kdtune.results.arms import Arms
from kdtune.results.classes import class_accuracies, largest_confusions
from kdtune.results.comparison import SIGNIFICANCE_LEVEL
from kdtune.results.significance import is_significant, p_value
from kdtune.results.study_results import Results
from kdtune.statistics.intervals import MIN_REPEATS

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
