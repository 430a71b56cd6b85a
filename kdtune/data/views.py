"""Seeded views of a split's images.

A view is an augmented image before normalisation, uint8 [C, H, W]. Teacher and student see the same
view, each through its own preprocessing. Its random numbers depend on its seed alone, so it is the
same in any process, with any number of workers, and in any batch.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_image
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from kdtune.config.run import Interpolation, Run, derive_seed
from kdtune.data.dataset import Data, Split

PHOTO_CROP = 224 / 256
"""Crop of image files where no model publishes another: resized to 256, then the central 224."""
MODES = {
    "nearest": F.InterpolationMode.NEAREST_EXACT,  # that of Pillow
    "bilinear": F.InterpolationMode.BILINEAR,
    "bicubic": F.InterpolationMode.BICUBIC,
}
LOADER_BATCH = 64


@dataclass(frozen=True)
class Resizing:
    """Steps from an image to a square: resize its shorter side, then crop the centre."""

    crop: float
    """Side of the crop as a share of the resized shorter side, in (0, 1]."""
    interpolation: Interpolation

    def __call__(self, images: Tensor, size: int) -> Tensor:
        """Return the central squares of images, uint8 [..., C, size, size].

        Args:
            images: uint8 [..., C, H, W].
            size: in pixels.
        """
        short = round(size / self.crop)
        if min(images.shape[-2:]) != short:
            mode = MODES[self.interpolation]
            images = F.resize(images, [short], interpolation=mode, antialias=True)
        cropped: Tensor = F.center_crop(images, [size, size])
        return cropped


def evaluation(run: Run, files: bool) -> Resizing:
    """Return how a run resizes images for evaluation.

    Args:
        run: its eval_crop and eval_interpolation, if they are not None.
        files: whether the images are files of any size.
    """
    crop = run.eval_crop or (PHOTO_CROP if files else 1.0)
    return Resizing(crop, run.eval_interpolation or "bilinear")


class Views(Dataset[Tensor]):
    """Views of some images of a split, indexed by lists of positions.

    Args:
        split: where the images come from.
        index: which images, in this order, int64 [N].
        run: names the augmentation, the seed and the repeat.
        size: side of a view in pixels.
        epoch: of training; None for evaluation views, which have no augmentation.
    """

    def __init__(self, split: Split, index: Tensor, run: Run, size: int, epoch: int | None = None):
        self.split, self.index = split, index
        self.augment, self.size = run.augmentation, size
        self.evaluation = evaluation(run, files=not isinstance(split.images, Tensor))
        self.key = None if epoch is None else ("view", run.seed, run.repeat, epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions: Sequence[int]) -> Tensor:
        index = self.index[positions]
        if self.key is None or self.augment == "none":
            return self._resized(index, self.evaluation)
        seeds = [derive_seed(*self.key, i) for i in index.tolist()]
        if self.augment == "crop":
            return shifted(self._resized(index, replace(self.evaluation, crop=1.0)), seeds)
        images = map(self.split.image, index.tolist())
        views = [resized_crop(x, self.size, s) for x, s in zip(images, seeds, strict=True)]
        return torch.stack(views)

    def batches(self, size: int = LOADER_BATCH, workers: int = 0) -> Iterator[Tensor]:
        """Yield all views in order, uint8 [B, C, H, W] with B <= size.

        Args:
            size: views in a batch.
            workers: processes that make them; 0 for this one.
        """
        lists = BatchSampler(SequentialSampler(self), size, drop_last=False)
        # with a generator of its own, a loader does not advance the global one
        own = torch.Generator()
        # a batch is one item, since cropping a batch of 28 x 28 at once takes a third of the time
        yield from DataLoader(
            self, batch_size=None, sampler=lists, num_workers=workers, generator=own
        )

    def _resized(self, index: Tensor, resize: Resizing) -> Tensor:
        if isinstance(self.split.images, Tensor):
            return resize(self.split.images[index], self.size)
        return torch.stack([resize(self.split.image(i), self.size) for i in index.tolist()])


def samples(data: Data, run: Run, size: int) -> Tensor:
    """Return the evaluation views of two images of val, uint8 [2, C, H, W], to try models on."""
    split = data.splits["val"]
    index = torch.arange(2) % len(split)
    return next(Views(split, index, run, size).batches())


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
    draw, draws = random.Random(), []
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
    """Return a random resized crop, perhaps flipped, uint8 [C, size, size].

    Torchvision's transforms draw from torch's global generator and take no other, so it is seeded
    for the call.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        image = v2.RandomResizedCrop(size, antialias=True)(image)
        flipped: Tensor = v2.RandomHorizontalFlip()(image)
        return flipped
