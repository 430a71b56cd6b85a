"""Sending a study to a tracker, again and again; a failure is a warning."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from kdtune.config.files import EPOCHS
from kdtune.config.study import Study
from kdtune.config.text import first_line
from kdtune.results.frames import config_label, short_model
from kdtune.storage.records import FINALISTS, Line, RecordCheck, list_parts, parse_line

# Reading of a study's records from where the last reading ended, grouped by trial.


NO_METRICS = {
    *("kind", "trial_id", "config_id", "repeat", "attempt", "time"),
    *("split", "epoch", "seconds", "n_examples"),
}
"""Names in the record of an epoch that are no metrics."""


class Record(NamedTuple):
    """A line of the records and where it stands."""

    position: str
    """Part and number of the line; later records have greater positions, as text."""
    line: Line


class Point(NamedTuple):
    """Metrics of a trial at an epoch."""

    epoch: int
    """From 0."""
    time: float
    """Seconds since 1970."""
    metrics: dict[str, float]
    """By SPLIT/NAME, such as val/acc; and `seconds`, the wall time of the epoch."""


@dataclass
class TrialUpdate:
    """What is new about a trial."""

    start: Line
    """Record of its first start: trial_id, config_id, repeat, config, epochs, phase, time."""
    points: list[Point] = field(default_factory=list)
    status: str = "running"
    """running, completed, failed, pruned, truncated or dropped."""
    error: str | None = None
    node: str | None = None
    time: float = 0.0
    """Time of the last record."""
    position: str = ""
    """Position of the last record."""

    @property
    def trial_id(self) -> str:
        """The trial's id."""
        return str(self.start["trial_id"])


class RecordReader:
    """Reader that returns each record once, also of a study that is running.

    Args:
        folder: Folder of the study.
        study: Says which configurations and metrics are possible. None: any.
    """

    def __init__(self, folder: Path, study: Study | None = None):
        self._parts = folder / EPOCHS
        self._check = RecordCheck(study)
        self._offsets: dict[Path, tuple[int, int]] = {}

    def read(self, most: int) -> list[Record]:
        """Return the next records, at most so many; unreadable lines are skipped.

        A trial that is recorded as completed without its last epochs has the status truncated.

        The last line of the last part may be incomplete because it is being written: it is read
        by a later call.
        """
        found: list[Record] = []
        for part in list_parts(self._parts):
            offset, number = self._offsets.get(part, (0, 0))
            if offset == part.stat().st_size:
                continue
            with part.open("rb") as file:
                file.seek(offset)
                while len(found) < most and (text := file.readline()).endswith(b"\n"):
                    number += 1
                    found.extend(self._parse(text, f"{part.stem}:{number:09d}"))
                    offset += len(text)
            self._offsets[part] = (offset, number)
        return found

    def _parse(self, text: bytes, position: str) -> Iterator[Record]:
        with suppress(ValueError, KeyError, TypeError):  # as the tables skip it
            line = parse_line(text)
            counts = self._check.counts(line)
            if line["kind"] == "end" and not counts:  # its last epochs are missing
                line |= {"status": "truncated"}
            if line["kind"] != FINALISTS:
                yield Record(position, line)


def study_id(folder: Path) -> str | None:
    """Return an id that tells a study from others of its name; None before its first record.

    It is a hash of the first record, which holds the time when the study began. A study that was
    copied, renamed or moved keeps it.
    """
    first = next(iter(RecordReader(folder).read(1)), None)
    text = json.dumps(first.line, sort_keys=True) if first else ""
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else None


class Trials:
    """What is known of the trials from the records read so far.

    An epoch that is recorded again, since its trial was continued from an earlier checkpoint, has
    the same numbers, and is left out.
    """

    def __init__(self) -> None:
        self._starts: dict[str, Line] = {}
        self._ended: dict[str, Line] = {}
        self._seen: dict[str, set[tuple[str, int]]] = {}

    def updates(self, records: Iterable[Record], sent: dict[str, str]) -> list[TrialUpdate]:
        """Return what is new about each trial, in the order of the records.

        Args:
            records: Those read since the last call.
            sent: By trial_id, position of the last record that the tracker has.
        """
        updates: dict[str, TrialUpdate] = {}
        for position, line in records:
            trial = line["trial_id"]
            if line["kind"] == "start":
                self._starts.setdefault(trial, line)
                self._ended.pop(trial, None)
            elif line["kind"] == "end":
                self._ended[trial] = line
            is_repeated = line["kind"] == "epoch" and self._is_repeated(line)
            if trial not in self._starts or position <= sent.get(trial, ""):
                continue
            update = updates.setdefault(trial, TrialUpdate(self._starts[trial]))
            update.position, update.time = position, line["time"]
            if line["kind"] == "epoch" and not is_repeated:
                _add_point(update, line)
            self._set_status(update, line)
        return list(updates.values())

    def _is_repeated(self, line: Line) -> bool:
        seen = self._seen.setdefault(line["trial_id"], set())
        key = (line["split"], line["epoch"])
        is_repeated = key in seen
        seen.add(key)
        return is_repeated

    def _set_status(self, update: TrialUpdate, line: Line) -> None:
        """Set the status after a record; a restored trial has that of its end again."""
        if line["kind"] == "drop":
            update.status, update.error = "dropped", line.get("reason")
            return
        end = self._ended.get(update.trial_id, {})
        update.status = end.get("status", "running")
        update.error, update.node = end.get("error"), end.get("node")


def _add_point(update: TrialUpdate, line: Line) -> None:
    """Add the metrics of a split to those of its epoch."""
    metrics = {
        f"{line['split']}/{name}": float(value)
        for name, value in line.items()
        if name not in NO_METRICS and isinstance(value, int | float)
    }
    if update.points and update.points[-1].epoch == line["epoch"]:
        update.points[-1].metrics.update(metrics)
    else:
        point = Point(line["epoch"], line["time"], {"seconds": line["seconds"], **metrics})
        update.points.append(point)


# The interface of a tracker, and the table of trackers.


VERDICT = "verdict"
"""Name of the run that has the study's conclusion."""

TRACKERS = {
    "mlflow": ("kdtune.tracking.mlflow", "MlflowTracker"),
    "wandb": ("kdtune.tracking.wandb", "WandbTracker"),
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


# Sending what a tracker lacks, again and again; a failure is a warning and is tried again.


POLL_SECONDS = 2.0
"""Time between two readings of the records."""
MAX_WAIT_SECONDS = 60.0
"""Longest time between two attempts to reach a tracker that has failed."""
MAX_RECORDS = 2000
"""Records that are sent together: some MB in memory."""


class Sync:
    """The sending of a study's records to one tracker.

    The records are the truth. What the tracker has is asked from it at each connection, so nothing
    is sent twice, and nothing recorded during an outage is lost.

    Args:
        name: Of the tracker.
        study: The study.
        folder: Its folder.
        say: Is given lines for the terminal.
    """

    def __init__(self, name: str, study: Study, folder: Path, say: Callable[[str], None]):
        self.name, self.study, self.folder, self.say = name, study, folder, say
        self._tracker: Tracker | None = None
        self._reader, self._trials = RecordReader(folder, study), Trials()
        self._is_announced = self._has_failed = self._has_warned = False

    def follow(self, over: Event, conclusion: Callable[[], Conclusion | None]) -> bool:
        """Send new records until the search has ended, then the conclusion.

        Args:
            over: Set when no more records will be written.
            conclusion: Called then; returns None if the study is not complete.

        Returns:
            True if the tracker has everything.
        """
        wait = POLL_SECONDS
        while True:
            is_last = over.is_set()  # asked first: what was written before is read below
            try:
                self._send_new()
                if is_last:
                    self._finish(conclusion())
                    return True
                wait = POLL_SECONDS
            except Exception as error:  # of a client, its server or the network
                self._tracker = None
                self._warn(error, is_last)
                if is_last:
                    return False
                wait = min(2 * wait, MAX_WAIT_SECONDS)
            over.wait(wait)

    def _send_new(self) -> None:
        """Send all records that the tracker lacks; connect to it if need be."""
        if self._tracker is None:
            if (own_id := study_id(self.folder)) is None:
                return
            tracker = make_tracker(self.name, self.study, own_id, self.folder)
            place = tracker.connect()
            if not self._is_announced:
                self.say(f"{tracker.title}: {without_credentials(place)}")
                self._is_announced = True
            self._tracker, self._trials = tracker, Trials()
            self._reader = RecordReader(self.folder, self.study)
        while records := self._reader.read(MAX_RECORDS):
            for update in self._trials.updates(records, self._tracker.positions):
                self._tracker.send(update)
        if self._has_failed:
            self.say(f"{self._tracker.title} can be reached again and has all records")
            self._has_failed = False

    def _finish(self, conclusion: Conclusion | None) -> None:
        if self._tracker is None:
            return
        if conclusion is None:
            self._tracker.pause()
        else:
            self._tracker.conclude(conclusion)

    def _warn(self, error: Exception, is_last: bool) -> None:
        """Say once that the tracker has failed, and at the end what sends the rest."""
        reason = without_credentials(f"{type(error).__name__}: {first_line(error)}")
        if is_last:
            self.say(
                f"warning: {self.name} has not received everything ({reason}); python -m "
                f"kdtune.track {self.folder} --tracker {self.name} sends the rest"
            )
        elif not self._has_warned:
            self.say(
                f"warning: {self.name} has failed ({reason}); the study goes on, and {self.name} "
                f"is tried again"
            )
        self._has_failed = self._has_warned = True


def without_credentials(text: str) -> str:
    """Return the text without the user names and passwords of its URLs."""
    return re.sub(r"://[^/\s@]+@", "://", text)
