"""The training loop: a generator of epochs, with its optimisers and checkpoints."""

import copy
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim, zeros
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)

from kdtune.config import fields
from kdtune.config.files import atomic_write
from kdtune.config.run import Run, check_warmup
from kdtune.config.task import METRICS, Metric
from kdtune.config.text import Diverged, first_line, user_code
from kdtune.models.classifier import Classifier
from kdtune.streams.stream import Stream
from kdtune.streams.views import Batch, seed_step
from kdtune.training import epoch as epoch_module
from kdtune.training.epoch import Epoch, Losses, Meter, Outputs, Predictions, make_projector
from kdtune.training.losses import BoundObjective, class_weights, objective, own_objectives

# Optimisers, their steps, and learning-rate schedules.


OPTIMIZER_CONSTRUCTORS: Mapping[fields.Optimizer, Callable[..., Optimizer]] = {
    "sgd": optim.SGD,
    "nesterov": partial(optim.SGD, nesterov=True),
    "adamw": optim.AdamW,
    "adam": optim.Adam,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
}
"""Constructors of the optimisers that `kdtune.config.fields.OPTIMIZERS` declares."""


def make_optimizer(run: Run, student: Classifier, projector: nn.Module | None = None) -> Optimizer:
    """Return the run's optimiser of all parameters of both modules that require a gradient."""
    modules = (student,) if projector is None else (student, projector)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    values = {name: getattr(run, name) for name in fields.OPTIMIZERS[run.optimizer].takes}
    make = OPTIMIZER_CONSTRUCTORS[run.optimizer]
    return make(parameters, lr=run.lr, weight_decay=run.weight_decay, **values)


def take_step(run: Run, optimizer: Optimizer, scaler: GradScaler, loss: Tensor) -> None:
    """Take a step of the optimiser along the gradient of a batch's loss.

    With `run.clip_norm`, a gradient that is longer is scaled down to that norm before: the L2 norm
    over all parameters of the optimiser together. A scaler that is enabled leaves out the step if
    the gradient is not finite, and then lowers its scale.
    """
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    if run.clip_norm > 0:
        # a gradient that is not finite makes the weights NaN, which the metrics show: asking here
        # would wait for the GPU in every step
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        clip_grad_norm_(trained, run.clip_norm, error_if_nonfinite=False)
    scaler.step(optimizer)
    scaler.update()


def is_stepped_by_batch(run: Run) -> bool:
    """Return True if the run's schedule changes after each batch, False if after each epoch."""
    return fields.SCHEDULES[run.schedule].by_batch or run.warmup_epochs > 0


def make_scheduler(run: Run, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """Return the run's learning-rate schedule, for `is_stepped_by_batch`.

    Raises InputError if the warm-up is not shorter than the training.
    """
    if not run.warmup_epochs or "warmup_epochs" not in fields.SCHEDULES[run.schedule].takes:
        return SCHEDULE_CONSTRUCTORS[run.schedule](run, optimizer, run.epochs, steps_per_epoch)
    check_warmup(run.schedule, run.warmup_epochs, run.epochs)
    factors = _epoch_factors(run)
    warmup_steps = run.warmup_epochs * steps_per_epoch

    # one function of the step: torch's LinearLR and the schedules by epoch step at different times
    def factor(step: int) -> float:
        epoch = min(step // steps_per_epoch, run.epochs - 1)  # torch also asks for the step after
        return factors[epoch] * min(1.0, (step + 1) / warmup_steps)

    return LambdaLR(optimizer, factor)


def milestones(run: Run) -> list[int]:
    """Return the numbers of epochs after which the schedule multistep decays, each 1 or more."""
    return [max(1, round(share * run.epochs)) for share in run.lr_milestones]


SCHEDULE_CONSTRUCTORS: Mapping[
    fields.Schedule, Callable[[Run, Optimizer, int, int], LRScheduler]
] = {
    "constant": lambda run, optimizer, epochs, steps: ConstantLR(optimizer, factor=1.0),
    "step": lambda run, optimizer, *_: StepLR(optimizer, run.lr_step_size, run.lr_gamma),
    "multistep": lambda run, optimizer, *_: MultiStepLR(optimizer, milestones(run), run.lr_gamma),
    "cosine": lambda run, optimizer, epochs, steps: CosineAnnealingLR(optimizer, epochs),
    # the momentum is a hyperparameter of its own and stays as it is set
    "onecycle": lambda run, optimizer, epochs, steps: OneCycleLR(
        optimizer, run.lr, epochs * steps, cycle_momentum=False
    ),
}
"""Constructors of the schedules that `kdtune.config.fields.SCHEDULES` declares, without a warm-up:
functions of the run, the optimiser, the number of epochs that they last and steps per epoch."""


def _epoch_factors(run: Run) -> list[float]:
    """Return the learning rate of each epoch as a share of `run.lr`, without the warm-up itself.

    Step and multistep decay by the epoch's number in the run; cosine begins after the warm-up.
    """
    before = run.warmup_epochs if fields.SCHEDULES[run.schedule].follows_warmup else 0
    optimizer = optim.SGD([zeros(())], lr=1.0)
    scheduler = SCHEDULE_CONSTRUCTORS[run.schedule](run, optimizer, run.epochs - before, 1)
    factors = [1.0] * before
    while len(factors) < run.epochs:
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


# What a run trains: its student with optimiser, schedule and what else its steps change.


@dataclass(frozen=True)
class Training:
    """A student in training: what the steps of a run change, and what they need."""

    run: Run
    student: Classifier
    objective: BoundObjective
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: GradScaler
    """Of the gradients; enabled in fp16, which would lose the small ones."""
    projector: nn.Linear | None
    """From the student's features to the teacher's; None if the loss compares logits."""
    average: epoch_module.WeightAverage | None
    """Of the student's weights, if it is the average that is evaluated."""

    @staticmethod
    def of(
        run: Run, student: Classifier, teacher: Sequence[Classifier], steps_per_epoch: int
    ) -> "Training":
        """Return a student on its device before its first step.

        Args:
            run: Objective, optimiser, schedule and number of epochs.
            student: On its device; trained in place.
            teacher: The members of the teacher; none without a teacher.
            steps_per_epoch: Training batches of an epoch.
        """
        projector = make_projector(run, student, teacher)
        optimizer = make_optimizer(run, student, projector)
        scheduler = make_scheduler(run, optimizer, steps_per_epoch)
        average, loss = epoch_module.WeightAverage.of(run, student, projector), objective(run)
        device = next(student.parameters()).device
        scaler = GradScaler(device.type, enabled=run.precision == "fp16")
        if scaler.is_enabled():  # schedules warn if it leaves out the first step
            optimizer.step()  # so here is one of no gradients, which changes nothing
        return Training(run, student, loss, optimizer, scheduler, scaler, projector, average)

    def step(self, batch: Batch) -> tuple[Outputs, Losses]:
        """Take a step of the optimiser on a batch; return outputs and losses from before it."""
        outputs, losses = self.losses(batch)
        take_step(self.run, self.optimizer, self.scaler, losses.loss)
        if self.average is not None:
            self.average.update()
        return outputs, losses

    def losses(self, batch: Batch) -> tuple[Outputs, Losses]:
        """Return the student's outputs for a batch and their losses.

        The outputs are those for the features in the batch, if the backbone is frozen.
        """
        if batch.features is not None:
            outputs = Outputs(self.student.classify(batch.features))
        else:
            assert batch.views is not None  # noqa: S101 - no features, so views
            if self.projector is None:
                outputs = Outputs(self.student(batch.views))
            else:
                logits, features = self.student.with_features(batch.views)
                outputs = Outputs(logits, self.projector(features))
        return outputs, Losses.of(self.run, self.objective, outputs, batch)

    def state_dict(self) -> dict[str, Any]:
        """Return all that steps change."""
        scheduler = self.scheduler.state_dict()
        return {
            "student": self.student.net.state_dict(),
            "projector": None if self.projector is None else self.projector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {k: v for k, v in scheduler.items() if not callable(v)},
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; raise whatever is wrong with it, perhaps amid the changes."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.projector is not None:
            self.projector.load_state_dict(state["projector"])
        self.student.net.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state.get("scaler", {}))  # states of earlier versions have none


# Checkpoint of a run: its last two states in files, from which an interrupted run resumes.


_FORMAT = 2
"""Of the file; a file of another format is ignored, so its run begins again."""


class BestEpoch(NamedTuple):
    """The best epoch so far, with a copy of the weights after it."""

    number: int
    acc: float
    """Accuracy on val."""
    weights: dict[str, Tensor]


class Checkpoint:
    """The state of a run in a file, saved after an epoch; after several if they are very short.

    A crash loses one epoch, or 100 times as long as saving takes, but not more than one epoch and
    two seconds. A state that cannot be used is said, and the run begins again.

    Args:
        file: The file of the last state.
        on_save: Called after each save, for instance to upload the file.
        keeps_best: Whether the state also has the weights of the best epoch so far, see `best`.
        owner: What the state is of, such as the id of a trial; that of another is ignored. States
            of earlier versions do not say it.
        write: Is given a sentence if a state cannot be used.
    """

    MAX_TIME_SHARE = 0.01
    """Share of the time that saving may take, as long as the last state is young enough."""
    MAX_AGE_SECONDS = 2.0
    """Training time after which the state is saved at the next epoch, however long that takes."""

    def __init__(
        self,
        file: Path,
        on_save: Callable[[], None] = lambda: None,
        keeps_best: bool = False,
        owner: str = "",
        write: Callable[[str], None] = lambda sentence: None,
    ):
        self.file, self._on_save, self._keeps_best = file, on_save, keeps_best
        self._owner, self._write_line = owner, write
        self.best: BestEpoch | None = None
        """The epoch with the highest accuracy on val, the first of equal ones."""
        self._save_seconds, self._unsaved_seconds = math.inf, math.inf

    def save(self, training: Training, past: list[Epoch]) -> None:
        """Save the state after the last of the past epochs, unless the last save is too recent."""
        if self._keeps_best:
            acc = past[-1].splits["val"]["acc"] or 0.0
            if self.best is None or acc > self.best.acc:
                state = training.student.net.state_dict()
                weights = {name: value.detach().cpu().clone() for name, value in state.items()}
                self.best = BestEpoch(past[-1].number, acc, weights)
        self._unsaved_seconds += past[-1].seconds
        due_after = min(self._save_seconds / self.MAX_TIME_SHARE, self.MAX_AGE_SECONDS)
        if self._unsaved_seconds < due_after:
            return
        began = time.perf_counter()
        state = {
            "format": _FORMAT,
            "owner": self._owner,
            **training.state_dict(),
            "epochs": [_values(epoch) for epoch in past],
            # in the same file, so that weights and epochs belong together whenever a crash comes
            "best": None if self.best is None else tuple(self.best),
        }
        # a stream, not the path: only its errors tell that the disk is full
        with atomic_write(self.file) as part, part.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())  # so that a loss of power leaves this state or the last one
        self._on_save()
        took = time.perf_counter() - began
        # at most doubled: one slow save does not make all later ones rare
        self._save_seconds = min(took, 2 * self._save_seconds)
        self._unsaved_seconds = 0.0

    def load(self, training: Training) -> list[Epoch]:
        """Restore the last state, and return its past epochs.

        Without a state, or with one that is damaged, of another format, model or owner, the
        training is left as it is and the list is empty.
        """
        if not self.file.exists():
            return []
        before = copy.deepcopy(training.state_dict())
        try:
            return self._restore(training)
        except Exception as error:  # torch answers damage with many types
            training.load_state_dict(before)
            reason = first_line(error, 100)
            self._write_line(f"{self.file} cannot be used ({reason}), so the run begins again")
            return []

    def _restore(self, training: Training) -> list[Epoch]:
        """Restore the state in the file and return its past epochs; raise whatever is wrong."""
        with zipfile.ZipFile(self.file) as archive:
            if archive.testzip() is not None:  # torch does not compare the checksums
                raise ValueError("it is damaged")
        state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        if state.get("format") != _FORMAT:
            raise ValueError("another version of kdtune has written it")
        if state.get("owner", self._owner) != self._owner:
            raise ValueError("it is of another run")
        past = [_epoch_of_state(values) for values in state["epochs"]]
        training.load_state_dict(state)
        self.best = BestEpoch(*best) if (best := state.get("best")) else None
        return past


def _values(epoch: Epoch) -> dict[str, Any]:
    """Return the epoch as numbers, tensors and dicts of them, which torch loads without pickle."""
    predictions = {split: vars(of_split) for split, of_split in epoch.predictions.items()}
    return {**vars(epoch), "predictions": predictions}


def _epoch_of_state(values: dict[str, Any]) -> Epoch:
    """Return the epoch of `_values`."""
    predictions = {
        split: Predictions(**of_split) for split, of_split in values["predictions"].items()
    }
    return Epoch(**{**values, "predictions": predictions})


# The training loop. It yields epochs, its caller logs. The same loop distils a student, trains a
# student without distillation (alpha = 1) and fine-tunes a teacher (a stream without a teacher).


def train(
    run: Run,
    student: Classifier,
    stream: Stream,
    checkpoint: Checkpoint | None = None,
    metric: Metric | None = None,
) -> Iterator[Epoch]:
    """Train the student on the stream; yield an epoch at a time.

    With `run.ema` the student has the averaged weights at the end.

    Args:
        run: Objective, optimiser, schedule and number of epochs.
        student: The student on its device; trained in place.
        stream: The batches.
        checkpoint: Where the state is saved after epochs. If there is a state, the run resumes from
            it and first yields its past epochs again, since the caller may not have recorded them.
        metric: That which decides.

    Raises:
        Diverged: A loss or another metric became NaN or infinite.
        InputError: A model or objective of the user's calls sys.exit().
    """
    members = () if stream.teacher is None else stream.teacher.members
    training = Training.of(run, student, members, stream.steps_per_epoch)
    if (weights := class_weights(run, stream.data)) is not None:
        weights = weights.to(next(student.parameters()))  # its device and precision
        weighted = replace(training.objective, class_weights=weights)
        training = replace(training, objective=weighted)
    past: list[Epoch] = []
    if checkpoint is not None:
        past = checkpoint.load(training)
        yield from past
    for number in range(len(past), run.epochs):
        objective_too = "" if run.is_baseline else f", or the objective {run.loss},"
        with user_code(f"the model {run.student}{objective_too} ended", only_exits=True):
            past.append(_epoch(training, stream, number, metric))
        if checkpoint is not None:
            # before the epoch is yielded, so that an interruption of the caller seldom loses it
            checkpoint.save(training, past)
        yield past[-1]
    if training.average is not None:
        training.average.swap()


def _epoch(training: Training, stream: Stream, number: int, metric: Metric | None) -> Epoch:
    """Train for one epoch and evaluate; the last epoch also on test, with predictions."""
    started = time.perf_counter()
    is_last = number == training.run.epochs - 1
    meters = {"train": _train_epoch(training, stream, number)}
    with nullcontext() if training.average is None else training.average.in_student():
        for split in ("val", "test") if is_last else ("val",):
            if split in stream.data.splits:
                meters[split] = _evaluate(training, stream.evaluate(split, number), metric)
    splits = {split: meter.metrics() for split, meter in meters.items()}
    for split, metrics in splits.items():
        for name, value in metrics.items():
            if value is not None and not math.isfinite(value):
                cause = _cause(training, meters["train"])
                if name not in METRICS:  # those before it are finite
                    cause = "it must be a finite number whatever the student's outputs are"
                raise Diverged(f"{name} on {split} became {value} in epoch {number}; {cause}")
    predicted = [split for split in meters if is_last and split != "train"]
    groups = {split: stream.data.splits[split].groups for split in predicted}
    predictions = {s: meters[s].predictions(groups[s] is not None) for s in predicted}
    skipped = meters["train"].skipped_steps
    return Epoch(number, time.perf_counter() - started, splits, predictions, skipped)


@torch.enable_grad()  # which a script for inference, as part of the user's code, may turn off
def _train_epoch(training: Training, stream: Stream, number: int) -> Meter:
    run, meter = training.run, Meter()
    by_batch = is_stepped_by_batch(run)
    for step, batch in enumerate(stream.train(number)):
        if step == 0 and batch.features is None:  # a head on cached features has no mode
            training.student.set_mode(True, run.batch_norm_mode == "train")
        seed_step(run, number, step)
        scale = training.scaler.get_scale()
        outputs, losses = training.step(batch)
        meter.skipped_steps += training.scaler.get_scale() < scale
        labelled = batch.labelled
        meter.add(outputs.logits[: len(labelled)], labelled, losses)
        if by_batch:
            training.scheduler.step()
    if not by_batch:
        training.scheduler.step()
    return meter


@torch.no_grad()
def _evaluate(training: Training, batches: Iterator[Batch], metric: Metric | None) -> Meter:
    """Evaluate the student, as it is now, on the batches of val or test."""
    meter = Meter(metric)
    for step, batch in enumerate(batches):
        if step == 0 and batch.features is None:
            training.student.set_mode(False)
        outputs, losses = training.losses(batch)
        meter.add(outputs.logits, batch, losses)
    return meter


def _cause(training: Training, train: Meter) -> str:
    """Return why a metric is probably not finite, and what would do."""
    run = training.run
    uses_logits = not run.is_baseline and not run.compares_features
    users = own_objectives([run.loss]) if uses_logits else []
    if users and not train.is_finite(training.objective):
        return (
            f"the objective {run.loss} is NaN or infinite for a batch of train with finite logits; "
            f"check {users[0]}, which must return a finite number for all finite logits"
        )
    return "a lower lr may help" + ", or --precision fp32" * (run.precision != "fp32")
