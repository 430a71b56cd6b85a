"""Seeded views of a split's examples: augmentation and mixing."""

import inspect
import math
import platform
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.functional import pad as pad_image
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from kdtune.config.fields import is_function_name
from kdtune.config.run import Interpolation, Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.task import ends_of
from kdtune.config.text import DataChangedError, InputError, import_named, user_code
from kdtune.data.dataset import Data, Split

# Augmentations of training images.
#
# Each is one entry of `AUGMENTATIONS`, a random crop and perhaps a further change of the cropped
# image, or the user's own, which makes a view of the whole image. All random numbers follow from a
# seed of the view.


Crop = Literal["crop", "resized-crop"]


@dataclass(frozen=True)
class Augmentation:
    """A crop, and a change of the cropped image."""

    crop: Crop | None
    """None: "crop" for images of one size, "resized-crop" for files of any size."""
    change: Callable[[Tensor], Tensor] | None = None
    """Function of one image, uint8 [C, H, W], that draws from torch's global generator."""


def _trivial(image: Tensor) -> Tensor:
    from torchvision.transforms import v2  # takes as long to import as torch

    return v2.TrivialAugmentWide()(image)  # type: ignore[no-any-return]


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "crop": Augmentation("crop"),
    "resized-crop": Augmentation("resized-crop"),
    # Mueller and Hutter, 2021, arXiv:2103.10158; the wide space of changes
    "trivial": Augmentation(None, _trivial),
}
"""Augmentations by name, without "none"."""


def padded_crop(images: Tensor, seeds: Sequence[int]) -> Tensor:
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
    from torchvision.transforms import v2

    crop, flip = v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()
    return apply_seeded(seed, lambda x: flip(crop(x)), image)


def apply_seeded(seed: int, change: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Return an image, uint8 [C, H, W], changed at random with a seed.

    Torchvision's transforms draw from torch's global generator and take no other, so it is seeded
    for the call.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return change(image)


def find_augmentation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the user's augmentation of a name, module:attribute, as a function of one image.

    The name is that of a module, such as a transform of torchvision.transforms.v2, which is called
    with the image; of a function of the image and a generator; or of a class, or a function without
    parameters, that makes one of these. The generator is torch's global one, see `apply_seeded`.

    Raises:
        InputError: It cannot be imported or made.
    """
    augmentation: Any = import_named("the augmentation", name)
    with user_code(f"the augmentation {name} cannot be made"):
        if isinstance(augmentation, type) or not inspect.signature(augmentation).parameters:
            augmentation = augmentation()
    if isinstance(augmentation, nn.Module):
        return augmentation
    return lambda image: augmentation(image, torch.default_generator)


# Seeded views of a split's examples.
#
# A view is an augmented image before normalisation, uint8 [C, H, W]; for data that are no images,
# it is the tensor itself. Teacher and student see the same view, each through its preprocessing.
# Its random numbers depend on its seed alone, so it is the same in any process, with any number of
# workers, and in any batch.


_PHOTO_CROP = 224 / 256
"""Crop of image files where no model publishes another: resized to 256, then the central 224."""
_FAST_BYTES = {"AVX2", "AVX512", "aarch64", "arm64"}
"""CPUs on which torch resizes bytes bilinearly faster than floating-point numbers."""
_LOADER_BATCH = 64
_TRIED_SEEDS = 8
"""With so many, a flip that follows another generator passes as seeded in one of 256 cases."""


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
        images = resized(images, round(size / self.crop), self.interpolation)
        top, left = (round((side - size) / 2) for side in images.shape[-2:])
        return images[..., top : top + size, left : left + size]


def resized(images: Tensor, short: int, interpolation: Interpolation) -> Tensor:
    """Return images with a shorter side of this length, as torchvision's resize does, to the bit.

    torchvision takes as long to import as torch; a student predicts without it.

    Args:
        images: uint8 [..., C, H, W].
        short: in pixels.
        interpolation: with antialiasing; "nearest" is that of Pillow.
    """
    sides = images.shape[-2:]
    target = [int(short * side / min(sides)) for side in sides]
    if target == list(sides):
        return images
    batch, shape = images.reshape(-1, *images.shape[-3:]), (*images.shape[:-2], *target)
    if interpolation == "nearest":
        return interpolate(batch, target, mode="nearest-exact").reshape(shape)
    cpu = {torch.backends.cpu.get_cpu_capability(), platform.machine()}
    takes_bytes = images.device.type == "cpu" and (interpolation == "bicubic" or cpu & _FAST_BYTES)
    batch = batch if takes_bytes else batch.float()
    batch = interpolate(batch, target, mode=interpolation, antialias=True, align_corners=False)
    return batch.clamp(0, 255).round().to(torch.uint8).reshape(shape)


def eval_resizing(run: Run, files: bool) -> Resizing:
    """Return how a run resizes images for evaluation.

    Args:
        run: its eval_crop and eval_interpolation, if they are not None.
        files: whether the images are files of any size.
    """
    crop = run.eval_crop or (_PHOTO_CROP if files else 1.0)
    return Resizing(crop, run.eval_interpolation or "bilinear")


class Views(Dataset[Tensor]):
    """Views of some examples of a split, indexed by lists of positions.

    Args:
        split: where the examples come from.
        index: which of them, in this order, int64 [N]. To draw an example again, add their number:
            it is then augmented by another seed.
        run: names the augmentation, the seed and the repeat.
        size: side of a view in pixels; not used for data that are no images.
        epoch: of training; None for evaluation views, which have no augmentation.
        name: prefix of the seeds; views with another prefix have other augmentations.
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
        self.eval_resizing = eval_resizing(run, files=split.kind == "files")
        # None: views for evaluation
        self.seed_parts = None if epoch is None else (name, run.seed, run.repeat, epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions: Sequence[int]) -> Tensor:
        draws = self.index[positions]
        index = draws % len(self.split)
        if self.split.kind == "tensors":
            assert isinstance(self.split.inputs, Tensor)  # noqa: S101 - this kind is one Tensor
            return self.split.inputs[index]
        if self.seed_parts is None or self.augment == "none":
            return self._resized(index, self.eval_resizing)
        seeds = [derive_seed(*self.seed_parts, i) for i in draws.tolist()]
        if self.augment not in AUGMENTATIONS:
            make = find_augmentation(self.augment)
            pairs = zip(index.tolist(), seeds, strict=True)
            return torch.stack([self._by_user(make, *pair) for pair in pairs])
        augmentation = AUGMENTATIONS[self.augment]
        crop = augmentation.crop or ("resized-crop" if self.split.kind == "files" else "crop")
        match crop:
            case "crop":
                whole = replace(self.eval_resizing, crop=1.0)
                views = padded_crop(self._resized(index, whole), seeds)
            case "resized-crop":
                images = zip(map(self._example, index.tolist()), seeds, strict=True)
                views = torch.stack([resized_crop(x, self.size, s) for x, s in images])
            case _:
                assert_never(crop)
        if (change := augmentation.change) is None:
            return views
        pairs = zip(views, seeds, strict=True)
        return torch.stack([apply_seeded(derive_seed(s, "change"), change, x) for x, s in pairs])

    def batches(self, size: int = _LOADER_BATCH, workers: int = 0) -> Iterator[Tensor]:
        """Yield all views in order, uint8 [B, C, H, W] or tensors [B, ...] with B <= size.

        Args:
            size: views in a batch.
            workers: processes that make them; 0 for this one.
        """
        if self.split.kind == "tensors":  # sending them between processes takes longer
            workers = 0
        # A batch is one item, since cropping a batch of 28 x 28 at once takes a third of the time.
        # A loader draws from the global generator unless it gets another one.
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=BatchSampler(SequentialSampler(self), size, drop_last=False),
            num_workers=workers,
            generator=torch.Generator(),
        )
        try:
            yield from loader
        except (InputError, DataChangedError) as error:
            # from a worker the message is a traceback, whose last line has the sentence
            kind, last = type(error), str(error).strip().splitlines()[-1]
            raise kind(last.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")) from None

    def _resized(self, index: Tensor, resize: Resizing) -> Tensor:
        if isinstance(self.split.inputs, Tensor):
            return resize(self.split.inputs[index], self.size)
        return torch.stack([resize(self._example(i), self.size) for i in index.tolist()])

    def _example(self, index: int) -> Tensor:
        return self.split.example(index, self.orientation)

    def _by_user(self, make: Callable[[Tensor], Tensor], index: int, seed: int) -> Tensor:
        """Return the view of an example that the user's augmentation makes."""
        image = self._example(index).clone()  # the data stay as they are if it is changed in place
        name, shape = f"the augmentation {self.augment}", list(image.shape)
        with user_code(f"{name} failed on an image of the shape {shape}"):
            view: Any = apply_seeded(seed, make, image)
        wanted = [shape[0], self.size, self.size]
        if isinstance(view, Tensor) and view.dtype == torch.uint8 and list(view.shape) == wanted:
            return view
        got = f"{view.dtype} {list(view.shape)}" if isinstance(view, Tensor) else type(view)
        raise InputError(
            f"{name} must return an image of the type torch.uint8 and of the study's size, "
            f"{wanted}, but returned {got} for one of the shape {shape}; crop or resize it there, "
            f"or give another --image-size"
        )


def check_augmentation(run: Run, data: Data, size: int) -> None:
    """Raise InputError unless an augmentation of the user's makes views of an image of train.

    Each seed must give one view.

    Args:
        run: With the augmentation.
        data: Of the run.
        size: Side of a view in pixels.
    """
    for epoch in range(_TRIED_SEEDS if is_function_name(run.augmentation) else 0):
        first, again = Views(data.splits["train"], torch.zeros(2).long(), run, size, epoch)[[0, 1]]
        if not torch.equal(first, again):
            raise InputError(
                f"the augmentation {run.augmentation} must return the same image for the same "
                f"seed, but returned two; draw from torch, or from the generator that a function "
                f"(image, generator) is given"
            )


def probe_views(data: Data, run: Run, size: int) -> Tensor:
    """Return the evaluation views of two examples of val, [2, ...], to try models on."""
    split = data.splits["val"]
    index = torch.arange(2) % len(split)
    return next(Views(split, index, run, size).batches())


# Mixtures of training images: mixup and CutMix, as functions of a seed.
#
# How a training batch is mixed depends on the study seed, the repeat, the epoch and the number of
# the batch. So it is the same in any process, and mixed images are views that all configurations
# with the same mixing and batch size share.


_BLOCK = 2**17
"""Numbers that are blended at a time, so that they stay in the cache of a CPU: a batch of 64
images of 3 x 224 x 224 took a third of the time."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; bottom and right are exclusive."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Mixture:
    """Mixture of the images of one batch with each other."""

    partners: Tensor
    """Position in the batch of the image that each one is mixed with, int64 [B]."""
    share: float
    """Share of each image's own label, in [0, 1]; its partner's label has 1 - share."""
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
        row, column = int(generator.integers(height)), int(generator.integers(width))
        # clipped at the border (Yun et al., 2019, equation 2); half a side is rounded down
        half = 0.5 * math.sqrt(1 - share)
        rows, columns = int(half * height), int(half * width)
        top, bottom = max(row - rows, 0), min(row + rows, height)
        left, right = max(column - columns, 0), min(column + columns, width)
        area = (bottom - top) * (right - left)
        return Mixture(partners, 1 - area / (height * width), Box(top, bottom, left, right))

    def apply(self, views: Tensor) -> Tensor:
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


def check_mixing(study: Study, data: Data) -> None:
    """Raise InputError if a configuration of the study mixes examples that cannot be mixed.

    Args:
        study: The study.
        data: Of the study, loaded.
    """
    inputs = data.splits["train"].inputs
    if data.kind != "tensors" or not isinstance(inputs, Tensor):
        return
    form = f"{str(inputs.dtype).removeprefix('torch.')} of the shape {list(inputs.shape[1:])}"
    for name, fits, requirement in (
        ("mixup", inputs.is_floating_point(), "numbers that can be averaged"),
        ("cutmix", inputs.dim() == 4, "the shape [C, H, W]"),
    ):
        used = max(ends_of(study.values(name)))
        if used and not fits:
            raise InputError(
                f"--{name} must be 0 for data without {requirement}, but got --{name} {used}, and "
                f"{study.run.data} has examples of {form}, no images; leave out --{name}"
            )


def _blended(images: Tensor, others: Tensor, share: float) -> Tensor:
    """Return share * images + (1 - share) * others, [B, ...]; integers are rounded."""
    if images.is_floating_point():
        return share * images + (1 - share) * others
    mixed = torch.empty_like(images)
    at_once = max(1, _BLOCK // max(1, images[0].numel()))
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        mixed[part] = (images[part] * share + others[part] * (1 - share)).round_()
    return mixed
