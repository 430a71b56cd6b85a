"""Export in int8: the file, and what it costs and gains beside float32."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write
from kdtune.deploy.check import compare, run_all
from kdtune.deploy.description import as_texts
from kdtune.deploy.gains import (
    AccuracyCost,
    Timing,
    Values,
    accuracy_cost,
    describe_accuracy,
    describe_gains,
    interleaved,
)
from kdtune.deploy.graph import Graph
from kdtune.deploy.onnx_files import predictor, temporary, to_onnx, with_weights, write_onnx
from kdtune.deploy.quantize import STATIC, Quantized, linear_share, quantize
from kdtune.deploy.study_views import StudyViews
from kdtune.deploy.subject import Subject
from kdtune.deploy.writing import write_facts
from kdtune.models.cost import hardware_name
from kdtune.students.places import find_students

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
