"""The one training loop: a generator of epochs. It yields, callers log.

The same loop distils a student, trains it plainly (alpha = 1) and fine-tunes a teacher (no teacher
of its own).
"""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdtune.config.run import Run
from kdtune.models.classifier import Classifier
from kdtune.streams.chunks import seed_step
from kdtune.streams.stream import Batch, Stream
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.metrics import Epoch, Meter, Metrics
from kdtune.training.optim import make_optimizer, make_scheduler


class Diverged(RuntimeError):
    """A metric is no longer a number."""


def train(
    run: Run, student: Classifier, stream: Stream, checkpoint: Checkpoint | None = None
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


def _check_finite(splits: dict[str, Metrics], number: int) -> None:
    for split, metrics in splits.items():
        for name, value in metrics.items():
            if value is not None and not math.isfinite(value):
                raise Diverged(
                    f"{split}'s {name} became {value} in epoch {number}; a lower lr may help"
                )
