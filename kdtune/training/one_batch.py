"""One batch of a run, without a stream: what it needs in memory and how long a step takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdtune.config.run import Run
from kdtune.data.sources import load_data
from kdtune.data.views import samples
from kdtune.models.classifier import Classifier
from kdtune.models.ensemble import combine, networks
from kdtune.streams.batches import Batch
from kdtune.streams.chunks import INFERENCE_BATCH
from kdtune.streams.shards import view_size
from kdtune.training.averaging import WeightAverage
from kdtune.training.loop import predict
from kdtune.training.losses import Losses
from kdtune.training.objectives import objective
from kdtune.training.optim import make_optimizer, take_step
from kdtune.training.projector import make_projector
from kdtune.training.recipe import resolve
from kdtune.training.run import make_student
from kdtune.training.teacher import initial_teacher

STEPS = 2
"""The second step has the moments of the optimizer in memory beside the gradients."""


@dataclass(frozen=True)
class Models:
    """Teacher and student of a run on their device, in the modes in which a run uses them."""

    teacher: tuple[Classifier, ...]
    """One, or the members of an ensemble; empty if the teacher is a file of outputs."""
    student: Classifier

    @staticmethod
    def of(run: Run, device: torch.device) -> "Models":
        """Build the models of a run; the teacher as it is before any fine-tuning."""
        teacher = networks(initial_teacher(member) for member in run.teacher_members)
        student = make_student(run).place(device, run.precision)
        for model in teacher:
            model.place(device, run.precision).freeze().set_mode(False)
        student.set_mode(True, run.batch_norm == "train")
        if run.trainable == "head":
            student.freeze(head=False)
        return Models(teacher, student)


def views_like(run: Run, models: Models, count: int) -> Tensor:
    """Return `count` views of the shape and type of the run's views, on the CPU."""
    data = load_data(run)
    two = samples(data, run, view_size(run, data, *models.teacher, models.student))
    return two[torch.arange(count) % len(two)]


@torch.no_grad()
def teacher_logits(models: Models, views: Tensor) -> Tensor:
    """Return logits of the teacher, one network or an ensemble, float32 [B, K], on its device.

    Those of a file are not read: zeros take as much memory.
    """
    if not models.teacher:
        return torch.zeros_like(models.student(views))
    return combine([member(views) for member in models.teacher])


@torch.no_grad()
def teacher_features(models: Models, views: Tensor) -> Tensor:
    """Return features of the teacher, one network, float32 [B, D], on its device."""
    return models.teacher[0].features(views)


def training_steps(
    run: Run, student: Classifier, batch: Batch, teacher: Sequence[Classifier] = ()
) -> Iterator[Tensor]:
    """Train the student on one batch again and again, as a run does; yield the losses.

    A student with a frozen backbone computes the features of the batch in every step, as the run
    does that builds them.

    Args:
        run: Objective, optimizer and precision.
        student: In training mode on its device.
        batch: Views, labels and logits of the teacher on the same device; for a loss of features
            also those of the teacher.
        teacher: Its members, for a loss of features.
    """
    projector, own = make_projector(run, student, teacher), objective(run)
    optimizer = make_optimizer(run, student, projector)
    average = WeightAverage.of(run, student, projector)
    frozen = run.trainable == "head"
    while True:
        with torch.no_grad():
            features = student.features(batch.views) if frozen and batch.views is not None else None
        outputs = predict(student, replace(batch, features=features), projector)
        loss = Losses.of(run, own, outputs, batch).loss
        take_step(run, optimizer, loss)
        if average is not None:
            average.update()
        yield loss.detach()


def try_batch(run: Run, device: torch.device) -> Models:
    """Run the teacher on an inference batch and train the student on a batch of the run's size.

    Args:
        run: With the largest batch size of the study.
        device: Where its trials run.

    Returns:
        The models, which are in memory as long as the caller keeps them.
    """
    run = resolve(run)
    models = Models.of(run, device)
    inference = INFERENCE_BATCH[device.type]
    views = views_like(run, models, max(inference, run.batch_size))
    labels = torch.zeros(run.batch_size, dtype=torch.int64)
    teacher_logits(models, views[:inference].to(device))
    batch = Batch(labels, views[: run.batch_size]).to(device)
    given = batch.views
    assert given is not None  # noqa: S101 - made two lines above
    batch = replace(batch, teacher=teacher_logits(models, given))
    if run.compares_features:
        batch = replace(batch, teacher_features=teacher_features(models, given))
    steps = training_steps(run, models.student, batch, models.teacher)
    for _ in range(STEPS):
        next(steps).item()
    return models
