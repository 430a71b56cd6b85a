"""Checks of a study's models on views of its data, before any work."""

from collections.abc import Sequence

from torch import Tensor

from kdtune.config.hyperparameters import Range
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.dataset import Data
from kdtune.models.classifier import Classifier
from kdtune.models.ensemble import Model
from kdtune.models.probe import check_learns, check_single, check_some_learn, probe
from kdtune.training.projector import check_features
from kdtune.training.teacher import probe_teacher


def check_models(
    study: Study,
    own_teachers: Sequence[tuple[Run, Model]],
    own_students: Sequence[Classifier],
    data: Data,
) -> None:
    """Raise InputError unless all teachers and students work on views of the study's data."""
    whole = "head" not in study.values("trainable")  # type: ignore[operator]
    for student in own_students:
        for own, teacher in own_teachers:
            views = probe_teacher(own, teacher, student)
        check_some_learn(student, f"the student {student.name}")
        probe(student, views, len(data.classes), whole=whole)
        check_learns(student, views, whole=whole)
        _check_last_batch(study, student, views, len(data.subset(study.run)))
    check_features(study, [teacher for _, teacher in own_teachers], own_students, views)


def _check_last_batch(study: Study, student: Classifier, views: Tensor, count: int) -> None:
    """Raise InputError if a student cannot learn from the last batch, which has one example."""
    has_statistics = {"trainable": "all", "batch_norm": "train"}
    if any(value not in study.values(name) for name, value in has_statistics.items()):  # type: ignore[operator]
        return
    sizes = study.values("batch_size")
    if study.run.extra is None and not isinstance(sizes, Range):  # of which few sizes are drawn
        check_single(student, views, count, map(int, sizes), "--batch-size")
