"""Flags of `python -m kdtune.predict`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from kdtune.config.bounds import MAX_BATCH, MAX_COUNT, MAX_REPEAT
from kdtune.config.errors import InputError
from kdtune.config.fields import Setting, check_fields, docstring
from kdtune.config.flags import Flag, flags_of, parse_flags
from kdtune.config.study import Device

PredictFormat = Literal["table", "csv", "json"]
METAVARS = {"student": "STUDENT", "images": "IMAGE [IMAGE ...]", "repeat": "INT"}
"""What --help shows in place of a value."""


@dataclass(frozen=True)
class PredictFlags:
    """Predict the classes of images with a student that a study has trained.

    Exit code 1 says that some images could not be read; they are named, the others are predicted.
    """

    student: Annotated[str, Setting(place=True)]
    """Folder of the study, s3://BUCKET/PREFIX/NAME, its students/, or one file in students/."""
    images: Annotated[tuple[str, ...], Setting(place=True)]
    """Image files, folders (searched with all their folders) and patterns, quoted: "new/*.jpg"."""
    repeat: Annotated[int | None, Setting(low=0, high=MAX_REPEAT)] = None
    """Repeat of the student. None: that of the file, else the lowest; never the most accurate one,
    whose accuracy would be optimistic."""
    top: Annotated[int, Setting(low=1, high=MAX_COUNT)] = 1
    """Number of the most probable classes that are shown, at most all."""
    format: PredictFormat = "table"
    """Format of the output: a table for reading, or csv or json with each probability in full
    precision."""
    batch_size: Annotated[int, Setting(low=1, high=MAX_BATCH)] = 64
    """Images that are predicted at once."""
    device: Device = "auto"
    """Device of the student: "cuda", "mps" (the GPU of an Apple computer), "cpu", or "auto" (cuda
    if there is such a GPU, else cpu)."""

    def __post_init__(self) -> None:
        check_fields(self)


def predict_flags(command: str) -> Iterator[Flag]:
    """Return the flags of "predict"."""
    return flags_of(PredictFlags)


def parse_command(command: str, arguments: Sequence[str]) -> PredictFlags:
    """Return what the command line of a command named "predict" asks for."""
    return parse_predict(arguments)


def parse_predict(arguments: Sequence[str]) -> PredictFlags:
    """Return what the command line asks for; see `flags.parse_flags`.

    Raises:
        InputError: There is no student or no image, or a value is not allowed.
    """
    about = docstring(PredictFlags)
    named = ((flag, METAVARS.get(flag.name, flag.metavar)) for flag in flags_of(PredictFlags))
    flags = tuple(replace(flag, metavar=metavar) for flag, metavar in named)
    if list(arguments) in ([], ["--"]):
        raise InputError(
            "STUDENT and IMAGE must be given, the folder of a study and images (python -m "
            "kdtune.predict runs/NAME image.jpg)"
        )
    values = parse_flags("predict", about, flags, arguments)
    if not values["images"]:
        raise InputError(
            f"IMAGE must be given, an image file, a folder or a pattern (python -m kdtune.predict "
            f"{values['student']} image.jpg)"
        )
    return PredictFlags(**values)
