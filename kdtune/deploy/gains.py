"""What int8 costs and gains beside float32: accuracy, size and latency."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdtune.results.design import Design
from kdtune.results.tables import decimals, interval_words
from kdtune.statistics.crossed import Estimate
from kdtune.statistics.intervals import MIN_REPEATS, Interval, mean_interval, wilson_interval

MIN_ROUNDS, MAX_ROUNDS = 20, 2000
ROUNDS_SECONDS = 3.0
"""Time of the measurement of latencies, unless the least number of rounds takes longer."""
WARM_UP = 5

Values = NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyCost:
    """Accuracy of int8 minus that of float32 on N images, paired by image."""

    own: Interval
    """Of the exported student, over images; ends are NaN if no image changed."""
    changed: int
    """Images whose class differs between the two, of the exported student."""
    count: int
    """N."""
    all: Estimate | None
    """Of all R repeats; None with fewer than `MIN_REPEATS`."""
    repeats: int
    """R."""
    holds_for: str
    """What `all` is about."""
    split: str


def accuracy_cost(
    correct: Sequence[tuple[Values, Values]],
    changed: int,
    repeats: Sequence[int],
    design: Design,
    split: str,
) -> AccuracyCost:
    """Return the accuracy of int8 minus that of float32.

    Args:
        correct: of each repeat, the exported student's first: whether int8 and float32 are right
            for each image, two arrays (N,) of 0 and 1.
        changed: images whose class differs, of the exported student.
        repeats: number of each repeat.
        design: what the repeats of the study vary.
        split: the images are of, test or val.
    """
    differences = [np.subtract(*pair) for pair in correct]
    first = differences[0]
    own = mean_interval(first, bounds=(-1.0, 1.0))
    over_all = None
    # with folds, repeats have other images in val
    same_images = design.folds is None or split == "test"
    table = np.stack(differences) if same_images else None
    if len(set(design.units(repeats).tolist())) >= MIN_REPEATS:
        means = np.array([d.mean() for d in differences])
        over_all = design.estimate(means, None if design.folds else table, repeats)
    new_images = table is not None and design.folds is None
    holds_for = design.holds_for(split, new_images)
    return AccuracyCost(own, changed, len(first), over_all, len(repeats), holds_for, split)


def describe_accuracy(cost: AccuracyCost) -> str:
    """Return the accuracy of int8 minus that of float32 as sentences."""
    what = f"{cost.split.capitalize()} accuracy, int8 minus float32"
    own, differ = cost.own, f"{cost.changed:,} of {cost.count:,} predictions differ"
    text = ""
    if cost.all is not None:
        low, high = cost.all.interval()
        points = _points(cost.all.mean, low, high, cost.holds_for)
        text = f"{what}, over {cost.repeats} repeats: {points}. "
    whose = "This student alone" if text else what
    text += f"{whose}: {_points(own.mean, own.low, own.high, 'new images')}; {differ}."
    if own.mean == 0 and own.sd == 0:
        most = 100 * wilson_interval(0, cost.count)[1]
        text += (
            f" No image became right or wrong; of new images at most {most:.2g}% do (95% CI, "
            f"Wilson)."
        )
    return text


def _points(mean: float, low: float, high: float, holds_for: str) -> str:
    """Return a difference in percentage points, with its interval if there is one."""
    half = 100 * (high - low) / 2
    digits = decimals(half, 100 * mean) if math.isfinite(half) else 2
    words = interval_words(low, high, 100)
    about = f" (95% CI {words}, for {holds_for})" if words else ""
    return f"{100 * mean:+z.{digits}f} percentage points{about}"


# -- time --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Times of a call in milliseconds, over interleaved rounds."""

    median_ms: float
    iqr_ms: float
    """Interquartile range."""
    rounds: int


def interleaved(calls: Sequence[Callable[[], object]]) -> list[Timing]:
    """Return the times of calls that take turns, so that a busy machine slows all of them alike.

    The order is reversed in every second round.
    """
    for call in calls:
        for _ in range(WARM_UP):
            call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + ROUNDS_SECONDS
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() < end):
        order = range(len(calls)) if rounds % 2 else reversed(range(len(calls)))
        for k in order:
            start = time.perf_counter()
            calls[k]()
            times[k].append(1e3 * (time.perf_counter() - start))
        rounds += 1
    found = []
    for own in times:
        low, median, high = np.percentile(own, (25, 50, 75))
        found.append(Timing(float(median), float(high - low), rounds))
    return found


def describe_gains(
    sizes: tuple[int, int], timings: Sequence[Timing], threads: int, processor: str
) -> str:
    """Return size and latency of int8 beside float32 as a sentence.

    Args:
        sizes: bytes of the files in float32 and in int8.
        timings: of both.
        threads: of onnxruntime.
        processor: name of the CPU.
    """
    full, small = timings
    ratio = small.median_ms / full.median_ms
    return (
        f"Size: {sizes[1] / 1e3:,.1f} kB instead of {sizes[0] / 1e3:,.1f} kB "
        f"({sizes[1] / sizes[0]:.0%}). Latency at batch size 1: {small.median_ms:.3g} ms instead "
        f"of {full.median_ms:.3g} ms, ratio {ratio:.2f} (medians of {full.rounds:,} interleaved "
        f"runs, {threads} thread{'s' * (threads > 1)} of {processor})."
    )
