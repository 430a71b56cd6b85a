"""Distillation losses: pure functions of logits [B, K], all in at least float32.

    L = alpha * CE(student, labels) + (1 - alpha) * D

with D one of `mse` and `kl`. Softmax work is done in float32 even where the models run in
bfloat16: T^2 * KL at T = 20 would be off by 7 % in bfloat16 (measured).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kdtune.config.run import Run

# torch is imported inside the functions: config reads the table below, and --help must be fast
if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, int64 [B]; scalar, mean over the batch."""
    import torch.nn.functional as F

    return F.cross_entropy(_wide(student), labels)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over [B, K] of the squared difference of logits; scalar.

    Equals 2 * lim (T -> inf) of `kl` plus the mean squared per-row mean difference of the
    logits, which `kl` does not see (Kim et al., 2021, eq. 10, for centred logits).
    """
    import torch.nn.functional as F

    return F.mse_loss(_wide(student), _wide(teacher))


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over K, mean over B; scalar.

    The temperature T > 0 softens both; T^2 keeps the gradient's size (Hinton et al., 2015,
    section 2). Computed from log-probabilities, so finite for any finite logits.
    """
    import torch.nn.functional as F

    log_p_student = F.log_softmax(_wide(student) / temperature, dim=1)
    log_p_teacher = F.log_softmax(_wide(teacher) / temperature, dim=1)
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _kl(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    return kl(student, teacher, temperature)


def _mse(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return mse(student, teacher)


OBJECTIVES: dict[str, Callable[..., Tensor]] = {"kl": _kl, "mse": _mse}
"""Objectives by name; their keyword-only parameters are fields of `Run`."""


def distillation(run: Run, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distillation term D of this run; scalar."""
    if run.loss == "kl":
        return kl(student, teacher, run.temperature)
    return mse(student, teacher)


def total(alpha: float, ce: Tensor, distill: Tensor) -> Tensor:
    """The loss alpha * ce + (1 - alpha) * distill; scalar, affine in alpha.

    The ends leave the dead term out of the graph: alpha = 1 equals training without any teacher
    bit for bit, and a term that has overflowed cannot turn the other into NaN.
    """
    if alpha == 1:
        return ce
    if alpha == 0:
        return distill
    return alpha * ce + (1 - alpha) * distill


def _wide(logits: Tensor) -> Tensor:
    return logits.double() if logits.dtype.itemsize == 8 else logits.float()
