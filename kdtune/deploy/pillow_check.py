"""Check of the lines that resize images with Pillow instead of torchvision."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdtune.deploy.description import Resize
from kdtune.deploy.graph import Predict
from kdtune.deploy.snippets import pillow_view
from kdtune.deploy.subject import Subject


def compare_pillow(subject: Subject, logits: Tensor, predict: Predict) -> str:
    """Return how Pillow's views of the image files differ from kdtune's, as a sentence.

    Both resize with fixed-point numbers, but round some pixels differently.

    Args:
        subject: the student.
        logits: of PyTorch on kdtune's views of the split that judges, [N, K].
        predict: the exported file, which gets Pillow's views.
    """
    views = subject.views
    resize = Resize.of(subject.student, subject.signature)
    if views is None or resize is None or views.data.kind != "files":
        return ""
    files = views.data.splits[views.split].inputs
    assert isinstance(files, tuple)  # noqa: S101 - files are a tuple
    largest, same, start = 0, 0, 0
    for batch in views.batches():
        own = _views(files[start : start + len(batch)], resize)
        largest = max(largest, int((own.int() - batch.int()).abs().max()))
        with torch.no_grad():
            other = predict(own).argmax(1)
        same += int((logits[start : start + len(batch)].argmax(1) == other).sum())
        start += len(batch)
    return (
        f"Resized by Pillow, as {subject.checked_on} are in the lines of README.md, {same:,} of "
        f"{len(files):,} get the same class (pixels differ by at most {largest} of 255)."
    )


def _views(files: Sequence[str], resize: Resize) -> Tensor:
    return torch.from_numpy(np.stack([pillow_view(file, resize) for file in files]))
