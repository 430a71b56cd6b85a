"""Export in int8, and what it costs and gains beside float32."""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdtune.config.files import atomic_write
from kdtune.config.text import InputError
from kdtune.deploy.card import as_texts, templates
from kdtune.deploy.onnx import (
    Graph,
    Quantized,
    compare_logits,
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

_Values = NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyCost:
    """Accuracy of int8 minus that of float32 on N images, paired by image."""

    student: Interval
    """Of the exported student, over images; ends are NaN if no image changed."""
    changed: int
    """Images whose class differs between the two, of the exported student."""
    count: int
    """N."""
    configuration: Estimate | None
    """Of all R repeats; None with fewer than `MIN_REPEATS`."""
    repeats: int
    """R."""
    holds_for: str
    """What `configuration` is about."""
    split: str


def accuracy_cost(
    correct: Sequence[tuple[_Values, _Values]],
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
    student = mean_interval(first, bounds=(-1.0, 1.0))
    over_all = None
    # with folds, repeats have other images in val
    same_images = design.folds is None or split == "test"
    table = np.stack(differences) if same_images else None
    if len(set(design.units(repeats).tolist())) >= MIN_REPEATS:
        means = np.array([d.mean() for d in differences])
        over_all = design.estimate(means, None if design.folds else table, repeats)
    new_images = table is not None and design.folds is None
    holds_for = design.holds_for(split, new_images)
    return AccuracyCost(student, changed, len(first), over_all, len(repeats), holds_for, split)


def describe_accuracy(cost: AccuracyCost) -> str:
    """Return the accuracy of int8 minus that of float32 as sentences."""
    over_repeats, student = "", cost.student
    if cost.configuration is not None:
        over_repeats = _points(
            cost.configuration.mean, *cost.configuration.interval(), cost.holds_for
        )
    alone = _points(student.mean, student.low, student.high, "new images")
    no_change = student.mean == 0 and student.sd == 0
    most = wilson_interval(0, cost.count)[1] if no_change else None
    return _sentences().accuracy(cost, over_repeats, alone, most)  # type: ignore[no-any-return]


def _sentences() -> Any:
    """Return the macros of the sentences about int8."""
    return templates().get_template("int8.txt").module


def _points(mean: float, low: float, high: float, holds_for: str) -> str:
    """Return a difference in percentage points, with its interval if there is one."""
    half = 100 * (high - low) / 2
    digits = decimals(half, 100 * mean) if math.isfinite(half) else 2
    words = interval_words(low, high, 100)
    about = f" (95% CI {words}, for {holds_for})" if words else ""
    return f"{100 * mean:+z.{digits}f} percentage points{about}"


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
    timings = []
    for milliseconds in times:
        low, median, high = np.percentile(milliseconds, (25, 50, 75))
        timings.append(Timing(float(median), float(high - low), rounds))
    return timings


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


class _Pair(NamedTuple):
    """One repeat in both precisions."""

    subject: Subject
    full: Any
    """`onnx.ModelProto` in float32."""
    quantized: Quantized


def export_int8(
    subject: Subject,
    file: Path,
    template: Any,
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
        file: its file in float32.
        template: `onnx.ModelProto` that can hold the weights of other repeats; see `with_weights`.
        target: the file to write.
        facts: what the file in float32 says about itself.
        say: is given a line before each step.

    Returns:
        What was done and measured, as sentences.

    Raises:
        InputError: the data are gone, or onnxruntime cannot quantize the model.
    """
    views, sentences = calibration_data(subject), _sentences()
    pairs = _quantize_repeats(subject, file, template, say)
    model, made = pairs[0].full, pairs[0].quantized
    cost = _cost(pairs)
    how = sentences.method(made, linear_share(model), views.examples)
    with atomic_write(target) as part:
        write_onnx(made.model, part, as_texts(facts | {"quantization": how}))
        say("int8: measuring latencies.")
        view = next(views.batches())[:1]
        full, small = (partial(predictor(path, THREADS), view) for path in (file, part))
        full_time, small_time = interleaved([full, small])
    sizes = {"float32": file.stat().st_size, "int8": target.stat().st_size}
    latency = {
        "float32": asdict(full_time),
        "int8": asdict(small_time),
        "threads": THREADS,
        "processor": hardware_name(torch.device("cpu")),
    }
    notes = [
        f"Quantized to int8: {how}",
        describe_accuracy(cost),
        sentences.gains(sizes, latency),
    ]
    measured = {"method": how, **_as_facts(cost), "bytes": sizes, "latency": latency}
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
    repeats, first = find_students(folder).repeats, subject.student.repeat
    return [first, *sorted(set(repeats) - {first})][:MAX_REPEATS], len(repeats)


def _quantize_repeats(
    subject: Subject, file: Path, template: Any, say: Callable[[str], None]
) -> list[_Pair]:
    """Return the repeats that are compared, that of the file first, all by its method."""
    import onnx

    views = calibration_data(subject)
    train = views.calibration()
    repeats, total = compared_repeats(subject, file.parent)
    with_folds = subject.results.design.folds is not None  # each repeat has its own train
    pairs: list[_Pair] = []
    for number, repeat in enumerate(repeats, start=1):
        step = f"int8: calibrating repeat {repeat} ({number} of {len(repeats)})"
        if not pairs:
            say(
                f"{step} on {len(train):,} train {views.examples}. Ctrl-C leaves {file.name} and "
                f"the model card."
            )
            other, model, method = subject, onnx.load(str(file)), None
        else:
            say(f"{step}.")
            other, method = subject.of_repeat(repeat), pairs[0].quantized.method
            graph = Graph(other.student)
            model = with_weights(template, graph) or to_onnx(graph, other.signature).optimized
            train = calibration_data(other).calibration() if with_folds else train
            with temporary(model) as copied:  # the weights are copied ones
                both = run_all([other.student.logits, predictor(copied)], [train[:CHECKED]])
            compare_logits(both[0], both[1], "train views")
        pairs.append(_Pair(other, model, quantize(model, train, other.signature.name, method)))
    compared = f"{len(repeats)} of {total}" if total > len(repeats) else f"{total}"
    say(
        f"int8: comparing the accuracy of {compared} repeats on {len(views.labels):,} "
        f"{views.split} {views.examples}."
    )
    return pairs


def _cost(pairs: Sequence[_Pair]) -> AccuracyCost:
    """Return the accuracy of int8 minus that of float32, on the split that judges."""
    first = pairs[0].subject
    design = first.results.design
    # with folds, each repeat has other images in val
    groups = [pairs] if design.folds is None else [[pair] for pair in pairs]
    correct, changed = [], []
    for group in groups:
        views = calibration_data(group[0].subject)
        labels = views.labels
        classes = [logits.argmax(1) for logits in _logits(group, views)]
        for small, full in zip(classes[::2], classes[1::2], strict=True):
            right = np.asarray(small == labels, float), np.asarray(full == labels, float)
            correct.append(right)
            changed.append(int((small != full).sum()))
    repeats = [pair.subject.student.repeat for pair in pairs]
    return accuracy_cost(correct, changed[0], repeats, design, calibration_data(first).split)


def _logits(pairs: Sequence[_Pair], views: StudyViews) -> list[Tensor]:
    """Return the logits of int8 and of float32 of each repeat in turn, [N, K] each."""
    with ExitStack() as files:
        # onnxruntime for both, which is several times as fast as PyTorch
        models = [model for pair in pairs for model in (pair.quantized.model, pair.full)]
        predictors = [predictor(files.enter_context(temporary(model))) for model in models]
        batches = (part for batch in views.batches() for part in batch.split(COMPARED_AT_ONCE))
        return run_all(predictors, batches, os.cpu_count() or 1)


def _as_facts(cost: AccuracyCost) -> dict[str, Any]:
    """Return the accuracy of int8 minus that of float32 as JSON has it."""
    student = {
        "difference": cost.student.mean,
        **_ends(cost.student.low, cost.student.high),
        "changed": cost.changed,
        "images": cost.count,
    }
    facts: dict[str, Any] = {"split": cost.split, "student": student}
    if cost.configuration is not None:
        facts["configuration"] = {
            "difference": cost.configuration.mean,
            **_ends(*cost.configuration.interval()),
            "repeats": cost.repeats,
            "holds_for": cost.holds_for,
        }
    return facts


def _ends(low: float, high: float) -> dict[str, float | None]:
    """Return the ends of an interval; None for NaN, which JSON has not."""
    ends = {"low": low, "high": high}
    return {name: end if np.isfinite(end) else None for name, end in ends.items()}
