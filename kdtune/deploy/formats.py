"""Formats of exported students: one entry of a table for each."""

import copy
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kdtune.config.export_flags import EXPORT_FORMATS
from kdtune.deploy import onnx_files
from kdtune.deploy.graph import Graph, Predict, Signature
from kdtune.students.trained import TrainedStudent

Metadata = Mapping[str, str]
METADATA_FILE = "kdtune.json"
"""Extra file with the metadata in a file of torch.export."""


@dataclass(frozen=True)
class Exportable:
    """A student and what its files say."""

    student: TrainedStudent
    signature: Signature
    metadata: Metadata
    keep_template: Callable[[Any], None] = lambda model: None
    """Is given the template of the ONNX model, if one is made; see `onnx_files.OnnxModels`."""


@dataclass(frozen=True)
class Format:
    """A format: how a file is written, and how it is read again to check it."""

    suffix: str
    title: str
    """The format in words, with its version if it has one."""
    write: Callable[[Exportable, Path], None]
    read: Callable[[Exportable, Path], Predict]
    check: Callable[[], None] = lambda: None
    """Raises InputError if packages are missing."""


def _write_onnx(own: Exportable, file: Path) -> None:
    models = onnx_files.to_onnx(Graph(own.student), own.signature)
    own.keep_template(models.template)
    onnx_files.write_onnx(models.optimized, file, own.metadata)


def _read_onnx(own: Exportable, file: Path) -> Predict:
    return onnx_files.predictor(file, torch.get_num_threads())


def _write_program(own: Exportable, file: Path) -> None:
    """Write a program of torch.export; its metadata are an extra file."""
    program = onnx_files.trace(Graph(own.student), own.signature)
    # a buffer, since torch.export wants the suffix .pt2, which the temporary file has not
    content = io.BytesIO()
    with onnx_files.quiet(), onnx_files.not_exported("--format safetensors may do"):
        extra = {METADATA_FILE: json.dumps(dict(own.metadata))}
        torch.export.save(program, content, extra_files=extra)
    file.write_bytes(content.getvalue())


def _read_program(own: Exportable, file: Path) -> Predict:
    with onnx_files.quiet():
        module: Any = torch.export.load(io.BytesIO(file.read_bytes())).module()
    return lambda views: module(views)


def _write_weights(own: Exportable, file: Path) -> None:
    """Write the weights under the names of the network's own layers."""
    state = own.student.net.state_dict()
    # clones, since safetensors refuses tensors that share memory
    save_file({k: v.cpu().contiguous().clone() for k, v in state.items()}, file, dict(own.metadata))


def _read_weights(own: Exportable, file: Path) -> Predict:
    student = copy.deepcopy(own.student)
    for value in student.net.state_dict().values():
        value.zero_()  # so that nothing but the file decides
    student.net.load_state_dict(load_file(file))
    return student.logits


FORMATS: Mapping[str, Format] = dict(
    zip(
        EXPORT_FORMATS,
        (
            Format(
                ".onnx",
                f"ONNX, opset {onnx_files.OPSET}",
                _write_onnx,
                _read_onnx,
                onnx_files.require_packages,
            ),
            Format(
                ".pt2", f"torch.export, PyTorch {torch.__version__}", _write_program, _read_program
            ),
            Format(".safetensors", "safetensors, weights alone", _write_weights, _read_weights),
        ),
        strict=True,
    )
)
"""Formats by name."""
