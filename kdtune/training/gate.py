"""Accuracy of the teachers on train, val and test, measured once before any student is trained."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from kdtune.config.run import Run
from kdtune.config.teacher_accuracy import TeacherAccuracy, TeacherKey
from kdtune.data.sources import load_data
from kdtune.models.ensemble import Teacher
from kdtune.models.finished import WEIGHTS
from kdtune.streams.resources import Resources
from kdtune.training.evaluation import evaluate
from kdtune.training.teacher import load_teacher, read_record, teacher_place

SPLITS = ("train", "val", "test")


def with_members(teachers: Sequence[Run]) -> list[Run]:
    """Return the runs with each teacher that is measured: the members of an ensemble, then it."""
    every = [own for run in teachers for own in (*run.teacher_members, run)]
    return list({key_of(own): own for own in every}.values())


def key_of(run: Run) -> TeacherKey:
    """Return what tells the run's teacher from the others of its study."""
    return TeacherKey(run.teacher, run.teacher_epochs or 0, run.teacher_number)


def find_unmeasured(
    run: Run, teachers: Sequence[Run], root: Path, known: Sequence[TeacherAccuracy]
) -> list[Run]:
    """Return the teachers whose accuracy is not known, or was measured on other images or weights.

    Args:
        run: The run that has the teachers, or the base run of their study.
        teachers: The run with each teacher, see `with_members`.
        root: Folder of all teachers, which are ready.
        known: What was measured before.
    """
    measured = {one.key: one.fingerprint for one in known}
    return [
        own
        for own in teachers
        if measured.get(key_of(own)) != _fingerprint(own, _load(run, own, root))
    ]


def measure(
    run: Run, teachers: Sequence[Run], root: Path, resources: Resources
) -> list[TeacherAccuracy]:
    """Return the accuracy of teachers; the arguments are those of `find_unmeasured`.

    The logits of val and test are those that the runs need, and come from the same cache.
    """
    measured = []
    for own in teachers:
        teacher = _load(run, own, root)
        fingerprint = _fingerprint(own, teacher)
        for model in teacher.models:
            model.place(resources.device, run.precision)
        tuned = own.teacher_epochs and len(own.teacher_members) == 1
        record = read_record(root / teacher_place(run, own)) if tuned else {}
        measured.append(
            TeacherAccuracy(
                teacher=own.teacher,
                epochs=own.teacher_epochs or 0,
                weights=_describe_weights(run, own, root),
                classes=len(load_data(run).classes),
                splits=evaluate(own, teacher, resources, SPLITS),
                fingerprint=fingerprint,
                acc_before=_share_of(record, "acc_before"),
                acc_after=_share_of(record.get("val"), "acc"),
                number=own.teacher_number,
                which=_which(own),
            )
        )
    return measured


def _share_of(record: object, key: str) -> float | None:
    """Return a share in a record of a teacher; None if it has none there."""
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= 1 else None


def _which(run: Run) -> str:
    """Return which of several equal teachers a run has, in words; "" if there is one."""
    if run.folds and run.teacher_epochs:
        return f"repeat {run.teacher_number}"
    return f"number {run.teacher_number} of {run.teachers}" * (run.teachers > 1)


def _load(run: Run, own: Run, root: Path) -> Teacher:
    """Return the teacher of a run, an ensemble or not, on the CPU."""
    members = [load_teacher(one, root / teacher_place(run, one)) for one in own.teacher_members]
    return Teacher.of(members)


def _fingerprint(run: Run, teacher: Teacher) -> str:
    """Return 16 hex digits that change with everything that the accuracies depend on."""
    names = (
        *("image_size", "eval_crop", "eval_interpolation", "teacher_interpolation"),
        *("train_images", "seed", "precision", "student", "student_size"),
    )
    parts = [load_data(run).fingerprint, *teacher.fingerprints]
    parts += [str(getattr(run, name)) for name in names]
    # earlier versions did not name it, and it has no effect on other data
    if run.orientation != "stored" and load_data(run).kind == "files":
        parts.append("exif")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _describe_weights(run: Run, own: Run, root: Path) -> str:
    """Return where the weights of a teacher are, those of all members of an ensemble."""
    files = [
        str(root / teacher_place(run, one) / WEIGHTS)
        if own.teacher_epochs
        else one.weights_of("teacher")
        for one in own.teacher_members
    ]
    return ", ".join(files)
