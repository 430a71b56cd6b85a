"""Comparison of two folders of one study, number for number: a disturbed one and its reference.

Compared are, bit for bit: every record of an epoch, by trial, epoch and split, also those that were
told more than once; the set of trials and how each ended; the tables, the summary and the
conclusion that `kdtune.load` gives; the dataframes and the predictions in the folder; the weights
in students/. Not compared is what tells of the way and not of the result: times, attempts, names of
machines, and the measured speed of the models.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import kdtune
from kdtune.storage.records import iter_lines, read_lines

OF_THE_WAY = ("time", "seconds", "attempt", "node")
"""Fields of records and columns of tables that may differ."""
MOST_SHOWN = 20
"""Differences that are said of one study."""


class Told(NamedTuple):
    """What one record is about: an epoch of a trial on a split."""

    trial: str
    epoch: int
    split: str


@dataclass
class Comparison:
    """What a disturbed study and its reference have not in common."""

    differences: list[str] = field(default_factory=list)
    epochs_twice: int = 0
    """Epochs of trials that were computed more than once."""
    epochs_lost: int = 0
    """Epochs that were told, whose record was damaged on purpose, and that did not come again."""


def compare(folder: Path, reference: Path, damaged: Collection[Told] = ()) -> Comparison:
    """Compare a finished study with its reference.

    Args:
        folder: Of the disturbed study.
        reference: Of the same study without disturbance.
        damaged: Records that were damaged on purpose. One that is missing is counted as lost, and
            the tables are compared with those of the reference without it.
    """
    found = Comparison(epochs_twice=count_twice(folder))
    own, other = numbers(folder), numbers(reference)
    lost = {told for told in damaged if told not in own}
    found.epochs_lost = len(lost)
    said = [*_of_numbers(own, other, lost), *_of_ends(folder, reference)]
    with tempfile.TemporaryDirectory() as name:
        expected = _without(reference, lost, Path(name) / reference.name) if lost else reference
        try:
            said += _of_results(folder, expected)
            said += _of_files(folder, expected, lost)
        except Exception as error:  # whatever a study that is wrong makes pandas raise
            said.append(f"its tables cannot be made: {type(error).__name__}: {error}")
    found.differences = said[:MOST_SHOWN]
    if len(said) > MOST_SHOWN:
        found.differences.append(f"... {len(said)} differences in all")
    return found


def numbers(folder: Path) -> dict[Told, set[str]]:
    """Return what the records say of each epoch, as JSON; several texts contradict each other."""
    found: dict[Told, set[str]] = {}
    for line in read_lines(folder)[0]:
        if line["kind"] == "epoch":
            values = {name: value for name, value in line.items() if name not in OF_THE_WAY}
            # Python's JSON has the shortest text that gives the same bits of a float
            text = json.dumps(values, sort_keys=True)
            found.setdefault(told(line), set()).add(text)
    return found


def told(line: dict[str, Any]) -> Told:
    """Return what a record of an epoch is about."""
    return Told(line["trial_id"], line["epoch"], line["split"])


def count_twice(folder: Path) -> int:
    """Return how many epochs were computed again.

    A trial that resumes tells its past epochs again with their original times. So an epoch with two
    different times was computed twice.
    """
    times: dict[Told, set[float]] = {}
    for line in read_lines(folder)[0]:
        if line["kind"] == "epoch" and line["split"] == "val":
            times.setdefault(told(line), set()).add(line["seconds"])
    return sum(len(different) - 1 for different in times.values())


def _of_numbers(
    own: dict[Told, set[str]], other: dict[Told, set[str]], lost: Collection[Told]
) -> Iterator[str]:
    for what in sorted(own.keys() | other.keys()):
        if what not in other:
            yield f"{_shown(what)} is not in the reference"
        elif what not in own:
            if what not in lost:
                yield f"{_shown(what)} is missing"
        elif own[what] != other[what]:
            yield f"{_shown(what)}: {_changed(own[what], other[what])}"


def _shown(what: Told) -> str:
    return f"trial {what.trial}, epoch {what.epoch}, {what.split}"


def _changed(own: set[str], other: set[str]) -> str:
    """Return which values of an epoch differ."""
    (expected,) = (json.loads(text) for text in other)
    for values in map(json.loads, sorted(own - other)):
        names = sorted(expected.keys() | values.keys())
        pairs = ((name, values.get(name), expected.get(name)) for name in names)
        return ", ".join(f"{n} {a!r} instead of {b!r}" for n, a, b in pairs if a != b)
    raise AssertionError("one of two different sets has more")


def _of_ends(folder: Path, reference: Path) -> Iterator[str]:
    own, other = _completions(folder), _completions(reference)
    for trial in sorted(own.keys() | other.keys()):
        if own[trial] != other[trial]:
            yield f"trial {trial} was completed {own[trial]} times instead of {other[trial]}"


def _completions(folder: Path) -> Counter[str]:
    ends = (line for line in read_lines(folder)[0] if line["kind"] == "end")
    return Counter(line["trial_id"] for line in ends if line["status"] == "completed")


def _without(reference: Path, lost: Collection[Told], copy: Path) -> Path:
    """Return a copy of the reference whose records lack some epochs."""
    shutil.copytree(reference, copy, ignore=shutil.ignore_patterns("epochs", "tune"))
    (copy / "epochs").mkdir()
    with (copy / "epochs" / "00000.jsonl").open("w") as file:
        for line in iter_lines(reference, []):
            if line["kind"] != "epoch" or told(line) not in lost:
                file.write(f"{json.dumps(line)}\n")
    return copy


def _of_results(folder: Path, reference: Path) -> Iterator[str]:
    own, other = kdtune.load(folder), kdtune.load(reference)
    if own.verdict() != other.verdict():
        yield f"verdict: {own.verdict()!r} instead of {other.verdict()!r}"
    if own.best() != other.best():
        yield f"best configuration: {own.best()} instead of {other.best()}"
    for name, a, b in (
        ("trials", own.trials, other.trials),
        ("epochs", own.epochs, other.epochs),
        ("summary", own.summary(full=True), other.summary(full=True)),
    ):
        yield from _of_frames(name, a, b)


def _of_files(folder: Path, reference: Path, lost: Collection[Told]) -> Iterator[str]:
    """Compare the files of a finished study; the tables in them only if no epoch is lost."""
    names = ["predictions.parquet", *(["epochs.parquet", "trials.parquet"] if not lost else [])]
    for name in names:
        try:
            own = pd.read_parquet(folder / name)
        except (OSError, ValueError) as error:
            yield f"{name} cannot be read: {error}"
        else:
            yield from _of_frames(name, own, pd.read_parquet(reference / name))
    own_files, other_files = _weights(folder), _weights(reference)
    for name in sorted(own_files.keys() | other_files.keys()):
        if own_files.get(name) != other_files.get(name):
            yield f"students/{name} differs, or is in one of the folders only"


def _weights(folder: Path) -> dict[str, str]:
    files = (folder / "students").glob("*.safetensors")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _of_frames(name: str, own: pd.DataFrame, other: pd.DataFrame) -> Iterator[str]:
    try:
        pd.testing.assert_frame_equal(_ordered(own), _ordered(other), check_exact=True)
    except AssertionError as error:
        yield f"{name}: {' '.join(str(error).split())[:300]}"


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without what may differ, with its rows in one order."""
    speed = [c for c in frame if c in OF_THE_WAY or "latency" in c or c.endswith("seconds")]
    kept = frame.drop(columns=speed)
    keys = [c for c in ("trial_id", "config_id", "epoch", "split", "example") if c in kept]
    return kept.sort_values(keys, ignore_index=True) if keys else kept
