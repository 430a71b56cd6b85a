"""Predictions of studies with all columns, drawn so that accuracies are those of the records."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

import kdtune
from kdtune.config.files import PREDICTIONS, PROVENANCE
from kdtune.results.results import Results

SPLITS = {"val": 0.0, "test": -0.1}
"""By split: what is added to the val accuracy, as `study_folders.write_records` does for test."""


def write_whole_predictions(
    results: Results,
    classes: Sequence[str],
    images: int = 60,
    splits: Sequence[str] = ("val",),
    folder: str | None = None,
) -> Results:
    """Write predictions.parquet of the completed runs and the names of the classes.

    Image i has the class i mod K; a wrong prediction is one of the next two classes. The easiest
    images are the first ones, but for noise of each run.

    Args:
        results: of the study.
        classes: names.
        images: of each split.
        splits: val, and perhaps test.
        folder: of the files; None: images are no files.
    """
    rng, k = np.random.default_rng(0), len(classes)
    label = np.arange(images) % k
    files = None if folder is None else [f"{folder}/{i}.png" for i in range(images)]
    parts = []
    for _, trial in results.trials[results.trials.status == "completed"].iterrows():
        for split in splits:
            right = round((trial["val/acc@last"] + SPLITS[split]) * images)
            order = np.argsort(np.arange(images) / 20 + rng.normal(size=images))
            correct = np.isin(np.arange(images), order[:right])
            wrong = (label + rng.integers(1, min(k, 3), images)) % k
            sure = rng.uniform(1 / k, 1, images)
            columns = {"trial_id": trial.trial_id, "split": split, "example": range(images)}
            columns |= {"file": files, "label": label, "predicted": np.where(correct, label, wrong)}
            columns |= {"p_predicted": sure, "p_label": np.where(correct, sure, (1 - sure) / k)}
            parts.append(pd.DataFrame(columns | {"teacher": label, "correct": correct}))
    pd.concat(parts).to_parquet(results.folder / PREDICTIONS, index=False)
    record = {"classes": list(classes), "python": "3.12.1", "versions": {"kdtune": "0.2"}}
    (results.folder / PROVENANCE).write_text(json.dumps(record))
    return kdtune.load(results.folder)
