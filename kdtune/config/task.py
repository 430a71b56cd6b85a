"""What the trials of a study train: its hyperparameters, its metrics and its baseline.

Plan, tables and report know of distillation only what its task declares. A study of a training
function of the user's own has a task that is made from the arguments of `Study`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from kdtune.config import effects
from kdtune.config.errors import InputError
from kdtune.config.fields import Config, Hyperparameter, Value, searchable
from kdtune.config.metrics import METRICS, Metric
from kdtune.config.run import Run


@dataclass(frozen=True, eq=False)
class Task:
    """Declarations of a study's hyperparameters, metrics and baseline."""

    hyperparameters: Mapping[str, Hyperparameter]
    """By name, in the order of the columns of dataframes."""
    metrics: Mapping[str, Metric]
    """By name."""
    score: str
    """Metric on val, at the last epoch, by which plan and sampler decide."""
    baseline: Mapping[str, Value]
    """The values that a configuration of the baseline has; empty if there is no baseline."""
    table_metrics: tuple[str, ...]
    """Metrics of the table of results."""
    group: str | None = None
    """Hyperparameter whose values have a baseline each: configurations are compared with the
    baseline of their own value. None: all have the same baseline."""
    baseline_words: str = ""
    """The baseline in words."""
    subject: str = ""
    """What all configurations but those of the baseline do, as the subject of a sentence."""
    examples: str = "images"
    """What a split consists of, in words."""
    is_distillation: bool = False
    """Whether trials are kdtune's own, with teachers, students and streams."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the hyperparameters."""
        return tuple(self.hyperparameters)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The hyperparameters, those first that decide whether others have an effect."""
        return tuple(dict.fromkeys((*self.deciding, *self.names)))

    @cached_property
    def deciding(self) -> tuple[str, ...]:
        """The hyperparameters that others depend on, each after those that it depends on itself."""
        return effects.deciding_of(self.hyperparameters)

    @cached_property
    def recorded(self) -> tuple[str, ...]:
        """The metrics that are recorded; the others are derived from them."""
        return tuple(name for name, metric in self.metrics.items() if metric.derived is None)

    @cached_property
    def comparable(self) -> tuple[str, ...]:
        """The metrics by which configurations can be compared."""
        found = self.metrics.values()
        return tuple(m.name for m in found if m.comparable and m.better is not None)

    @property
    def sign(self) -> int:
        """1 if higher scores are better, else -1."""
        return 1 if self.metrics[self.score].better == "higher" else -1

    @cached_property
    def _conditional(self) -> effects.Conditional:
        return effects.conditional_of(self.hyperparameters)

    def canonical(self, config: Mapping[str, Any]) -> Config:
        """Return the configuration with None for every hyperparameter that has no effect in it."""
        return effects.canonical(config, self._conditional)

    def resolved(self, config: Mapping[str, Any]) -> Config:
        """Return a canonical configuration in which None means that there is no effect."""
        return effects.resolved(config, self.hyperparameters)

    def is_baseline(self, config: Mapping[str, Any]) -> bool:
        """Return True if a configuration has the values of the baseline."""
        own = self.baseline.items()
        return bool(self.baseline) and all(config[name] == value for name, value in own)

    def with_metrics(self, names: Collection[str], shown: Collection[str] = ()) -> "Task":
        """Return the task with further metrics that a training function has reported.

        Args:
            names: All of them.
            shown: Those that the table of results has, besides the one that decides.
        """
        new = [name for name in names if name not in self.metrics]
        if self.is_distillation or not new:
            return self
        metrics = dict(self.metrics) | {name: own_metric(name) for name in new}
        table = dict.fromkeys((self.score, *(name for name in metrics if name in shown)))
        return replace(self, metrics=metrics, table_metrics=tuple(table))


def own_metric(name: str, better: Any = None) -> Metric:
    """Return the metric of a training function: label and unit are kdtune's if it has the name.

    Args:
        name: Without the split.
        better: "higher" or "lower". None: as for kdtune's metric, else neither.
    """
    known = METRICS.get(name)
    label, unit = (known.label, known.unit) if known else (name, "")
    unit = unit if unit == "points" else ""  # a share, which `function_trial` checks
    better = better or (known.better if known else None)
    return Metric(name, label, unit, better, True, of_example=partial(_column, name))


def _column(name: str, np: Any, predictions: Mapping[str, Any]) -> Any:
    return predictions[name]


DISTILLATION = Task(
    hyperparameters={name: searchable(Run)[name] for name in effects.hyperparameters_of(Run)},
    metrics=METRICS,
    score="acc",
    baseline={"alpha": 1},
    table_metrics=("acc", "ce", "teacher_acc", "logit_diff", "agreement"),
    group="student",
    baseline_words="training without distillation",
    subject="Distillation",
    is_distillation=True,
)
"""The task of `Run`: a student learns from a teacher."""


def check_names(what: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise InputError if a name is not among the known ones."""
    for name in names:
        if name not in known:
            raise InputError(f"{what} must be one of {', '.join(known)}, but got {name}")
