"""Augmentations of training images.

Each is one entry of `AUGMENTATIONS`: a random crop, and perhaps a further change of the cropped
image. All random numbers follow from a seed of the view.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_image
from torchvision.transforms import v2

from kdtune.config.run_data import Augment

Crop = Literal["crop", "resized-crop"]


@dataclass(frozen=True)
class Augmentation:
    """A crop, and a change of the cropped image."""

    crop: Crop | None
    """None: "crop" for images of one size, "resized-crop" for files of any size."""
    change: Callable[[Tensor], Tensor] | None = None
    """Function of one image, uint8 [C, H, W], that draws from torch's global generator."""


AUGMENTATIONS: Mapping[Augment, Augmentation] = {
    "crop": Augmentation("crop"),
    "resized-crop": Augmentation("resized-crop"),
    # Mueller and Hutter, 2021, arXiv:2103.10158; the wide space of changes
    "trivial": Augmentation(None, v2.TrivialAugmentWide()),
}
"""Augmentations by name, without "none"."""


def shifted(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the images, each padded by an eighth, cropped and perhaps flipped.

    Args:
        images: uint8 [B, C, S, S].
        seeds: one for each image.
    """
    size = images.shape[-1]
    pad = max(1, size // 8)
    shifts = 2 * pad + 1
    # seeding a generator of Python takes a tenth of the time of seeding torch's
    draw, draws = random.Random(), []  # noqa: S311 - no secret
    for seed in seeds:
        draw.seed(seed)
        draws.append((draw.randrange(shifts), draw.randrange(shifts), draw.random() < 0.5))
    top, left, flip = (torch.tensor(column) for column in zip(*draws, strict=True))
    # all possible crops without a copy: [B, C, 2 pad + 1, 2 pad + 1, S, S]
    crops = pad_image(images, [pad] * 4).unfold(2, size, 1).unfold(3, size, 1)
    views = crops[torch.arange(len(images)), :, top, left]
    views[flip] = views[flip].flip(-1)
    return views


def resized_crop(image: Tensor, size: int, seed: int) -> Tensor:
    """Return a random resized crop, perhaps flipped, uint8 [C, size, size]."""
    crop, flip = v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()
    return with_seed(seed, lambda x: flip(crop(x)), image)


def with_seed(seed: int, change: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Return what a change draws with a seed for an image, uint8 [C, H, W].

    Torchvision's transforms draw from torch's global generator and take no other, so it is seeded
    for the call.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return change(image)
