"""Predictions of the best distilled configuration and of its baseline, side by side.

Both arms are students of the same repeats on the same images, so that everything about single
images and classes can be compared in pairs. Arrays have the shape [2, R, N]: arm (distilled,
baseline), repeat, image.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdtune.config.files import TEACHER, TEACHER_RECORD
from kdtune.results.comparison import Criterion, baseline_of, completed, have_enough_repeats
from kdtune.results.design import ONE_TEACHER, Design
from kdtune.results.predictions import read_predictions
from kdtune.storage.records import read_provenance
from kdtune.storage.schema import parse_teacher

if TYPE_CHECKING:
    from kdtune.results.study_results import Results

ARMS = ("distilled", "baseline")
COLUMNS = ("split", "example", "file", "label", "predicted", "p_predicted", "p_label")
"""Columns of the predictions that are read."""
Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Arms:
    """Predictions of both arms on one split, at the last epoch."""

    split: str
    configs: tuple[str, str]
    """config_id of the distilled configuration and of its baseline."""
    repeats: tuple[int, ...]
    """The R repeats that both arms have completed."""
    classes: tuple[str, ...]
    """Names of the K classes."""
    label: Numbers
    """Class of each image, int [N]."""
    files: tuple[str | None, ...]
    """File of each image, relative to the folder of the data; None where images are no files."""
    predicted: Numbers
    """Predicted classes, int [2, R, N]."""
    p_predicted: Numbers
    """Probability of the predicted class, float [2, R, N]."""
    p_label: Numbers
    """Probability of the label, float [2, R, N]."""
    design: Design = ONE_TEACHER
    """What the repeats vary."""

    @property
    def correct(self) -> Numbers:
        """Whether each prediction is right, bool [2, R, N]."""
        right: Numbers = self.predicted == self.label
        return right


def pair_of(results: Results, criterion: Criterion) -> tuple[str, str] | None:
    """Return the config_ids of the best distilled configuration and of its baseline.

    Of several students, those of the student with the best configuration. Returns None if there is
    no comparison.
    """
    table, best = results.compare(criterion), results.best(criterion)
    baseline = None if best is None else baseline_of(table, best)
    if baseline is None:
        return None
    rows = table[(table.baseline == baseline) & table["diff"].notna()]
    rows = rows[have_enough_repeats(rows.n)] if len(rows) else rows
    return (str(rows.config_id.iloc[0]), baseline) if len(rows) else None


def read_arms(results: Results, criterion: Criterion) -> dict[str, Arms]:
    """Return the predictions of the pair that a criterion selects, by split: val, perhaps test.

    A split is left out if predictions are missing (studies of version 0.1 have no classes), or if
    its images differ between the repeats.
    """
    pair = pair_of(results, criterion)
    if pair is None:
        return {}
    done = completed(results.trials_for(criterion))
    trials = done[done.config_id.isin(pair)].pivot(
        index="repeat", columns="config_id", values="trial_id"
    )
    trials = trials.dropna()[list(pair)]
    frame = read_predictions(results.folder, list(trials.to_numpy().ravel()), COLUMNS)
    if not {"label", "predicted", "p_predicted", "p_label"} <= set(frame):
        return {}
    classes = class_names(results.folder, int(frame[["label", "predicted"]].max().max()) + 1)
    found = {
        str(split): _arms(str(split), rows, trials, pair, classes)
        for split, rows in frame.groupby("split", sort=False)
    }
    known = {split: arms for split in ("val", "test") if (arms := found.get(split))}
    return {split: replace(arms, design=results.design) for split, arms in known.items()}


def class_names(folder: Path, count: int) -> tuple[str, ...]:
    """Return the names of the classes of the study in a folder, or their numbers."""
    names = read_provenance(folder).get("classes") or _teachers_classes(folder)
    if isinstance(names, list) and len(names) >= count:
        return tuple(str(name) for name in names)
    return tuple(str(number) for number in range(count))


def _teachers_classes(folder: Path) -> Any:
    with suppress(OSError, ValueError):
        return parse_teacher((folder / TEACHER / TEACHER_RECORD).read_bytes()).get("classes")
    return None


def _arms(
    split: str,
    frame: pd.DataFrame,
    trials: pd.DataFrame,
    pair: tuple[str, str],
    classes: Sequence[str],
) -> Arms | None:
    """Return the predictions on one split; None if they are incomplete or of other images.

    Args:
        split: val or test.
        frame: rows of `read_predictions` on this split.
        trials: trial_id by repeat (rows) and configuration (columns, as in `pair`).
        pair: distilled configuration and baseline.
        classes: names.
    """
    order = list(trials.to_numpy().T.ravel())  # all repeats of one arm, then those of the other
    by_trial = {t: rows.sort_values("example") for t, rows in frame.groupby("trial_id")}
    if not order or not set(order) <= set(by_trial):
        return None
    parts = [by_trial[trial] for trial in order]
    same = [part[["example", "label"]].to_numpy() for part in parts]
    if not all(np.array_equal(one, same[0]) for one in same) or pd.isna(same[0]).any():
        return None
    shape = (2, len(trials), len(parts[0]))
    first = parts[0]
    files = first["file"] if "file" in first else pd.Series([None] * len(first))
    predicted, p_predicted, p_label = (
        np.stack([part[name].to_numpy(dtype=kind) for part in parts]).reshape(shape)
        for name, kind in (("predicted", int), ("p_predicted", float), ("p_label", float))
    )
    return Arms(
        split,
        pair,
        tuple(int(r) for r in trials.index),
        tuple(classes),
        first.label.to_numpy(dtype=int),
        tuple(None if pd.isna(name) else str(name) for name in files),
        predicted,
        p_predicted,
        p_label,
    )
