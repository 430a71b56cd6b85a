"""Conclusions of a study as text: the baseline in words, the verdict, the whole summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from kdtune.results import sensitivity
from kdtune.results.comparison import Criterion
from kdtune.results.context import ComparisonContext
from kdtune.results.costs import cost_text, teacher_files
from kdtune.results.default_config import default_text
from kdtune.results.effort import effort_text
from kdtune.results.labels import config_label, join_words, regularisers
from kdtune.results.summaries import best_rows
from kdtune.results.tables import comparison_rows, format_table, markdown
from kdtune.results.wording import best_sentence, verdict
from kdtune.statistics.intervals import MIN_REPEATS

if TYPE_CHECKING:
    from kdtune.results.study_results import Results

MAX_PRINTED_ROWS = 30
"""Configurations in a printed table; if there are more, the best ones."""


def context(results: Results, criterion: Criterion, student: str | None) -> ComparisonContext:
    """Return baseline and repeats of a comparison, with the sentences about them.

    Args:
        results: of the study.
        criterion: of the comparison.
        student: whose baseline is meant; None: that of each student, if there are several.
    """
    held_out, level = results.uses_held_out_repeats(criterion), results.anytime_level(criterion)
    planned = results.planned_repeats
    if held_out:  # the number is fixed in a race, but not with --repeats auto
        planned = results.study.repeats if level is None else math.nan
    images, why = _images(results, criterion)
    own = baseline(results, criterion, student)
    recorded = (results.finalists_are_recorded, results.names_recorded_best(criterion))
    return ComparisonContext(own, planned, held_out, level, images, why, results.design, *recorded)


def _images(results: Results, criterion: Criterion) -> tuple[int | None, str]:
    """Return the number of images that a comparison generalises from, or why it does not."""
    if results.design.folds is not None:
        return None, f"each repeat has other {criterion.task.examples} in val"
    metric = criterion.declared
    if metric.of_example is None:
        return None, f"{metric.label} has no value per {criterion.task.examples[:-1]}"
    if criterion.scope != "last":
        return None, "predictions of the last epoch only are kept"
    table = results.compare(criterion)
    known = table[table.n >= MIN_REPEATS] if len(table) else table
    if len(known) and known.n_images.notna().all():
        return int(known.n_images.max()), ""
    missing = "predictions of runs are missing"
    if not criterion.task.is_distillation:
        missing = "runs have no values for the same examples"
    return None, missing if len(known) else ""


def baseline(results: Results, criterion: Criterion, student: str | None) -> str:
    """Return the baseline in words, with the other hyperparameters that are searched.

    Args:
        results: of the study.
        criterion: names the baseline.
        student: whose baseline is meant; None: that of each student, if there are several.
    """
    table = results.compare(criterion)
    task = criterion.task
    values = {f"config/{name}": value for name, value in criterion.fixed.items()}
    given = config_label(values, list(criterion.fixed))
    given = task.baseline_words if criterion.has_plain_baseline else given
    if not len(table):
        return given
    if student is None and len(results.compared_students(criterion)) > 1:
        return f"{given} of the same {task.group}"
    own = table if student is None else table[criterion.groups(table) == student]
    if not len(own):
        return given
    chosen = results.trials[results.trials.config_id == own.baseline.iloc[0]].iloc[0]
    known = {*criterion.fixed} if student is None else {*criterion.fixed, task.group}
    others = [n for n in results.by if n not in known and not pd.isna(chosen[f"config/{n}"])]
    aids = regularisers(task, {name: chosen[f"config/{name}"] for name in others})
    if aids:
        but = " but" * criterion.has_plain_baseline
        given += f"{but} with {join_words(aids.values())}"
    rest = [name for name in others if name not in aids]
    return f"{given} ({config_label(chosen, rest)})" if rest else given


def verdict_by_student(results: Results, criterion: Criterion) -> str:
    """Return the conclusion in words, a line for each student if there are several."""
    table, students = results.compare(criterion), results.compared_students(criterion)
    if len(students) < 2:
        return verdict(table, criterion, results.by, results.context(criterion))
    m = int(table.p_holm.notna().sum())
    by = [name for name in results.by if name != results.task.group]
    lines = []
    for student in students:
        own = table[criterion.groups(table) == student]
        words = verdict(own, criterion, by, results.context(criterion, student), m)
        lines.append(f"{student}: {words}")
    return "\n".join(lines)


def edges(results: Results, criterion: Criterion) -> str:
    """Return whether the best configuration is at the edge of the search space; else ""."""
    best = results.best(criterion)
    words = sensitivity.edges(results.search_trials, best, results.by, criterion) if best else []
    text = "The best configuration is at the edge of the search space"
    return f"{text}: {', '.join(words)}. Consider extending the range." if words else ""


def default_sentences(results: Results, criterion: Criterion) -> str:
    """Return how the chosen configuration compares with the recipe's default, see `default_text`.

    Returns "" if one of them has no completed run.
    """
    best, table = results.best(criterion), results.selection(criterion)
    if best is None or "default" not in set(table.row):
        return ""
    own = results.context(criterion, results.student(best))
    return default_text(table, criterion, results.label(results.default), own)


def text(results: Results, by: Sequence[str], columns: Sequence[str], criterion: Criterion) -> str:
    """Return summary, comparison and conclusion as Markdown."""
    whole = results.summary(by, columns, criterion.scope, full=True)
    table = best_rows(whole, criterion, MAX_PRINTED_ROWS)
    optimistic = " (optimistic: selected by the reported accuracy)" * (criterion.scope == "best")
    note = f"mean ± SD over n repeats{results.repeats_phrase}, val, scope {criterion.scope}"
    parts = [
        *(
            [format_table(table), f"{note}{optimistic}"]
            if len(table)
            else ["No run has completed."]
        ),
        *_comparison_text(results, criterion),
        *cost_text(results.costs, teacher_files(results.study)),
    ]
    if best := results.best(criterion):
        own = results.context(criterion, results.student(best))
        table = results.selection(criterion)
        parts.append(best_sentence(table, criterion, results.label(best), own))
        parts.append(default_sentences(results, criterion))
        parts.append(results.edges(criterion))
    return "\n\n".join(part for part in [*parts, _as_list(results.verdict(criterion))] if part)


def _as_list(verdicts: str) -> str:
    """Return several verdicts as a Markdown list, one as it is."""
    lines = verdicts.split("\n")
    return verdicts if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)


def _comparison_text(results: Results, criterion: Criterion) -> list[str]:
    """Return heading, table and method of the comparison; [] if there is none."""
    table, own = results.compare(criterion), results.context(criterion)
    if not len(table):
        return []
    head, rows = comparison_rows(table, results.by, criterion, own.anytime_level)
    heading = f"Difference in {criterion.label} from {own.baseline}{own.repeats_phrase}:"
    effort = effort_text(results.effort, results.task)
    return [heading, markdown(head, rows[:MAX_PRINTED_ROWS]), f"{own.method} {effort}".rstrip()]
