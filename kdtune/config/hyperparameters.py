"""Hyperparameters that a study may search, and the lists and ranges that it searches.

Which fields these are, their bounds and their effects stand in one place, the annotations of `Run`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from kdtune.config import effects
from kdtune.config.bounds import MAX_INTEGER, MAX_NUMBER
from kdtune.config.errors import InputError
from kdtune.config.fields import Config, Value, declarations, searchable
from kdtune.config.run import Run
from kdtune.config.text import shown

HYPERPARAMETERS = effects.hyperparameters_of(Run)
"""Fields of a run that a configuration may set. The others define the study."""

BOUNDED = f"be a finite number of at most {MAX_NUMBER:g}, or a whole number of 64 bits"
"""What `is_bounded` demands, in words."""

MISSING: Mapping[str, Any] = MappingProxyType({})

OF_STUDY = tuple(name for name, setting in searchable(Run).items() if setting.of_study)
"""Hyperparameters whose first value in a study is neutral, see `Run.study_values`."""

LIKE = {name: setting.like for name, setting in searchable(Run).items() if setting.like is not None}
"""Hyperparameters whose value None stands for the value of another one, with that one's name."""


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, both included; whole numbers if the field is whole.

    >>> study = kdtune.Study(space={"lr": kdtune.Range(1e-4, 1e-1, log=True)}, search="random")
    >>> print(study.space["lr"])
    0.0001..0.1:log
    >>> print(kdtune.Range(0.001, 0.999, logit=True))
    0.001..0.999:logit
    """

    low: float
    high: float
    log: bool = False
    """Sample uniformly on a logarithmic scale."""
    logit: bool = False
    """Sample uniformly on the scale of the log-odds, log(x / (1 - x)): 0.001 to 0.01 is as likely
    as 0.99 to 0.999. Both ends lie between 0 and 1."""

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if not is_bounded(end):
                raise InputError(
                    f"a range must be LOW..HIGH with LOW < HIGH, each of which must {BOUNDED}, but "
                    f"got {shown(end)}"
                )
        if not self.low < self.high:
            raise InputError(f"a range must be LOW..HIGH with LOW < HIGH, but got {self}")
        if self.log and self.low <= 0:
            raise InputError(f"a range with :log must begin above 0, but got {self}")
        if self.logit and not 0 < self.low < self.high < 1:
            raise InputError(
                f"a range with :logit must lie between 0 and 1, both excluded, but got {self}; "
                f"0.001..0.999:logit would do"
            )
        if self.log and self.logit:
            raise InputError(f"a range must have one scale, log or logit, but got {self} with both")

    @property
    def is_whole(self) -> bool:
        """Whether the range is of whole numbers: both ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def scale(self) -> str:
        """The scale that is sampled evenly: "log", "logit", or "" for the values themselves."""
        return "log" if self.log else "logit" if self.logit else ""

    def __str__(self) -> str:
        short = {end: f"{end:g}" for end in (self.low, self.high)}
        ends = (text if float(text) == end else repr(end) for end, text in short.items())
        return "..".join(ends) + f":{self.scale}".rstrip(":")

    @staticmethod
    def parse(text: str, kind: type[int] | type[float]) -> "Range":
        """Return the range of `LOW..HIGH`, `LOW..HIGH:log` or `LOW..HIGH:logit`.

        Raises InputError for other text.
        """
        ends, _, scale = text.partition(":")
        low, dots, high = ends.partition("..")
        try:
            if not dots or "..." in text or scale not in ("", "log", "logit"):
                raise ValueError
            return Range(kind(low), kind(high), log=scale == "log", logit=scale == "logit")
        except InputError:
            raise
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise InputError(
                f"a range must be LOW..HIGH, LOW..HIGH:log or LOW..HIGH:logit of {what}, but got "
                f"{text}"
            ) from None


Values = tuple[Value, ...] | Range
"""Possible values of a hyperparameter: a list or a range."""


def is_bounded(value: object) -> bool:
    """Return True for a finite number that is small enough for the records, see `BOUNDED`."""
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return isinstance(value, float) and abs(value) <= MAX_NUMBER  # False for NaN


def to_values(name: str, values: object) -> Values:
    """Return the values of a run's hyperparameter as a tuple or a range.

    Raises InputError for anything else, for a name that is no hyperparameter, and for a None that
    stands for the value of another one.
    """
    if name not in HYPERPARAMETERS:
        raise InputError(f"{name} cannot be searched; {', '.join(HYPERPARAMETERS)} can")
    found = to_list_or_range(name, values)
    like = searchable(Run)[name].like
    if not isinstance(found, Range) and None in found and (like is not None or len(found) > 1):
        what, remedy = "values", "leave None out"
        if like is not None:
            what, remedy = "numbers", f"give the values of {like} that it may be equal to"
        raise InputError(f"{name} must be searched among {what}, but got None; {remedy}")
    if isinstance(found, Range) and declarations(Run)[name].number_kind is float:
        return replace(found, low=float(found.low), high=float(found.high))
    return found


def to_list_or_range(name: str, values: object) -> Values:
    """Return the values of a space as a tuple or a range; raise InputError for anything else."""
    if isinstance(values, Range):
        return values
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"{name} must be given a list of values or a Range, but got {values!r}")
    if not values:
        raise InputError(f"{name} must have at least one value to search, but has none")
    return tuple(values)


def including(values: Range, value: Value) -> Range:
    """Return a range that also contains a number; without its scale if the number is not on it.

    For example alpha = 1, the baseline, is on no scale of log-odds.
    """
    if isinstance(value, str) or values.low <= value <= values.high:
        return values
    low, high = min(values.low, value), max(values.high, value)
    return Range(low, high, log=values.log and low > 0, logit=values.logit and 0 < low < high < 1)


def ends_of(values: Sequence[Value] | Range) -> tuple[Value, ...]:
    """Return all values of a list, or both ends of a range."""
    return (values.low, values.high) if isinstance(values, Range) else tuple(values)


def covers(wide: Values, narrow: Values) -> bool:
    """Return True if `wide` allows every value that `narrow` allows."""
    if isinstance(wide, tuple):
        return isinstance(narrow, tuple) and set(narrow) <= set(wide)
    ends = (narrow.low, narrow.high) if isinstance(narrow, Range) else narrow
    return all(
        isinstance(end, int | float) and wide.low <= end <= wide.high
        for end in ends  # which may be a word, or None where that stands for another's value
    )


def canonical(config: Mapping[str, Any]) -> Config:
    """Return the configuration with None for every hyperparameter that has no effect in it.

    For example temperature with the loss "mse", loss and temperature at alpha = 1, momentum with
    the optimizer "adamw", lr_step_size with any schedule but "step".
    """
    return effects.canonical(config, effects.conditional_of_class(Run))


def complete(config: Mapping[str, Any], study_values: Mapping[str, Any] = MISSING) -> Config:
    """Return a recorded configuration with the hyperparameters that later versions have added.

    They have their neutral values where they have an effect, else None. So a configuration is the
    same whether it was recorded before or after a hyperparameter was added.

    Args:
        config: The recorded configuration.
        study_values: Of the study, see `Run.study_values`; without them these are None.
    """
    missing = [name for name in HYPERPARAMETERS if name not in config]
    if not missing:
        return dict(config)
    neutral = {name: setting.neutral for name, setting in searchable(Run).items()}
    whole = neutral | dict(study_values) | dict(config)
    return dict(config) | {n: canonical(whole)[n] for n in missing}


def active_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recorded configuration that have an effect, see `complete`."""
    whole = effects.resolved(complete(config), searchable(Run))
    return {name: value for name, value in whole.items() if value is not None}


def sample_values(config: Mapping[str, Any], base: Run) -> dict[str, Any]:
    """Return the values with which `base.sample` makes the run of a recorded configuration.

    A None that stands for the value of another hyperparameter stays None where `base` has it.
    """
    values = active_values(config)
    alike = [n for n, other in LIKE.items() if values.get(n) == values.get(other)]
    return {n: v for n, v in values.items() if n not in alike or base.value(n) is not None}
