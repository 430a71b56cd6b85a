"""Linear projector from the student's features to the teacher's, and the checks it needs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdtune.config.effects import takes_features
from kdtune.config.errors import InputError
from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.models.classifier import Classifier
from kdtune.models.ensemble import Model
from kdtune.streams.resources import losses_of


def make_projector(
    run: Run, student: Classifier, teacher: Sequence[Classifier]
) -> nn.Linear | None:
    """Return the projector of a run on the student's device; None if its loss needs none.

    It is trained with the student and left out of its weights. It computes in float32 also where
    the models run in bf16.

    Args:
        run: Its seed and repeat decide the initial weights, the same for all configurations.
        student: On its device.
        teacher: The members of the teacher; none without a teacher.
    """
    if not run.compares_features or not teacher:
        return None
    sizes = student.feature_size, teacher[0].feature_size
    with torch.random.fork_rng(devices=[]):  # a student draws the same numbers with and without
        torch.default_generator.manual_seed(derive_seed("projector", run.seed, run.repeat))
        projector = nn.Linear(*sizes)
    return projector.to(next(student.parameters()).device)


def check_features(
    study: Study, teachers: Sequence[Model], students: Sequence[Classifier], views: Tensor
) -> None:
    """Raise InputError if losses of features cannot work with the models of a study.

    Args:
        study: The study.
        teachers: Its teachers, on the CPU; the members of an ensemble one by one, or files of
            outputs.
        students: Its students, on the CPU.
        views: Two of the data, [2, ...].
    """
    losses = [loss for loss in losses_of(study) if takes_features(loss)]
    if not losses:
        return
    for name in study.values("teacher"):  # type: ignore[union-attr]
        if "+" in str(name):
            raise InputError(
                f"--teacher must be one network with --loss {losses[0]}, since an ensemble has no "
                f"features of its own, but got --teacher {name}; use one of its members, or a "
                f"loss of logits such as kl"
            )
    if "head" in study.values("trainable"):  # type: ignore[operator]
        raise InputError(
            f"--trainable must be all with --loss {losses[0]}, since a frozen backbone learns "
            f"nothing from features, but got --trainable head; use --trainable all, or a loss of "
            f"logits such as kl"
        )
    for teacher in teachers:
        _check_head("teacher", teacher, losses[0], views)
    for student in students:
        _check_head("student", student, losses[0], views)


def _check_head(role: str, model: Model, loss: str, views: Tensor) -> None:
    """Raise InputError unless a model has features [B, D], the input of a Linear layer."""
    advice = "use another model, or a loss of logits such as kl"
    if not isinstance(model, Classifier):
        raise InputError(
            f"--{role} must be a network with --loss {loss}, since a file of outputs has no "
            f"features, but got --{role} {model.name}; {advice}"
        )
    if not isinstance(model.head, nn.Linear):
        raise InputError(
            f"--{role} must have a Linear layer as its last one with --loss {loss}, but that of "
            f"{model.name}, {model.head_name}, is a {type(model.head).__name__}; {advice}"
        )
    model.set_mode(False)
    with torch.no_grad():
        shape = list(model.features(views).shape)
    if shape != [len(views), model.feature_size]:
        raise InputError(
            f"--{role} must have features of the shape [B, D] with --loss {loss}, but those of "
            f"{model.name}, the input of {model.head_name}, have the shape "
            f"{['B', *shape[1:]]}; {advice}".replace("'", "")
        )
