"""Ensembles of teachers: the mean of their probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdtune.models.classifier import Classifier


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher: one classifier, or an ensemble of several."""

    members: tuple[Classifier, ...]
    fingerprints: tuple[str, ...]
    """Content hash of each member."""

    @staticmethod
    def of(members: Sequence[Classifier]) -> "Teacher":
        """Return the teacher of these classifiers, which are hashed here."""
        return Teacher(tuple(members), tuple(model.fingerprint() for model in members))


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
