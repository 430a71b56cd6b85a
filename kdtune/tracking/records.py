"""Reading of a study's records from where the last reading ended, grouped by trial."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kdtune.config.files import EPOCHS
from kdtune.config.study import Study
from kdtune.storage.record_check import RecordCheck
from kdtune.storage.records import list_parts
from kdtune.storage.rounds import FINALISTS
from kdtune.storage.schema import Line, parse_line

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
