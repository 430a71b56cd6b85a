"""What plan, records and tables know of a trial, whatever it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from kdtune.config.fields import Config, Value

if TYPE_CHECKING:
    from kdtune.config.task import Task


def name_trial(config_id: str, repeat: int) -> str:
    """Return the name of the trial of a configuration in a repeat."""
    return f"{config_id}-r{repeat:02d}"


class BaseRun(ABC):
    """One trial: a configuration in a repeat. Its subclasses are frozen dataclasses."""

    repeat: int
    seed: int

    @property
    @abstractmethod
    def task(self) -> Task:
        """What the trials of the study train."""

    @property
    @abstractmethod
    def config(self) -> Config:
        """The hyperparameters, with None for those that have no effect."""

    @property
    @abstractmethod
    def config_id(self) -> str:
        """Eight hex digits that name the configuration, the same in every repeat."""

    @abstractmethod
    def sample(self, **values: Any) -> Self:
        """Return the run with a sample of a search space, and perhaps another repeat."""

    def at(self, repeat: int) -> Self:
        """Return the run of the same configuration in another repeat."""
        return replace(self, repeat=repeat)  # type: ignore[type-var]

    def value(self, name: str) -> Value:
        """Return the value of a hyperparameter, whether it has an effect or not."""
        found: Value = getattr(self, name)
        return found

    def resolved_value(self, name: str) -> Value:
        """Return the value of a hyperparameter; if None stands for another's value, that one."""
        found, like = self.value(name), self.task.hyperparameters[name].like
        return self.value(like) if found is None and like is not None else found

    @property
    def planned_epochs(self) -> int | None:
        """Number of epochs of the trial; None if it is not known."""
        found: int | None = getattr(self, "epochs", None)
        return found

    @property
    def trial_id(self) -> str:
        """Name of the trial: this configuration in this repeat."""
        return name_trial(self.config_id, self.repeat)

    @property
    def is_baseline(self) -> bool:
        """Whether the configuration belongs to the baseline."""
        return self.task.is_baseline(self.config)

    @property
    def group(self) -> str:
        """The configurations that this one is compared with: those of its student."""
        return "" if self.task.group is None else str(self.value(self.task.group))
