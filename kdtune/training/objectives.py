"""Training objectives: one table of distillation losses, pure functions of logits [B, K].

    L = alpha * CE(student, labels) + (1 - alpha) * D

D is an entry of `OBJECTIVES` or the user's own function, `--loss module:function`. Every D is
called as `function(student, teacher, labels, **hyperparameters)`: logits [B, K] of both models,
labels int64 [B], and as keywords the fields of `Run` that are its keyword-only parameters. It
returns a scalar.

All are computed in at least float32, even where the models run in bfloat16: T^2 * KL at T = 20
would be off by 7 % in bfloat16 (measured). All are computed from log-probabilities, so they are
finite for logits of any practical size.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from kdtune.config.effects import keyword_parameters
from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.config.user_code import user_code

# torch is imported inside the functions: `--help` reads the names and the signatures of this
# table, and loading torch would take it two seconds.
if TYPE_CHECKING:
    from torch import Tensor

Objective = Callable[..., "Tensor"]
"""objective(student [B, K], teacher [B, K], labels [B], **hyperparameters) -> scalar."""
BoundObjective = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""An objective whose hyperparameters are set."""


def kl(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    Summed over K, mean over B, in nats. The temperature T > 0 softens both distributions; T^2
    keeps the size of the gradient (Hinton et al., 2015, section 2).
    """
    import torch.nn.functional as F

    log_p_student = F.log_softmax(_wide(student) / temperature, dim=1)
    log_p_teacher = F.log_softmax(_wide(teacher) / temperature, dim=1)
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mse(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over [B, K] of the squared difference of the logits.

    It equals 2 * lim (T -> inf) of `kl` plus the mean over B of the squared mean difference of a
    row, which `kl` does not depend on (Kim et al., 2021, equation 10, for centred logits).
    """
    import torch.nn.functional as F

    return F.mse_loss(_wide(student), _wide(teacher))


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
    student_binary, student_others = _decouple(_wide(student) / temperature, labels)
    teacher_binary, teacher_others = _decouple(_wide(teacher) / temperature, labels)
    tckd = _divergence(student_binary, teacher_binary)
    nckd = _divergence(student_others, teacher_others)
    return (dkd_alpha * tckd + dkd_beta * nckd).mean() * temperature**2


def ls(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Return `kl` of standardised logits: of each row, (z - mean) / (sd + 1e-7).

    sd is the sample standard deviation of the row (Sun et al., 2024, algorithm 1; the published
    code). Unlike `kl`, it depends on neither the scale nor the mean of a model's logits.
    """
    return kl(_standardise(student), _standardise(teacher), labels, temperature=temperature)


OBJECTIVES: dict[str, Objective] = {function.__name__: function for function in (kl, mse, dkd, ls)}
"""All objectives by name. A new one is one function here, and its test."""


def resolve(loss: str) -> Objective:
    """Return the objective of this name, a key of `OBJECTIVES` or module:function.

    Raises:
        InputError: The name is unknown, the module cannot be imported, or what it holds under this
            name is not a function of (student, teacher, labels) and of fields of `Run`.
    """
    if loss in OBJECTIVES:
        return OBJECTIVES[loss]
    module, colon, name = loss.partition(":")
    if not colon:
        names = ", ".join(OBJECTIVES)
        raise InputError(f"loss must be one of {names} or module:function, but got loss={loss!r}")
    with user_code(f"the objective {loss} cannot be imported"):
        function: Any = getattr(importlib.import_module(module), name)
    if not callable(function):
        kind = type(function).__name__
        raise InputError(f"{loss} must be a function, but it is of type {kind}")
    with user_code(f"the signature of {loss} cannot be read"):
        _check_signature(loss, function)
    return function  # type: ignore[no-any-return]


def objective(run: Run) -> BoundObjective:
    """Return the run's objective as a function of (student, teacher, labels).

    Raises InputError as `resolve` does.
    """
    function = resolve(run.loss)
    return partial(function, **{name: getattr(run, name) for name in keyword_parameters(function)})


def check_objective(run: Run, classes: int) -> None:
    """Raise InputError unless the run's objective works on logits of random numbers.

    It must return a finite scalar with a finite gradient. Only a user's own objective is checked.
    """
    import torch

    function = objective(run)
    if run.loss in OBJECTIVES:
        return
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, classes, generator=generator) for _ in range(2))
    student.requires_grad_()
    with user_code(f"the objective {run.loss} failed on random logits of shape [4, {classes}]"):
        loss: Any = function(student, teacher, torch.arange(4) % classes)
    if not isinstance(loss, torch.Tensor) or loss.ndim > 0:
        got = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(f"the objective {run.loss} must return a scalar tensor, but got {got}")
    if not loss.isfinite():
        raise InputError(
            f"the objective {run.loss} must be finite, but got {loss.item()} for random logits"
        )
    with user_code(f"the gradient of the objective {run.loss} cannot be computed"):
        found = torch.autograd.grad(loss, student, allow_unused=True) if loss.requires_grad else ()
    if not found or found[0] is None or not found[0].isfinite().all():
        raise InputError(
            f"the objective {run.loss} must have a finite gradient with respect to the student's "
            f"logits; return a value computed from them with torch operations"
        )


def check_searched(losses: Sequence[str], searched: Collection[str]) -> None:
    """Raise InputError if a user's own objective does not take a hyperparameter that is searched.

    Args:
        losses: All objectives of the study.
        searched: The hyperparameters that have more than one value in the study. Only those that an
            objective of the table takes are checked; the others are not an objective's.
    """
    known = {name for function in OBJECTIVES.values() for name in keyword_parameters(function)}
    for loss in losses:
        if loss in OBJECTIVES:  # the annotations of `Run` say where these have an effect
            continue
        unused = [n for n in searched if n in known and n not in keyword_parameters(resolve(loss))]
        if unused:
            raise InputError(
                f"{unused[0]} is searched, but the objective {loss} does not take it; give "
                f"--{unused[0].replace('_', '-')} one value, or make it a keyword-only parameter "
                f"of {loss}"
            )


def cross_entropy(
    student: Tensor, labels: Tensor, smoothing: float = 0.0, of_each: bool = False
) -> Tensor:
    """Return the cross-entropy with the labels in nats, mean over B or of each image.

    Args:
        student: Logits [B, K].
        labels: int64 [B].
        smoothing: Share of the labels' weight that is spread evenly over all K classes, in [0, 1)
            (Szegedy et al., 2016, section 7).
        of_each: Whether to return the values of the images, [B], instead of their mean.
    """
    import torch.nn.functional as F

    reduction = "none" if of_each else "mean"
    return F.cross_entropy(_wide(student), labels, reduction=reduction, label_smoothing=smoothing)


def total(alpha: float, ce: Tensor, distill: Tensor) -> Tensor:
    """Return alpha * ce + (1 - alpha) * distill, a scalar that is affine in alpha.

    At the ends the term of weight 0 is left out of the graph. So alpha = 1 equals training without
    a teacher to the last bit, and a term that has overflowed cannot turn the other into NaN.
    """
    if alpha == 1:
        return ce
    if alpha == 0:
        return distill
    return alpha * ce + (1 - alpha) * distill


def _check_signature(loss: str, function: Objective) -> None:
    """Raise InputError unless a user's objective can be called as those of the table are."""
    known = {field.name for field in fields(Run)}
    if unknown := [name for name in keyword_parameters(function) if name not in known]:
        raise InputError(
            f"the keyword-only parameters of {loss} must be fields of kdtune.Run, but got "
            f"{unknown[0]}; give other values a place in the function itself"
        )
    try:
        keywords = dict.fromkeys(keyword_parameters(function))
        inspect.signature(function).bind(None, None, None, **keywords)
    except TypeError as error:
        raise InputError(
            f"{loss} must be a function (student, teacher, labels, *, hyperparameters), but "
            f"cannot be called so ({error})"
        ) from None


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
    z = _wide(logits)
    # 1e-7 is the published constant; in float16 it would be 0
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)


def _wide(logits: Tensor) -> Tensor:
    """Return the logits in float32, or in float64 if that is what they are."""
    return logits.double() if logits.dtype.itemsize == 8 else logits.float()
