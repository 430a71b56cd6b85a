"""Predict the classes of images with a student that a study has trained.

python -m kdtune.predict runs/photos image.jpg folder "new/*.png" [--top 5] [--format csv]
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from kdtune.config.cli import start
from kdtune.config.fields import BatchSize, Count, RepeatNumber, Setting, check, check_fields
from kdtune.config.files import check_exists
from kdtune.config.study import Device, Study
from kdtune.config.text import InputError, in_spreadsheet, printable

if TYPE_CHECKING:
    from kdtune.students.trained import Prediction

_COLUMNS = ("file", "rank", "class", "probability")
Top = list[tuple[str, float]]
"""The most probable classes with their probabilities, in descending order."""


@dataclass(frozen=True)
class PredictFlags:
    """Predict the classes of images with a student that a study has trained.

    Exit code 1 says that some images could not be read; they are named, the others are predicted.
    """

    student: Annotated[str, Setting(path=True, metavar="STUDENT")]
    """Folder of the study, s3://BUCKET/PREFIX/NAME, its students/, or one file in students/."""
    images: Annotated[tuple[str, ...], Setting(path=True, metavar="IMAGE [IMAGE ...]")]
    """Image files, folders (searched with all their folders) and patterns, quoted: "new/*.jpg"."""
    repeat: Annotated[RepeatNumber | None, Setting(metavar="INT")] = None
    """Repeat of the student. None: that of the file, else the lowest; never the most accurate one,
    whose accuracy would be optimistic."""
    top: Count = 1
    """Number of the most probable classes that are shown, at most all."""
    format: Literal["table", "csv", "json"] = "table"
    """Format of the output: a table for reading, or csv or json with each probability in full
    precision."""
    batch_size: BatchSize = 64
    """Images that are predicted at once."""
    device: Device = "auto"
    """Device of the student: "cuda", "mps" (the GPU of an Apple computer), "cpu", or "auto" (cuda
    if there is such a GPU, else cpu)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check(self, "images", self.images, "be given, image files, folders or patterns")


FLAGS = (PredictFlags,)


def main(flags: PredictFlags) -> int:
    """Print the predictions; return 1 if some images could not be read, else 0.

    Raises:
        InputError: There is no such student, device or image.
    """
    check_exists("STUDENT must be a study's folder or one of its students", flags.student)
    for name in flags.images:  # before torch is loaded
        check_exists("IMAGE must be an image file, a folder of them or a pattern", name)
    from rich.console import Console
    from rich.progress import Progress

    from kdtune.streams.views import check_gpus, count_gpus, device_of
    from kdtune.students.trained import describe_code, find_images, load_student, predict_files

    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files that are no valid UTF-8
        sys.stdout.reconfigure(errors="surrogateescape")
    study = Study(device=flags.device)
    check_gpus(study, count_gpus(study))
    files = find_images(flags.images)
    if code := describe_code(flags.student):
        print(printable(code), file=sys.stderr)
    student = load_student(flags.student, flags.repeat).to(device_of(study))
    if student.image_size is None:
        raise InputError(
            f"python -m kdtune.predict must be given a student of images, but the data of the "
            f"study {flags.student} were none; use kdtune.load_student in Python"
        )
    label = student.record.configuration.get("label", "")
    print(printable(f"student: {student.name}, {label}, repeat {student.repeat}"), file=sys.stderr)
    faults: list[str] = []
    predictions = predict_files(student, files, flags.batch_size)
    console, prints_lines = Console(stderr=True), flags.format == "csv" and sys.stdout.isatty()
    is_hidden = prints_lines or not console.is_terminal
    # rich would send what is printed to the console of the bar, which is stderr
    bar = Progress(console=console, transient=True, redirect_stdout=False, disable=is_hidden)
    prints = {"table": _print_table, "csv": _print_csv, "json": _print_json}

    def shown() -> Iterator[Prediction]:
        with bar:  # which ends before a table is printed
            yield from bar.track(predictions, total=len(files), description="predicting")

    prints[flags.format](_tops(shown(), student.classes, flags.top, faults))
    for fault in faults:
        print(printable(fault), file=sys.stderr)
    if faults:
        print(f"{len(faults)} of {len(files)} images could not be read", file=sys.stderr)
    return 1 if faults else 0


def _tops(
    predictions: Iterable[Prediction], classes: tuple[str, ...], count: int, faults: list[str]
) -> Iterator[tuple[str, Top]]:
    """Yield each file that could be read with its most probable classes; collect the faults."""
    for prediction in predictions:
        if prediction.probabilities is None:
            faults.append(prediction.fault)
            continue
        values, order = prediction.probabilities.topk(min(count, len(classes)))
        names = [classes[k] for k in order.tolist()]
        yield str(prediction.file), list(zip(names, values.tolist(), strict=True))


def _print_table(tops: Iterable[tuple[str, Top]]) -> None:
    """Print a line for each image: its file, then class and probability of its top classes."""
    rows = [
        [printable(file), *(cell for name, p in top for cell in (printable(name), f"{p:.3f}"))]
        for file, top in tops
    ]
    if rows:
        rows.insert(0, ["file", *["class", "probability"] * ((len(rows[0]) - 1) // 2)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _print_csv(tops: Iterable[tuple[str, Top]]) -> None:
    """Print a line for each image and class as soon as they are there.

    Names are exact where a program reads them, but for formulas, see `text.in_spreadsheet`.
    """

    def cell(name: str) -> str:
        return in_spreadsheet(printable(name) if sys.stdout.isatty() else name)

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for file, top in tops:
        rows = enumerate(top, 1)
        writer.writerows((cell(file), rank, cell(name), p) for rank, (name, p) in rows)


def _print_json(tops: Iterable[tuple[str, Top]]) -> None:
    """Print a list with an object for each image."""
    images = [
        {"file": file, "predictions": [{"class": name, "probability": p} for name, p in top]}
        for file, top in tops
    ]
    print(json.dumps(images, indent=2))


if __name__ == "__main__":
    start("predict")  # does not return
