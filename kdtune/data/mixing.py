"""Mixtures of training images: mixup and CutMix, as functions of a seed.

How a training batch is mixed depends on the study seed, the repeat, the epoch and the number of the
batch. So it is the same in any process, and mixed images are views that all configurations with the
same mixing and batch size share.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import ends_of
from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.data.dataset import Data

BLOCK = 2**17
"""Numbers that are blended at a time, so that they stay in the cache of a CPU: a batch of 64
images of 3 x 224 x 224 took a third of the time."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows top to bottom and columns left to right, without the ends."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Number of its pixels."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class Mixture:
    """Mixture of the images of one batch with each other."""

    partners: Tensor
    """Position in the batch of the image that each one is mixed with, int64 [B]."""
    share: float
    """Share of each image's own label, in [0, 1]; that of its partner's is the rest."""
    box: Box | None
    """CutMix: the pixels that are the partner's. None: mixup."""

    @staticmethod
    def draw(run: Run, epoch: int, number: int, count: int, shape: torch.Size) -> "Mixture":
        """Draw how a training batch is mixed.

        A generator of the batch draws, in this order: which of the two it is, if the run has both
        mixup and CutMix (half of the batches have mixup); a share from Beta(a, a); the partners, a
        permutation; and for CutMix the centre of the box, its row before its column.

        Args:
            run: Its mixup and cutmix, of which one is greater than 0, its seed and its repeat.
            epoch: Of training.
            number: Of the batch in its epoch, from 0.
            count: Images in the batch, B.
            shape: Of a view; CutMix needs [C, H, W].
        """
        seed = derive_seed("mix", run.seed, run.repeat, epoch, number)
        generator = np.random.default_rng(seed)
        is_mixup = run.mixup > 0
        if run.mixup > 0 and run.cutmix > 0:
            is_mixup = bool(generator.random() < 0.5)
        a = run.mixup if is_mixup else run.cutmix
        share = float(generator.beta(a, a))
        partners = torch.from_numpy(generator.permutation(count))
        if is_mixup:
            # as fastai does it: the label of an image is that of its larger share
            return Mixture(partners, max(share, 1 - share), None)
        _, height, width = shape
        centre = int(generator.integers(height)), int(generator.integers(width))
        box = box_around(centre, share, height, width)
        return Mixture(partners, 1 - box.area / (height * width), box)

    def of(self, views: Tensor) -> Tensor:
        """Return the mixed views, of the same type and shape.

        Args:
            views: uint8 images [B, C, H, W], which mixup rounds, or other tensors [B, ...].
        """
        if self.box is None:
            return _blended(views, views[self.partners], self.share)
        rows, columns = slice(self.box.top, self.box.bottom), slice(self.box.left, self.box.right)
        mixed = views.clone()
        mixed[..., rows, columns] = views[self.partners][..., rows, columns]
        return mixed


def box_around(centre: tuple[int, int], share: float, height: int, width: int) -> Box:
    """Return the box of CutMix, clipped at the border (Yun et al., 2019, equation 2).

    Args:
        centre: Its row and column.
        share: Of the area outside an unclipped box, in [0, 1]. Half a side is rounded down.
        height: Of the image in pixels.
        width: Of the image in pixels.
    """
    half = 0.5 * math.sqrt(1 - share)
    (row, column), rows, columns = centre, int(half * height), int(half * width)
    top, bottom = max(row - rows, 0), min(row + rows, height)
    left, right = max(column - columns, 0), min(column + columns, width)
    return Box(top, bottom, left, right)


def check_mixing(study: Study, data: Data) -> None:
    """Raise InputError if a configuration of the study mixes examples that cannot be mixed.

    Args:
        study: The study.
        data: Of the study, loaded.
    """
    inputs = data.splits["train"].inputs
    if data.kind != "tensors" or not isinstance(inputs, Tensor):
        return
    used = {name: max(ends_of(study.values(name))) for name in ("mixup", "cutmix")}
    what = f"the examples of {study.run.data} are"
    if used["mixup"] and not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        raise InputError(
            f"--mixup must be 0 for these data, since it averages examples, but got --mixup "
            f"{used['mixup']} and {what} tensors of {kind} that are no images; leave out --mixup"
        )
    if used["cutmix"] and inputs.dim() != 4:
        raise InputError(
            f"--cutmix must be 0 for these data, since it needs examples of the shape [C, H, W], "
            f"but got --cutmix {used['cutmix']} and {what} tensors of the shape "
            f"{list(inputs.shape[1:])}; leave out --cutmix"
        )


def _blended(own: Tensor, other: Tensor, share: float) -> Tensor:
    """Return share * own + (1 - share) * other, [B, ...]; integers are rounded."""
    if own.is_floating_point():
        return share * own + (1 - share) * other
    mixed = torch.empty_like(own)
    at_once = max(1, BLOCK // max(1, own[0].numel()))
    for start in range(0, len(own), at_once):
        part = slice(start, start + at_once)
        mixed[part] = (own[part] * share + other[part] * (1 - share)).round_()
    return mixed
