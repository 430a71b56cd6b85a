"""Teachers: one network, the mean probability of several, or a table of outputs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdtune.models.classifier import Classifier
from kdtune.models.outputs import OutputTeacher

Model = Classifier | OutputTeacher
"""A network, or the outputs of one."""


def networks(models: Iterable[Model]) -> tuple[Classifier, ...]:
    """Return those of the models that are networks."""
    return tuple(model for model in models if isinstance(model, Classifier))


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher: one classifier, an ensemble of several, or a table of outputs."""

    members: tuple[Classifier, ...]
    """Empty for a table of outputs."""
    fingerprints: tuple[str, ...]
    """Content hash of each member, or of the table."""
    outputs: OutputTeacher | None = None
    """The table; None for networks."""

    @staticmethod
    def of(models: Sequence[Model]) -> "Teacher":
        """Return the teacher of these models, which are hashed here; a table stands alone."""
        tables = [model for model in models if isinstance(model, OutputTeacher)]
        hashes = tuple(model.fingerprint() for model in models)
        return Teacher(networks(models), hashes, tables[0] if tables else None)

    @property
    def models(self) -> tuple[Model, ...]:
        """The members, or the table."""
        return self.members if self.outputs is None else (self.outputs,)


def combine(logits: Sequence[Tensor]) -> Tensor:
    """Return the logits of an ensemble: the log of the mean of its members' probabilities.

    Their mean over the classes is 0, as that of a network's logits nearly is: a constant changes no
    probability, but the loss "mse" and the metric "logit_diff". The logits of a single member are
    returned as they are.

    Args:
        logits: float32 [B, K] of each member.
    """
    if len(logits) == 1:
        return logits[0]
    log_p = torch.stack([values.double().log_softmax(1) for values in logits])
    mean = log_p.logsumexp(0) - math.log(len(logits))
    return (mean - mean.mean(1, keepdim=True)).float()
