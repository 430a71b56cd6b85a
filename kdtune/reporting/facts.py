"""Facts of the report about what was studied."""

import math
from collections.abc import Iterator

import pandas as pd

from kdtune.results.advice import describe_detectable
from kdtune.results.comparison import Criterion, completed, have_enough_repeats
from kdtune.results.studies import data_name
from kdtune.results.study_results import Results
from kdtune.results.tables import cell
from kdtune.storage.records import read_provenance

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
