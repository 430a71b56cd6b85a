"""The default study on the whole of Fashion-MNIST: each repeat draws its 300 images from 59,500.

    apt-get install dataset-fashion-mnist
    python -m kdtune.search experiments/whole_fashion.py     # in the folder that holds experiments/

Data: the original's 60,000 training images without val, and the embedded val and test. Models and
recipe are those of the default study, its teacher learns from 2,000 images, too.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdtune.config.study import fashion
from kdtune.data.sources import load_fashion

sys.path.insert(0, str(Path(__file__).parent))
from build_fashion import CLASSES, SOURCE, read_idx

Split = tuple[np.ndarray, np.ndarray]


def whole() -> dict[str, Split | tuple[str, ...]]:
    """Return images, uint8 [N, 28, 28], and labels of train, val and test."""
    val, test = map(embedded, ("val", "test"))
    images = read_idx(SOURCE / "train-images-idx3-ubyte.gz")
    labels = read_idx(SOURCE / "train-labels-idx1-ubyte.gz")
    of_val = {image.tobytes() for image in val[0]}
    rest = [i for i, image in enumerate(images) if image.tobytes() not in of_val]
    return {"train": (images[rest], labels[rest]), "val": val, "test": test, "classes": CLASSES}


def embedded(split: str) -> Split:
    """Return images and labels of a split of the embedded data."""
    of_split = load_fashion().splits[split]
    return np.asarray(of_split.inputs)[:, 0], of_split.labels.numpy()


_default = fashion()
study = replace(
    _default,
    name="whole",
    run=replace(
        _default.run,
        data="experiments.whole_fashion:whole",
        augment="crop",
        teacher_augment="crop",
        teacher_train_images=2000,
    ),
)
