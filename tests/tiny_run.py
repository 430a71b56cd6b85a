"""A run of a second on the embedded data, and its training over a stream."""

from pathlib import Path

import torch

from kdtune.config.run import Run
from kdtune.data.arrays import add_extra
from kdtune.data.dataset import Data
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources
from kdtune.training.epoch import Epoch
from kdtune.training.loop import Checkpoint, train
from kdtune.training.run import make_student
from kdtune.training.teachers import load_teacher

CPU = torch.device("cpu")
TINY = Run(
    train_images=75,  # so that the last batch of 16 is not full
    teacher="factories:tiny_teacher",
    teacher_weights="none",
    teacher_epochs=1,
    teacher_lr=1e-2,
    student="factories:tiny_student",
    student_weights="none",
    optimizer="adamw",
    lr=1e-2,
    schedule="onecycle",
    epochs=3,
    batch_size=16,
)


def new_stream(
    run: Run,
    teacher: Path | Classifier | None,
    resources: Resources | None = None,
    data: Data | None = None,
) -> tuple[Classifier, Stream]:
    """The run's student and its stream, with the teacher of a folder or this one, or none."""
    own = load_data(run)
    student = make_student(run, own).place(CPU, run.precision)
    if isinstance(teacher, Path):
        teacher = load_teacher(run, own, teacher).place(CPU, run.precision)  # type: ignore[assignment]
    frozen = None if teacher is None else Teacher.of([teacher])  # type: ignore[list-item]
    data = data or add_extra(own, run)
    return student, Stream(run, data, student, frozen, resources or Resources())


def over_stream(
    run: Run,
    teacher: Path | Classifier | None,
    resources: Resources | None = None,
    data: Data | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[Classifier, list[Epoch]]:
    """The student and its epochs, trained over the stream."""
    student, stream = new_stream(run, teacher, resources, data)
    return student, list(train(run, student, stream, checkpoint))


def assert_close(ours: Classifier, theirs: Classifier, least: float = 1e-3) -> None:
    """Weights agree to a relative 1e-6 of the largest of their tensor, or of `least`."""
    got, want = ours.net.state_dict(), theirs.net.state_dict()
    assert got.keys() == want.keys()
    for key, value in want.items():
        scale = value.abs().max().clamp(min=least)
        assert (got[key] - value).abs().max() <= 1e-6 * scale, key


def assert_equal(ours: Classifier, theirs: Classifier) -> None:
    """Weights agree to the last bit."""
    torch.testing.assert_close(ours.net.state_dict(), theirs.net.state_dict(), rtol=0, atol=0)
