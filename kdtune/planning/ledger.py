"""What is known of a study: its configurations and what came of their runs, line by line.

The repeats of a phase have numbers of their own, so that a study extended by more search repeats
keeps its fresh ones fresh:

    search   0, 1, 2, ...    every configuration; with "race" more for those still in question
    confirm  1000, 1001, ... the best of each side (distilled, plain), to choose the two finalists
    final    2000, 2001, ... the finalists, on repeats that no decision has seen
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdtune.config.run import Run
from kdtune.config.study import BUDGET, Study
from kdtune.statistics.early_stopping import rungs
from kdtune.statistics.racing import Table

Phase = Literal["search", "confirm", "final"]
FIRST: dict[Phase, int] = {"search": 0, "confirm": 1000, "final": 2000}
"""Number of the first repeat of each phase."""
SCORE = "acc"
"""Metric of val, at the last epoch, that is decided by."""


def phase_of(repeat: int) -> Phase:
    """The phase that a repeat belongs to."""
    if repeat >= FIRST["confirm"]:
        return "final" if repeat >= FIRST["final"] else "confirm"
    return "search"


@dataclass
class ConfigState:
    """A configuration and what came of its runs."""

    run: Run
    number: int
    """In the order of proposal; its row in the table of scores."""
    status: dict[int, str] = field(default_factory=dict)
    """By repeat: running, completed, failed or pruned."""
    scores: dict[int, float] = field(default_factory=dict)
    """By repeat, of the completed runs."""
    told: bool = False
    """Whether the proposer knows what came of it."""

    @property
    def plain(self) -> bool:
        """Whether it is plain training."""
        return self.run.alpha == 1

    @property
    def out(self) -> bool:
        """Whether a run failed or was pruned before the finals: it has no mean to compare.

        A finalist stays one: a final repeat that failed is left out on both sides.
        """
        return any(
            status in ("failed", "pruned") and phase_of(repeat) != "final"
            for repeat, status in self.status.items()
        )


@dataclass
class Cost:
    """What a study has cost."""

    runs: int = 0
    epochs: int = 0
    seconds: float = 0.0
    """Of all runs, summed."""

    def reaches(self, budget: str | None) -> bool:
        """Whether nothing is left of the budget."""
        if budget is None:
            return False
        match = re.fullmatch(BUDGET, budget)
        assert match is not None  # Study has checked it
        have = {"runs": self.runs, "epochs": self.epochs, "h": self.seconds / 3600}
        return have[match[2]] >= float(match[1])


class Ledger:
    """What the records say, in the order written, whether they are being written or read again."""

    def __init__(self, study: Study):
        self.study = study
        self.tried: dict[str, ConfigState] = {}
        self.spent = Cost()
        self.running: dict[str, Run] = {}
        self.failed: dict[str, Run] = {}
        """What failed and may go better once mended; what diverged would diverge again."""
        self.rungs: dict[tuple[bool, int, int], dict[str, float]] = {}
        """By side (is it plain), planned epochs and epochs done: scores of the first repeat."""
        self.by_number: list[ConfigState] = []
        self._table: Table = np.full((16, study.repeats), math.nan)
        self._is_plain = np.zeros(16, dtype=bool)
        self._epochs: dict[str, int] = {}
        self._last: dict[str, float] = {}

    def take(self, line: Mapping[str, Any]) -> None:
        """Learn from a line of the records."""
        config_id, repeat = line["config_id"], line["repeat"]
        if line["kind"] == "start":
            live = {name: value for name, value in line["config"].items() if value is not None}
            known = self.tried.get(config_id)  # its values without effect are as proposed
            base = known.run if known else replace(self.study.run, **live)
            self.start(replace(base, repeat=repeat))
        elif config_id not in self.tried:
            return  # its start was the torn line of a crash
        elif line["kind"] == "epoch" and line["split"] == "val":
            self._epoch(line["trial_id"], self.tried[config_id].run, repeat, line)
        elif line["kind"] == "end":
            self._end(self.tried[config_id], repeat, line["status"], line["error"])

    @property
    def table(self) -> Table:
        """Scores of the search, [configurations, repeats]; of those that are out, none."""
        return self._table[: len(self.tried)]

    @property
    def is_plain(self) -> NDArray[np.bool_]:
        """Which rows of the table are plain training."""
        return self._is_plain[: len(self.tried)]

    def add(self, run: Run) -> ConfigState:
        """A configuration that is to be tried."""
        run = replace(run, repeat=0)
        tried = self.tried[run.config_id] = ConfigState(run, len(self.tried))
        if tried.number >= len(self._table):
            self._table = np.concatenate([self._table, np.full_like(self._table, math.nan)])
            self._is_plain = np.concatenate([self._is_plain, np.zeros_like(self._is_plain)])
        self._is_plain[tried.number] = tried.plain
        self.by_number.append(tried)
        return tried

    def start(self, run: Run) -> None:
        """A run is in flight."""
        tried = self.tried.get(run.config_id) or self.add(run)
        self.spent.runs += run.repeat not in tried.status
        tried.status[run.repeat] = "running"
        self.running[run.trial_id] = run
        self.failed.pop(run.trial_id, None)

    def _epoch(self, trial: str, run: Run, repeat: int, line: Mapping[str, Any]) -> None:
        self._last[trial] = line[SCORE]
        if line["epoch"] >= self._epochs.get(trial, 0):  # a run that goes on repeats its past
            self._epochs[trial] = line["epoch"] + 1
            self.spent.epochs += 1
            self.spent.seconds += line["seconds"]
        if repeat == 0 and line["epoch"] + 1 in rungs(run.epochs):
            rung = (run.alpha == 1, run.epochs, line["epoch"] + 1)
            self.rungs.setdefault(rung, {})[run.config_id] = line[SCORE]

    def _end(self, tried: ConfigState, repeat: int, status: str, error: str | None) -> None:
        run = replace(tried.run, repeat=repeat)
        tried.status[repeat] = status
        self.running.pop(run.trial_id, None)
        if status == "completed":
            tried.scores[repeat] = self._last[run.trial_id]
        elif status == "failed" and not str(error).startswith("Diverged"):
            self.failed[run.trial_id] = run
        known = {} if tried.out else tried.scores
        self._table[tried.number] = [known.get(r, math.nan) for r in range(self.study.repeats)]
