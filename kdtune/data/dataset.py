"""Data sets: their classes and splits."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kdtune.config.errors import InputError
from kdtune.config.run import Run, derive_seed


@dataclass(frozen=True)
class Split:
    """Images with labels: train, val or test."""

    labels: Tensor
    """Class of each image, int64 [N]."""
    images: Tensor | tuple[str, ...]
    """The images, uint8 [N, C, H, W], or their files."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """Return one image, uint8 [C, H, W]; it has three channels if it comes from a file."""
        if isinstance(self.images, Tensor):
            return self.images[index]
        return decode(self.images[index])


@dataclass(frozen=True)
class Data:
    """A data set: class names and the splits train, val and perhaps test."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    fingerprint: str
    """16 hex digits that change with the names and the contents of the images."""
    photos: bool
    """Whether images are files of any size; if not, all have the same size."""

    def subset(self, run: Run) -> Tensor:
        """Return the indices of the train images that the student learns from.

        These are `run.train_images` images, evenly over the classes. They are drawn with the
        study's seed, so they are the same in every repeat.

        Returns:
            int64 [N], ascending.

        Raises:
            InputError: there are fewer images, or fewer images than classes are asked for.
        """
        labels = self.splits["train"].labels
        if run.train_images is None:
            return torch.arange(len(labels))
        if not len(self.classes) <= run.train_images <= len(labels):
            raise InputError(
                f"train_images must lie between {len(self.classes)} (one per class) and "
                f"{len(labels)} (all of train), but got train_images={run.train_images}"
            )
        generator = torch.Generator().manual_seed(derive_seed(run.seed, "subset"))
        order = torch.randperm(len(labels), generator=generator)
        # sorted by the rank within the class, so that the first k are an even draw
        rank = torch.empty(len(labels), dtype=torch.int64)
        for k in range(len(self.classes)):
            members = order[labels[order] == k]
            rank[members] = torch.arange(len(members))
        chosen = order[torch.argsort(rank[order], stable=True)][: run.train_images]
        return chosen.sort().values


def decode(file: str) -> Tensor:
    """Return an image file with 8 bits per channel, uint8 [3, H, W].

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: it cannot be decoded.
    """
    with Image.open(file) as image:
        shown: Image.Image = image
        if image.mode.startswith("I;16"):  # Pillow clips at 255, which leaves white
            shown = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"its pixels have the mode {image.mode}, not 8 or 16 bits")
        return F.pil_to_tensor(shown.convert("RGB"))  # type: ignore[no-any-return]
