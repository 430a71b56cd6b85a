"""A data set by name or path, its classes and its splits."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.run import Run, derive_seed
from kdtune.data.folder import _decode, _folder


@dataclass(frozen=True)
class Split:
    """Images with labels."""

    labels: Tensor
    """Class of each image, int64 [N]."""
    images: Tensor | tuple[str, ...]
    """The images, uint8 [N, C, H, W], or their files."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """One image, uint8 [C, H, W], three channels where it comes from a file."""
        if isinstance(self.images, Tensor):
            return self.images[index]
        return _decode(self.images[index])


@dataclass(frozen=True)
class Data:
    """A data set: class names and the splits train, val and perhaps test."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    fingerprint: str
    """16 hex digits that change with the names and the contents of the images."""
    photos: bool
    """Whether images are files of any size; if not, all have one."""

    def subset(self, run: Run) -> Tensor:
        """Indices of the train images that the student learns from, int64 [N], ascending.

        `run.train_images` of them, evenly over the classes, drawn from the study's seed and so
        the same in every repeat. Raises InputError where there are not that many.
        """
        labels = self.splits["train"].labels
        if run.train_images is None:
            return torch.arange(len(labels))
        if not len(self.classes) <= run.train_images <= len(labels):
            raise InputError(
                f"train_images must lie between {len(self.classes)} (one a class) and "
                f"{len(labels)} (all of train), but got train_images={run.train_images}"
            )
        generator = torch.Generator().manual_seed(derive_seed(run.seed, "subset"))
        order = torch.randperm(len(labels), generator=generator)
        # the n-th image of its class comes before any (n+1)-th: the first k are an even draw
        rank = torch.empty(len(labels), dtype=torch.int64)
        for k in range(len(self.classes)):
            members = order[labels[order] == k]
            rank[members] = torch.arange(len(members))
        chosen = order[torch.argsort(rank[order], stable=True)][: run.train_images]
        return chosen.sort().values


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
