"""Export in int8, and what it costs and gains beside float32."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdtune.config.files import atomic_write
from kdtune.deploy import onnx as onnx_files
from kdtune.deploy.card import as_texts, sentences
from kdtune.deploy.onnx import Graph, Quantized, compare_logits, predictor, run_all, temporary
from kdtune.deploy.subject import INT8, Subject, write_facts
from kdtune.models.checks import hardware_name
from kdtune.results.design import Design
from kdtune.results.formatting import decimals, interval_words
from kdtune.results.words import holds_for
from kdtune.statistics.intervals import MIN_REPEATS, mean_interval, wilson_interval
from kdtune.students.trained import find_students

# What int8 costs and gains beside float32: accuracy, size and latency.


MIN_ROUNDS, MAX_ROUNDS = 20, 2000
ROUNDS_SECONDS = 3.0
"""Time of the measurement of latencies, unless the least number of rounds takes longer."""
WARM_UP = 5

_Pairs = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]


def accuracy_cost(
    correct: _Pairs, changed: int, repeats: Sequence[int], design: Design, split: str
) -> dict[str, Any]:
    """Return the accuracy of int8 minus that of float32, as best-int8.onnx.json has it.

    Args:
        correct: of each repeat, the exported student's first: whether int8 and float32 are right
            for each image, two arrays (N,) of 0 and 1.
        changed: images whose class differs, of the exported student.
        repeats: number of each repeat.
        design: what the repeats of the study vary.
        split: the images are of, test or val.

    Returns:
        The `split`; of the `student` the difference over images, without ends if no image changed;
        and, with at least `MIN_REPEATS`, that of the `configuration` over all repeats.
    """
    differences = [np.subtract(*pair) for pair in correct]
    first = differences[0]
    alone = mean_interval(first)
    facts: dict[str, Any] = {
        "split": split,
        "student": {
            "difference": alone.mean,
            **_ends(max(alone.low, -1.0), min(alone.high, 1.0)),
            "changed": changed,
            "images": len(first),
        },
    }
    if len(set(design.units(repeats).tolist())) >= MIN_REPEATS:
        # with folds, the interval is about new splits, and repeats have other images in val
        table = None if design.folds is not None else np.stack(differences)
        means = np.array([d.mean() for d in differences])
        over_all = design.estimate(means, table, repeats)
        facts["configuration"] = {
            "difference": over_all.mean,
            **_ends(*over_all.interval()),
            "repeats": len(repeats),
            "holds_for": holds_for(design, split, table is not None),
        }
    return facts


def _ends(low: float, high: float) -> dict[str, float | None]:
    """Return the ends of an interval; None for NaN, which JSON has not."""
    ends = {"low": low, "high": high}
    return {name: end if np.isfinite(end) else None for name, end in ends.items()}


def describe_accuracy(cost: Mapping[str, Any]) -> str:
    """Return the accuracy of int8 minus that of float32 as sentences."""
    student, configuration = cost["student"], cost.get("configuration")
    over_repeats = configuration and _points(configuration, configuration["holds_for"])
    no_change = student["difference"] == 0 and student["low"] is None
    most = wilson_interval(0, student["images"])[1] if no_change else None
    alone = _points(student, "new images")
    return sentences().accuracy(cost, over_repeats, alone, most)  # type: ignore[no-any-return]


def _points(of: Mapping[str, Any], holds_for: str) -> str:
    """Return a difference in percentage points, with its interval if there is one."""
    low, high = (math.nan if of[end] is None else of[end] for end in ("low", "high"))
    half = 100 * (high - low) / 2
    digits = decimals(half, 100 * of["difference"]) if math.isfinite(half) else 2
    words = interval_words(low, high, 100)
    about = f" (95% CI {words}, for {holds_for})" if words else ""
    return f"{100 * of['difference']:+z.{digits}f} percentage points{about}"


def interleaved(calls: Sequence[Callable[[], object]]) -> list[dict[str, float]]:
    """Return the times of calls that take turns, so that a busy machine slows all of them alike.

    The order is reversed in every second round.

    Returns:
        For each call the median and the interquartile range in milliseconds, and the number of
        rounds.
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
        low, median, high = np.percentile(milliseconds, (25, 50, 75)).tolist()
        timings.append({"median_ms": median, "iqr_ms": high - low, "rounds": rounds})
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
    subject: Subject, file: Path, template: Any, facts: dict[str, Any], write: Callable[[str], None]
) -> Path:
    """Write the student of an ONNX file in int8, and compare it with float32.

    The comparison is that of the repeats of the configuration, at most `MAX_REPEATS`, and that of
    this student alone. Each is calibrated by itself, since the ranges depend on its weights. Those
    of other repeats are made in memory.

    Args:
        subject: the student.
        file: its file in float32.
        template: `onnx.ModelProto` that can hold the weights of other repeats; see `with_weights`.
        facts: what the file in float32 says about itself.
        write: is given a line before each step, and sentences on what was done and measured.

    Returns:
        The file, beside that in float32.

    Raises:
        InputError: the data are gone, or onnxruntime cannot quantize the model.
    """
    target = file.with_name(f"{INT8}{file.suffix}")
    pairs = _quantize_repeats(subject, file, template, write)
    model, made = pairs[0].full, pairs[0].quantized
    cost = _cost(pairs)
    how = sentences().method(made, onnx_files.linear_share(model), subject.examples)
    with atomic_write(target) as part:
        onnx_files.write_onnx(made.model, part, as_texts(facts | {"quantization": how}))
        write("int8: measuring latencies.")
        view = next(subject.batches())[:1]
        full, small = interleaved(
            [partial(predictor(path, THREADS), view) for path in (file, part)]
        )
    sizes = {"float32": file.stat().st_size, "int8": target.stat().st_size}
    latency = {
        "float32": full,
        "int8": small,
        "threads": THREADS,
        "processor": hardware_name(torch.device("cpu")),
    }
    notes = [
        f"Quantized to int8: {how}",
        describe_accuracy(cost),
        sentences().gains(sizes, latency),
    ]
    measured = {"method": how, **cost, "bytes": sizes, "latency": latency}
    title = f"{facts['format']}, int8"
    write_facts(target, facts | {"format": title, "int8": measured, "notes": notes})
    for note in notes:
        write(note)
    return target


def _quantize_repeats(
    subject: Subject, file: Path, template: Any, write: Callable[[str], None]
) -> list[_Pair]:
    """Return the repeats that are compared, that of the file first, all by its method."""
    import onnx

    first, train = subject.student.repeat, subject.calibration()
    available = find_students(file.parent).repeats
    repeats = [first, *sorted(set(available) - {first})][:MAX_REPEATS]
    write(
        f"int8: comparing {len(repeats)} of {len(available)} repeats, each calibrated on "
        f"{len(train):,} train {subject.examples}, on {len(subject.labels):,} {subject.split} "
        f"{subject.examples}. Ctrl-C leaves {file.name} and the model card."
    )
    quantized = onnx_files.quantize(onnx.load(str(file)), train, subject.signature.name)
    pairs = [_Pair(subject, onnx.load(str(file)), quantized)]
    for repeat in repeats[1:]:
        write(f"int8: calibrating repeat {repeat}.")
        other = subject.of_repeat(repeat)
        graph = Graph(other.student)
        filled = onnx_files.with_weights(template, graph)
        model = filled or onnx_files.to_onnx(graph, other.signature).optimized
        if subject.results.design.folds is not None:  # each repeat has its own train
            train = other.calibration()
        with temporary(model) as copied:  # the weights are copied ones
            both = run_all([other.student.logits, predictor(copied)], [train[:CHECKED]])
        compare_logits(both[0], both[1], "train views")
        made = onnx_files.quantize(model, train, other.signature.name, quantized.method)
        pairs.append(_Pair(other, model, made))
    return pairs


def _cost(pairs: Sequence[_Pair]) -> dict[str, Any]:
    """Return the accuracy of int8 minus that of float32, on the split that judges."""
    first = pairs[0].subject
    design = dataclasses.replace(first.results.design, has_groups=False)  # images are the unit
    # with folds, each repeat has other images in val
    groups = [pairs] if design.folds is None else [[pair] for pair in pairs]
    correct, changed = [], []
    for group in groups:
        labels = group[0].subject.labels
        classes = [logits.argmax(1) for logits in _logits(group)]
        for small, full in zip(classes[::2], classes[1::2], strict=True):
            right = np.asarray(small == labels, float), np.asarray(full == labels, float)
            correct.append(right)
            changed.append(int((small != full).sum()))
    repeats = [pair.subject.student.repeat for pair in pairs]
    return accuracy_cost(correct, changed[0], repeats, design, first.split)


def _logits(pairs: Sequence[_Pair]) -> list[Tensor]:
    """Return the logits of int8 and of float32 of each repeat in turn, [N, K] each."""
    with ExitStack() as files:
        # onnxruntime for both, which is several times as fast as PyTorch
        models = [model for pair in pairs for model in (pair.quantized.model, pair.full)]
        predictors = [predictor(files.enter_context(temporary(model))) for model in models]
        views = pairs[0].subject.batches()
        batches = (part for batch in views for part in batch.split(COMPARED_AT_ONCE))
        return run_all(predictors, batches, os.cpu_count() or 1)
