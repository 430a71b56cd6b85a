"""Export a student of a study to ONNX, torch.export or safetensors, checked against PyTorch.

python -m kdtune.export runs/fashion [--format onnx] [--int8] [--repeat N]
"""

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

from kdtune.config.cli import start
from kdtune.config.fields import RepeatNumber, Setting, check, check_fields
from kdtune.config.files import check_exists
from kdtune.config.text import InputError, printable


@dataclass(frozen=True)
class ExportFlags:
    """Export a student of a study's best configuration, checked against PyTorch on its test data.

    The file takes uint8 images [B, C, H, W] and returns logits [B, K]: normalisation is inside. It
    is written to students/best.onnx (best.pt2, best.safetensors), with a JSON file beside it and a
    model card, students/README.md.
    """

    study: Annotated[str, Setting(path=True, metavar="STUDY")]
    """Folder of the study."""
    format: Literal["onnx", "torch-export", "safetensors"] = "onnx"
    """Format of the file: "onnx" for onnxruntime and others, "torch-export" for PyTorch without
    kdtune, "safetensors" for the weights alone, under the names of the network's layers."""
    int8: bool = False
    """Also write students/best-int8.onnx, calibrated on train images, and compare it with float32:
    accuracy on test, size and latency. Only with format onnx."""
    repeat: Annotated[RepeatNumber | None, Setting(metavar="INT")] = None
    """Repeat of the student. None: the lowest one that is there. The one with the best accuracy
    would be a selection on the data that are to judge it."""

    def __post_init__(self) -> None:
        check_fields(self)
        is_onnx = self.format == "onnx" or not self.int8
        check(self, "format", is_onnx, "be onnx with --int8")


FLAGS = (ExportFlags,)


def main(flags: ExportFlags) -> int:
    """Export the student, print what was written and return the exit code 0."""
    check_exists("a study must be a folder", flags.study)  # before torch is loaded
    from kdtune.deploy.export import export
    from kdtune.students.trained import describe_code
    from kdtune.training.recipe import Progress

    with suppress(InputError):  # which export says
        if code := describe_code(flags.study):
            print(printable(code), file=sys.stderr)
    export(flags.study, flags.format, flags.int8, flags.repeat, Progress().print_line)
    return 0


if __name__ == "__main__":
    start("export")  # does not return
