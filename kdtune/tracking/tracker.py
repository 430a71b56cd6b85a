"""The interface of a tracker, and the table of trackers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from kdtune.config.study import Study
from kdtune.results.labels import config_label, short_model
from kdtune.storage.schema import Line
from kdtune.tracking.records import TrialUpdate

VERDICT = "verdict"
"""Name of the run that has the study's conclusion."""

TRACKERS = {
    "mlflow": ("kdtune.tracking.mlflow_tracker", "MlflowTracker"),
    "wandb": ("kdtune.tracking.wandb_tracker", "WandbTracker"),
}
"""Module and class of each tracker; the module is imported when the tracker is used. The names are
those of `config.trackers.TrackerName`."""


@dataclass(frozen=True)
class Conclusion:
    """What a tracker gets at the end of a study."""

    verdict: str
    """In words."""
    configs: pd.DataFrame
    """A row per configuration, see `Results.summary`, with config_id."""
    files: Sequence[Path]
    """Tables, report and a folder of figures."""


class Tracker(ABC):
    """Client of a tracker: a run for each trial, and one with the conclusion.

    Methods raise whatever the client raises; `sync` isolates the study from it.

    Args:
        study: The study.
        study_id: Its id, see `records.study_id`.
        folder: Its folder.
    """

    title: ClassVar[str]
    """Name of the tracker for the user."""

    def __init__(self, study: Study, study_id: str, folder: Path):
        self.study, self.study_id, self.folder = study, study_id, folder
        self.positions: dict[str, str] = {}
        """By trial_id: position of the last record that the tracker has."""

    @abstractmethod
    def connect(self) -> str:
        """Connect, find the runs of earlier calls, and set `positions`.

        It is called again after a failure, when it is not known what the tracker has received.

        Returns:
            Where the user finds the study.
        """

    @abstractmethod
    def send(self, update: TrialUpdate) -> None:
        """Send what is new about a trial, and set its position."""

    @abstractmethod
    def pause(self) -> None:
        """Mark the trials that have not ended as interrupted: the search has stopped."""

    @abstractmethod
    def conclude(self, conclusion: Conclusion) -> None:
        """Send the conclusion, in place of an earlier one."""

    def label(self, start: Line) -> str:
        """Return the configuration of a trial in words, from the record of its start."""
        config = start["config"]
        names = self.study.searched or (["alpha"] if "alpha" in config else list(config))
        return config_label(config, [name for name in names if name in config], prefix="")

    def facts(self, start: Line) -> dict[str, str]:
        """Return what runs are grouped and filtered by: label, repeat, phase, student, ..."""
        facts = {
            **{"config": self.label(start), "config_id": start["config_id"]},
            **{"repeat": str(start["repeat"]), "phase": start.get("phase", "search")},
        }
        student = self.study.task.is_distillation and (
            start["config"].get("student") or self.study.run.student
        )
        return facts | ({"student": short_model(student)} if student else {})


def parameters(start: Line) -> dict[str, Any]:
    """Return the hyperparameters that have an effect in a trial, from the record of its start."""
    return {name: value for name, value in start["config"].items() if value is not None}


def make_tracker(name: str, study: Study, study_id: str, folder: Path) -> Tracker:
    """Return the tracker of this name."""
    module, kind = TRACKERS[name]
    tracker: Tracker = getattr(import_module(module), kind)(study, study_id, folder)
    return tracker
