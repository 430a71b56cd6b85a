"""The loss of a batch: its cross-entropy with the labels, its distillation term, and their sum."""

from dataclasses import dataclass

from torch import Tensor

from kdtune.config.run import Run
from kdtune.streams.batches import Batch
from kdtune.training.objectives import BoundObjective, cross_entropy, total


@dataclass(frozen=True)
class Outputs:
    """Outputs of the student for a batch."""

    logits: Tensor
    """[B, K]."""
    features: Tensor | None = None
    """Projected features, float32 [B, D] with the D of the teacher; None unless the loss compares
    features."""


@dataclass(frozen=True)
class Losses:
    """The loss of one batch and its two terms: scalars in nats, with their graph."""

    loss: Tensor
    ce: Tensor
    """Cross-entropy with the labels, without label smoothing."""
    distill: Tensor | None
    """None without a teacher and at alpha = 1."""

    @staticmethod
    def of(run: Run, objective: BoundObjective, outputs: Outputs, batch: Batch) -> "Losses":
        """Return the losses of the student's outputs for a batch.

        The cross-entropy is the mean over the images that have a label, the distillation term that
        over all images.
        """
        ce = _cross_entropy(outputs.logits, batch)
        hard = ce
        if run.label_smoothing > 0:
            hard = _cross_entropy(outputs.logits, batch, run.label_smoothing)
        if batch.teacher is None or run.alpha == 1:
            return Losses(hard, ce, None)
        distill = _distillation(objective, outputs, batch)
        return Losses(total(run.alpha, hard, distill), ce, distill)


def _cross_entropy(logits: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Return the mean over the labelled images; of a mixed image, that of both labels by share."""
    own = batch.labelled
    logits = logits[: len(own)]
    if own.partners is None:
        return cross_entropy(logits, own.labels, smoothing)
    assert own.shares is not None  # noqa: S101 - mixed, with a teacher
    first = cross_entropy(logits, own.labels, smoothing, of_each=True)
    second = cross_entropy(logits, own.partners, smoothing, of_each=True)
    return (own.shares * first + (1 - own.shares) * second).mean()


def _distillation(objective: BoundObjective, outputs: Outputs, batch: Batch) -> Tensor:
    """Return the distillation term; of mixed images, that with either label by share.

    So an objective that uses the labels sees those of both images, as the cross-entropy does. For
    one that does not, the two terms are equal.
    """
    assert batch.teacher is not None  # noqa: S101 - mixed, with a teacher
    features = outputs.features, batch.teacher_features
    term = objective(outputs.logits, batch.teacher, batch.labels, *features)
    if batch.partners is None:
        return term
    assert batch.shares is not None  # noqa: S101 - mixed, with a teacher
    share = batch.shares[0]  # all images of a training batch have the same
    other = objective(outputs.logits, batch.teacher, batch.partners, *features)
    return share * term + (1 - share) * other
