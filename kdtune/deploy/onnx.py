"""ONNX files: export, check against PyTorch, quantization."""

import contextlib
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdtune.config.text import ExportMismatchError, InputError, first_line
from kdtune.students.trained import TrainedStudent

# The function that is exported: from a batch of views to logits.


Predict = Callable[[Tensor], Tensor]
"""From a batch of views [B, ...] to logits, float32 [B, K]."""
OUTPUT = "logits"
"""Name of the output in exported files."""


class Graph(nn.Module):
    """A student from views to logits: preprocessing and network, without the softmax.

    Args:
        student: in eval mode on the CPU.
    """

    def __init__(self, student: TrainedStudent):
        super().__init__()
        self.student = student

    def forward(self, views: Tensor) -> Tensor:
        """Return the logits of views, float32 [B, K]."""
        return self.student.logits(views)


@dataclass(frozen=True)
class Signature:
    """Input of an exported file: any number of examples of one shape and type."""

    name: str
    """Name of the input: "images", or "inputs" where the data are no images."""
    shape: tuple[int, ...]
    """Shape of one example, (C, H, W) of an image."""
    dtype: torch.dtype

    @staticmethod
    def of(student: TrainedStudent, views: Tensor | None) -> "Signature":
        """Return the input of a student.

        Args:
            student: whose record may know it.
            views: some views of its data [B, ...]; None if the data are gone.

        Raises:
            InputError: neither the student nor the data say what it is.
        """
        taken = student.input
        name = "images" if taken.resizing is not None else "inputs"
        if taken.shape is not None and taken.dtype is not None:
            return Signature(name, taken.shape, taken.dtype)
        if views is None:
            raise InputError(
                f"the shape of the inputs of {student.name} is not known, since an earlier version "
                f"of kdtune wrote the study and its data are gone; put the data back"
            )
        return Signature(name, tuple(views.shape[1:]), views.dtype)

    @property
    def type_name(self) -> str:
        """Name of the type, such as "uint8"; NumPy has the same names."""
        return str(self.dtype).removeprefix("torch.")

    def random(self, count: int, seed: int = 0) -> Tensor:
        """Return random views [count, ...]: bytes, whole numbers 0 and 1, or normal numbers."""
        generator = torch.Generator().manual_seed(seed)
        size = (count, *self.shape)
        if self.dtype == torch.uint8:
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        if not self.dtype.is_floating_point:  # token ids: only small ones are surely in range
            return torch.randint(0, 2, size, generator=generator).to(self.dtype)
        return torch.randn(size, generator=generator).to(self.dtype)


# ONNX files: export, metadata and predictions (onnx, onnxruntime).
#
# Both packages are the extra kdtune[export]; they are imported where they are used.


OPSET = 20
"""Opset of exported files, that of PyTorch 2.13's exporter; onnxruntime 1.17 and later run it."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLES = 2
"""Examples in the batch that the exporter traces; a batch of one would fix the batch size."""


def trace(graph: nn.Module, signature: Signature) -> Any:
    """Return the program of a graph, with a dynamic batch (`torch.export.ExportedProgram`).

    Raises:
        InputError: PyTorch cannot export the model.
    """
    example = signature.random(EXAMPLES)
    batch = torch.export.Dim("batch")
    with exporting("--format safetensors writes its weights with all metadata"):
        program = torch.export.export(graph, (example,), dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:  # the paths of files on this machine
                node.meta.pop("stack_trace", None)
    return program


class OnnxModels(NamedTuple):
    """The ONNX model of a graph in two forms, `onnx.ModelProto`."""

    optimized: Any
    """Batch norm and constants are folded."""
    template: Any
    """Before that: weights have their names in the state dict, see `with_weights`."""


def to_onnx(graph: nn.Module, signature: Signature) -> OnnxModels:
    """Return the ONNX model of a graph, as it is written and as a template for other weights.

    Args:
        graph: from views to logits.
        signature: its input.

    Raises:
        InputError: the model cannot be exported.
    """
    program = trace(graph, signature)
    with exporting("--format torch-export or safetensors may do"):
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[signature.name],
            output_names=[OUTPUT],
            external_data=False,
            optimize=False,
            verbose=False,
        )
        assert made is not None  # noqa: S101 - None for other arguments
        template = made.model_proto
        made.optimize()  # what optimize=True does; to export once more takes half a minute
        models = OnnxModels(made.model_proto, template)
    for model in models:
        _strip(model)
    return models


def with_weights(model: Any, graph: nn.Module) -> Any | None:
    """Return a copy of a model that was not optimized with the weights of another graph.

    To export takes half a minute for a network of a hundred layers, to copy weights no time.

    Returns:
        The model; None if it lacks a weight of the graph.
    """
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    weights = {weight.name: weight for weight in copied.graph.initializer}
    for name, value in graph.state_dict().items():
        if name.endswith(".num_batches_tracked"):  # only training needs it
            continue
        if name not in weights or tuple(weights[name].dims) != tuple(value.shape):
            return None
        weights[name].CopyFrom(onnx.numpy_helper.from_array(value.detach().numpy(), name))
    return copied


def _strip(message: Any) -> None:
    """Remove the notes of the exporter: they name files of this machine, and double the size."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                _strip(part)


def write_onnx(model: Any, file: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model with metadata, `metadata_props`."""
    import onnx

    onnx.helper.set_model_props(model, dict(metadata))
    model.producer_name, model.producer_version = "kdtune", metadata.get("kdtune_version", "")
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def temporary(model: Any) -> Iterator[Path]:
    """Yield the file of an ONNX model, for the duration of the context."""
    with tempfile.TemporaryDirectory(prefix="kdtune-") as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(model.SerializeToString())
        yield file


def predictor(file: Path, threads: int = 1) -> Predict:
    """Return the function of an ONNX file on the CPU, from views to logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone: it warns of each shape that it cannot infer
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (name,) = (node.name for node in session.get_inputs())

    def predict(views: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {name: views.numpy()})
        return torch.from_numpy(logits)

    return predict


@contextlib.contextmanager
def exporting(advice: str, verb: str = "exported") -> Iterator[None]:
    """Hide what exporters print, and turn every exception that they raise into an InputError.

    Args:
        advice: what would do.
        verb: what cannot be done with the student.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # exporters and user's models raise anything
        cause: BaseException = error
        while cause.__cause__ is not None:  # torch.onnx wraps the reason several times
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {first_line(cause, 160)}"
        raise InputError(f"the student cannot be {verb} ({reason}); {advice}") from error
    finally:
        logging.disable(disabled)


# Check of an exported file: the same predictions as PyTorch.


BATCH = 64
"""Views that are predicted at once."""
MAX_RELATIVE_DIFFERENCE = 1e-3
"""Largest difference of the logits as a share of the largest logit. Rounding gave at most 2e-5 for
networks of timm, torchvision and kdtune; a wrong mean or interpolation gives 1e-2 or more."""
TIE = 1e-4
"""Two logits of an image that differ by less than this share of its largest one are equal but for
rounding: either class is then a right prediction."""


@dataclass(frozen=True)
class Agreement:
    """Logits of an exported file beside those of PyTorch on the same N views."""

    count: int
    """N."""
    largest_difference: float
    """Largest absolute difference of the logits."""
    largest_logit: float
    """Largest absolute logit of PyTorch."""
    ties: int
    """Views whose class differs, but whose two largest logits are equal but for rounding."""


def compare_logits(reference: Tensor, exported: Tensor, views: str) -> Agreement:
    """Compare logits [N, K] of an exported file with those of PyTorch.

    Args:
        reference: of PyTorch.
        exported: of the file.
        views: the views in words, such as "test images".

    Raises:
        ExportMismatchError: a class differs, or logits differ by more than rounding.
    """
    difference = float((exported - reference).abs().max())
    largest = float(reference.abs().max())
    mine, other = reference.argmax(1), exported.argmax(1)
    rows = torch.arange(len(reference))
    margin = reference[rows, mine] - reference[rows, other]
    differs = mine != other
    tied = differs & (margin <= TIE * reference.abs().amax(1))
    wrong = int((differs & ~tied).sum())
    # NaN fails every comparison
    if wrong or not difference <= MAX_RELATIVE_DIFFERENCE * largest:
        raise ExportMismatchError(
            f"the exported file does not compute what PyTorch does: {wrong} of {len(reference)} "
            f"{views} have another class, and the largest difference of the logits is "
            f"{difference:.2g} (the largest logit is {largest:.2g}); it was deleted"
        )
    return Agreement(len(reference), difference, largest, int(tied.sum()))


def run_all(
    predictors: Sequence[Predict], batches: Iterable[Tensor], workers: int = 1
) -> list[Tensor]:
    """Return the logits of each function for all views, float32 [N, K] each.

    Views are made once for all functions, since photographs take longer to decode than to predict.

    Args:
        predictors: the functions.
        batches: the views.
        workers: threads that run functions at the same time. Functions of one thread each do not
            wait for each other; one function of many threads is slow if other programs run.
    """
    parts: list[list[Tensor]] = [[] for _ in predictors]

    def run(predict: Predict, batch: Tensor) -> Tensor:
        with torch.no_grad():  # holds for its own thread alone
            return predict(batch).float()

    with ThreadPoolExecutor(workers) as pool:
        for batch in batches:
            logits = pool.map(run, predictors, [batch] * len(predictors))
            for part, values in zip(parts, logits, strict=True):
                part.append(values)
    return [torch.cat(part) for part in parts]


# Quantization of ONNX models to int8, by onnxruntime.
#
# Static quantization writes weights and activations as int8 (QDQ: pairs of QuantizeLinear and
# DequantizeLinear, which runtimes fuse), with the ranges of the activations measured on images of
# train. Dynamic quantization writes only the weights of linear layers as int8 and measures the
# ranges of their inputs anew for each batch, which suits transformers.


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


def quantize(model: Any, views: Tensor, name: str, method: str | None = None) -> Quantized:
    """Return a model in int8, by the method with the smallest error on images of train.

    Args:
        model: `onnx.ModelProto` in float32; it is not changed.
        views: images of train, [B, ...].
        name: of the model's input.
        method: static or dynamic; by default static and, for models that are mainly linear,
            dynamic are tried.

    Raises:
        InputError: onnxruntime cannot quantize the model.
    """
    methods = [STATIC, DYNAMIC] if linear_share(model) > MAINLY else [STATIC]
    if method is not None:
        methods = [method]
    made = {kind: _quantized(model, views, name, kind) for kind in methods}
    errors = dict.fromkeys(methods, math.nan)
    if len(methods) > 1:

        def logits(of: Any) -> Tensor:
            with temporary(of) as file:
                return run_all([predictor(file)], views.split(BATCH))[0]

        reference = logits(model)
        errors = {k: float((logits(v) - reference).abs().mean()) for k, v in made.items()}
    best = min(errors, key=lambda kind: errors[kind])
    others = {kind: error for kind, error in errors.items() if kind != best}
    return Quantized(made[best], best, errors[best], len(views), others)


def linear_share(model: Any) -> float:
    """Return the share of a model's weights that linear layers hold, among these and convolutions.

    Args:
        model: `onnx.ModelProto`.
    """
    sizes = {weight.name: int(np.prod(weight.dims)) for weight in model.graph.initializer}
    weights = dict.fromkeys((*LINEAR, *CONVOLUTIONS), 0)
    for node in model.graph.node:
        if node.op_type in weights:
            weights[node.op_type] += sum(sizes.get(name, 0) for name in node.input[:2])
    linear = sum(weights[kind] for kind in LINEAR)
    return linear / max(sum(weights.values()), 1)


def _quantized(model: Any, views: Tensor, name: str, method: str) -> Any:
    """Return the int8 model of one method."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with exporting("leave --int8 out", "quantized"), temporary(model) as source:
        prepared, target = (str(source.with_name(f"{part}.onnx")) for part in ("prepared", "int8"))
        # folds batch norm into convolutions; onnx infers all shapes that quantization needs
        quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        options = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
        if method == STATIC:
            batches = ({name: view.numpy()} for view in views.split(1))
            # it is read as a `CalibrationDataReader`
            reader: Any = SimpleNamespace(get_next=partial(next, batches, None))
            quantization.quantize_static(
                prepared,
                target,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QInt8,
                **options,
            )
        else:
            linear = list(LINEAR)
            quantization.quantize_dynamic(prepared, target, op_types_to_quantize=linear, **options)
        return onnx.load(target)


def calibration_index(index: Tensor, values: int) -> Tensor:
    """Return the examples to calibrate on, evenly over all.

    Args:
        index: of all, int64 [N].
        values: numbers in a view, such as channels x height x width.
    """
    most = min(max(CALIBRATION_VALUES // values, MIN_CALIBRATION), MAX_CALIBRATION)
    count = min(len(index), most)
    return index[torch.linspace(0, len(index) - 1, count).round().long()]
