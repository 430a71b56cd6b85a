"""Check of a study's records against the study, beyond the form that `schema` declares."""

import sys
from collections.abc import Mapping
from typing import Any

from kdtune.config.metrics import METRICS
from kdtune.config.space import recorded_run
from kdtune.config.study import Study
from kdtune.storage.rounds import FINALISTS
from kdtune.storage.schema import Epoch, Line

ROUNDING = 1e-6
"""By which a share may lie outside [0, 1]."""
NO_METRICS = frozenset(Epoch.__annotations__)


class RecordCheck:
    """Check of each record against the study and the records before it."""

    def __init__(self, study: Study | None):
        self._study = study
        self._known: dict[str, Mapping[str, Any]] = {}
        self._planned: dict[str, int | None] = {}
        self._seen: dict[str, int] = {}
        self._score = None if study is None else study.task.score
        metrics = METRICS if study is None else study.task.metrics
        self._shares = [name for name, metric in metrics.items() if metric.is_share]

    def counts(self, line: Line) -> bool:
        """Return whether the next record counts.

        It does not if its trial has not started, or is recorded as completed without its last
        epochs.

        Raises:
            ValueError, KeyError, TypeError: The study cannot have such a record.
        """
        if line["kind"] == FINALISTS:
            return True
        kind, trial = line["kind"], line["trial_id"]
        if kind == "start":
            self._check_config(line["config_id"], line["config"])
            self._planned[trial] = line["epochs"]
        elif kind == "epoch":
            self._check_epoch(line)
        if trial not in self._planned:
            return False
        if kind == "epoch" and line["split"] == "val":
            self._seen[trial] = line["epoch"] + 1
        if kind == "end" and line["status"] == "completed":
            return self._seen.get(trial, 0) >= max(1, self._planned[trial] or 0)
        return True

    def _check_config(self, config_id: str, config: Mapping[str, Any]) -> None:
        if self._study is None or self._known.get(config_id) == config:
            return
        if recorded_run(self._study, config).config_id != config_id:
            raise ValueError("config_id must be that of config")
        self._known[config_id] = config

    def _check_epoch(self, line: Line) -> None:
        planned = self._planned.get(line["trial_id"])
        if planned is not None and line["epoch"] >= planned:
            raise ValueError("epoch must be less than the number of epochs")
        for name, value in line.items():
            if name not in NO_METRICS and value is not None and not _is_finite(value):
                raise ValueError(f"{name} must be a finite number")
        for name in self._shares:
            value = line.get(name)
            if value is not None and not -ROUNDING <= value <= 1 + ROUNDING:
                raise ValueError(f"{name} must lie in [0, 1]")
        if self._score is not None and line["split"] == "val" and line[self._score] is None:
            raise ValueError(f"{self._score} must be a number")


def _is_finite(value: Any) -> bool:
    return type(value) in (float, int) and -sys.float_info.max <= value <= sys.float_info.max
