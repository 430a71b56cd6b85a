"""Data sets by name or path.

A named data set is one entry of `SOURCES`; any other name is the path of a folder of images.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from kdtune.config.run import Run
from kdtune.data.dataset import Data, Split
from kdtune.data.folder import load_folder


def load_fashion() -> Data:
    """Return the embedded Fashion-MNIST subset: 2,000 train, 500 val and 1,000 test images."""
    content = (resources.files("kdtune") / "assets" / "fashion.npz").read_bytes()
    arrays = dict(np.load(io.BytesIO(content)))
    splits = {
        name: Split(
            labels=torch.from_numpy(arrays[f"{name}_labels"]).long(),
            images=torch.from_numpy(arrays[f"{name}_images"]).unsqueeze(1),
        )
        for name in ("train", "val", "test")
    }
    classes = tuple(str(name) for name in arrays["classes"])
    return Data(classes, splits, hashlib.sha256(content).hexdigest()[:16], photos=False)


SOURCES: Mapping[str, Callable[[], Data]] = {"fashion": load_fashion}
"""Functions that load the data sets that have a name."""


def load_data(run: Run) -> Data:
    """Return the data set of a run.

    Raises:
        InputError: the folder is missing, a class is empty, or the splits differ in classes.
    """
    return _load(run.data)


@cache
def _load(name: str) -> Data:
    """Return the data set of this name, or the one in the folder of this path."""
    if name in SOURCES:
        return SOURCES[name]()
    return load_folder(Path(name).expanduser())
