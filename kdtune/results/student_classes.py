"""Accuracy by class of one student of a configuration, and of all its repeats."""

from collections.abc import Sequence

import pandas as pd

from kdtune.results.comparison import completed
from kdtune.results.predictions import read_predictions
from kdtune.results.study_results import Results
from kdtune.statistics.intervals import wilson_interval


def student_classes(
    results: Results, config_id: str, repeat: int, classes: Sequence[str], split: str
) -> pd.DataFrame:
    """Return the accuracy by class of a student, from the recorded predictions.

    Args:
        results: of the study.
        config_id: the student's configuration.
        repeat: of the student.
        classes: names of the K classes.
        split: val or test.

    Returns:
        One row per class that has images: class, images, accuracy (of the student), low, high (its
        95 % Wilson interval over images), mean (over the repeats that have predictions) and repeats
        (their number). Empty if the student's predictions are not there.
    """
    trials = completed(results.trials)
    trials = trials[trials.config_id == config_id]
    frame = read_predictions(results.folder, list(trials.trial_id), ["split", "label", "correct"])
    if "label" not in frame:  # version 0.1
        return pd.DataFrame()
    frame = frame[frame.split == split].merge(trials[["trial_id", "repeat"]], on="trial_id")
    own = frame[frame["repeat"] == repeat]
    rows = []
    for label, of_class in own.groupby("label"):
        right, count = int(of_class.correct.sum()), len(of_class)
        low, high = wilson_interval(right, count)
        every = frame[frame.label == label].groupby("repeat").correct.mean()
        row = {"class": classes[int(label)], "images": count, "accuracy": right / count}
        rows.append(row | {"low": low, "high": high, "mean": every.mean(), "repeats": len(every)})
    return pd.DataFrame(rows)
