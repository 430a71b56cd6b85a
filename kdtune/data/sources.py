"""Data sets by name or path."""

import hashlib
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from kdtune.data.dataset import Data, Split
from kdtune.data.folder import _folder


@cache
def load_data(name: str) -> Data:
    """The data set "fashion" or the one in a folder with train/, val/ and perhaps test/.

    Raises InputError where the folder is missing, a class is empty, or classes differ.
    """
    return _embedded() if name == "fashion" else _folder(Path(name).expanduser())


def _embedded() -> Data:
    content = (resources.files("kdtune") / "assets" / "fashion.npz").read_bytes()
    with resources.as_file(resources.files("kdtune") / "assets" / "fashion.npz") as path:
        arrays = dict(np.load(path))
    splits = {
        name: Split(
            labels=torch.from_numpy(arrays[f"{name}_labels"]).long(),
            images=torch.from_numpy(arrays[f"{name}_images"]).unsqueeze(1),
        )
        for name in ("train", "val", "test")
    }
    classes = tuple(str(name) for name in arrays["classes"])
    return Data(classes, splits, hashlib.sha256(content).hexdigest()[:16], photos=False)
