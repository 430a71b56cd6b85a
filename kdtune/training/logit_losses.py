"""Distillation losses of logits: pure functions of logits [B, K] and labels [B].

All are computed in at least float32, even where the models run in bfloat16: T^2 * KL at T = 20
would be off by 7 % in bfloat16 (measured). All are computed from log-probabilities, so they are
finite for logits of any practical size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# torch is imported inside the functions: `--help` reads the names and the signatures of the losses,
# and loading torch would take it two seconds.
if TYPE_CHECKING:
    from torch import Tensor


def kl(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    Summed over K, mean over B, in nats. The temperature T > 0 softens both distributions; T^2
    keeps the size of the gradient (Hinton et al., 2015, section 2).
    """
    import torch.nn.functional as F

    log_p_student = F.log_softmax(wide(student) / temperature, dim=1)
    log_p_teacher = F.log_softmax(wide(teacher) / temperature, dim=1)
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mse(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over [B, K] of the squared difference of the logits.

    It equals 2 * lim (T -> inf) of `kl` plus the mean over B of the squared mean difference of a
    row, which `kl` does not depend on (Kim et al., 2021, equation 10, for centred logits).
    """
    import torch.nn.functional as F

    return F.mse_loss(wide(student), wide(teacher))


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    dkd_alpha: float,
    dkd_beta: float,
) -> Tensor:
    """Return the decoupled distillation loss, T^2 * (dkd_alpha * TCKD + dkd_beta * NCKD).

    Both parts are KL divergences from teacher to student at temperature T, mean over B, in nats:
    TCKD of the two probabilities (label, all other classes together), NCKD of the probabilities of
    the other classes among themselves (Zhao et al., 2022, equation 7). With dkd_alpha = 1 and
    dkd_beta = 1 - p, p the teacher's probability of the label, it equals `kl`.
    """
    student_binary, student_others = _decouple(wide(student) / temperature, labels)
    teacher_binary, teacher_others = _decouple(wide(teacher) / temperature, labels)
    tckd = _divergence(student_binary, teacher_binary)
    nckd = _divergence(student_others, teacher_others)
    return (dkd_alpha * tckd + dkd_beta * nckd).mean() * temperature**2


def ls(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Return `kl` of standardised logits: of each row, (z - mean) / (sd + 1e-7).

    sd is the sample standard deviation of the row (Sun et al., 2024, algorithm 1; the published
    code). Unlike `kl`, it depends on neither the scale nor the mean of a model's logits.
    """
    return kl(_standardise(student), _standardise(teacher), labels, temperature=temperature)


def _decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits of (label, all other classes together) [B, 2] and of the others [B, K - 1]."""
    import torch

    index = torch.arange(logits.shape[1] - 1, device=logits.device)
    # gathered by index: a boolean mask would make a GPU wait for its size
    others = logits.gather(1, index + (index >= labels[:, None]))
    label = logits.gather(1, labels[:, None])
    return torch.cat([label, others.logsumexp(1, keepdim=True)], 1), others


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(softmax(teacher) || softmax(student)) of each row, [B]."""
    import torch.nn.functional as F

    log_p_student, log_p_teacher = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    return F.kl_div(log_p_student, log_p_teacher, reduction="none", log_target=True).sum(1)


def _standardise(logits: Tensor) -> Tensor:
    """Return each row minus its mean, divided by its sample standard deviation."""
    z = wide(logits)
    # 1e-7 is the published constant; in float16 it would be 0
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)


def wide(logits: Tensor) -> Tensor:
    """Return the logits in float32, or in float64 if that is what they are."""
    return logits.double() if logits.dtype.itemsize == 8 else logits.float()
