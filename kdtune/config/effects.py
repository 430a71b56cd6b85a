"""Effects of hyperparameters: which of them matter in a configuration, and the configuration's id.

Everything follows from the annotations of a run's fields (`fields.Hyperparameter`) and, for the
parameters of objectives, from the signatures in `kdtune.training.objectives.OBJECTIVES`.
"""

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from kdtune.config.fields import Config, Hyperparameter, Value, searchable

SCHEMA_1 = (
    *("loss", "alpha", "temperature", "optimizer", "lr", "momentum", "weight_decay"),
    *("schedule", "lr_step_size", "lr_gamma", "epochs", "batch_size", "trainable", "batch_norm"),
)
"""Hyperparameters of kdtune 0.1, in the order of its columns. Never add to it: ids of saved studies
are hashes of all of these, also of those without effect (as None)."""

OBJECTIVES = "kdtune.training.objectives"
"""The module that holds the table of objectives. It is named, not imported: config imports no other
package, and the table is needed only when a run is checked."""

SUM_WEIGHT = "loss_weight"
"""The hyperparameter of a sum of two objectives: A+B is A + loss_weight * B."""


Declared = Mapping[str, Hyperparameter]
"""Hyperparameters by name."""
Conditional = tuple[tuple[str, Hyperparameter], ...]
"""Hyperparameters that do not always have an effect, in the order of effects."""


def canonical(config: Mapping[str, Any], conditional: Conditional) -> Config:
    """Return the configuration with None for every hyperparameter that has no effect in it.

    So equivalent configurations are equal. Whole floats become integers: 1 and 1.0 are one value.

    Args:
        config: A value of each hyperparameter; None is kept.
        conditional: Of the hyperparameters, see `conditional_of`.
    """
    dead: set[str] = set()
    for name, setting in conditional:
        if not _has_effect(name, config, setting, dead):
            dead.add(name)
    # last: the other one may have no effect either
    same = {n for n, s in conditional if s.like is not None and config[n] == config[s.like]}
    return {n: None if n in dead | same else _plain(value) for n, value in config.items()}


def resolved(config: Mapping[str, Any], declared: Declared) -> Config:
    """Return a canonical configuration with a number where None stands for another's value.

    None is then left for the hyperparameters that have no effect.

    Args:
        config: See `canonical`.
        declared: Its hyperparameters.
    """
    alike = {n: s.like for n, s in declared.items() if s.like is not None and config[n] is None}
    return {**config, **{name: config[other] for name, other in alike.items()}}


def effect_order(declared: Declared) -> dict[str, Hyperparameter]:
    """Return the hyperparameters, each after those that decide whether it has an effect.

    Raises StopIteration if two depend on each other.
    """
    left, order = dict(declared), dict[str, Hyperparameter]()
    while left:
        name = next(n for n, setting in left.items() if not setting.depends_on & left.keys())
        order[name] = left.pop(name)
    return order


def conditional_of(declared: Declared) -> Conditional:
    """Return the hyperparameters that do not always have an effect, in the order of effects."""
    return tuple((n, s) for n, s in effect_order(declared).items() if s.depends_on)


@cache
def conditional_of_class(owner: type) -> Conditional:
    """Return `conditional_of` the fields of a dataclass."""
    return conditional_of(searchable(owner))


@cache
def hyperparameters_of(owner: type) -> tuple[str, ...]:
    """Return the names of the hyperparameters: those of version 0.1 first, then later ones."""
    later = (name for name in searchable(owner) if name not in SCHEMA_1)
    return (*SCHEMA_1, *later)


def deciding_of(declared: Declared) -> tuple[str, ...]:
    """Return the hyperparameters that others depend on, in the order of `effect_order`."""
    named = frozenset[str]().union(*(s.depends_on for s in declared.values()))
    return tuple(name for name in effect_order(declared) if name in named)


def objective_names() -> tuple[str, ...]:
    """Return the names of the objectives that `loss` may have."""
    return tuple(importlib.import_module(OBJECTIVES).OBJECTIVES)


def objective_choices() -> tuple[str, ...]:
    """Return what `loss` may be, for --help and errors."""
    return (*objective_names(), "module:function", "A+B")


def terms_of(loss: str) -> tuple[str, ...]:
    """Return the objectives that a loss is the sum of: "kl" and "dist" of "kl+dist"."""
    return tuple(loss.split("+"))


def is_objective(term: str) -> bool:
    """Return True for a name of the table, and for text of the form module:function."""
    return term in objective_names() or re.fullmatch(r"[^\s:+]+:[^\s:+]+", term) is not None


def takes(loss: str, name: str) -> bool:
    """Return True if an objective, or a term of a sum, has a hyperparameter.

    A user's own may have each of them, see `objective_parameters`.
    """
    terms = terms_of(loss)
    if name == SUM_WEIGHT:
        return len(terms) > 1
    return any((own := objective_parameters(term)) is None or name in own for term in terms)


@cache
def objective_parameters(loss: str) -> frozenset[str] | None:
    """Return the hyperparameters that an objective takes, not a sum: its keyword-only parameters.

    None for a user's own, module:function: its module is not imported here, since a study is also
    read on machines that do not have it.
    """
    function = importlib.import_module(OBJECTIVES).OBJECTIVES.get(loss)
    return None if function is None else frozenset(keyword_parameters(function))


def keyword_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of an objective's keyword-only parameters: the fields of `Run` it takes."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def takes_features(loss: str) -> bool:
    """Return True if an objective compares penultimate features instead of logits.

    A user's own is imported; what fails then raises InputError.
    """
    return bool(importlib.import_module(OBJECTIVES).takes_features(loss))


def config_hash(config: Config, owner: type, study_values: Config) -> str:
    """Return eight hex digits that name a canonical configuration.

    The hash is of the hyperparameters of version 0.1, and of each later one only where it has an
    effect and differs from its neutral value: a new hyperparameter changes no id of an old study.

    Args:
        config: The configuration, see `canonical`.
        owner: The dataclass whose fields the hyperparameters are, `Run`.
        study_values: Neutral values of the hyperparameters marked `of_study`; without them, these
            are left out.
    """
    declared = searchable(owner)

    def counts(name: str, value: Value | None) -> bool:
        if name in SCHEMA_1:
            return True
        own = declared[name].of_study
        neutral = study_values.get(name, value) if own else declared[name].neutral
        return value is not None and value != neutral

    counted = {name: value for name, value in config.items() if counts(name, value)}
    text = json.dumps(counted, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _has_effect(
    name: str, config: Mapping[str, Any], setting: Hyperparameter, dead: set[str]
) -> bool:
    """Return True if a hyperparameter has an effect; `dead` are those found to have none."""
    if not setting.depends_on.isdisjoint(dead):
        return False
    if any(config[other] == value for other, value in setting.unless.items()):
        return False
    if not setting.is_used_with(config):
        return False
    return not setting.of_objective or takes(config["loss"], name)


def _plain(value: Value | None) -> Value | None:
    # 1 and 1.0 are one value and must give one config_id
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value  # type: ignore[arg-type]
