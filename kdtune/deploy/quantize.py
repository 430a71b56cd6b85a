"""Quantization of ONNX models to int8, by onnxruntime.

Static quantization writes weights and activations as int8 (QDQ: pairs of QuantizeLinear and
DequantizeLinear, which runtimes fuse), with the ranges of the activations measured on images of
train. Dynamic quantization writes only the weights of linear layers as int8 and measures the ranges
of their inputs anew for each batch, which suits transformers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtune.config.errors import InputError, first_line
from kdtune.deploy.check import BATCH, run_all
from kdtune.deploy.onnx_files import predictor, quiet, temporary

MIN_CALIBRATION, MAX_CALIBRATION = 32, 128
"""Images that the ranges of activations are measured on; the ranges are those of all of them, so
that more images give wider ranges, not better ones."""
CALIBRATION_VALUES = 2**23
"""Values of all these images together; of larger images, fewer are taken, but not fewer than
`MIN_CALIBRATION`: 41 of 260 x 260 pixels."""
MAINLY = 0.5
"""A model is mainly linear if linear layers hold more than this share of its weights."""
LINEAR, CONVOLUTIONS = ("MatMul", "Gemm"), ("Conv", "ConvTranspose")
STATIC, DYNAMIC = "static", "dynamic"


@dataclass(frozen=True)
class Quantized:
    """An int8 model, and how it was made."""

    model: Any
    """`onnx.ModelProto`."""
    method: str
    """"static" or "dynamic"."""
    error: float
    """Mean absolute difference of its logits from those in float32, on the calibration images; NaN
    if no other method was tried."""
    calibrated: int
    """Number of calibration images."""
    others: dict[str, float]
    """The same error of the methods that were tried and not taken."""


def quantize(model: Any, views: Tensor, name: str, given: str | None = None) -> Quantized:
    """Return a model in int8, by the method with the smallest error on images of train.

    Args:
        model: `onnx.ModelProto` in float32; it is not changed.
        views: images of train, [B, ...].
        name: of the model's input.
        given: the method; by default static and, for models that are mainly linear, dynamic are
            tried.

    Raises:
        InputError: onnxruntime cannot quantize the model.
    """
    names = [given] if given else [STATIC, *[DYNAMIC] * (linear_share(model) > MAINLY)]
    made = {method: _quantized(model, views, name, method) for method in names}
    errors = dict.fromkeys(names, math.nan)
    if len(names) > 1:
        reference = _logits(model, views)
        errors = {k: float((_logits(v, views) - reference).abs().mean()) for k, v in made.items()}
    best = min(errors, key=lambda method: errors[method])
    others = {method: error for method, error in errors.items() if method != best}
    return Quantized(made[best], best, errors[best], len(views), others)


def _logits(model: Any, views: Tensor) -> Tensor:
    with temporary(model) as file:
        return run_all([predictor(file)], views.split(BATCH))[0]


def linear_share(model: Any) -> float:
    """Return the share of a model's weights that linear layers hold, among these and convolutions.

    Args:
        model: `onnx.ModelProto`.
    """
    sizes = {one.name: int(np.prod(one.dims)) for one in model.graph.initializer}
    held = dict.fromkeys((*LINEAR, *CONVOLUTIONS), 0)
    for node in model.graph.node:
        if node.op_type in held:
            held[node.op_type] += sum(sizes.get(name, 0) for name in node.input[:2])
    linear = sum(held[kind] for kind in LINEAR)
    return linear / max(sum(held.values()), 1)


def _quantized(model: Any, views: Tensor, name: str, method: str) -> Any:
    """Return the int8 model of one method."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        with quiet(), temporary(model) as source:
            prepared, target = (source.with_name(f"{part}.onnx") for part in ("prepared", "int8"))
            # folds batch norm into convolutions; onnx infers all shapes that quantization needs
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            if method == STATIC:
                quantization.quantize_static(
                    str(prepared),
                    str(target),
                    _Reader(views, name),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=quantization.QuantType.QInt8,
                    weight_type=quantization.QuantType.QInt8,
                )
            else:
                quantization.quantize_dynamic(
                    str(prepared),
                    str(target),
                    op_types_to_quantize=list(LINEAR),
                    per_channel=True,
                    weight_type=quantization.QuantType.QInt8,
                )
            return onnx.load(str(target))
    except Exception as error:  # onnxruntime raises anything
        reason = f"{type(error).__name__}: {first_line(error, 160)}"
        raise InputError(
            f"the student cannot be quantized ({reason}); export it without --int8"
        ) from error


class _Reader:
    """Batches of calibration images, as onnxruntime reads them (a `CalibrationDataReader`)."""

    def __init__(self, views: Tensor, name: str):
        self._batches: Iterator[Tensor] = iter(views.split(1))
        self._name = name

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch; None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch.numpy()}


def calibration_index(index: Tensor, values: int) -> Tensor:
    """Return the examples to calibrate on, evenly over all.

    Args:
        index: of all, int64 [N].
        values: numbers in a view, such as channels x height x width.
    """
    most = min(max(CALIBRATION_VALUES // values, MIN_CALIBRATION), MAX_CALIBRATION)
    count = min(len(index), most)
    return index[torch.linspace(0, len(index) - 1, count).round().long()]
