"""Accuracy of a study's teachers: the record teacher/accuracy.json.

It is written before the first run, and read by tables, warnings and the report.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kdtune.config.errors import DAMAGED
from kdtune.config.fields import check_fields
from kdtune.config.files import TEACHER_ACCURACY, atomic_write


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a teacher on a split."""

    n: int
    """Number of examples."""
    correct: int
    """Examples that are classified correctly."""
    largest_class: int
    """Examples of the most frequent class."""

    @property
    def share(self) -> float:
        """Share of correct examples, in [0, 1]."""
        return self.correct / self.n

    def __str__(self) -> str:
        return f"{100 * self.share:.1f}%"


class TeacherKey(NamedTuple):
    """What tells a teacher from the others of its study."""

    teacher: str
    epochs: int
    number: int


@dataclass(frozen=True)
class TeacherAccuracy:
    """Accuracy of one teacher, an ensemble or not, on all splits."""

    teacher: str
    epochs: int
    """Epochs of fine-tuning; 0 if the weights are used as they are."""
    weights: str
    """Where its weights are: a file, "default" or "none"; for an ensemble its members."""
    classes: int
    """Number of classes K."""
    splits: Mapping[str, Accuracy]
    """By split: train (the images that students learn from, not augmented), val, perhaps test."""
    fingerprint: str
    """Hash of everything that the accuracy depends on."""
    acc_before: float | None = None
    """On val before fine-tuning, in [0, 1]; None if there was none, or the head is new."""
    acc_after: float | None = None
    """On val after fine-tuning, measured on the same images as `acc_before`."""
    number: int = 0
    """Number of the teacher among those of one recipe, see `Run.teacher_number`."""
    which: str = ""
    """The number in words; "" if there is one teacher of this recipe."""

    @property
    def key(self) -> TeacherKey:
        """What tells the teacher from the others of its study."""
        return TeacherKey(self.teacher, self.epochs, self.number)

    @property
    def recipe_name(self) -> str:
        """The teacher in words, without its number."""
        if not self.epochs:
            return self.teacher
        return f"{self.teacher} ({self.epochs} epoch{'s' * (self.epochs > 1)})"

    @property
    def name(self) -> str:
        """The teacher in words."""
        return f"{self.recipe_name}, {self.which}" if self.which else self.recipe_name


def read_teacher_accuracy(folder: Path) -> list[TeacherAccuracy]:
    """Return the record in a study's folder; [] if there is none, or it is damaged."""
    with suppress(OSError, *DAMAGED):
        return [_read(one) for one in json.loads((folder / TEACHER_ACCURACY).read_text("utf-8"))]
    return []


def write_teacher_accuracy(folder: Path, records: Sequence[TeacherAccuracy]) -> None:
    """Write the record into a study's folder."""
    file = folder / TEACHER_ACCURACY
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(json.dumps([asdict(one) for one in records], indent=2), encoding="utf-8")


def _read(values: Mapping[str, Any]) -> TeacherAccuracy:
    """Return a record; raise ValueError or another error for values that none has."""
    splits = {split: Accuracy(**counts) for split, counts in values["splits"].items()}
    record = TeacherAccuracy(**{**values, "splits": splits})
    for part in (record, *splits.values()):
        check_fields(part)
    for one in splits.values():
        if not (one.n > 0 <= one.correct <= one.n and 0 <= one.largest_class <= one.n):
            raise ValueError(f"an accuracy must be a share of examples, but got {one!r}")
    return record
