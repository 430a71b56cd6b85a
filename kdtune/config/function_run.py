"""A trial of a training function of the user's own, and the task that its study declares."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from kdtune.config import effects
from kdtune.config.base_run import BaseRun
from kdtune.config.errors import InputError
from kdtune.config.fields import Config, Hyperparameter, Value
from kdtune.config.task import Task, own_metric
from kdtune.config.user_code import user_code

Train = Callable[..., Any]
"""train(config, repeat) or train(config, repeat, folder): yields a dict of metrics per epoch."""
Mode = Literal["max", "min"]
SPLITS = ("train", "val", "test")
NO_MODULES = ("__main__", "<run_path>")
"""Modules that another process cannot import: the script that was started, an experiment."""
RESERVED_METRICS = (
    *("kind", "trial_id", "config_id", "repeat", "attempt", "time", "split", "correct", "epoch"),
    *("seconds", "n_examples", "label", "run", "self", "phase", "example", "configuration"),
)
"""Names that the records and the dataframes have for something else."""
RESERVED_HYPERPARAMETERS = ("repeat", "label", "self", "n", "n_planned", "value", "hyperparameter")
MAX_NAME = 64
"""Letters of a hyperparameter's or a metric's name."""


@dataclass(frozen=True)
class FunctionRun(BaseRun):
    """One call of a training function: a configuration in a repeat."""

    declared: Task
    """What the study declares."""
    values: tuple[tuple[str, Value], ...]
    """Value of each hyperparameter."""
    epochs: int | None = None
    """Number of epochs; None if it is not known."""
    seed: int = 0
    """Of the proposals of configurations. The function is given the repeat and seeds itself."""
    repeat: int = 0

    @property
    def task(self) -> Task:
        """What the study declares."""
        return self.declared

    @cached_property
    def _values(self) -> dict[str, Value]:
        return dict(self.values)

    def value(self, name: str) -> Value:
        """Return the value of a hyperparameter, whether it has an effect or not."""
        return self._values[name]

    @property
    def planned_epochs(self) -> int | None:
        """Number of epochs: the hyperparameter of this name, else that of the study."""
        own = self._values.get("epochs", self.epochs)
        return own if isinstance(own, int) else None

    @cached_property
    def config(self) -> Config:
        """The hyperparameters, with None for those that have no effect."""
        return self.declared.canonical(self._values)

    @cached_property
    def config_id(self) -> str:
        """Eight hex digits that name the configuration, the same in every repeat."""
        text = json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def sample(self, **values: Any) -> Self:
        """Return the run with a sample of the space, and perhaps another repeat."""
        repeat = values.pop("repeat", self.repeat)
        return replace(self, values=tuple((self._values | values).items()), repeat=repeat)


def make_task(
    names: Mapping[str, object],
    metric: str,
    mode: Mode | None,
    baseline: Mapping[str, Value],
    unless: Mapping[str, Mapping[str, Value]],
) -> Task:
    """Return the task of a training function.

    Args:
        names: The hyperparameters, the keys of the search space.
        metric: The metric that decides, such as "val/acc".
        mode: Whether it is to be as large as possible ("max") or as small ("min"). None: as for
            kdtune's metric of this name.
        baseline: Values of the baseline.
        unless: By hyperparameter, values of others with which it has no effect.

    Raises:
        InputError: One of them names what is not there, or mode is missing.
    """
    score = parse_metric(metric)
    better = None if mode is None else "higher" if mode == "max" else "lower"
    declared = own_metric(score, better)
    if declared.better is None:
        raise InputError(
            f'mode must be "max" or "min" for metric={metric!r}, which kdtune does not know'
        )
    hyperparameters = _declare(names, baseline, unless)
    words = ", ".join(f"{name} = {value}" for name, value in baseline.items())
    return Task(
        hyperparameters=hyperparameters,
        metrics={score: declared},
        score=score,
        baseline=dict(baseline),
        table_metrics=(score,),
        baseline_words=words,
        examples="examples",
    )


def _declare(
    names: Mapping[str, object],
    baseline: Mapping[str, Value],
    unless: Mapping[str, Mapping[str, Value]],
) -> dict[str, Hyperparameter]:
    """Return the hyperparameters by name; see `make_task`."""
    for what, given in (("baseline", baseline), ("unless", unless)):
        check_known(what, given, names)
    hyperparameters = {}
    for name in names:
        others = unless.get(name, {})
        check_known(f"unless of {name}", others, names)
        hyperparameters[name] = Hyperparameter(unless=dict(others))
    try:
        effects.effect_order(hyperparameters)
    except StopIteration:
        raise InputError(
            f"unless must not make hyperparameters depend on each other, but got {dict(unless)}"
        ) from None
    for name, others in unless.items():
        if name in baseline and any(baseline.get(n) == value for n, value in others.items()):
            raise InputError(
                f"baseline must not name {name}, which has no effect with the other values of the "
                f"baseline, but got {dict(baseline)}; leave it out"
            )
    return hyperparameters


def check_known(what: str, given: Mapping[str, object], names: Mapping[str, object]) -> None:
    """Raise InputError if a mapping names what is no hyperparameter of the space."""
    if unknown := [name for name in given if name not in names]:
        raise InputError(
            f"{what} must name hyperparameters of the space ({', '.join(names)}), but got "
            f"{unknown[0]!r}"
        )


def check_name(name: object) -> None:
    """Raise InputError unless the text can name a hyperparameter: it becomes a column."""
    fits = isinstance(name, str) and name.isprintable() and 0 < len(name) <= MAX_NAME
    if not fits or name in RESERVED_HYPERPARAMETERS:
        raise InputError(
            f"a hyperparameter of the space must have a name of 1 to {MAX_NAME} letters other than "
            f"{', '.join(RESERVED_HYPERPARAMETERS)}, but got {name!r}"
        )


def parse_metric(text: str, split: str = "val") -> str:
    """Return the name of a metric that is given as SPLIT/NAME, of a certain split."""
    own, slash, name = text.partition("/")
    if not slash or own != split or not name.isidentifier() or len(name) > MAX_NAME:
        raise InputError(
            f'metric must be "{split}/NAME" with a NAME of letters, digits and _, but got {text!r}'
        )
    if name in RESERVED_METRICS:
        raise InputError(
            f"a metric must not be named {name}, as kdtune's records have it for something else, "
            f"but got {text!r}; give it another name"
        )
    return name


def name_of(train: Train | str) -> str:
    """Return module:function of a training function; raise InputError if it is none."""
    if isinstance(train, str):
        home, colon, attribute = train.partition(":")
        if not (colon and home and attribute):
            raise InputError(f"train must be a function or module:function, but got {train!r}")
        return train
    if not callable(train) or not hasattr(train, "__qualname__"):
        raise InputError(f"train must be a function or module:function, but got {train!r}")
    home = train.__module__
    if home in NO_MODULES:  # a script has a name, which a notebook has not
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        file = getattr(getattr(train, "__code__", None), "co_filename", "")
        home = Path(file).stem if home != "__main__" or file == main else home
    return f"{home}:{train.__qualname__}"


def is_importable(train: Train) -> bool:
    """Return True if another process finds the function in its module."""
    home = train.__module__
    if home in NO_MODULES or home not in sys.modules:
        return False
    return getattr(sys.modules[home], train.__qualname__, None) is train


def load_function(name: str) -> Train:
    """Return the training function module:function.

    Raises:
        InputError: It cannot be imported, is no function, or takes other arguments.
    """
    home, _, attribute = name.partition(":")
    with user_code(f"the training function {name} cannot be imported"):
        function = getattr(importlib.import_module(home), attribute)
    check_signature(function, name)
    return function  # type: ignore[no-any-return]


def check_signature(function: object, name: str) -> None:
    """Raise InputError unless a function can be called as train(config, repeat[, folder])."""
    if not callable(function):
        raise InputError(f"{name} must be a function, but is a {type(function).__name__}")
    try:
        signature = inspect.signature(function)
        folder = {"folder": None} if "folder" in signature.parameters else {}
        signature.bind({}, 0, **folder)
    except ValueError:  # of a compiled function
        return
    except TypeError as error:
        raise InputError(
            f"{name} must be a function train(config, repeat) or train(config, repeat, folder), "
            f"but {error}"
        ) from None
