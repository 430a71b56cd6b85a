"""The training loop: a generator of epochs. The loop yields, its caller logs.

The same loop distils a student, trains a student without distillation (alpha = 1) and fine-tunes a
teacher (a stream without a teacher).
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdtune.config.errors import Diverged
from kdtune.config.run import Run
from kdtune.config.user_code import no_exit
from kdtune.models.classifier import Classifier
from kdtune.streams.batches import Batch
from kdtune.streams.chunks import seed_step
from kdtune.streams.stream import Stream
from kdtune.training.averaging import WeightAverage
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.losses import Losses, Outputs
from kdtune.training.metrics import Epoch, Meter, Metrics
from kdtune.training.objectives import BoundObjective, objective, own_objectives
from kdtune.training.optim import (
    is_stepped_by_batch,
    make_optimizer,
    make_scheduler,
    take_step,
)
from kdtune.training.projector import make_projector


@dataclass(frozen=True)
class _Training:
    """What the epochs of one run share."""

    run: Run
    student: Classifier
    stream: Stream
    objective: BoundObjective
    optimizer: Optimizer
    scheduler: LRScheduler
    projector: nn.Linear | None
    """From the student's features to the teacher's; None if the loss compares logits."""
    average: WeightAverage | None
    """Of the student's weights, if it is the average that is evaluated."""


def train(
    run: Run, student: Classifier, stream: Stream, checkpoint: Checkpoint | None = None
) -> Iterator[Epoch]:
    """Train the student on the stream; yield an epoch at a time.

    With `run.ema` the student has the averaged weights at the end.

    Args:
        run: Objective, optimiser, schedule and number of epochs.
        student: The student on its device; trained in place.
        stream: The batches.
        checkpoint: Where the state is saved after epochs. If there is a state, the run resumes from
            it and first yields its past epochs again, since the caller may not have recorded them.

    Raises:
        Diverged: A loss or another metric became NaN or infinite.
        InputError: A model or objective of the user's calls sys.exit().
    """
    members = () if stream.teacher is None else stream.teacher.members
    projector = make_projector(run, student, members)
    optimizer = make_optimizer(run, student, projector)
    scheduler = make_scheduler(run, optimizer, stream.steps_per_epoch)
    average = WeightAverage.of(run, student, projector)
    training = _Training(
        *(run, student, stream, objective(run), optimizer, scheduler, projector, average)
    )
    past: list[Epoch] = []
    if checkpoint is not None:
        past = checkpoint.load(student, optimizer, scheduler, projector, average)
        yield from past
    for number in range(len(past), run.epochs):
        objective_too = f", or the objective {run.loss}," * (run.alpha < 1)
        with no_exit(f"the model {run.student}{objective_too}"):
            past.append(_epoch(training, number))
        if checkpoint is not None:
            # before the epoch is yielded, so that an interruption of the caller seldom loses it
            checkpoint.save(student, optimizer, scheduler, past, projector, average)
        yield past[-1]
    if average is not None:
        average.swap()


def _epoch(training: _Training, number: int) -> Epoch:
    """Train for one epoch and evaluate; the last epoch also on test, with predictions."""
    started = time.perf_counter()
    is_last = number == training.run.epochs - 1
    meters = {"train": _train_epoch(training, number)}
    with nullcontext() if training.average is None else training.average.in_student():
        for split in ("val", "test") if is_last else ("val",):
            if split in training.stream.data.splits:
                meters[split] = _evaluate(training, split, number)
    splits = {split: meter.metrics() for split, meter in meters.items()}
    _check_finite(training, meters, splits, number)
    kept = [split for split in meters if is_last and split != "train"]
    predictions = {split: meters[split].predictions() for split in kept}
    return Epoch(number, time.perf_counter() - started, splits, predictions)


@torch.enable_grad()  # which a script for inference, as part of the user's code, may turn off
def _train_epoch(training: _Training, number: int) -> Meter:
    run, student, meter = training.run, training.student, Meter()
    by_batch = is_stepped_by_batch(run)
    for step, batch in enumerate(training.stream.train(number)):
        if step == 0 and batch.features is None:  # a head on cached features has no mode
            student.set_mode(True, run.batch_norm == "train")
        seed_step(run, number, step)
        outputs = predict(student, batch, training.projector)
        losses = Losses.of(run, training.objective, outputs, batch)
        labelled = batch.labelled
        meter.add(outputs.logits[: len(labelled)], labelled, losses)
        take_step(run, training.optimizer, losses.loss)
        if training.average is not None:
            training.average.update()
        if by_batch:
            training.scheduler.step()
    if not by_batch:
        training.scheduler.step()
    return meter


@torch.no_grad()
def _evaluate(training: _Training, split: str, number: int) -> Meter:
    """Evaluate the student, as it is after epoch `number`, on val or test."""
    student, meter = training.student, Meter()
    for step, batch in enumerate(training.stream.evaluate(split, number)):
        if step == 0 and batch.features is None:
            student.set_mode(False)
        outputs = predict(student, batch, training.projector)
        losses = Losses.of(training.run, training.objective, outputs, batch)
        meter.add(outputs.logits, batch, losses)
    return meter


def predict(student: Classifier, batch: Batch, projector: nn.Linear | None = None) -> Outputs:
    """Return the student's outputs for a batch, from its features if the backbone is frozen.

    Args:
        student: In the mode of the pass.
        batch: Its views, or the features that replace them.
        projector: Of the student's features; None if the loss compares logits alone.
    """
    if batch.features is not None:
        return Outputs(student.classify(batch.features))
    assert batch.views is not None  # noqa: S101 - no features, so views
    if projector is None:
        return Outputs(student(batch.views))
    logits, features = student.with_features(batch.views)
    return Outputs(logits, projector(features))


def _check_finite(
    training: _Training, meters: Mapping[str, Meter], splits: Mapping[str, Metrics], number: int
) -> None:
    """Raise Diverged if a metric is NaN or infinite; the message names the probable cause."""
    for split, metrics in splits.items():
        for name, value in metrics.items():
            if value is not None and not math.isfinite(value):
                cause = _cause(training, meters, number)
                raise Diverged(f"{name} on {split} became {value} in epoch {number}; {cause}")


def _cause(training: _Training, meters: Mapping[str, Meter], number: int) -> str:
    """Return why a metric is probably not finite, and what would do."""
    run = training.run
    for split, meter in meters.items():
        count, total = meter.count_not_finite("teacher")
        if count:
            return (
                f"the logits of the teacher {run.teacher} are NaN or infinite for {count:,} of "
                f"{total:,} examples of {split}; check its weights and the images"
            )
    first, total = meters["train"].count_not_finite("student", batches=1)
    if first and number == 0:
        return (
            f"the logits of {run.student} are NaN or infinite for {first:,} of "
            f"{total:,} examples before its first training step; check its initial weights and the "
            f"images"
        )
    own = own_objectives([run.loss]) if run.alpha < 1 and not run.compares_features else []
    if own and not meters["train"].is_finite(training.objective):
        return (
            f"the objective {run.loss} is NaN or infinite for a batch of train with finite logits; "
            f"check {own[0]}, which must return a finite number for all finite logits"
        )
    return "a lower lr may help" + ", or --precision fp32" * (run.precision == "bf16")
