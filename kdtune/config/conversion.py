"""Conversion of another tool's weights: kdtune's hyperparameters with the same gradients.

Most tools minimise ce * CE + distill * D with free weights. kdtune's loss is alpha * CE +
(1 - alpha) * D. So alpha = ce / (ce + distill), and the tool's loss is kdtune's, multiplied by
ce + distill.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from kdtune.config.convention import Convention, Parameter, Parameters, Terms
from kdtune.config.conventions import CONVENTIONS
from kdtune.config.errors import InputError
from kdtune.config.fields import declarations
from kdtune.config.run import Run

LEAST, MOST = 1e-9, 1e9
"""Bounds on weights other than 0, so that their quotients are finite."""


@dataclass(frozen=True)
class Conversion:
    """kdtune's hyperparameters whose loss is another tool's loss divided by `scale`."""

    hyperparameters: Mapping[str, float | str]
    """loss, alpha, temperature and others that have an effect, by the names of `Run`'s fields."""
    scale: float
    """The tool's loss divided by kdtune's; its gradient likewise."""
    note: str
    """What else differs, in a sentence, or ""."""


def convert(tool: str, given: Mapping[str, str]) -> Conversion:
    """Return the hyperparameters whose loss equals a tool's but for a factor.

    Args:
        tool: A key of `CONVENTIONS`.
        given: Values of the tool's parameters as text; the others have its defaults.

    Raises:
        InputError: There is no such tool or parameter, a value is missing or not allowed, or no
            hyperparameters of kdtune make the losses equal.
    """
    if tool not in CONVENTIONS:
        raise InputError(
            f"--from must be one of {', '.join(CONVENTIONS)}, but got "
            f"{tool or 'none'}{_nearest(tool, CONVENTIONS)}"
        )
    terms = CONVENTIONS[tool].terms(_values(tool, CONVENTIONS[tool], given))
    if isinstance(terms, str):
        raise InputError(f"no alpha and temperature make kdtune's loss equal to {tool}'s: {terms}")
    if terms.ce + terms.distill == 0:
        raise InputError(f"a weight must be greater than 0, but both of {tool} are 0")
    return _conversion(terms)


def converted_training(
    scale: float, optimizer: str, training: Mapping[str, float]
) -> dict[str, float]:
    """Return lr, weight_decay and clip_norm for a loss that is 1 / scale of the tool's.

    SGD's step is lr * (gradient + weight_decay * weights), also within its momentum: it is the same
    with lr times the scale and weight_decay divided by it. AdamW's step divides the gradient by its
    own size, and decays the weights by lr * weight_decay: neither changes.

    Args:
        scale: The tool's loss divided by kdtune's.
        optimizer: "sgd", "nesterov" or "adamw".
        training: The tool's values, by the names of `Run`'s fields.
    """
    factors = {"clip_norm": 1 / scale}
    if optimizer != "adamw":
        factors |= {"lr": scale, "weight_decay": 1 / scale}
    return {name: value * factors.get(name, 1.0) for name, value in training.items()}


def _conversion(terms: Terms) -> Conversion:
    """Return the hyperparameters of terms; those without an effect are left out."""
    scale = terms.ce + terms.distill
    found: dict[str, float | str] = {"alpha": terms.ce / scale}
    if terms.distill > 0:
        found = {"loss": terms.loss, **found}
        if terms.temperature is not None:
            found["temperature"] = terms.temperature
        found |= terms.others
    if terms.ce > 0 and terms.label_smoothing > 0:
        found["label_smoothing"] = terms.label_smoothing
    for name, value in found.items():
        declarations(Run)[name].check(value)
    return Conversion(found, scale, terms.note)


def _values(tool: str, convention: Convention, given: Mapping[str, str]) -> Parameters:
    """Return the values of a tool's parameters; raise InputError for what does not fit them."""
    names = [parameter.name for parameter in convention.parameters]
    if unknown := [name for name in given if name not in names]:
        raise InputError(
            f"NAME=VALUE must be a parameter of {tool} ({convention.signature}), but got "
            f"{unknown[0]}{_nearest(unknown[0], names)}"
        )
    values: dict[str, float | str] = {}
    for parameter in convention.parameters:
        if parameter.name in given:
            values[parameter.name] = _value(parameter, given[parameter.name])
        elif parameter.default is not None:
            values[parameter.name] = parameter.default
        elif not parameter.optional:
            raise InputError(
                f"{parameter.name} must be given, since {tool} has no default for it; its "
                f"parameters are {convention.signature}"
            )
    return values


def _value(parameter: Parameter, text: str) -> float | str:
    """Return the value of a parameter; raise InputError if it is not allowed."""
    if text in parameter.words:
        return text
    try:
        value = float(text) if parameter.number else -1.0
    except ValueError:
        value = -1.0
    if LEAST <= value <= MOST or (value == 0 and not parameter.positive):
        return value
    if value > 0 and parameter.number:
        raise InputError(
            f"{parameter.name} must lie between {LEAST:g} and {MOST:g}, but got "
            f"{parameter.name}={text}"
        )
    number = ["a number greater than 0" if parameter.positive else "a number of 0 or more"]
    allowed = " or ".join([*parameter.words, *(number if parameter.number else [])])
    raise InputError(f"{parameter.name} must be {allowed}, but got {parameter.name}={text}")


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
