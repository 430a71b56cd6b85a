"""Metrics of an epoch, computed as the table `kdtune.config.metrics.METRICS` says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from kdtune.config.metrics import METRICS, RECORDED
from kdtune.streams.batches import Batch
from kdtune.training.losses import Losses
from kdtune.training.predictions import Predictions

Metrics = dict[str, float | int | None]
"""Metrics of a split by name, and n_examples. None where one cannot be computed: without a
teacher, or without a distillation term (alpha = 1)."""

WITHOUT_FLOAT64 = ("mps",)
"""Types of devices that cannot add in float64; the CPU adds instead."""

SHOWN = ("loss", "acc", "agreement")
"""Metrics of the line that is printed for an epoch."""


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    number: int
    """0, 1, 2, ..."""
    seconds: float
    """Wall time of training and evaluation."""
    splits: dict[str, Metrics]
    """Metrics of train, val and, in the last epoch, test. Those of train are of the forward passes
    that the student learned from."""
    predictions: dict[str, Predictions] = field(default_factory=dict, repr=False)
    """In the last epoch: the student's predictions on val and test."""

    def __str__(self) -> str:
        parts = [f"epoch {self.number:3d}  {self.seconds:6.2f} s"]
        for split, metrics in self.splits.items():
            values = [f"{name} {metrics[name]:.4f}" for name in SHOWN if metrics[name] is not None]
            parts.append(f"{split} {' '.join(values)}")
        return "  ".join(parts)


class Meter:
    """Metrics of a split, from its batches."""

    def __init__(self) -> None:
        self.count = 0
        """Examples so far."""
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._means: list[tuple[Tensor, int]] = []
        """Means of batches and their sizes that are still to be added to the sums."""
        self._batches: list[tuple[Tensor, Tensor | None, Tensor]] = []

    @torch.no_grad()
    def add(self, logits: Tensor, batch: Batch, losses: Losses) -> None:
        """Add a batch with the student's logits [B, K]; a GPU is not waited for."""
        student, teacher, labels = logits.detach(), batch.teacher, batch.labels
        means = {name: value for name, value in vars(losses).items() if value is not None}
        for name, metric in METRICS.items():
            if metric.of_batch is not None and not (metric.needs_teacher and teacher is None):
                value = metric.of_batch(student, teacher, labels)
                means[name] = value.mean() if value.ndim else value
        values = torch.stack([value.detach() for value in means.values()])
        self._names = list(means)
        if values.device.type in WITHOUT_FLOAT64:
            self._means.append((values, len(labels)))
        else:
            self._add(values, len(labels))
        self._batches.append((student, teacher, labels))
        self.count += len(labels)

    def _add(self, means: Tensor, count: int) -> None:
        sums = means.double() * count
        self._sums = sums if self._sums is None else self._sums + sums

    def metrics(self) -> Metrics:
        """Return all recorded metrics of the batches so far."""
        for means, count in self._means:
            self._add(means.cpu(), count)
        self._means.clear()
        assert self._sums is not None  # noqa: S101 - there was a batch
        sums = dict(zip(self._names, self._sums.tolist(), strict=True))
        values = {name: value / self.count for name, value in sums.items()}
        student, teacher, labels = self._outputs()
        for name, metric in METRICS.items():
            if metric.of_split is not None and not (metric.needs_teacher and teacher is None):
                values[name] = metric.of_split(student, teacher, labels)
        return {"n_examples": self.count} | {name: values.get(name) for name in RECORDED}

    def count_not_finite(
        self, of: Literal["student", "teacher"], batches: int | None = None
    ) -> tuple[int, int]:
        """Return for how many examples logits are NaN or infinite, and the number of examples.

        Args:
            of: Whose logits. Without a teacher, none of its logits is wrong.
            batches: Of the first batches only; None: of all.
        """
        own = self._batches[:batches]
        logits = [student if of == "student" else teacher for student, teacher, _ in own]
        wrong = sum(int((~one.isfinite()).any(1).sum()) for one in logits if one is not None)
        return wrong, sum(len(labels) for *_, labels in own)

    @torch.no_grad()
    def is_finite(self, objective: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
        """Return True if an objective is finite for all batches whose logits are finite.

        Args:
            objective: Of the student's logits, the teacher's and the labels.
        """
        return all(
            bool(objective(student, teacher, labels).isfinite())
            for student, teacher, labels in self._batches
            if teacher is not None and student.isfinite().all() and teacher.isfinite().all()
        )

    def predictions(self) -> Predictions:
        """Return the predictions on the batches so far."""
        return Predictions.of(*self._outputs())

    def _outputs(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the logits of student and teacher [N, K] and the labels [N]."""
        student, teacher, labels = zip(*self._batches, strict=True)
        known = None if teacher[0] is None else torch.cat(teacher)
        return torch.cat(student), known, torch.cat(labels)
