"""Settings of a run that follow from its data and models where they are not given."""

from dataclasses import replace
from typing import Any

from kdtune.config.errors import InputError
from kdtune.config.fields import declarations
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier
from kdtune.models.registry import Role, build_model
from kdtune.streams.shards import view_size

FINE_TUNING: dict[str, Any] = {
    **{"trainable": "all", "batch_norm": "train", "optimizer": "sgd", "lr": 1e-3},
    **{"momentum": 0.9, "weight_decay": 1e-4, "schedule": "cosine", "lr_step_size": 7},
    **{"lr_gamma": 0.1, "epochs": 10, "batch_size": 32},
}
"""Recipe of a pretrained teacher: small steps, so that its features are kept."""
FROM_SCRATCH: dict[str, Any] = FINE_TUNING | {
    **{"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2, "schedule": "onecycle"},
    **{"epochs": 30, "batch_size": 64},
}
"""Recipe of a teacher with random weights."""
HEAD_LR = 1e-2
"""Learning rate of a pretrained teacher of which only the head is trained."""


def resolve(run: Run) -> Run:
    """Return the run with a value for every setting that depends on its data and models.

    Raises:
        InputError: The data or a model do not exist.
    """
    open_fields = [n for n, d in declarations(Run).items() if d.setting.resolved]
    if all(getattr(run, name) is not None for name in open_fields):
        return run
    values = _teacher_recipe(run) | _transforms(run)
    return replace(run, **{n: v for n, v in values.items() if getattr(run, n) is None})


def _teacher_recipe(run: Run) -> dict[str, Any]:
    """Return the defaults of teacher_*."""
    random = run.teachers[0].weights_of("teacher") == "none"
    recipe = dict(FROM_SCRATCH if random else FINE_TUNING)
    if run.teacher_trainable == "head" and not random:
        recipe["lr"] = HEAD_LR
    return {f"teacher_{name}": value for name, value in recipe.items()}


def _transforms(run: Run) -> dict[str, Any]:
    """Return the defaults of augmentation, evaluation transform and interpolation."""
    data = load_data(run)
    augment = run.augment or ("resized-crop" if data.photos else "crop")
    return {
        **{"augment": augment, "teacher_augment": augment},
        **{"eval_crop": 0.875 if data.photos else 1.0, "eval_interpolation": "bilinear"},
        **{"teacher_interpolation": "bilinear", "student_interpolation": "bilinear"},
    }


def resolve_study(study: Study, begun: bool = False) -> Study:
    """Return the study with resolved settings and one size of views for all its models.

    So the streams are shared and the comparisons fair. A study with one student and one teacher
    keeps `image_size`, whose default is the larger input size of the two.

    Args:
        study: The study.
        begun: Whether it continues one with results, whose views keep their size.

    Raises:
        InputError: The data or a model do not exist, or a model that is added to a study needs
            larger views than the study has.
    """
    study = replace(study, run=resolve(study.run))
    if study.run.image_size is not None or len(students(study)) * len(teachers(study)) == 1:
        return study
    data = load_data(study.run)

    def sized(run: Run, role: Role) -> Classifier:
        return build_model(run, role, len(data.classes), seed=0, weights="none")

    own = [sized(run, "student") for run in students(study)]
    of_teacher = {run.teacher: sized(run, "teacher") for run in teachers(study)}
    names = [str(name).split("+") for name in _names(study, "teacher")]
    members = [[of_teacher[name] for name in ensemble] for ensemble in names]
    every = {view_size(study.run, data, student, *t) for student in own for t in members}
    if len(every) == 1:
        return study
    if begun:
        raise InputError(
            f"the models of a study must see images of one size, but those of {study.folder} need "
            f"{', '.join(map(str, sorted(every)))} pixels; begin another study (--name OTHER)"
        )
    return replace(study, run=replace(study.run, image_size=max(every)))


def students(study: Study) -> list[Run]:
    """Return the study's run with each of its students."""
    return [replace(study.run, student=name) for name in _names(study, "student")]


def teachers(study: Study) -> list[Run]:
    """Return the study's run with each of its teachers; the members of an ensemble one by one.

    A teacher that is fine-tuned for several numbers of epochs is there once for each.
    """
    found: dict[tuple[str, Any], Run] = {}
    for name in _names(study, "teacher"):
        for epochs in _names(study, "teacher_epochs"):
            for run in replace(study.run, teacher=name, teacher_epochs=epochs).teachers:
                found.setdefault((run.teacher, epochs), run)
    return list(found.values())


def _names(study: Study, hyperparameter: str) -> tuple[Any, ...]:
    values = study.values(hyperparameter)
    assert isinstance(values, tuple)  # Study has checked it
    return values
