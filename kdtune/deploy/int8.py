"""Export in int8: the file, and what it costs and gains beside float32."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write
from kdtune.deploy.check import BATCH, compare, run_all
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


CHECKED = 16
"""Train images on which a model with copied weights is compared with PyTorch."""


class _Pair(NamedTuple):
    """One repeat in both precisions."""

    subject: Subject
    quantized: Quantized


def export_int8(subject: Subject, full: Path, target: Path, facts: dict[str, Any]) -> list[str]:
    """Write the student of an ONNX file in int8, and compare it with float32.

    The comparison is that of all repeats of the configuration, each quantized with its own
    calibration, and that of this student alone.

    Args:
        subject: the student.
        full: its ONNX file in float32.
        target: the file to write.
        facts: what the file in float32 says about itself.

    Returns:
        What was done and measured, as sentences.

    Raises:
        InputError: the data are gone, or onnxruntime cannot quantize the model.
    """
    import onnx

    views = calibration_data(subject)
    model = onnx.load(str(full))
    train = views.calibration()
    first = _Pair(subject, _quantize(subject, model, train))
    others = [n for n in find_students(full.parent).repeats if n != subject.student.repeat]
    pairs = [first, *_quantize_others(subject, others, first.quantized.method, train)]
    judged = _judge(pairs)
    cost = accuracy_cost(
        [(one.small, one.full) for one in judged],
        judged[0].changed,
        [subject.student.repeat, *others],
        subject.results.design,
        views.split,
    )
    how = _describe_method(first.quantized, model, views)
    with atomic_write(target) as part:
        write_onnx(first.quantized.model, part, as_texts(facts | {"quantization": how}))
        timings = _timings(full, part, views)
    sizes = full.stat().st_size, target.stat().st_size
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


def _quantize(subject: Subject, model: Any, train: Tensor, given: str | None = None) -> Quantized:
    """Return a model in int8, calibrated on views of train."""
    student, name = subject.student, subject.signature.name
    (reference,) = run_all([student.logits], train.split(BATCH))
    return quantize(model, train, reference, name, given)


def _quantize_others(
    subject: Subject, repeats: Sequence[int], method: str, train: Tensor
) -> Iterator[_Pair]:
    """Yield the students of other repeats in int8, made in memory by the same method."""
    template: Any = None
    with_folds = subject.results.design.folds is not None  # each repeat has its own train
    for repeat in repeats:
        own = Subject.of(subject.results, repeat)
        graph = Graph(own.student)
        template = template or to_onnx(graph, own.signature, optimize=False)
        model = with_weights(template, graph) or to_onnx(graph, own.signature)
        views = calibration_data(own).calibration() if with_folds else train
        with temporary(model) as file:
            both = run_all([own.student.logits, predictor(file)], [views[:CHECKED]])
        compare(both[0], both[1], "train views")  # the weights are copied ones
        yield _Pair(own, _quantize(own, model, views, method))


class _Judged(NamedTuple):
    """Whether each image of the split that judges is classified rightly, (N,) of 0 and 1."""

    small: Values
    full: Values
    changed: int
    """Images whose class differs."""


def _judge(pairs: Sequence[_Pair]) -> list[_Judged]:
    """Return whether int8 and float32 are right for each image, by repeat."""
    first = pairs[0].subject
    if first.results.design.folds is not None and len(pairs) > 1:  # other images in val
        return [judged for pair in pairs for judged in _judge([pair])]
    views = calibration_data(first)
    with ExitStack() as files:
        predictors = []
        for subject, quantized in pairs:
            file = files.enter_context(temporary(quantized.model))
            predictors += [predictor(file), subject.student.logits]
        logits = run_all(predictors, views.batches())  # photographs are decoded once
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
