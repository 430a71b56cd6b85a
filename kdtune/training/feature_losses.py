"""Distillation losses of penultimate features: pure functions of features [B, D].

The features of a model are the input of its head. Those of the student are projected to the
teacher's D by a linear layer that is trained with it (`projector`). All are computed in at least
float32. The labels are not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtune.training.logit_losses import wide

# torch is imported inside the functions, as in logit_losses
if TYPE_CHECKING:
    from torch import Tensor


def features_mse(student_features: Tensor, teacher_features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over [B, D] of the squared difference of the features.

    The features are not normalised, so its size is that of the teacher's features squared. It is
    the regression of FitNets (Romero et al., 2015, equation 3, where it is half the sum over D), of
    the last features instead of a middle layer's.
    """
    import torch.nn.functional as F

    return F.mse_loss(wide(student_features), wide(teacher_features))


def features_cosine(student_features: Tensor, teacher_features: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - the cosine of the angle between the features of an image, mean over B.

    Each row is divided by its Euclidean norm, so the size of the features does not matter: it is
    half the squared distance of the normalised rows, in [0, 2]. The cosine with a row of zeros is
    0. (DistilBERT has this term for hidden states: Sanh et al., 2019, section 2.)
    """
    student, teacher = _unit_rows(student_features), _unit_rows(teacher_features)
    return (1 - (student * teacher).sum(1)).mean()


def _unit_rows(features: Tensor) -> Tensor:
    """Return each row divided by its Euclidean norm; a row of zeros stays as it is."""
    z = wide(features)
    # by the largest value first, so that no square overflows; a row's norm has then no effect of it
    largest = z.detach().abs().amax(1, keepdim=True)
    z = z / largest.masked_fill(largest == 0, 1)
    squares = (z * z).sum(1, keepdim=True)
    return z / squares.masked_fill(squares == 0, 1).sqrt()
