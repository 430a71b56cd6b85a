"""Distillation losses: pure functions, and the table of them."""

import inspect
import json
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.config.fields import keyword_parameters, takes_features, terms_of
from kdtune.config.run import Run
from kdtune.config.text import InputError, import_named, list_some, user_code
from kdtune.data.dataset import Data

# Distillation losses of logits: pure functions of logits [B, K] and labels [B].
#
# All are computed in at least float32, even where the models run in bfloat16: T^2 * KL at T = 20
# would be off by 7 % in bfloat16 (measured). All are computed from log-probabilities, so they are
# finite for logits of any practical size.


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
    student, teacher = _soften(student, teacher, temperature, teacher_temperature)
    log_p_student, log_p_teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mse(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over [B, K] of the squared difference of the logits.

    It equals 2 * lim (T -> inf) of `kl` plus the mean over B of the squared mean difference of a
    row, which `kl` does not depend on (Kim et al., 2021, equation 10, for centred logits).
    """
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
    z_s, z_t = _standardise(student), _standardise(teacher)
    return kl(z_s, z_t, labels, temperature=temperature, teacher_temperature=teacher_temperature)


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
    log_q = wide(student).log_softmax(1).gather(1, labels[:, None])[:, 0]
    p = wide(teacher).softmax(1).gather(1, labels[:, None])[:, 0]
    student, teacher = _soften(student, teacher, temperature, teacher_temperature)
    others = _divergence(_decouple(student, labels)[1], _decouple(teacher, labels)[1])
    return torch.mean(nkd_gamma * temperature**2 * others - p * log_q)


def _soften(
    student: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float | None
) -> tuple[Tensor, Tensor]:
    """Return the logits of both models divided by their temperatures, in at least float32."""
    of_teacher = temperature if teacher_temperature is None else teacher_temperature
    return wide(student) / temperature, wide(teacher) / of_teacher


def _decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits of (label, all other classes together) [B, 2] and of the others [B, K - 1]."""
    index = torch.arange(logits.shape[1] - 1, device=logits.device)
    # gathered by index: a boolean mask would make a GPU wait for its size
    others = logits.gather(1, index + (index >= labels[:, None]))
    label = logits.gather(1, labels[:, None])
    return torch.cat([label, others.logsumexp(1, keepdim=True)], 1), others


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(softmax(teacher) || softmax(student)) of each row, [B]."""
    log_p_student, log_p_teacher = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    return F.kl_div(log_p_student, log_p_teacher, reduction="none", log_target=True).sum(1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the Pearson correlation of each row of a and b; 0 if one of them is constant."""
    a, b = _centre(a), _centre(b)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    # 1e-8 is the published constant: it bounds the gradient of classes that are nowhere likely
    return (a * b).sum(1) / (norms + 1e-8)


def _centre(p: Tensor) -> Tensor:
    """Return each row minus its mean; exactly 0, without gradient, if it is constant."""
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


# Distillation losses of penultimate features: pure functions of features [B, D].
#
# The features of a model are the input of its head. Those of the student are projected to the
# teacher's D by a linear layer that is trained with it (`make_projector`). All are computed in at
# least float32. The labels are not used.


def features_mse(student_features: Tensor, teacher_features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over [B, D] of the squared difference of the features.

    The features are not normalised, so its size is that of the teacher's features squared. It is
    the regression of FitNets (Romero et al., 2015, equation 3, where it is half the sum over D), of
    the last features instead of a middle layer's.
    """
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


# Training objectives: the table of distillation losses, the user's own, and sums of two.
#
#         L = alpha * CE(student, labels) + (1 - alpha) * D
#
# D is an entry of `OBJECTIVES`, the user's own function, `--loss module:function`, or a sum of two
# of these, `--loss A+B`, which is A + loss_weight * B. Every term is called as
# `function(student, teacher, labels, **hyperparameters)`: logits [B, K] of both models, labels
# int64 [B], and as keywords the fields of `Run` that are its keyword-only parameters. It returns a
# scalar.
#
# A term whose first two parameters are named student_features and teacher_features is given
# features [B, D] in place of logits: the input of the teacher's head, and that of the student's
# head after a linear projector.


Objective = Callable[..., Tensor]
"""objective(student [B, K], teacher [B, K], labels [B], **hyperparameters) -> scalar; or of
student_features [B, D] and teacher_features [B, D]."""

OBJECTIVES: dict[str, Objective] = {
    function.__name__: function
    for function in (kl, mse, dkd, ls, dist, nkd, features_mse, features_cosine)
}
"""All objectives by name. A new one is a function above, named here and declared in `LOSSES` of
config/fields.py, and its test."""


@dataclass(frozen=True)
class Term:
    """One of the losses that an objective is the sum of."""

    weight: float
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Of (student [B, K], teacher [B, K], labels [B]); its hyperparameters are set."""
    of_features: bool = False
    """Whether it is given features [B, D] in place of logits."""


@dataclass(frozen=True)
class BoundObjective:
    """The distillation loss of a run: a weighted sum of terms whose hyperparameters are set."""

    terms: tuple[Term, ...]
    """One or two; the weight of the first is 1."""
    class_weights: Tensor | None = None
    """Weights of the classes in the cross-entropy beside it, [K], on the device of the logits."""

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        student_features: Tensor | None = None,
        teacher_features: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student: Logits [B, K].
            teacher: Logits [B, K].
            labels: int64 [B].
            student_features: Projected, [B, D]; None if no term is of features.
            teacher_features: [B, D]; None if no term is of features.
        """

        def value(term: Term) -> Tensor:
            if not term.of_features:
                return term.function(student, teacher, labels)
            assert student_features is not None and teacher_features is not None  # noqa: S101 - of_features says so
            return term.function(student_features, teacher_features, labels)

        first, *others = self.terms
        loss = value(first)
        for term in others:
            loss = loss + term.weight * value(term)
        return loss


def find_objective(loss: str) -> Objective:
    """Return the objective of this name, a key of `OBJECTIVES` or module:function, not a sum.

    Raises:
        InputError: The module cannot be imported, or what it holds under this name is not a
            function of (student, teacher, labels) and of fields of `Run`.
    """
    if loss in OBJECTIVES:
        return OBJECTIVES[loss]
    function: Objective = import_named("the objective", loss)
    with user_code(f"the signature of {loss} cannot be read"):
        _check_signature(loss, function)
    return function


def objective(run: Run) -> BoundObjective:
    """Return the run's objective. Raises InputError as `find_objective` does."""
    weights = (1.0, run.loss_weight)
    terms = zip(weights, terms_of(run.loss), strict=False)
    return BoundObjective(tuple(Term(w, _bind(n, run), takes_features(n)) for w, n in terms))


def _bind(name: str, run: Run) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the objective of this name, not a sum, with the run's hyperparameters."""
    function = find_objective(name)
    return partial(function, **{n: getattr(run, n) for n in keyword_parameters(function)})


def own_objectives(losses: Sequence[str]) -> list[str]:
    """Return the user's own objectives, module:function, among losses and the terms of sums."""
    terms = dict.fromkeys(term for loss in losses for term in terms_of(loss))
    return [term for term in terms if term not in OBJECTIVES]


def check_objective(run: Run, classes: int) -> None:
    """Raise InputError unless the run's objective works on logits of random numbers.

    Each term must return a finite scalar with a finite gradient. Only a user's own is checked.
    """
    objective(run)
    for name in own_objectives([run.loss]):
        _check_own(name, run, classes)


def _check_own(name: str, run: Run, classes: int) -> None:
    """Raise InputError unless a user's own objective works on logits of random numbers."""
    function = _bind(name, run)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, classes, generator=generator) for _ in range(2))
    student.requires_grad_()
    arguments = {"student": student, "teacher": teacher, "labels": torch.arange(4) % classes}
    before = {argument: value.detach().clone() for argument, value in arguments.items()}
    with user_code(f"the objective {name} failed on random logits of shape [4, {classes}]"):
        loss: Any = function(*arguments.values())
    if changed := [key for key, value in arguments.items() if not torch.equal(value, before[key])]:
        raise InputError(
            f"the objective {name} must leave its arguments as they are, but has changed "
            f"{changed[0]} in place; other runs use the same logits: compute new tensors instead"
        )
    if not isinstance(loss, torch.Tensor) or loss.ndim > 0:
        got = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(f"the objective {name} must return a scalar tensor, but got {got}")
    if not loss.isfinite():
        raise InputError(
            f"the objective {name} must be finite, but got {loss.item()} for random logits"
        )
    with user_code(f"the gradient of the objective {name} cannot be computed"):
        gradients = (
            torch.autograd.grad(loss, student, allow_unused=True) if loss.requires_grad else ()
        )
    if not gradients or gradients[0] is None or not gradients[0].isfinite().all():
        raise InputError(
            f"the objective {name} must have a finite gradient with respect to the student's "
            f"logits; return a value computed from them with torch operations"
        )
    if not gradients[0].any():
        warnings.warn(
            f"the gradient of the objective {name} with respect to the student's logits is 0 for "
            f"random logits, so a student may learn nothing from it; check that it depends on them",
            stacklevel=1,
        )


def check_searched(losses: Sequence[str], searched: Collection[str]) -> None:
    """Raise InputError if a user's own objective does not take a hyperparameter that is searched.

    Args:
        losses: All objectives of the study.
        searched: The hyperparameters that have more than one value in the study. Only those that an
            objective of the table takes are checked; the others are not an objective's.
    """
    of_table = {name for function in OBJECTIVES.values() for name in keyword_parameters(function)}
    for loss in losses:
        if not (users := own_objectives([loss])):  # the annotations of `Run` say what has an effect
            continue
        taken = {n for term in terms_of(loss) for n in keyword_parameters(find_objective(term))}
        if unused := [name for name in searched if name in of_table - taken]:
            raise InputError(
                f"{unused[0]} is searched, but the objective {loss} does not take it; give "
                f"--{unused[0].replace('_', '-')} one value, or make it a keyword-only parameter "
                f"of {users[0]}"
            )


def class_weights(run: Run, data: Data) -> Tensor | None:
    """Return the weights of the classes in the cross-entropy, float32 [K]; None for equal ones.

    "balanced" is N / (K * n_k), as in scikit-learn, for n_k of the run's N training images.

    Raises:
        InputError: The run has weights for other classes than those of the data.
    """
    if run.class_weights == "none":
        return None
    if run.class_weights == "balanced":
        labels = data.splits["train"].labels[data.subset(run)]
        counts = labels.bincount(minlength=len(data.classes)).clamp(min=1)
        return len(labels) / (len(counts) * counts)
    weights = json.loads(run.class_weights)
    if different := sorted({*weights} ^ {*data.classes}):
        raise InputError(
            f"--class-weights must have a weight for each of the {len(data.classes)} classes and "
            f"no other, but differs from them in {list_some(different, 3)}; correct the file"
        )
    return torch.tensor([weights[name] for name in data.classes])


def cross_entropy(student: Tensor, labels: Tensor, of_each: bool = False, **options: Any) -> Tensor:
    """Return the cross-entropy with the labels in nats, mean over B or of each image.

    Args:
        student: Logits [B, K].
        labels: int64 [B].
        of_each: Whether to return the values of the images, [B], instead of their mean.
        options: Of torch's function: label_smoothing, the share of the labels' weight that is
            spread evenly over all K classes, in [0, 1) (Szegedy et al., 2016, section 7), and
            weight, of each class, [K], by whose sum over the labels the mean is divided.
    """
    reduction = "none" if of_each else "mean"
    return F.cross_entropy(wide(student), labels, reduction=reduction, **options)


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
    names = {field.name for field in fields(Run)}
    if unknown := [name for name in keyword_parameters(function) if name not in names]:
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
            f"cannot be called so ({error}); hyperparameters are keyword-only parameters, after *"
        ) from None
