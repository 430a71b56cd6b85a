"""Flags of `kdtune.export`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated

from kdtune.config.bounds import MAX_REPEAT
from kdtune.config.errors import InputError
from kdtune.config.fields import Setting, check_fields, docstring
from kdtune.config.flags import Flag, flags_of, parse_flags

EXPORT_FORMATS = ("onnx", "torch-export", "safetensors")
METAVARS = {"study": "STUDY", "repeat": "INT"}
"""What --help shows in place of a value."""


@dataclass(frozen=True)
class ExportFlags:
    """Export a student of a study's best configuration, checked against PyTorch on its test data.

    The file takes uint8 images [B, C, H, W] and returns logits [B, K]: normalisation is inside. It
    is written to students/best.onnx (best.pt2, best.safetensors), with a JSON file beside it and a
    model card, students/README.md.
    """

    study: Annotated[str, Setting(place=True)]
    """Folder of the study."""
    format: Annotated[str, Setting(choices=lambda: EXPORT_FORMATS)] = "onnx"
    """Format of the file: "onnx" for onnxruntime and others, "torch-export" for PyTorch without
    kdtune, "safetensors" for the weights alone, under the names of the network's layers."""
    int8: bool = False
    """Also write students/best-int8.onnx, calibrated on train images, and compare it with float32:
    accuracy on test, size and latency. Only with format onnx."""
    repeat: Annotated[int | None, Setting(low=0, high=MAX_REPEAT)] = None
    """Repeat of the student. None: the lowest one that is there. The one with the best accuracy
    would be a selection on the data that are to judge it."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_export(self.format, self.int8)


def check_export(format: str, int8: bool) -> None:
    """Raise InputError unless the format is known and fits int8."""
    if format not in EXPORT_FORMATS:
        near = get_close_matches(format, EXPORT_FORMATS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"--format must be {', '.join(EXPORT_FORMATS[:-1])} or {EXPORT_FORMATS[-1]}, but got "
            f"{format}{hint}"
        )
    if int8 and format != "onnx":
        raise InputError(f"--int8 must be used with --format onnx, but got --format {format}")


def export_flags(command: str) -> Iterator[Flag]:
    """Yield the flags of "export"."""
    for flag in flags_of(ExportFlags):
        yield replace(flag, metavar=METAVARS.get(flag.name, flag.metavar))


def parse_export(command: str, arguments: Sequence[str]) -> ExportFlags:
    """Return what the command line of "export" asks for; see `flags.parse_flags`.

    Raises:
        InputError: there is no study, or a value is not allowed.
    """
    if list(arguments) in ([], ["--"]):
        raise InputError(
            "STUDY must be given, the folder of a study (python -m kdtune.export runs/NAME)"
        )
    about = docstring(ExportFlags)
    return ExportFlags(**parse_flags(command, about, tuple(export_flags(command)), arguments))
