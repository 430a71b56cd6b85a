"""What an exported file says about itself: input, preprocessing, classes, origin and metrics."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune import __version__
from kdtune.config.names import name_of_data
from kdtune.config.run_data import Orientation
from kdtune.deploy.graph import OUTPUT, Signature
from kdtune.models.preprocessing import Preprocessing, describe_preprocessing
from kdtune.results.comparison import completed
from kdtune.results.files_kept import exported_config
from kdtune.results.student_metrics import configuration_record, trial_metrics
from kdtune.results.study_results import Results
from kdtune.students.trained import TrainedStudent


@dataclass(frozen=True)
class Resize:
    """From an image of any size to the input: resize the shorter side, then crop the centre."""

    shorter_side: int
    crop: int
    interpolation: str
    mode: str
    """Mode of Pillow, "RGB" or "L" (grey)."""
    orientation: Orientation | None = None
    """Whether an image is first rotated and mirrored as its EXIF data say; None: it is."""

    @staticmethod
    def of(student: TrainedStudent, signature: Signature) -> "Resize | None":
        """Return the steps of a student; None if it takes no images."""
        own, size = student.input.resizing, signature.shape[-1]
        if own is None:
            return None
        mode = "L" if signature.shape[0] == 1 else "RGB"
        short, orientation = round(size / own.crop), student.input.orientation
        return Resize(short, size, own.interpolation, mode, orientation)

    @property
    def words(self) -> str:
        """The steps in words."""
        rotate = "" if self.orientation == "stored" else "rotate as the EXIF data say, "
        return (
            f"{rotate}convert to {self.mode}, resize the shorter side to {self.shorter_side} "
            f"pixels ({self.interpolation}), crop the central {self.crop} x {self.crop}"
        )


def describe(
    results: Results, student: TrainedStudent, signature: Signature, title: str
) -> dict[str, Any]:
    """Return what is written into an exported file and into the JSON file beside it.

    Args:
        results: of the study.
        student: that is exported.
        signature: its input.
        title: the format in words.
    """
    own, record = student.preprocessing, student.record
    resize = Resize.of(student, signature)
    facts: dict[str, Any] = {
        "study": results.study.name,
        "data": name_of_data(results.study.run.data),
        "model": student.name,
        "config_id": exported_config(results.folder, results.study),
        "repeat": student.repeat,
        "classes": list(student.classes),
        "input": {
            "name": signature.name,
            "dtype": signature.type_name,
            "shape": ["batch", *signature.shape],
        },
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", len(student.classes)]},
        "image_size": student.image_size,
        "resize": vars(resize) | {"words": resize.words} if resize is not None else None,
        "mean": None if own is None else list(own.mean),
        "std": None if own is None else list(own.std),
        "in_graph": "nothing" if own is None else _in_graph(own, signature),
        "metrics": {
            "configuration": configuration_of(results, student),
            "student": _student_metrics(results, student),
        },
        "initial_weights": {
            "weights": Path(record.model.weights).name,
            "licence": record.model.licence,
        },
        "format": title,
        "kdtune_version": __version__,
        "study_versions": dict(record.versions),
    }
    return facts


def _in_graph(own: Preprocessing, signature: Signature) -> str:
    """Return the steps from a view to the network's input in words; views are never enlarged."""
    shrinks = own.size is not None and own.size < signature.shape[-1]
    return describe_preprocessing(own if shrinks else replace(own, size=None))


def configuration_of(results: Results, student: TrainedStudent) -> Mapping[str, Any]:
    """Return the metrics of the student's configuration, as students.json has them.

    They are computed anew if an earlier version of kdtune wrote it.
    """
    return student.record.configuration or configuration_record(results)


def trial_of(results: Results, student: TrainedStudent) -> "pd.Series[Any] | None":
    """Return the row of a student's trial in `Results.trials`; None if there is none."""
    trials = completed(results.trials)
    config = exported_config(results.folder, results.study)
    own = trials[(trials.config_id == config) & (trials["repeat"] == student.repeat)]
    return own.iloc[0] if len(own) else None


def _student_metrics(results: Results, student: TrainedStudent) -> Mapping[str, Any]:
    """Return the metrics of one student by split and name; {} if they are not known."""
    trial = trial_of(results, student)
    return student.metrics["student"] or ({} if trial is None else trial_metrics(trial))


def as_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as metadata of a file: texts as they are, all others as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
        if value is not None
    }
