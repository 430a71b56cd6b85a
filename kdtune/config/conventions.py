"""Other tools' distillation losses as a table, and the conversion of their weights.

Most tools minimise ce · CE + distill · D with free weights. kdtune's loss is alpha · CE +
(1 - alpha) · D. So alpha = ce / (ce + distill), and the tool's loss is kdtune's, multiplied by
ce + distill.
"""

import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdtune.config.fields import OPTIMIZERS, Optimizer, declarations
from kdtune.config.run import Run
from kdtune.config.text import InputError, did_you_mean

Parameters = Mapping[str, float | str]
"""Values of a tool's parameters by the tool's names, numbers or words."""

LEAST, MOST = 1e-9, 1e9
"""Bounds on weights other than 0, so that their quotients are finite."""


@dataclass(frozen=True)
class Convention:
    """Parameters and loss of another tool: an entry of conventions.toml.

    A weight is a number, "NAME" or "1 - NAME".
    """

    title: str
    """Its name, and where the loss is."""
    formula: str
    """Its loss in its own names; CE, KL and MSE are means over the images of a batch."""
    signature: str
    """The parameters with their defaults: "gamma=1, alpha, kd_T=4"; optional ones in []."""
    ce: str | float = 1.0
    """Weight of the cross-entropy."""
    distill: str | float = 1.0
    """Weight of the distillation term."""
    temperature: str = ""
    """Parameter that is the temperature T."""
    loss: str = "kl"
    """kdtune's name of the distillation term."""
    squared: bool = True
    """Whether the tool's term has the factor T²."""
    per_class: bool = False
    """Whether the tool divides its term by the number of classes, `num_classes`."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Further hyperparameters of the term by kdtune's names, as parameters of the tool."""
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Words that parameters may be. One whose default is a word is never a number."""
    note: str = ""
    """What else differs, in a sentence."""
    cases: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)
    """What a value of a parameter changes, in this order: "NAME=VALUE" ("NAME=": not given) or
    "NAME>VALUE", with other values of these fields, or with why kdtune has no equal loss."""


CONVENTIONS = {
    name: Convention(**row)
    for name, row in tomllib.loads(
        Path(__file__).with_name("conventions.toml").read_text("utf-8")
    ).items()
}
"""The tools by the name that `--from` takes."""


@dataclass(frozen=True)
class Conversion:
    """kdtune's hyperparameters whose loss is another tool's loss divided by `scale`."""

    hyperparameters: Mapping[str, float | str]
    """loss, alpha, temperature and others that have an effect, by the names of `Run`'s fields."""
    scale: float
    """The tool's loss divided by kdtune's; its gradient likewise."""
    note: str
    """What else differs, in a sentence, or ""."""


def convert(tool: str, parameters: Mapping[str, str]) -> Conversion:
    """Return the hyperparameters whose loss equals a tool's but for a factor.

    Args:
        tool: A key of `CONVENTIONS`.
        parameters: Values of the tool's parameters as text; the others have its defaults.

    Raises:
        InputError: There is no such tool or parameter, a value is missing or not allowed, or no
            hyperparameters of kdtune make the losses equal.
    """
    if tool not in CONVENTIONS:
        raise InputError(
            f"--from must be one of {', '.join(CONVENTIONS)}, but got "
            f"{tool or 'none'}{did_you_mean(tool, CONVENTIONS)}"
        )
    convention = CONVENTIONS[tool]
    values = _read_values(tool, convention, parameters)
    for case, change in convention.cases.items():
        if _applies(case, values):
            if isinstance(change, str):
                raise _no_equal(tool, change)
            convention = replace(convention, **change)
    ce, distill = _weight(tool, convention.ce, values), _weight(tool, convention.distill, values)
    temperature = values[convention.temperature]
    if convention.per_class:
        classes = float(values.get("num_classes", 0))
        if classes < 2:
            raise InputError(f"num_classes must be given, 2 or more, since {tool} divides KL by it")
        distill /= classes
    if not convention.squared:
        distill /= float(temperature) ** 2
    scale = ce + distill
    if scale == 0:
        raise InputError(f"a weight must be greater than 0, but both of {tool} are 0")

    converted: dict[str, float | str] = {"alpha": ce / scale}
    if distill > 0:  # otherwise the hyperparameters of the term have no effect
        converted = {"loss": convention.loss, **converted}
        if convention.loss != "mse":
            converted["temperature"] = temperature
        converted |= {name: values[other] for name, other in convention.others.items()}
    notes = [convention.note % values]
    if values.get("smoothing", 0):
        notes.append("Its cross-entropy has label smoothing, 0.1 unless --smoothing is given.")
        if ce > 0:
            converted["label_smoothing"] = values["smoothing"]
    for name, value in converted.items():
        declarations(Run)[name].check(value)
    return Conversion(converted, scale, " ".join(filter(None, notes)))


def converted_training(
    scale: float, optimizer: Optimizer, training: Mapping[str, float]
) -> dict[str, float]:
    """Return lr, weight_decay and clip_norm for a loss that is 1 / scale of the tool's.

    SGD's step is lr * (gradient + weight_decay * weights), also within its momentum: it is the same
    with lr times the scale and weight_decay divided by it. Other optimizers divide the gradient by
    its own size: lr stays. AdamW decays the weights by lr * weight_decay, which stays, too; the
    others add weight_decay * weights to the gradient first.

    Args:
        scale: The tool's loss divided by kdtune's.
        optimizer: A key of `OPTIMIZERS`.
        training: The tool's values, by the names of `Run`'s fields.

    Raises:
        InputError: No values make the trainings with this optimizer equal.
    """
    factors, declared = {"clip_norm": 1 / scale}, OPTIMIZERS[optimizer]
    if declared.scales_with_loss is None and training:
        raise InputError(
            f"--optimizer must not be {optimizer}, whose first steps are proportional to the loss "
            f"and whose later steps are not: no learning rate makes the trainings equal"
        )
    if declared.scales_with_loss:
        factors["lr"] = scale
    if not declared.decouples_decay:
        factors["weight_decay"] = 1 / scale
    return {name: value * factors.get(name, 1.0) for name, value in training.items()}


def _read_values(tool: str, convention: Convention, parameters: Mapping[str, str]) -> Parameters:
    """Return the values of a tool's parameters; raise InputError for what does not fit them."""
    defaults = {}  # by parameter; "" if there is none
    for parameter in convention.signature.split(", "):
        name, _, defaults[name] = parameter.strip("[]").partition("=")
    for name in parameters:
        if name not in defaults:
            raise InputError(
                f"NAME=VALUE must be a parameter of {tool} ({convention.signature}), but got "
                f"{name}{did_you_mean(name, defaults)}"
            )
    values: dict[str, float | str] = {}
    for name, default in defaults.items():
        if text := parameters.get(name, default):
            values[name] = _read_value(name, text, convention, default)
        elif f"[{name}]" not in convention.signature:
            raise InputError(
                f"{name} must be given, since {tool} has no default for it; its parameters are "
                f"{convention.signature}"
            )
    return values


def _read_value(name: str, text: str, convention: Convention, default: str) -> float | str:
    """Return the value of a parameter; raise InputError if it is not allowed."""
    words = convention.words.get(name, ())
    if text in words:
        return text
    allowed = list(words)
    if default not in words:  # otherwise it is never a number
        is_positive = name == convention.temperature
        allowed.append(f"{'' if is_positive else '0 or '}a number from {LEAST:g} to {MOST:g}")
        with suppress(ValueError):
            value = float(text)
            if LEAST <= value <= MOST or (value == 0 and not is_positive):
                return value
    raise InputError(f"{name} must be {' or '.join(allowed)}, but got {name}={text}")


def _applies(case: str, values: Parameters) -> bool:
    """Return True if the values fulfil the condition of a case, see `Convention.cases`."""
    if ">" in case:
        name, _, bound = case.partition(">")
        return float(values[name]) > float(bound)
    name, _, word = case.partition("=")
    value = values.get(name, "")
    return word == (value if isinstance(value, str) else f"{value:g}")


def _weight(tool: str, weight: str | float, values: Parameters) -> float:
    """Return the value of a weight, see `Convention`; raise InputError if it is negative."""
    value = weight
    if isinstance(weight, str):
        name = weight.removeprefix("1 - ")
        value = float(values.get(name, 0))
        value = value if name == weight else 1 - value
    if float(value) < 0:
        raise _no_equal(tool, f"the weight {weight} is negative")
    return float(value)


def _no_equal(tool: str, reason: str) -> InputError:
    return InputError(f"no alpha and temperature make kdtune's loss equal to {tool}'s: {reason}")
