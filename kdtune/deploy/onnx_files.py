"""ONNX files: export, metadata and predictions (onnx, onnxruntime).

Both packages are the extra kdtune[export]; they are imported where they are used.
"""

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdtune.config.errors import InputError, first_line
from kdtune.deploy.graph import OUTPUT, Predict, Signature

OPSET = 20
"""Opset of exported files, that of PyTorch 2.13's exporter; onnxruntime 1.17 and later run it."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLES = 2
"""Examples in the batch that the exporter traces; a batch of one would fix the batch size."""


def require_packages() -> None:
    """Raise InputError unless the packages of the extra are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format onnx and --int8 need {', '.join(missing)}: pip install 'kdtune[export]'"
        )


def trace(graph: nn.Module, signature: Signature) -> Any:
    """Return the program of a graph, with a dynamic batch (`torch.export.ExportedProgram`).

    Raises:
        InputError: PyTorch cannot export the model.
    """
    example = signature.random(EXAMPLES)
    batch = torch.export.Dim("batch")
    with quiet(), not_exported("--format safetensors writes its weights with all metadata"):
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
    advice = "--format torch-export or safetensors may do"
    with quiet(), not_exported(advice):
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
    named = {one.name: one for one in copied.graph.initializer}
    for name, value in graph.state_dict().items():
        if name.endswith(".num_batches_tracked"):  # only training needs it
            continue
        if name not in named or tuple(named[name].dims) != tuple(value.shape):
            return None
        named[name].CopyFrom(onnx.numpy_helper.from_array(value.detach().numpy(), name))
    return copied


def _strip(model: Any) -> None:
    """Remove the notes of the exporter: they name files of this machine, and double the size."""
    waiting = [model.graph, *model.functions]
    while waiting:
        part = waiting.pop()
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
            waiting += [a.g for a in node.attribute if a.HasField("g")]
        for values in (part.value_info, getattr(part, "input", []), getattr(part, "output", [])):
            for value in values:
                if hasattr(value, "metadata_props"):
                    del value.metadata_props[:]
        if hasattr(part, "initializer"):
            for tensor in part.initializer:
                del tensor.metadata_props[:]
        del part.metadata_props[:]
        part.doc_string = ""


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


def session(file: Path, threads: int = 1) -> Any:
    """Return the session of an ONNX file on the CPU, `onnxruntime.InferenceSession`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone: it warns of each shape that it cannot infer
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def predictor(file: Path, threads: int = 1) -> Predict:
    """Return the function of an ONNX file, from views to logits."""
    own = session(file, threads)
    (name,) = (node.name for node in own.get_inputs())

    def predict(views: Tensor) -> Tensor:
        (logits,) = own.run([OUTPUT], {name: views.numpy()})
        return torch.from_numpy(logits)

    return predict


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings, logs and progress that exporters print; errors are raised as before."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def not_exported(advice: str) -> Iterator[None]:
    """Turn every exception raised inside into an InputError.

    Args:
        advice: what would do.
    """
    try:
        with torch.no_grad():
            yield
    except Exception as error:  # exporters and user's models raise anything
        cause: BaseException = error
        while cause.__cause__ is not None:  # torch.onnx wraps the reason several times
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {first_line(cause, 160)}"
        raise InputError(f"the student cannot be exported ({reason}); {advice}") from error
