"""Training objectives: the table of distillation losses, the user's own, and sums of two.

    L = alpha * CE(student, labels) + (1 - alpha) * D

D is an entry of `OBJECTIVES`, the user's own function, `--loss module:function`, or a sum of two of
these, `--loss A+B`, which is A + loss_weight * B. Every term is called as
`function(student, teacher, labels, **hyperparameters)`: logits [B, K] of both models, labels int64
[B], and as keywords the fields of `Run` that are its keyword-only parameters. It returns a scalar.

A term whose first two parameters are named student_features and teacher_features is given features
[B, D] in place of logits: the input of the teacher's head, and that of the student's head after a
linear projector (`projector`).
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from kdtune.config.effects import SUM_WEIGHT, keyword_parameters, terms_of
from kdtune.config.errors import InputError
from kdtune.config.fields import searchable
from kdtune.config.run import Run
from kdtune.config.user_code import user_code
from kdtune.training.feature_losses import features_cosine, features_mse
from kdtune.training.logit_losses import dist, dkd, kl, ls, mse, nkd, wide

# torch is imported inside the functions: `--help` reads the names and the signatures of this
# table, and loading torch would take it two seconds.
if TYPE_CHECKING:
    from torch import Tensor

Objective = Callable[..., "Tensor"]
"""objective(student [B, K], teacher [B, K], labels [B], **hyperparameters) -> scalar; or of
student_features [B, D] and teacher_features [B, D]."""
FEATURES = ("student_features", "teacher_features")
"""Names of the first two parameters of an objective of features."""

OBJECTIVES: dict[str, Objective] = {
    function.__name__: function
    for function in (kl, mse, dkd, ls, dist, nkd, features_mse, features_cosine)
}
"""All objectives by name. A new one is one function in `logit_losses` or `feature_losses`, and its
test."""


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


def resolve(loss: str) -> Objective:
    """Return the objective of this name, a key of `OBJECTIVES` or module:function, not a sum.

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
    """Return the run's objective. Raises InputError as `resolve` does."""
    weights = (1.0, run.loss_weight)
    own = zip(weights, terms_of(run.loss), strict=False)
    return BoundObjective(tuple(Term(w, _bind(n, run), takes_features(n)) for w, n in own))


def takes_features(loss: str) -> bool:
    """Return True if an objective or a term of a sum is of features; raise as `resolve` does."""
    functions = map(resolve, terms_of(loss))
    return any(tuple(inspect.signature(f).parameters)[:2] == FEATURES for f in functions)


def _bind(name: str, run: Run) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the objective of this name, not a sum, with the run's hyperparameters."""
    function = resolve(name)
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
    import torch

    function = _bind(name, run)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, classes, generator=generator) for _ in range(2))
    student.requires_grad_()
    given = {"student": student, "teacher": teacher, "labels": torch.arange(4) % classes}
    before = {argument: value.detach().clone() for argument, value in given.items()}
    with user_code(f"the objective {name} failed on random logits of shape [4, {classes}]"):
        loss: Any = function(*given.values())
    if changed := [key for key, value in given.items() if not torch.equal(value, before[key])]:
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
        found = torch.autograd.grad(loss, student, allow_unused=True) if loss.requires_grad else ()
    if not found or found[0] is None or not found[0].isfinite().all():
        raise InputError(
            f"the objective {name} must have a finite gradient with respect to the student's "
            f"logits; return a value computed from them with torch operations"
        )
    if not found[0].any():
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
    known = {name for function in OBJECTIVES.values() for name in keyword_parameters(function)}
    for loss in losses:
        if not (own := own_objectives([loss])):  # the annotations of `Run` say what has an effect
            continue
        taken = {n for term in terms_of(loss) for n in keyword_parameters(resolve(term))}
        if unused := [name for name in searched if name in known - taken]:
            raise InputError(
                f"{unused[0]} is searched, but the objective {loss} does not take it; give "
                f"--{unused[0].replace('_', '-')} one value, or make it a keyword-only parameter "
                f"of {own[0]}"
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
    return F.cross_entropy(wide(student), labels, reduction=reduction, label_smoothing=smoothing)


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


_OF_OTHERS = {SUM_WEIGHT} | {
    name
    for name, setting in searchable(Run).items()
    if not setting.of_objective and setting.depends_on and dict(setting.unless) != {"alpha": 1}
}
"""Hyperparameters that may have no effect where a user's own objective would take them."""


def _check_signature(loss: str, function: Objective) -> None:
    """Raise InputError unless a user's objective can be called as those of the table are."""
    known = {field.name for field in fields(Run)}
    if unknown := [name for name in keyword_parameters(function) if name not in known]:
        raise InputError(
            f"the keyword-only parameters of {loss} must be fields of kdtune.Run, but got "
            f"{unknown[0]}; give other values a place in the function itself"
        )
    if elsewhere := [name for name in keyword_parameters(function) if name in _OF_OTHERS]:
        raise InputError(
            f"{loss} must not take {elsewhere[0]}, which has an effect of its own, and none with "
            f"some values of other hyperparameters; give the value a place in the function itself"
        )
    try:
        keywords = dict.fromkeys(keyword_parameters(function))
        inspect.signature(function).bind(None, None, None, **keywords)
    except TypeError as error:
        raise InputError(
            f"{loss} must be a function (student, teacher, labels, *, hyperparameters), but "
            f"cannot be called so ({error}); hyperparameters are keyword-only parameters, after *"
        ) from None
