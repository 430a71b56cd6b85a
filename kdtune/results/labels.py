"""Readable labels of configurations, e.g. "alpha = 0.5, T = 4"."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdtune.config.hyperparameters import LIKE, OF_STUDY
from kdtune.config.numbers import short
from kdtune.config.task import Task

PREFIX = "config/"
"""Of the columns of hyperparameters."""


def config_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of a dataframe that describe a configuration."""
    return ["config_id", "label", *(c for c in frame if c.startswith(PREFIX))]


def hyperparameters_of(frame: pd.DataFrame) -> list[str]:
    """Return the hyperparameters of a dataframe with config/*."""
    return [c.removeprefix(PREFIX) for c in frame if c.startswith(PREFIX)]


def distinguishing(trials: pd.DataFrame, searched: Sequence[str]) -> list[str]:
    """Return the hyperparameters that tell the configurations apart.

    They are those of `searched` that differ between trials, in that order; otherwise all that
    differ; the first of `searched` if none does, else alpha.
    """
    # a teacher is inactive without distillation, which does not make it a second one
    varied = [
        name
        for name in hyperparameters_of(trials)
        if trials[f"config/{name}"].nunique(dropna=name in OF_STUDY) > 1
    ]
    others = [name for name in varied if not _is_copy(name, trials)]
    return [n for n in searched if n in varied] or others or [*searched, *_only(trials)][:1]


def _is_copy(name: str, trials: pd.DataFrame) -> bool:
    """Return True if a hyperparameter is everywhere equal to the one whose value it has if unset.

    For example teacher_temperature to temperature in a study that does not search it.
    """
    other = LIKE.get(name)
    if other is None:
        return False
    own = trials[f"config/{name}"].dropna()
    return bool(own.equals(trials.loc[own.index, f"config/{other}"]))


def _only(trials: pd.DataFrame) -> list[str]:
    """Return the hyperparameters of trials of one configuration, that which names it first."""
    names = hyperparameters_of(trials)
    return ["alpha"] if "alpha" in names else names


def short_model(name: str) -> str:
    """Return a model's name without its module or library: "net" for "my_models:net"."""
    return "+".join(re.split("[:/]", member)[-1] for member in name.split("+"))


def config_label(
    row: Mapping[str, Any], by: Sequence[str], prefix: str = "config/", full: bool = False
) -> str:
    """Return a configuration as text; inactive hyperparameters are left out.

    Args:
        row: with a value per hyperparameter.
        by: hyperparameters to show; numbers have four significant digits.
        prefix: of the hyperparameters' names in the row.
        full: whether models have their full names, see `short_model`, and numbers all digits.
    """
    parts = []
    for name in by:
        value = row[f"{prefix}{name}"]
        if not pd.isna(value):
            shown = _number(value, full) if isinstance(value, int | float) else str(value)
            if name in ("student", "teacher") and not full:
                shown = short_model(shown)
            parts.append(f"{_short_name(name)} = {shown}")
    return ", ".join(parts) or "the configuration"


def regularisers(task: Task, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the hyperparameters of a configuration that are off by default and on in it, in words.

    For example {"label_smoothing": "label smoothing 0.1"}: these are what training without a
    teacher is improved by.
    """
    neutral = {name: setting.neutral for name, setting in task.hyperparameters.items()}
    on = {n: value for n, value in config.items() if neutral.get(n) == 0 and value != 0}
    return {name: f"{name.replace('_', ' ')} {_number(value, False)}" for name, value in on.items()}


def join_words(words: Iterable[str]) -> str:
    """Return words as a list in a sentence: "a", "a and b" or "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def group_label(row: Mapping[str, Any], by: Sequence[str]) -> str:
    """Return the label of a row of a summary; "T = -" where no hyperparameter of `by` is active."""
    if all(pd.isna(row[name]) for name in by):
        return ", ".join(f"{_short_name(name)} = -" for name in by)
    return config_label(row, by, prefix="")


def _short_name(name: str) -> str:
    return {"temperature": "T", "teacher_temperature": "teacher T"}.get(name, name)


def _number(value: float, full: bool) -> str:
    """Return a number with four digits, see `short`; whole ones and those in full with all."""
    if isinstance(value, bool):
        return str(value)
    is_whole = float(value).is_integer() and abs(value) < 1e6
    return f"{value:.0f}" if is_whole else f"{value:.15g}" if full else short(value, 4)


def label_by_config(trials: pd.DataFrame, by: Sequence[str]) -> dict[str, str]:
    """Return the label of each config_id of the trials; models have full names if need be."""
    configs = trials.drop_duplicates("config_id")
    rows = configs[["config_id", *(f"config/{name}" for name in by)]].to_dict("records")
    short = {row["config_id"]: config_label(row, by) for row in rows}
    if len(set(short.values())) == len(short):
        return short
    return {row["config_id"]: config_label(row, by, full=True) for row in rows}
