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


def kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    teacher_temperature: float | None = None,
) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    Summed over K, mean over B, in nats. The temperature T > 0 softens both distributions; T^2
    keeps the size of the gradient, T * (q - p) / B with the softened probabilities q of the student
    and p of the teacher (Hinton et al., 2015, section 2). The teacher may have a temperature of its
    own. T^2 is then that of the student's, since only the student's logits have a gradient.
    """
    import torch.nn.functional as F

    student, teacher = _soften(student, teacher, temperature, teacher_temperature)
    log_p_student, log_p_teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
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
    teacher_temperature: float | None = None,
    dkd_alpha: float,
    dkd_beta: float,
) -> Tensor:
    """Return the decoupled distillation loss, T^2 * (dkd_alpha * TCKD + dkd_beta * NCKD).

    Both parts are KL divergences from teacher to student at temperature T, mean over B, in nats:
    TCKD of the two probabilities (label, all other classes together), NCKD of the probabilities of
    the other classes among themselves (Zhao et al., 2022, equation 7). With dkd_alpha = 1 and
    dkd_beta = 1 - p, p the teacher's probability of the label, it equals `kl`. With two classes
    NCKD is 0.
    """
    student, teacher = _soften(student, teacher, temperature, teacher_temperature)
    student_binary, student_others = _decouple(student, labels)
    teacher_binary, teacher_others = _decouple(teacher, labels)
    tckd = _divergence(student_binary, teacher_binary)
    nckd = _divergence(student_others, teacher_others)
    return (dkd_alpha * tckd + dkd_beta * nckd).mean() * temperature**2


def ls(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    teacher_temperature: float | None = None,
) -> Tensor:
    """Return `kl` of standardised logits: of each row, (z - mean) / (sd + 1e-7).

    sd is the sample standard deviation of the row (Sun et al., 2024, algorithm 1; the published
    code). Unlike `kl`, it depends on neither the scale nor the mean of a model's logits.
    """
    return kl(
        _standardise(student),
        _standardise(teacher),
        labels,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
    )


def dist(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    teacher_temperature: float | None = None,
    dist_beta: float,
    dist_gamma: float,
) -> Tensor:
    """Return dist_beta * (1 - mean r over images) + dist_gamma * (1 - mean r over classes).

    r is the Pearson correlation of the softened probabilities of student and teacher, [B, K]: of a
    row, the classes of an image, and of a column, a class over the images of the batch (Huang et
    al., 2022, section 4). It is 0 if each is an affine function of the other with positive
    slope. The columns make it depend on the batch size.

    There is no factor T^2: a correlation does not shrink with the probabilities' spread, and the
    gradient stays finite and other than 0 as T -> inf. The paper's equations have none either. The
    authors' first code has T = 1, and copies of a later one multiply by T^2: their
    weights at T = 4 are 16 times dist_beta and dist_gamma here.

    A constant row or column has no correlation; it counts as 0 and has no gradient. So the columns
    of a batch of one image add dist_gamma, without a gradient. With two classes r of a row is 1 or
    -1, without a gradient; the columns teach alone.
    """
    p_student, p_teacher = (
        logits.softmax(1) for logits in _soften(student, teacher, temperature, teacher_temperature)
    )
    of_images = 1 - _correlation(p_student, p_teacher).mean()
    of_classes = 1 - _correlation(p_student.T, p_teacher.T).mean()
    return dist_beta * of_images + dist_gamma * of_classes


def nkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    teacher_temperature: float | None = None,
    nkd_gamma: float,
) -> Tensor:
    """Return the normalised distillation loss, -p log q + nkd_gamma * T^2 * KL(others).

    p and q are the probabilities of the label, of teacher and student, without a temperature. The
    second part is the KL divergence from teacher to student between the probabilities of the other
    classes among themselves, softened by T: NCKD of `dkd`. Both are means over B, in nats (Yang et
    al., 2023; as in their code, T is not in the first part).

    The paper has the cross-entropy of the others in place of their KL divergence. They differ by
    the teacher's entropy, which is constant, so the gradients are equal. The first part is no
    divergence: it is 0 at q = 1, not at q = p.
    """
    import torch

    log_q = wide(student).log_softmax(1).gather(1, labels[:, None])[:, 0]
    p = wide(teacher).softmax(1).gather(1, labels[:, None])[:, 0]
    student, teacher = _soften(student, teacher, temperature, teacher_temperature)
    others = _divergence(_decouple(student, labels)[1], _decouple(teacher, labels)[1])
    return torch.mean(nkd_gamma * temperature**2 * others - p * log_q)


def _soften(
    student: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float | None
) -> tuple[Tensor, Tensor]:
    """Return the logits of both models divided by their temperatures, in at least float32."""
    own = temperature if teacher_temperature is None else teacher_temperature
    return wide(student) / temperature, wide(teacher) / own


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


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the Pearson correlation of each row of a and b; 0 if one of them is constant."""
    import torch

    a, b = _centre(a), _centre(b)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    # 1e-8 is the published constant: it bounds the gradient of classes that are nowhere likely
    return (a * b).sum(1) / (norms + 1e-8)


def _centre(p: Tensor) -> Tensor:
    """Return each row minus its mean; exactly 0, without gradient, if it is constant."""
    import torch

    centred = p - p.mean(1, keepdim=True)
    with torch.no_grad():
        norm = torch.linalg.vector_norm(p, dim=1, keepdim=True)
        spread = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        # what is left of a constant row is rounding error, and its direction is random
        is_constant = spread <= 8 * torch.finfo(p.dtype).eps * norm
    return centred.masked_fill(is_constant, 0)


def _standardise(logits: Tensor) -> Tensor:
    """Return each row minus its mean, divided by its sample standard deviation."""
    z = wide(logits)
    # 1e-7 is the published constant; in float16 it would be 0
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)


def wide(logits: Tensor) -> Tensor:
    """Return the logits in float32, or in float64 if that is what they are."""
    return logits.double() if logits.dtype.itemsize == 8 else logits.float()
