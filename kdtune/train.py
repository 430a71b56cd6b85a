"""The one training loop: a generator of epochs. It yields, callers log.

The same loop distils a student, trains it plainly (alpha = 1) and fine-tunes a teacher (no teacher
of its own).
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    StepLR,
)

from kdtune import losses
from kdtune.config.files import written_aside
from kdtune.config.run import Run
from kdtune.models.classifier import Classifier
from kdtune.streams.chunks import seed_step
from kdtune.streams.stream import Batch, Stream

Metrics = dict[str, float | int | None]


class Diverged(RuntimeError):
    """A metric is no longer a number."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    number: int
    """0, 1, 2, ..."""
    seconds: float
    """Wall time of training and evaluation."""
    splits: dict[str, Metrics]
    """Metrics of train, val and, in the last epoch, test: n_examples, loss, ce, distill, acc,
    teacher_acc, logit_diff, agreement, kl (at T = 1); None where there is no teacher or no term.
    Those of train are of the passes that the student learned from."""
    correct: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """In the last epoch: which examples of val and test the student gets right, bool [N]."""

    def __str__(self) -> str:
        parts = [f"epoch {self.number:3d}  {self.seconds:6.2f} s"]
        for split, metrics in self.splits.items():
            names = ("loss", "acc", "agreement")
            values = [f"{n} {metrics[n]:.4f}" for n in names if metrics[n] is not None]
            parts.append(f"{split} {' '.join(values)}")
        return "  ".join(parts)


def train(
    run: Run, student: Classifier, stream: Stream, checkpoint: "Checkpoint | None" = None
) -> Iterator[Epoch]:
    """Train the student on the stream, an epoch at a time.

    Args:
        run: optimiser, schedule, loss, epochs.
        student: on its device; trained in place.
        stream: its batches.
        checkpoint: the state, kept on the way. Where it exists the run goes on from it, after
            yielding its past epochs once more, so that no epoch is lost that the caller has not
            written down.

    Raises:
        Diverged: a loss or another metric became NaN or infinite.
    """
    optimizer = make_optimizer(run, student)
    scheduler = make_scheduler(run, optimizer, stream.steps_per_epoch)
    past: list[Epoch] = []
    if checkpoint is not None:
        past = checkpoint.load(student, optimizer, scheduler)
        yield from past
    for number in range(len(past), run.epochs):
        started = time.perf_counter()
        splits = {"train": _train_epoch(run, student, stream, optimizer, scheduler, number)}
        last, correct = number == run.epochs - 1, dict[str, Tensor]()
        for split in ("val", "test") if last else ("val",):
            if split in stream.data.splits:
                splits[split], hits = evaluate(run, student, stream, split, number)
                correct |= {split: hits} if last else {}
        _check_finite(splits, number)
        past.append(Epoch(number, time.perf_counter() - started, splits, correct))
        if checkpoint is not None:
            checkpoint.keep(student, optimizer, scheduler, past)
        yield past[-1]  # after its state is kept, where it is: what is told is seldom lost


def _train_epoch(
    run: Run,
    student: Classifier,
    stream: Stream,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    number: int,
) -> Metrics:
    meter = Meter(run)
    for step, batch in enumerate(stream.train(number)):
        if step == 0 and batch.features is None:  # a head of its own has no mode
            student.set_mode(True, run.batch_norm == "train")
        seed_step(run, number, step)
        logits = predict(student, batch)
        loss = meter.add(logits, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run.schedule == "onecycle":
            scheduler.step()
    if run.schedule != "onecycle":
        scheduler.step()
    return meter.means()


@torch.no_grad()
def evaluate(
    run: Run, student: Classifier, stream: Stream, split: str, number: int
) -> tuple[Metrics, Tensor]:
    """Metrics of a split, for the student as it is after epoch `number`, and its hits, bool [N]."""
    meter, hits = Meter(run), []
    for step, batch in enumerate(stream.evaluate(split, number)):
        if step == 0 and batch.features is None:
            student.set_mode(False)
        logits = predict(student, batch)
        meter.add(logits, batch)
        hits.append(logits.argmax(1) == batch.labels)
    return meter.means(), torch.cat(hits).cpu()


def predict(student: Classifier, batch: Batch) -> Tensor:
    """Logits [B, K] of the batch, from its features where the backbone is frozen."""
    if batch.features is not None:
        return student.classify(batch.features)
    assert batch.views is not None
    return student(batch.views)  # type: ignore[no-any-return]


class Meter:
    """Means over the examples of a split."""

    def __init__(self, run: Run):
        self.run = run
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, logits: Tensor, batch: Batch) -> Tensor:
        """Add a batch; returns its loss, a scalar to go backward from."""
        ce = losses.cross_entropy(logits, batch.labels)
        loss, distill = ce, None
        if batch.teacher is not None and self.run.alpha < 1:
            distill = losses.distillation(self.run, logits, batch.teacher)
            loss = losses.total(self.run.alpha, ce, distill)
        with torch.no_grad():
            top = logits.argmax(1)
            means = {"loss": loss, "ce": ce, "acc": (top == batch.labels).double().mean()}
            if distill is not None:
                means["distill"] = distill
            if batch.teacher is not None:
                choice = batch.teacher.argmax(1)
                means["teacher_acc"] = (choice == batch.labels).double().mean()
                means["agreement"] = (choice == top).double().mean()
                means["logit_diff"] = (batch.teacher - logits).abs().mean()
                means["kl"] = losses.kl(logits, batch.teacher, 1.0)
            size = len(batch.labels)
            for name, value in means.items():
                total = self.sums.get(name, 0.0)
                self.sums[name] = total + value.detach().double() * size
            self.count += size
        return loss

    def means(self) -> Metrics:
        """The means so far; None for what was never added."""
        names = ("loss", "ce", "distill", "acc", "teacher_acc", "logit_diff", "agreement", "kl")
        means: Metrics = {"n_examples": self.count}
        for name in names:
            total = self.sums.get(name)
            means[name] = None if total is None else float(total) / self.count
        return means


def make_optimizer(run: Run, student: Classifier) -> Optimizer:
    """The run's optimiser over what of the student learns."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    if run.optimizer == "adamw":
        return AdamW(parameters, lr=run.lr, weight_decay=run.weight_decay)
    return SGD(parameters, lr=run.lr, momentum=run.momentum, weight_decay=run.weight_decay)


def make_scheduler(run: Run, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The run's learning rate over time; "onecycle" steps every batch, the others every epoch."""
    match run.schedule:
        case "constant":
            return ConstantLR(optimizer, factor=1.0)
        case "step":
            return StepLR(optimizer, run.lr_step_size, run.lr_gamma)
        case "cosine":
            return CosineAnnealingLR(optimizer, run.epochs)
        case "onecycle":
            steps = run.epochs * steps_per_epoch
            # the momentum asked for is the momentum used
            return OneCycleLR(optimizer, run.lr, steps, cycle_momentum=False)


def _check_finite(splits: dict[str, Metrics], number: int) -> None:
    for split, metrics in splits.items():
        for name, value in metrics.items():
            if value is not None and not math.isfinite(value):
                raise Diverged(
                    f"{split}'s {name} became {value} in epoch {number}; a lower lr may help"
                )


class Checkpoint:
    """The state of a run in a file: kept after each epoch, of very short ones after several.

    What a crash costs is one epoch, or 100 times what keeping a state takes, but no more than one
    epoch and two seconds.

    Args:
        file: of the state.
        sent: is called when a new state is there, to bring it to safety.
    """

    SHARE = 0.01
    """Of the time that may go into keeping states, unless they would grow older than `SECONDS`."""
    SECONDS = 2.0

    def __init__(self, file: Path, sent: Callable[[], None] = lambda: None):
        self.file, self._sent = file, sent
        self._cost, self._unkept = math.inf, math.inf  # seconds

    def keep(
        self, student: Classifier, optimizer: Optimizer, scheduler: LRScheduler, past: list[Epoch]
    ) -> None:
        """Keep the state after the last epoch of the past, unless that comes too often."""
        self._unkept += past[-1].seconds
        if self._unkept < min(self._cost / self.SHARE, self.SECONDS):
            return
        began = time.perf_counter()
        state = {
            "student": student.net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": {k: v for k, v in scheduler.state_dict().items() if not callable(v)},
            "epochs": [vars(epoch) for epoch in past],
        }
        with written_aside(self.file) as aside:
            torch.save(state, aside)
        self._sent()
        took = time.perf_counter() - began
        self._cost, self._unkept = min(took, 2 * self._cost), 0.0  # once slow is not always slow

    def load(
        self, student: Classifier, optimizer: Optimizer, scheduler: LRScheduler
    ) -> list[Epoch]:
        """Put a run back to its state, if there is one; returns its past."""
        try:
            state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        except Exception:  # none, or damaged, which torch answers with many types: begin again
            return []
        student.net.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        return [Epoch(**values) for values in state["epochs"]]
