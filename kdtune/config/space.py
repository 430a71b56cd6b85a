"""Configurations that a study's search space holds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdtune.config.base_run import BaseRun
from kdtune.config.fields import Value
from kdtune.config.function_run import FunctionRun, check_name, make_task
from kdtune.config.hyperparameters import (
    OF_STUDY,
    Range,
    Values,
    covers,
    ends_of,
    sample_values,
    to_list_or_range,
    to_values,
)
from kdtune.config.run import Run

if TYPE_CHECKING:
    from kdtune.config.study import Study


def to_space(study: Study) -> dict[str, Values]:
    """Return the space of a study with tuples and ranges; raise InputError for anything else."""
    if study.train is None:
        return {name: to_values(name, values) for name, values in study.space.items()}
    for name in study.space:
        check_name(name)
    return {name: to_list_or_range(name, values) for name, values in study.space.items()}


def begun_with(study: Study) -> Run:
    """Return the base run with the models that the study began with, `Run.study_values`.

    These are the recorded ones as far as the study still has them, else those of the run, else the
    first of the space.
    """
    begun = dict(study.run.study_values)
    for name in OF_STUDY:
        candidates = (begun.get(name), getattr(study.run, name))
        allowed = study.space.get(name, candidates[1:])
        if isinstance(allowed, Range):
            begun[name] = next((c for c in candidates if c is not None), allowed.low)
        else:
            begun[name] = next((c for c in candidates if c in allowed), allowed[0])
    return replace(study.run, **begun, study_values=tuple(begun.items()))  # type: ignore[arg-type]


def has_effect(study: Study, name: str) -> bool:
    """Return True if a hyperparameter has an effect in some configuration, see `Study`."""
    task = study.task
    base = {other: study.base_run.value(other) for other in task.names}
    lists = (ends_of(study.values(other)) for other in task.deciding)
    every = (dict(zip(task.deciding, values, strict=True)) for values in itertools.product(*lists))
    like = task.hyperparameters[name].like
    if like is not None and name not in study.space and study.base_run.value(name) is None:
        return False  # it is what the other one is
    configs = (task.resolved(task.canonical(base | values)) for values in every)
    return any(config[name] is not None for config in configs)


def function_run(study: Study) -> FunctionRun:
    """Return the base run of a training function: the first value of each list, low of a range."""
    task = make_task(study.space, study.metric, study.mode, study.baseline, study.unless)
    values = tuple((name, ends_of(own)[0]) for name, own in study.space.items())
    return FunctionRun(task, values, study.epochs)


def grid(study: Study) -> list[BaseRun]:
    """Return the configurations of a grid, see `Study.runs`."""
    if study.search != "grid":
        return []
    lists: dict[str, Any] = dict(study.space)
    baseline = study.task.baseline if study.plain_share > 0 else {}
    if len(baseline) == 1:
        ((name, value),) = baseline.items()
        if value not in study.values(name):  # type: ignore[operator]
            lists[name] = (*study.values(name), as_declared(study, name, value))  # type: ignore[misc]
    every = [lists]
    if len(baseline) > 1:
        every.append(lists | {name: (value,) for name, value in baseline.items()})
    runs: dict[str, BaseRun] = {}
    for space in every:
        for values in itertools.product(*space.values()):
            run = study.base_run.sample(repeat=0, **dict(zip(space, values, strict=True)))
            runs.setdefault(run.config_id, run)
    return list(runs.values())


def as_declared(study: Study, name: str, value: Value) -> Value:
    """Return the value of a baseline as a float where the hyperparameter is one."""
    return float(value) if isinstance(study.base_run.value(name), float) else value


def default_run(study: Study) -> BaseRun:
    """Return the recipe's default configuration, see `Study.default`."""
    values = {n: _nearest(study.base_run.resolved_value(n), study.values(n)) for n in study.space}
    return study.base_run.sample(repeat=0, **values)


def recorded_run(study: Study, config: Mapping[str, Any]) -> BaseRun:
    """Return the run of a configuration that a record of the study has, of repeat 0.

    Raises:
        TypeError, KeyError, ValueError: It is no configuration of the study's task.
    """
    base = study.base_run
    if isinstance(base, Run):
        return base.sample(**sample_values(config, base))
    if set(config) != set(study.task.names):
        raise KeyError(f"config must have {', '.join(study.task.names)}")
    return base.sample(**{name: v for name, v in config.items() if v is not None})


def _nearest(value: Value, values: Values) -> Value:
    """Return a value if the list or range allows it, else the first one or the nearest end."""
    if covers(values, (value,)):
        return value
    if not isinstance(values, Range):
        return values[0]
    return values.low if isinstance(value, str) or value < values.low else values.high


def searched(study: Study) -> list[str]:
    """Return the hyperparameters with more than one value, see `Study.searched`."""
    several = [name for name, values in study.space.items() if len(set(ends_of(values))) > 1]
    models = ("student", "teacher", "teacher_epochs") if study.task.is_distillation else ()
    names = [name for name in models if name in several]
    names += [name for name in several if name not in models]
    first = sum(name in models for name in names)
    return [*names[:first], *_added_by_baseline(study, names), *names[first:]]


def _added_by_baseline(study: Study, names: list[str]) -> list[str]:
    """Return the hyperparameters that only the baseline gives a second value."""
    if not study.has_plain:
        return []
    given: Mapping[str, Value] = study.task.baseline
    return [n for n, v in given.items() if n not in names and set(ends_of(study.values(n))) != {v}]


def flags_without_effect(study: Study) -> list[str]:
    """Return a sentence for each flag that was given and changes nothing in any configuration."""
    given = (name for name in study.flags if name in study.task.names)
    return [
        f"--{name.replace('_', '-')} was given, but has no effect in any configuration"
        for name in given
        if not study.has_effect(name)
    ]
