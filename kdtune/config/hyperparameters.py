"""What can be searched: the hyperparameters, their lists and ranges, and which have an effect."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdtune.config.errors import InputError

Value = float | int | str


Config = dict[str, Value | None]


HYPERPARAMETERS = (
    *("loss", "alpha", "temperature", "optimizer", "lr", "momentum", "weight_decay"),
    *("schedule", "lr_step_size", "lr_gamma", "epochs", "batch_size", "trainable", "batch_norm"),
)
"""The fields of a run that a configuration may set. The others make the study what it is."""


DECIDING = ("alpha", "loss", "optimizer", "schedule")
"""Those that decide whether others have an effect (see `canonical`)."""


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, ends included; whole ones for a field that is whole."""

    low: float
    high: float
    log: bool = False
    """Equal shares for equal ratios instead of equal differences."""

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise InputError(f"a range must be LOW..HIGH with LOW < HIGH, but got {self}")
        if self.log and self.low <= 0:
            raise InputError(f"a range with :log must begin above 0, but got {self}")

    def __str__(self) -> str:
        short = {end: f"{end:g}" for end in (self.low, self.high)}
        ends = (text if float(text) == end else repr(end) for end, text in short.items())
        return "..".join(ends) + (":log" if self.log else "")

    @staticmethod
    def parse(text: str, kind: type[int] | type[float]) -> "Range":
        """The range of `LOW..HIGH` or `LOW..HIGH:log`; raises InputError for other text."""
        ends, _, scale = text.partition(":")
        low, dots, high = ends.partition("..")
        try:
            if not dots or "..." in text or scale not in ("", "log"):
                raise ValueError
            return Range(kind(low), kind(high), scale == "log")
        except InputError:
            raise
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise InputError(
                f"a range must be LOW..HIGH or LOW..HIGH:log of {what}, but got {text}"
            ) from None


Values = tuple[Value, ...] | Range
"""What a hyperparameter may be: one of a list, or any in a range."""


def covers(wide: Values, narrow: Values) -> bool:
    """Whether all that `narrow` allows is allowed by `wide`."""
    if isinstance(wide, tuple):
        return isinstance(narrow, tuple) and set(narrow) <= set(wide)
    ends = (narrow.low, narrow.high) if isinstance(narrow, Range) else narrow
    return all(not isinstance(end, str) and wide.low <= end <= wide.high for end in ends)


def canonical(config: Mapping[str, Any]) -> Config:
    """The configuration with None for all that has no effect, so that twins are equal.

    Temperature has none under "mse"; loss and temperature have none at alpha = 1; momentum has
    none with adamw; lr_step_size and lr_gamma have none without the schedule "step".
    """
    dead: set[str] = set()
    if config["alpha"] == 1:
        dead |= {"loss", "temperature"}
    if config["loss"] == "mse":
        dead |= {"temperature"}
    if config["optimizer"] != "sgd":
        dead |= {"momentum"}
    if config["schedule"] != "step":
        dead |= {"lr_step_size", "lr_gamma"}
    return {name: None if name in dead else _plain(value) for name, value in config.items()}


def _plain(value: Value) -> Value:
    # 1 and 1.0 are one value and must give one config_id
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value
