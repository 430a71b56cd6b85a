"""Metrics of an epoch."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdtune.config.run import Run
from kdtune.streams.stream import Batch
from kdtune.training import objectives as losses

Metrics = dict[str, float | int | None]


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
