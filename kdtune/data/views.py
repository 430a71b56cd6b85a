"""Seeded views of a split's images.

A view is a uint8 image [C, H, W], augmented, not normalised: teacher and student look at the same
one, each through its own preprocessing (models.py). A view is a function of its seed alone, so it
is the same in any process, with any number of workers, in any batch.
"""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_image
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from kdtune.config.run import Augment, Run, derive_seed
from kdtune.data.dataset import Data, Split

PHOTO_ZOOM = 256 / 224
"""Photographs are evaluated as ImageNet's are: resized to 256, the centre 224 of it seen."""
LOADER_BATCH = 64


class Views(Dataset[Tensor]):
    """Views of some images of a split, in the order given; indexed by lists of positions.

    Args:
        split: where the images come from.
        index: which images, int64 [N].
        run: its augmentation, seed and repeat.
        size: side of a view in pixels.
        epoch: training views of this epoch; None for evaluation views.
    """

    def __init__(self, split: Split, index: Tensor, run: Run, size: int, epoch: int | None = None):
        self.split, self.index = split, index
        self.augment, self.size = run.augmentation, size
        self.key = None if epoch is None else ("view", run.seed, run.repeat, epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions: Sequence[int]) -> Tensor:
        index = self.index[positions]
        if self.key is None or self.augment == "none":
            return self._centred(index)
        seeds = [derive_seed(*self.key, i) for i in index.tolist()]
        if self.augment == "crop":
            return shifted(self._centred(index), seeds)
        images = map(self.split.image, index.tolist())
        views = [resized_crop(x, self.size, s) for x, s in zip(images, seeds, strict=True)]
        return torch.stack(views)

    def batches(self, size: int = LOADER_BATCH, workers: int = 0) -> Iterator[Tensor]:
        """All views in order, uint8 [<= size, C, H, W] at a time, made by `workers` processes."""
        lists = BatchSampler(SequentialSampler(self), size, drop_last=False)
        # an own generator: a loader's iterator would otherwise advance the global one
        own = torch.Generator()
        # a batch is one item: at 28 x 28 the crops of a batch at once take a third of the time
        yield from DataLoader(
            self, batch_size=None, sampler=lists, num_workers=workers, generator=own
        )

    def _centred(self, index: Tensor) -> Tensor:
        if isinstance(self.split.images, Tensor):
            return centre(self.split.images[index], self.augment, self.size)
        images = map(self.split.image, index.tolist())
        return torch.stack([centre(x, self.augment, self.size) for x in images])


def samples(data: Data, run: Run, size: int) -> Tensor:
    """Evaluation views of two images of val, uint8 [2, C, H, W]: what models will look at."""
    split = data.splits["val"]
    index = torch.arange(2) % len(split)
    return next(Views(split, index, run, size).batches())


def centre(images: Tensor, augment: Augment, size: int) -> Tensor:
    """Evaluation views, uint8 [..., C, size, size]: resized, centre cropped, nothing random."""
    zoom = PHOTO_ZOOM if augment == "resized-crop" else 1.0
    short = round(size * zoom)
    if min(images.shape[-2:]) != short:
        images = F.resize(images, [short], antialias=True)
    cropped: Tensor = F.center_crop(images, [size, size])
    return cropped


def shifted(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Images [B, C, S, S], each padded by an eighth, cropped and perhaps flipped by its seed."""
    size = images.shape[-1]
    pad = max(1, size // 8)
    shifts = 2 * pad + 1
    # a Generator of Python's is seeded in a tenth of the time that torch's global one takes
    draw, draws = random.Random(), []
    for seed in seeds:
        draw.seed(seed)
        draws.append((draw.randrange(shifts), draw.randrange(shifts), draw.random() < 0.5))
    top, left, flip = (torch.tensor(column) for column in zip(*draws, strict=True))
    # all crops that there are, as a view: [B, C, 2 pad + 1, 2 pad + 1, S, S]
    crops = pad_image(images, [pad] * 4).unfold(2, size, 1).unfold(3, size, 1)
    views = crops[torch.arange(len(images)), :, top, left]
    views[flip] = views[flip].flip(-1)
    return views


def resized_crop(image: Tensor, size: int, seed: int) -> Tensor:
    """Torchvision's own transforms, which draw from torch's global generator and take no other."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        image = v2.RandomResizedCrop(size, antialias=True)(image)
        flipped: Tensor = v2.RandomHorizontalFlip()(image)
        return flipped
