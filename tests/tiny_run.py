"""A run of a second on the embedded data, and its teacher."""

from pathlib import Path

import torch

from kdtune.config.run import Run
from kdtune.streams.views import Resources
from kdtune.training.teacher import fine_tune

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


def train_tiny_teacher(folder: Path) -> Path:
    """Fine-tune the teacher of the tiny run into a folder and return the folder."""
    torch.set_num_threads(1)
    assert len(list(fine_tune(TINY, folder, Resources()))) == 1
    return folder
