"""The plain loop: what a user would write without streams; the reference of tests and benchmark.

It decodes and augments each image, runs the teacher on each batch and the whole student, every
epoch of every run, and shares nothing. Views, order and seeds are the repeat's, so its results
must equal those of a run over the stream.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from kdtune.config.run import Run
from kdtune.data.dataset import Data
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.models.classifier import Classifier, Layout
from kdtune.streams.chunks import epoch_order, seed_step
from kdtune.streams.stream import view_size
from kdtune.training import objectives as losses
from kdtune.training.optim import make_optimizer, make_scheduler
from kdtune.training.run import make_student
from kdtune.training.teacher import load_teacher

Means = dict[str, float]


def plain_loop(
    run: Run,
    teacher_folder: Path,
    device: str = "cpu",
    workers: int = 0,
    teacher_backward: bool = False,
    layout: Layout = "channels_last",
) -> Iterator[tuple[Classifier, Means]]:
    """Distil, an epoch at a time; yields the student and its metrics on val.

    `teacher_backward` also back-propagates through the teacher, as the starting repository did.
    """
    data, where = load_data(run.data), torch.device(device)
    teacher = load_teacher(run, teacher_folder).place(where, run.precision, layout)
    student = make_student(run).place(where, run.precision, layout)
    teacher.set_mode(False)
    teacher.requires_grad_(teacher_backward)
    if run.trainable == "head":
        student.freeze(head=False)
    optimizer = make_optimizer(run, student)
    subset, size = data.subset(run), view_size(run, data, student, teacher)
    scheduler = make_scheduler(run, optimizer, -(-len(subset) // run.batch_size))
    for epoch in range(run.epochs):
        index = subset[epoch_order(run, len(subset), epoch)]
        views = Views(data.splits["train"], index, run, size, epoch)
        labels = data.splits["train"].labels[index].split(run.batch_size)
        batches = zip(views.batches(run.batch_size, workers), labels, strict=True)
        for step, (x, y) in enumerate(batches):
            x, y = x.to(where), y.to(where)
            student.set_mode(True, run.batch_norm == "train")
            seed_step(run, epoch, step)
            logits = student(x)
            with torch.set_grad_enabled(teacher_backward):
                target = teacher(x)
            loss = total_loss(run, logits, y, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if run.schedule == "onecycle":
                scheduler.step()
        if run.schedule != "onecycle":
            scheduler.step()
        yield student, evaluate(data, run, size, student, teacher, where, workers)


def total_loss(run: Run, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The loss as one writes it down."""
    ce = nn.functional.cross_entropy(logits, y)
    if run.alpha == 1 and not target.requires_grad:
        return ce
    distill = losses.distillation(run, logits, target)
    return run.alpha * ce + (1 - run.alpha) * distill


@torch.no_grad()
def evaluate(
    data: Data,
    run: Run,
    size: int,
    student: Classifier,
    teacher: Classifier,
    device: torch.device,
    workers: int,
) -> Means:
    """Metrics of val, from all logits at once."""
    split = data.splits["val"]
    student.set_mode(False)
    zs, zt = [], []
    for x in Views(split, torch.arange(len(split)), run, size).batches(32, workers):
        zs.append(student(x.to(device)).cpu())
        zt.append(teacher(x.to(device)).cpu())
    s, t, y = torch.cat(zs), torch.cat(zt), split.labels
    p = torch.log_softmax(t, 1)
    return {
        "loss": float(total_loss(run, s, y, t)),
        "ce": float(nn.functional.cross_entropy(s, y)),
        "acc": float((s.argmax(1) == y).double().mean()),
        "teacher_acc": float((t.argmax(1) == y).double().mean()),
        "logit_diff": float((s - t).abs().mean()),
        "agreement": float((s.argmax(1) == t.argmax(1)).double().mean()),
        "kl": float((p.exp() * (p - torch.log_softmax(s, 1))).sum(1).mean()),
    }
