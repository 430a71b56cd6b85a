"""Section of the report on the teachers: their accuracy and their history."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from kdtune.config.files import TEACHER, TEACHER_RECORD
from kdtune.config.teacher_accuracy import TeacherAccuracy, read_teacher_accuracy
from kdtune.reporting.page import Cell, NotedTable, Table, interval_cell
from kdtune.results.study_results import Results
from kdtune.statistics.intervals import wilson_interval
from kdtune.storage.schema import parse_teacher


def teachers(results: Results) -> NotedTable | None:
    """Return the accuracy of each teacher on each split; None if it was not measured."""
    records = read_teacher_accuracy(results.folder)
    if not records:
        return None
    splits = [split for split in ("train", "val", "test") if split in records[0].splits]
    rows = [
        [one.name, *(_accuracy_cell(one, split) for split in splits), _share(one.acc_before)]
        for one in records
    ]
    note = (
        "Accuracy of the teachers, measured before the first run, with 95% Wilson intervals over "
        "the images. Train has the images that students learn from, without augmentation. The "
        "last column is the accuracy on val before the teacher was fine-tuned on these data."
    )
    return NotedTable(note, Table(["teacher", *splits, "val, before fine-tuning"], rows))


def _accuracy_cell(record: TeacherAccuracy, split: str) -> str | Cell:
    if (value := record.splits.get(split)) is None:
        return "-"
    low, high = (f"{100 * end:.1f}" for end in wilson_interval(value.correct, value.n))
    return interval_cell(f"{value} of {value.n:,}", low, high)


def _share(acc: float | None) -> str:
    return "-" if acc is None else f"{100 * acc:.1f}%"


def histories(results: Results) -> NotedTable | None:
    """Return the accuracy of each fine-tuned teacher before and after each epoch.

    Returns None if no teacher was fine-tuned. Of studies of earlier versions only the epoch that
    was kept is known.
    """
    rows: list[list[str]] = []
    for record in _records(results):
        with suppress(ArithmeticError, AttributeError, KeyError, TypeError, ValueError):  # damaged
            rows += list(_history(record))
    if not rows:
        return None
    note = (
        "Accuracy while the teachers were fine-tuned. That on train is of the forward passes that "
        "the teacher learned from, so of augmented images and changing weights."
    )
    return NotedTable(note, Table(["teacher", "after epoch", "train", "val", "kept"], rows))


def _records(results: Results) -> Iterator[dict[str, Any]]:
    """Yield the records of the fine-tuned teachers, the first one first."""
    folder = results.folder / TEACHER
    for file in sorted(folder.rglob(TEACHER_RECORD), key=lambda path: (len(path.parts), path)):
        with suppress(OSError, ValueError):  # missing or damaged: no number depends on it
            record = parse_teacher(file.read_bytes())
            if "run" in record:
                yield record


def _history(record: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row for the start and for each epoch of one teacher that is recorded."""
    name = str(record["run"].get("student", ""))
    kept = record.get("kept_epoch")
    if record.get("acc_before") is not None:
        yield [name, "before", "-", _share(record["acc_before"]), ""]
    epochs = record.get("history") or []
    if not epochs and isinstance(record.get("val"), dict):
        number = record.get("epochs", 0) - 1 if kept is None else kept
        epochs, kept = [{"epoch": number, "val": record["val"].get("acc")}], number
    for epoch in epochs:
        number = epoch["epoch"]
        shares = (_share(epoch.get(split)) for split in ("train", "val"))
        yield [name, str(number + 1), *shares, "kept" * (number == kept)]
