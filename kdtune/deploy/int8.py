"""Export in int8, and what it costs and gains beside float32."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdtune.config.files import atomic_write
from kdtune.config.text import InputError
from kdtune.deploy.card import as_texts
from kdtune.deploy.onnx import (
    STATIC,
    Graph,
    Quantized,
    compare,
    linear_share,
    predictor,
    quantize,
    run_all,
    temporary,
    to_onnx,
    with_weights,
    write_onnx,
)
from kdtune.deploy.subject import StudyViews, Subject, write_facts
from kdtune.models.checks import hardware_name
from kdtune.results.comparison import decimals, interval_words
from kdtune.results.design import Design
from kdtune.statistics.intervals import (
    MIN_REPEATS,
    Estimate,
    Interval,
    mean_interval,
    wilson_interval,
)
from kdtune.students.loading import find_students

# What int8 costs and gains beside float32: accuracy, size and latency.


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


# Export in int8: the file, and what it costs and gains beside float32.


THREADS = 1
"""Threads of the measured latencies, as of those in costs.json."""
MAX_REPEATS = 8
"""Repeats that are compared, of a configuration with more: the file's own and the lowest others."""
COMPARED_AT_ONCE = 8
"""Views in a batch of the comparison: each session keeps the memory that its largest batch took,
and there are two sessions a repeat."""
CHECKED = 16
"""Train images on which a model with copied weights is compared with PyTorch."""


class OnnxFile(NamedTuple):
    """The ONNX file of a student in float32."""

    path: Path
    template: Any
    """`onnx.ModelProto` that can hold the weights of other repeats; see `with_weights`."""


class _Pair(NamedTuple):
    """One repeat in both precisions."""

    subject: Subject
    full: Any
    """`onnx.ModelProto` in float32."""
    quantized: Quantized


def export_int8(
    subject: Subject,
    full: OnnxFile,
    target: Path,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> list[str]:
    """Write the student of an ONNX file in int8, and compare it with float32.

    The comparison is that of the repeats of the configuration, at most `MAX_REPEATS`, and that of
    this student alone. Each is calibrated by itself, since the ranges depend on its weights. Those
    of other repeats are made in memory.

    Args:
        subject: the student.
        full: its file in float32.
        target: the file to write.
        facts: what the file in float32 says about itself.
        say: is given a line before each step.

    Returns:
        What was done and measured, as sentences.

    Raises:
        InputError: the data are gone, or onnxruntime cannot quantize the model.
    """
    import onnx

    views = calibration_data(subject)
    model = onnx.load(str(full.path))
    pairs = list(_pairs(subject, model, full, say))
    cost, own = _cost(pairs, views), pairs[0].quantized
    how = _describe_method(own, model, views)
    with atomic_write(target) as part:
        write_onnx(own.model, part, as_texts(facts | {"quantization": how}))
        say("int8: measuring latencies.")
        timings = _timings(full.path, part, views)
    sizes = full.path.stat().st_size, target.stat().st_size
    notes = [
        f"Quantized to int8: {how}",
        describe_accuracy(cost),
        describe_gains(sizes, timings, THREADS, _processor()),
    ]
    measured = _as_facts(how, cost, sizes, timings)
    title = f"{facts['format']}, int8"
    write_facts(target, facts | {"format": title, "int8": measured, "notes": notes})
    return notes


def calibration_data(subject: Subject) -> StudyViews:
    """Return the data that a model is calibrated and judged on.

    Raises:
        InputError: they are gone.
    """
    if subject.views is None:
        raise InputError(
            f"--int8 needs the study's data, to calibrate and to compare with float32, but "
            f"{subject.reason}; put the data back, or leave --int8 out"
        )
    return subject.views


def compared_repeats(subject: Subject, folder: Path) -> tuple[list[int], int]:
    """Return the repeats that are compared, the file's own first, and the number of all.

    Args:
        subject: whose repeat is the file's own.
        folder: students/.
    """
    found, own = find_students(folder).repeats, subject.student.repeat
    return [own, *sorted(set(found) - {own})][:MAX_REPEATS], len(found)


def _pairs(
    subject: Subject, model: Any, full: OnnxFile, say: Callable[[str], None]
) -> Iterator[_Pair]:
    """Yield the repeats that are compared in both precisions, that of the file first."""
    views = calibration_data(subject)
    train = views.calibration()
    (first, *others), total = compared_repeats(subject, full.path.parent)
    count = 1 + len(others)
    say(
        f"int8: calibrating repeat {first} (1 of {count}) on {len(train):,} train "
        f"{views.examples}. Ctrl-C leaves {full.path.name} and the model card."
    )
    made = quantize(model, train, subject.signature.name)
    yield _Pair(subject, model, made)
    yield from _quantize_others(subject, full.template, others, made.method, train, say)
    say(
        f"int8: comparing the accuracy of {count}{f' of {total}' * (total > count)} repeats on "
        f"{len(views.labels):,} {views.split} {views.examples}."
    )


def _quantize_others(
    subject: Subject,
    template: Any,
    repeats: Sequence[int],
    method: str,
    train: Tensor,
    say: Callable[[str], None],
) -> Iterator[_Pair]:
    """Yield the students of other repeats in int8, made in memory by the same method."""
    with_folds = subject.results.design.folds is not None  # each repeat has its own train
    for number, repeat in enumerate(repeats, start=2):
        say(f"int8: calibrating repeat {repeat} ({number} of {1 + len(repeats)}).")
        own = subject.of_repeat(repeat)
        graph = Graph(own.student)
        model = with_weights(template, graph) or to_onnx(graph, own.signature).optimized
        views = calibration_data(own).calibration() if with_folds else train
        with temporary(model) as file:
            both = run_all([own.student.logits, predictor(file)], [views[:CHECKED]])
        compare(both[0], both[1], "train views")  # the weights are copied ones
        yield _Pair(own, model, quantize(model, views, own.signature.name, method))


class _Judged(NamedTuple):
    """Whether each image of the split that judges is classified rightly, (N,) of 0 and 1."""

    small: Values
    full: Values
    changed: int
    """Images whose class differs."""


def _cost(pairs: Sequence[_Pair], views: StudyViews) -> AccuracyCost:
    """Return the accuracy of int8 minus that of float32, on the split that judges."""
    judged = _judge(pairs)
    correct = [(one.small, one.full) for one in judged]
    repeats = [pair.subject.student.repeat for pair in pairs]
    design = pairs[0].subject.results.design
    return accuracy_cost(correct, judged[0].changed, repeats, design, views.split)


def _judge(pairs: Sequence[_Pair]) -> list[_Judged]:
    """Return whether int8 and float32 are right for each image, by repeat."""
    first = pairs[0].subject
    if first.results.design.folds is not None and len(pairs) > 1:  # other images in val
        return [judged for pair in pairs for judged in _judge([pair])]
    views = calibration_data(first)
    with ExitStack() as files:
        predictors = []
        for pair in pairs:  # onnxruntime for both, which is several times as fast as PyTorch
            for model in (pair.quantized.model, pair.full):
                predictors.append(predictor(files.enter_context(temporary(model))))
        batches = (part for own in views.batches() for part in own.split(COMPARED_AT_ONCE))
        logits = run_all(predictors, batches, os.cpu_count() or 1)
    found = []
    for small, full in zip(logits[::2], logits[1::2], strict=True):
        classes = [own.argmax(1) for own in (small, full)]
        right = [np.asarray(own == views.labels, dtype=float) for own in classes]
        found.append(_Judged(right[0], right[1], int((classes[0] != classes[1]).sum())))
    return found


def _describe_method(own: Quantized, model: Any, views: StudyViews) -> str:
    """Return how a model was quantized, and why so, as a sentence."""
    how = (
        f"static, per channel (QDQ), calibrated on {own.calibrated:,} train {views.examples}"
        if own.method == STATIC
        else "dynamic, weights of linear layers per channel"
    )
    share = f"linear layers hold {linear_share(model):.0%} of the weights"
    if not own.others:
        why = f"{share}, so dynamic quantization was not tried" if own.method == STATIC else share
        return f"{how}; {why}."
    other, error = next(iter(own.others.items()))
    return (
        f"{how}; {share}, so both methods were tried on train {views.examples}, and the mean "
        f"difference of the logits is {own.error:.2g}, with {other} {error:.2g}."
    )


def _timings(full: Path, small: Path, views: StudyViews) -> list[Timing]:
    """Return the latencies of both files at batch size 1."""
    one = next(views.batches())[:1]
    runs = [predictor(file, THREADS) for file in (full, small)]
    return interleaved([lambda run=run: run(one) for run in runs])  # type: ignore[misc]


def _processor() -> str:
    return hardware_name(torch.device("cpu"))


def _as_facts(
    how: str, cost: AccuracyCost, sizes: tuple[int, int], timings: Sequence[Timing]
) -> dict[str, Any]:
    """Return what was measured as JSON has it."""
    numbers: dict[str, Any] = {
        "method": how,
        "split": cost.split,
        "student": {
            "difference": cost.own.mean,
            "low": _known(cost.own.low),
            "high": _known(cost.own.high),
            "changed": cost.changed,
            "images": cost.count,
        },
    }
    if cost.all is not None:
        low, high = cost.all.interval()
        ends = {"low": _known(low), "high": _known(high)}
        numbers["configuration"] = {"difference": cost.all.mean, **ends} | {
            "repeats": cost.repeats,
            "holds_for": cost.holds_for,
        }
    names = ("float32", "int8")
    latencies = dict(zip(names, map(asdict, timings), strict=True))
    machine = {"threads": THREADS, "processor": _processor()}
    return numbers | {"bytes": dict(zip(names, sizes, strict=True)), "latency": latencies | machine}


def _known(value: float) -> float | None:
    """Return a number; None for NaN, which JSON has not."""
    return value if np.isfinite(value) else None
