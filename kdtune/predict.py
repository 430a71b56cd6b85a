"""Predict the classes of images with a student that a study has trained.

python -m kdtune.predict runs/photos image.jpg folder "new/*.png" [--top 5] [--format csv]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("predict")  # refuses wrong flags before torch is loaded; does not return

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from kdtune.config.cli import PredictFlags, PredictFormat
from kdtune.config.study import Study
from kdtune.config.text import InputError, in_spreadsheet, printable
from kdtune.streams.views import check_gpus, count_gpus, device_of
from kdtune.students.loading import describe_code, load_student
from kdtune.students.trained import Prediction, find_images, predict_files

COLUMNS = ("file", "rank", "class", "probability")
Top = list[tuple[str, float]]
"""The most probable classes with their probabilities, in descending order."""


def main(flags: PredictFlags) -> int:
    """Print the predictions; return 1 if some images could not be read, else 0.

    Raises:
        InputError: There is no such student, device or image.
    """
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
    faults: list[str] = []
    predictions = predict_files(student, files, flags.batch_size)
    shown = _shown(predictions, len(files), flags.format)
    _PRINT[flags.format](_tops(shown, student.classes, flags.top, faults))
    for fault in faults:
        print(printable(fault), file=sys.stderr)
    if faults:
        print(f"{len(faults)} of {len(files)} images could not be read", file=sys.stderr)
    return 1 if faults else 0


def _shown(
    predictions: Iterable[Prediction], total: int, format: PredictFormat
) -> Iterator[Prediction]:
    """Yield the predictions with a progress bar on stderr, if that is a terminal.

    There is none below lines that csv prints on the same terminal.
    """
    console = Console(stderr=True)
    is_shown = console.is_terminal and not (format == "csv" and sys.stdout.isatty())
    # rich would send what is printed to the console of the bar, which is stderr
    bar = Progress(
        *Progress.get_default_columns(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not is_shown,
    )
    with bar:
        yield from bar.track(predictions, total, description="predicting")


def _tops(
    predictions: Iterable[Prediction], classes: tuple[str, ...], count: int, faults: list[str]
) -> Iterator[tuple[str, Top]]:
    """Yield each file that could be read with its most probable classes; collect the faults."""
    for one in predictions:
        if one.probabilities is None:
            faults.append(one.fault)
        else:
            yield str(one.file), _top(one.probabilities, classes, count)


def _top(probabilities: Tensor, classes: tuple[str, ...], count: int) -> Top:
    values, order = probabilities.topk(min(count, len(classes)))
    return [(classes[k], p) for k, p in zip(order.tolist(), values.tolist(), strict=True)]


def _print_table(tops: Iterable[tuple[str, Top]]) -> None:
    """Print a line for each image: its file, then class and probability of its top classes."""
    rows = [
        [printable(file), *(cell for name, p in top for cell in (printable(name), f"{p:.3f}"))]
        for file, top in tops
    ]
    if not rows:
        return
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
    writer.writerow(COLUMNS)
    for file, top in tops:
        rows = enumerate(top, 1)
        writer.writerows((cell(file), rank, cell(name), p) for rank, (name, p) in rows)


def _print_json(tops: Iterable[tuple[str, Top]]) -> None:
    """Print a list with an object for each image."""
    found = [
        {"file": file, "predictions": [{"class": name, "probability": p} for name, p in top]}
        for file, top in tops
    ]
    print(json.dumps(found, indent=2))


_PRINT: dict[str, Callable[[Iterable[tuple[str, Top]]], None]] = {
    "table": _print_table,
    "csv": _print_csv,
    "json": _print_json,
}
