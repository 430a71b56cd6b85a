"""Study of the tutorial your_photographs.md: two small networks for a folder of images.

`python my_study.py` writes the folder, photographs/SPLIT/CLASS/NNNN.png. Its images are those of
Fashion-MNIST that kdtune embeds, so nothing is downloaded.
"""

from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

import kdtune


def net(width: int, classes: int) -> nn.Module:
    """Return a small convolutional network for images of 28 x 28 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, width, 4, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 5, stride=2),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(50 * width, classes),
    )


def teacher(classes: int) -> nn.Module:
    """Return the large network."""
    return net(32, classes)


def student(classes: int) -> nn.Module:
    """Return the small network."""
    return net(4, classes)


study = kdtune.Study(
    name="photographs",
    run=kdtune.Run(
        data="photographs",
        image_size=28,
        train_images=300,
        teacher="my_study:teacher",
        teacher_weights="none",
        teacher_epochs=6,
        student="my_study:student",
        student_weights="none",
        epochs=10,
        optimizer="adamw",
        lr=0.01,
    ),
    space={"alpha": (0.1, 0.5, 1.0)},
    repeats=8,
)


def write_photographs() -> None:
    """Write the folder of images."""
    with (resources.files("kdtune") / "assets" / "fashion.npz").open("rb") as file:
        arrays = dict(np.load(file))
    for split in ("train", "val", "test"):
        for number, label in enumerate(arrays[f"{split}_labels"]):
            folder = Path("photographs", split, str(arrays["classes"][label]))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(arrays[f"{split}_images"][number]).save(folder / f"{number:04}.png")


if __name__ == "__main__":
    write_photographs()
