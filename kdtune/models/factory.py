"""Calls of a user's factory: a function or class that makes a torch module."""

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from kdtune.config.errors import InputError
from kdtune.config.user_code import user_code

CLASS_KEYWORDS = ("num_classes", "n_classes", "classes", "nb_classes", "num_labels")
"""Names of parameters that are the number of classes."""


def call_factory(factory: object, name: str, classes: int) -> nn.Module:
    """Return the module that a factory makes.

    The number of classes is given to the parameter with a name of `CLASS_KEYWORDS`, or else to the
    only required one, or to `*args`, or as `num_classes` to `**kwargs`. Other factories are
    called without it; `probe` checks that their logits fit.

    Args:
        factory: a function or a class.
        name: as the user gives it, module:factory.
        classes: K of the data.

    Raises:
        InputError: the factory is none, needs more, fails, or does not make a module.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"{name} must be a function or class that makes a torch.nn.Module, but is a "
            f"{type(factory).__name__}. Write a function of the number of classes that returns it."
        )
    argument = _argument(factory, name)
    if argument is None:
        net = _call(factory, name)
    elif argument:
        net = _call(factory, name, **{argument: classes})
    else:
        net = _call(factory, name, classes)
    if not isinstance(net, nn.Module):
        got = f"the class {net.__name__}" if isinstance(net, type) else type(net).__name__
        raise InputError(f"{name} must return a torch.nn.Module, but got {got}")
    return net


_trained: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
"""Modules that factories have made to be trained and that are still in use, by id."""


def check_new(net: nn.Module, name: str) -> None:
    """Raise InputError if a module that is to be trained has been made for another run already."""
    if _trained.get(id(net)) is net:
        raise InputError(
            f"{name} must make a new module in each call, but has returned the same one twice, "
            f"whose weights the runs would train one after the other; construct it inside the "
            f"function, or return copy.deepcopy of it"
        )
    _trained[id(net)] = net


def _call(factory: Callable[..., Any], name: str, *values: int, **named: int) -> object:
    given = ", ".join([*map(str, values), *(f"{key}={value}" for key, value in named.items())])
    with user_code(f"{name}, called as {name.partition(':')[2]}({given}), failed"):
        return factory(*values, **named)


def _argument(factory: Callable[..., Any], name: str) -> str | None:
    """Return the keyword for the number of classes; "" for the first position, None for neither.

    Raises InputError if the factory requires more than the number of classes.
    """
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (ValueError, TypeError):  # of a compiled function
        return ""
    any_position = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    keyword = next((word for word in CLASS_KEYWORDS if word in named), None)
    required = [p for p in parameters if p.default is p.empty and p.name != keyword]
    if keyword is None and required and required[0].kind is not required[0].KEYWORD_ONLY:
        keyword, required = "", required[1:]
    if required:
        raise InputError(
            f"{name} must require nothing but the number of classes, but also requires "
            f"{', '.join(p.name for p in required)}. Write a function `def net(num_classes)` that "
            f"calls it."
        )
    if keyword is None and any_position:
        return ""
    return "num_classes" if keyword is None and any_keyword else keyword
