"""Seeded views of a split's examples.

A view is an augmented image before normalisation, uint8 [C, H, W]. Of data that are no images it is
the tensor itself. Teacher and student see the same
view, each through its own preprocessing. Its random numbers depend on its seed alone, so it is the
same in any process, with any number of workers, and in any batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from torchvision.transforms.v2 import functional as F

from kdtune.config.errors import DataChangedError, InputError
from kdtune.config.run import Run, derive_seed
from kdtune.config.run_data import Interpolation
from kdtune.data.augmentations import AUGMENTATIONS, resized_crop, shifted, with_seed
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
    """Views of some examples of a split, indexed by lists of positions.

    Args:
        split: where the examples come from.
        index: which of them, in this order, int64 [N].
        run: names the augmentation, the seed and the repeat.
        size: side of a view in pixels; not used for data that are no images.
        epoch: of training; None for evaluation views, which have no augmentation.
        name: first word of the seeds, so that other images have others.
    """

    def __init__(
        self,
        split: Split,
        index: Tensor,
        run: Run,
        size: int,
        epoch: int | None = None,
        name: str = "view",
    ):
        self.split, self.index = split, index
        self.augment, self.size, self.orientation = run.augmentation, size, run.orientation
        self.evaluation = evaluation(run, files=split.kind == "files")
        self.key = None if epoch is None else (name, run.seed, run.repeat, epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions: Sequence[int]) -> Tensor:
        index = self.index[positions]
        if self.split.kind == "tensors":
            assert isinstance(self.split.inputs, Tensor)  # noqa: S101 - tensors are a Tensor
            return self.split.inputs[index]
        if self.key is None or self.augment == "none":
            return self._resized(index, self.evaluation)
        augmentation = AUGMENTATIONS[self.augment]
        crop = augmentation.crop or ("resized-crop" if self.split.kind == "files" else "crop")
        seeds = [derive_seed(*self.key, i) for i in index.tolist()]
        if crop == "crop":
            views = shifted(self._resized(index, replace(self.evaluation, crop=1.0)), seeds)
        else:
            images = zip(map(self._example, index.tolist()), seeds, strict=True)
            views = torch.stack([resized_crop(x, self.size, s) for x, s in images])
        if (change := augmentation.change) is None:
            return views
        pairs = zip(views, seeds, strict=True)
        return torch.stack([with_seed(derive_seed(s, "change"), change, x) for x, s in pairs])

    def batches(self, size: int = LOADER_BATCH, workers: int = 0) -> Iterator[Tensor]:
        """Yield all views in order, uint8 [B, C, H, W] or tensors [B, ...] with B <= size.

        Args:
            size: views in a batch.
            workers: processes that make them; 0 for this one.
        """
        if self.split.kind == "tensors":  # to send them takes longer than to make them
            workers = 0
        lists = BatchSampler(SequentialSampler(self), size, drop_last=False)
        # with a generator of its own, a loader does not advance the global one
        own = torch.Generator()
        # a batch is one item, since cropping a batch of 28 x 28 at once takes a third of the time
        loader = DataLoader(
            self, batch_size=None, sampler=lists, num_workers=workers, generator=own
        )
        try:
            yield from loader
        except (InputError, DataChangedError) as error:
            # from a worker the message is a traceback, whose last line has the sentence
            last = str(error).strip().splitlines()[-1]
            raise type(error)(last.removeprefix(f"{_full_name(type(error))}: ")) from None

    def _resized(self, index: Tensor, resize: Resizing) -> Tensor:
        if isinstance(self.split.inputs, Tensor):
            return resize(self.split.inputs[index], self.size)
        return torch.stack([resize(self._example(i), self.size) for i in index.tolist()])

    def _example(self, index: int) -> Tensor:
        return self.split.example(index, self.orientation)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def samples(data: Data, run: Run, size: int) -> Tensor:
    """Return the evaluation views of two examples of val, [2, ...], to try models on."""
    split = data.splits["val"]
    index = torch.arange(2) % len(split)
    return next(Views(split, index, run, size).batches())
