"""What a training function of the user's own yields: its epochs, checked. Imports no torch."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdtune.config.errors import Diverged
from kdtune.config.function_run import SPLITS, parse_metric
from kdtune.config.task import own_metric
from kdtune.config.user_code import no_exit

MAX_METRICS = 10_000
"""Metrics of one epoch that a function may yield; each becomes a part of the records."""
Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class FunctionEpoch:
    """What a training function has yielded for one epoch."""

    number: int
    splits: dict[str, dict[str, float]]
    """Metrics by split."""
    examples: dict[str, dict[str, Values]] = field(default_factory=dict)
    """Values per example, [N], of the metrics that were given as arrays, by split."""


def yielded(train: Callable[[], object]) -> Iterator[Any]:
    """Call a training function and yield what it yields.

    What would end its thread is an error here: Ray takes sys.exit(0) for a trial that has completed
    and any other interruption for a worker that has died.
    """
    nothing, epochs = object(), None
    while True:
        try:
            with no_exit("train"):
                epochs = iter(_as_epochs(train())) if epochs is None else epochs
                given = next(epochs, nothing)
        except KeyboardInterrupt as error:  # the signal itself reaches the main thread only
            raise RuntimeError("train raised KeyboardInterrupt") from error
        if given is nothing:
            return
        yield given


def _as_epochs(result: object) -> Iterable[Mapping[str, Any]]:
    """Return what a function yields; a function of one epoch may return its dict."""
    if isinstance(result, Mapping):
        return [result]
    if not isinstance(result, Iterable) or isinstance(result, str | bytes):
        raise ValueError(f"train must yield dicts of metrics, but returned {type(result).__name__}")
    return result


def parse_epoch(given: object, score: str, number: int) -> FunctionEpoch:
    """Return an epoch of what a training function has yielded.

    Args:
        given: SPLIT/NAME to a number, or to an array of a value per example, [N], whose mean is the
            metric; and perhaps "epoch", its number.
        score: Metric on val that it must hold.
        number: Of the epoch, unless it says another.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"train must yield dicts of metrics, but yielded {given!r:.80}")
    if len(given) > MAX_METRICS:
        raise ValueError(
            f"train must yield at most {MAX_METRICS:,} metrics per epoch, but yielded "
            f"{len(given):,}; give values per example as one array [N]"
        )
    splits: dict[str, dict[str, float]] = {}
    examples: dict[str, dict[str, Values]] = {}
    for key, value in given.items():
        if key == "epoch":
            number = _parse_number(value)
            continue
        split, name = _parse_key(key)
        values = _as_numbers(key, value)
        if values.ndim > 1 or not values.size:
            raise ValueError(f"{key} must be a number or an array [N], but has {values.shape}")
        if values.ndim == 1:
            examples.setdefault(split, {})[name] = values
        splits.setdefault(split, {})[name] = mean = float(values.mean())
        if own_metric(name).unit == "points" and math.isfinite(mean) and not 0 <= mean <= 1:
            raise ValueError(
                f"{key} must be a share in [0, 1], as kdtune's {name} is, but is {mean:g}; divide "
                f"a percentage by 100, or give the metric another name"
            )
    if score not in splits.get("val", {}):
        raise ValueError(
            f"train must yield val/{score} in each epoch, but yielded {list(given)!r:.200}"
        )
    for split, own in examples.items():
        if len({len(values) for values in own.values()}) > 1:
            raise ValueError(f"arrays of {split} must have one value per example each")
    if not math.isfinite(splits["val"][score]):
        raise Diverged(f"val/{score} is {splits['val'][score]} in epoch {number}")
    return FunctionEpoch(number, splits, examples)


def _as_numbers(key: str, value: Any) -> Values:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} must be a number or an array [N], but is {value!r:.80}") from None


def _parse_number(value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise ValueError(f"epoch must be a whole number from 0 on, but got {value!r}")
    return int(value)


def _parse_key(key: object) -> tuple[str, str]:
    split = str(key).partition("/")[0]
    if not isinstance(key, str) or split not in SPLITS:
        raise ValueError(f"a metric must be named train/NAME, val/NAME or test/NAME, not {key!r}")
    return split, parse_metric(key, split)
