"""Models and data that are passed as objects, and the names under which a study knows them.

A field such as `Run.student` is text. An object that is passed in its place is kept in
`Run.objects`, and the field holds its name, such as "object:SmallNet". So labels, ids and records
see names only. A function or class that every process can import is not kept: its name is
"module:function", as on a command line.
"""

import copy
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdtune.config.fields import OBJECT, is_object
from kdtune.config.text import InputError, shown

KINDS = ("data", "teacher", "student")
"""Fields of a run that may be given an object, in the order in which objects are named."""
GENERIC = re.compile(r"(builtins|torch|numpy)(\..*)?|torchvision\.datasets\.folder")
"""Modules whose classes have names that say nothing about the data."""

_ALLOWED = {
    "data": 'text, a dict such as {"train": dataset, "val": dataset}, or a function that makes one',
    "teacher": "text, an nn.Module, or a function that returns one",
    "student": "text, an nn.Module, or a function of the number of classes that returns one",
}


class Passed:
    """An object that was passed. Two of these are equal only if they are one.

    Args:
        value: A module, a function that makes one, a dict of data, or a function that makes one.
    """

    def __init__(self, value: Any):
        self.value = value
        self.notes: dict[object, Any] = {}
        """What was made of the object; it lives as long as this."""

    def __copy__(self) -> "Passed":
        return self

    def __deepcopy__(self, memo: object) -> "Passed":
        return self  # as Ray Tune copies whatever it is given

    def __reduce__(self) -> Any:
        return Passed, (self.value,)

    def fresh(self) -> Any:
        """Return a copy of the module or function, which the caller may change."""
        return copy.deepcopy(self.value)

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """Return what `make` returns: it is called once for each key."""
        if key not in self.notes:
            self.notes[key] = make()
        return self.notes[key]

    @property
    def is_module(self) -> bool:
        """Whether it is a module, which has weights of its own."""
        return is_module(self.value)


@dataclass(init=False, eq=False, repr=False)
class Objects:
    """The objects of a run, by name.

    It is a dataclass without fields, so that `dataclasses.asdict` neither copies the objects nor
    hands them to JSON: there it is {}.

    Args:
        passed: The objects.
        functions: Names of functions and classes that were passed, kept here or not. Their models
            have the weights that the functions give them.
    """

    def __init__(self, passed: Mapping[str, Passed] | None = None, functions: Iterable[str] = ()):
        self.passed = dict(passed or {})
        self.functions = frozenset(functions)

    def __bool__(self) -> bool:
        return bool(self.passed)

    def get(self, kind: str, name: str) -> Passed:
        """Return the object of a name; raise InputError if it must be passed again.

        Args:
            kind: The field of a run that has the name.
            name: The name.
        """
        if name not in self.passed:
            raise missing_error({name: kind})
        return self.passed[name]

    def only(self, names: Iterable[str]) -> "Objects":
        """Return those of these names."""
        wanted = set(names)
        passed = {name: value for name, value in self.passed.items() if name in wanted}
        return Objects(passed, self.functions & wanted)

    def named(self, kind: str, value: object) -> tuple[str, "Objects"]:
        """Return the name of an object, and the objects with it.

        Args:
            kind: The field that it is passed for, one of `KINDS`.
            value: The object; text is its own name.

        Raises:
            InputError: The field cannot have it.
        """
        if isinstance(value, str | os.PathLike):
            return value, self  # type: ignore[return-value] # the check of the fields refuses paths
        is_function = callable(value) and not is_module(value)
        if not is_function and not (
            isinstance(value, Mapping) if kind == "data" else is_module(value)
        ):
            raise InputError(f"{kind} must be {_ALLOWED[kind]}, but got {shown(value)}")
        name = importable_name(value) if is_function else None
        passed = self.passed
        if name is None:
            wanted, number = f"{OBJECT}{_name_of(kind, value)}", 1
            name = wanted
            while name in passed and passed[name].value is not value:  # another object has it
                number += 1
                name = f"{wanted}-{number}"
            passed = {name: Passed(value), **passed}  # one that is there already stays
        return name, Objects(passed, {*self.functions, name} if is_function else self.functions)


def is_module(value: object) -> bool:
    """Return True for an nn.Module; torch is not imported."""
    bases = [(base.__module__, base.__name__) for base in type(value).__mro__]
    return ("torch.nn.modules.module", "Module") in bases


def _name_of(kind: str, value: Any) -> str:
    """Return the name of a function or class, or of the class of a module or dataset."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, Mapping):
        dataset: Any = value.get("train")
        while type(dataset).__name__ == "Subset":
            dataset = dataset.dataset
        value = type(dataset)
        if GENERIC.fullmatch(value.__module__):
            return "data"
    name = getattr(value, "__name__", None) or type(value).__name__
    return re.sub(r"\W", "", name).strip("_") or ("data" if kind == "data" else "model")


def importable_name(value: object) -> str | None:
    """Return "module:name" of a function or class that every process can import; else None."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or not is_importable_module(module):
        return None
    return f"{module}:{name}" if getattr(sys.modules[module], name, None) is value else None


def is_importable_module(module: str) -> bool:
    """Return True if other processes find the module that this one has loaded under this name.

    A module that was made in memory, or that another file hides, is not found.
    """
    loaded = sys.modules.get(module)
    if loaded is None or module == "__main__":
        return False
    path = getattr(sys.modules.get(module.rpartition(".")[0]), "__path__", None)
    specs = (finder.find_spec(module, path) for finder in sys.meta_path)
    spec = next((spec for spec in specs if spec is not None), None)
    return spec is not None and spec.origin == getattr(loaded.__spec__, "origin", None)


def describe_object(kind: str, name: str) -> str:
    """Return how an object is passed, as in `student=SmallNet`."""
    return f"{kind}={name.removeprefix(OBJECT)}" if is_object(name) else f"{kind}={name!r}"


def missing_error(names: Mapping[str, str], study: str = "this study") -> InputError:
    """Return the error for objects that must be passed again.

    Args:
        names: The field of a run for each missing name.
        study: What was made with the objects.
    """
    arguments = dict.fromkeys(describe_object(kind, name) for name, kind in names.items())
    return InputError(
        f"{study} was made in Python with objects that its folder does not hold; to train with "
        f"them, pass them again: kdtune.Run({', '.join(arguments)})"
    )
