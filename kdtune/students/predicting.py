"""Predictions of image files, in batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.students.trained import TrainedStudent


@dataclass(frozen=True)
class Prediction:
    """Prediction of one image."""

    file: Path
    probabilities: Tensor | None
    """Probability of each class, float32 [K], on the CPU; None if the file cannot be read."""
    fault: str = ""
    """Why it cannot be read, as a sentence."""


def predict_files(
    student: TrainedStudent, files: Sequence[Path], batch_size: int
) -> Iterator[Prediction]:
    """Yield the prediction of each file, in order.

    Images are decoded in threads while the student predicts the batch before.

    Args:
        student: On the device where it is to predict.
        files: Image files. One that cannot be read does not stop the others.
        batch_size: Images that are predicted at once.
    """

    def view(file: Path) -> Tensor | str:
        try:
            return student.view(file)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        waiting: list[tuple[Sequence[Path], list[Future[Tensor | str]]]] = []
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            waiting.append((batch, [pool.submit(view, file) for file in batch]))
            if len(waiting) > 1:
                yield from _predict(student, *waiting.pop(0))
        for batch, views in waiting:
            yield from _predict(student, batch, views)


def _predict(
    student: TrainedStudent, files: Sequence[Path], views: Sequence[Future[Tensor | str]]
) -> Iterator[Prediction]:
    """Yield the predictions of one batch."""
    made = [view.result() for view in views]
    images = [view for view in made if isinstance(view, Tensor)]
    rows: Iterator[Tensor] = iter(())
    if images:
        with torch.inference_mode():
            rows = iter(student(torch.stack(images).to(student.mean.device)).cpu())
    for file, view in zip(files, made, strict=True):
        if isinstance(view, Tensor):
            yield Prediction(file, next(rows))
        else:
            yield Prediction(file, None, view)
