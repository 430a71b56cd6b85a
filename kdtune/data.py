"""A data set by name or path, its splits, and seeded views of its images.

A view is a uint8 image [C, H, W], augmented, not normalised: teacher and student look at the same
one, each through its own preprocessing (models.py). A view is a function of its seed alone, so it
is the same in any process, with any number of workers, in any batch.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad as pad_image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from kdtune.config import Augment, InputError, Run, derive_seed

PHOTO_ZOOM = 256 / 224
"""Photographs are evaluated as ImageNet's are: resized to 256, the centre 224 of it seen."""
LOADER_BATCH = 64


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
    """16 hex digits that change with names, sizes and the first and last 16 KiB of the images."""
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


def verify(data: Data) -> None:
    """Decode every image file once; raises InputError that names those that cannot be read."""
    files = [f for s in data.splits.values() if not isinstance(s.images, Tensor) for f in s.images]
    with ThreadPoolExecutor() as pool:
        broken = [error for error in pool.map(_fault, files) if error]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(f"{broken[0]}{more}; replace the file or take it away")


def centre(image: Tensor, augment: Augment, size: int) -> Tensor:
    """The evaluation view, uint8 [C, size, size]: resized, centre cropped, nothing random."""
    zoom = PHOTO_ZOOM if augment == "resized-crop" else 1.0
    short = round(size * zoom)
    if min(image.shape[-2:]) != short:
        image = F.resize(image, [short], antialias=True)
    cropped: Tensor = F.center_crop(image, [size, size])
    return cropped


def augmented(image: Tensor, augment: Augment, size: int, seed: int) -> Tensor:
    """The training view of this seed, uint8 [C, size, size]."""
    if augment == "resized-crop":
        return _resized_crop(image, size, seed)
    image = centre(image, augment, size)
    if augment == "none":
        return image
    # a Generator of Python's is seeded in a tenth of the time that torch's global one takes
    draw, pad = random.Random(seed), max(1, size // 8)
    top, left, flip = draw.randint(0, 2 * pad), draw.randint(0, 2 * pad), draw.random() < 0.5
    image = pad_image(image, [pad] * 4)[:, top : top + size, left : left + size]
    return image.flip(-1) if flip else image.contiguous()


def _resized_crop(image: Tensor, size: int, seed: int) -> Tensor:
    """Torchvision's own transforms, which draw from torch's global generator and take no other."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        image = v2.RandomResizedCrop(size, antialias=True)(image)
        flipped: Tensor = v2.RandomHorizontalFlip()(image)
        return flipped


class Views(Dataset[Tensor]):
    """Views of some images of a split, in the order given.

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

    def __getitem__(self, position: int) -> Tensor:
        i = int(self.index[position])
        image = self.split.image(i)
        if self.key is None:
            return centre(image, self.augment, self.size)
        return augmented(image, self.augment, self.size, derive_seed(*self.key, i))

    def batches(self, size: int = LOADER_BATCH, workers: int = 0) -> Iterator[Tensor]:
        """All views in order, uint8 [<= size, C, H, W] at a time, made by `workers` processes."""
        # an own generator: a loader's iterator would otherwise advance the global one
        generator = torch.Generator()
        yield from DataLoader(self, batch_size=size, num_workers=workers, generator=generator)


def samples(data: Data, run: Run, size: int) -> Tensor:
    """Evaluation views of two images of val, uint8 [2, C, H, W]: what models will look at."""
    split = data.splits["val"]
    index = torch.arange(2) % len(split)
    return next(Views(split, index, run, size).batches())


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


def _folder(root: Path) -> Data:
    if not root.is_dir():
        raise InputError(
            f'data must be "fashion" or a folder, but there is no folder {root} '
            f"(--data FOLDER, with train/ and val/ in it)"
        )
    splits, classes = {}, {}
    for name in ("train", "val", "test"):
        if not (root / name).is_dir():
            if name == "test":
                continue
            raise InputError(f"{root} must have the folders train/ and val/, but has no {name}/")
        try:
            found = ImageFolder(root / name)
        except FileNotFoundError as error:  # no class at all, or one without images
            raise InputError(
                f"{root / name} must hold a folder of images a class: {error}"
            ) from None
        classes[name] = tuple(found.classes)
        files = tuple(path for path, _ in found.samples)
        splits[name] = Split(torch.tensor(found.targets), files)
    for name, have in classes.items():
        if have != classes["train"]:
            odd = sorted(set(have) ^ set(classes["train"]))
            raise InputError(f"{root}: train/ and {name}/ must hold the same classes; {odd} differ")
    return Data(classes["train"], splits, _fingerprint(root, splits.values()), photos=True)


def _fingerprint(root: Path, splits: Iterable[Split]) -> str:
    """Over names, sizes and the first and last 16 KiB of each file: content, yet fast at size."""
    digest = hashlib.sha256()
    for split in splits:
        for path in map(Path, split.images):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(16384))
                stream.seek(max(0, size - 16384))
                digest.update(stream.read(16384))
    return digest.hexdigest()[:16]


def _decode(file: str) -> Tensor:
    with Image.open(file) as image:
        return F.pil_to_tensor(image.convert("RGB"))  # type: ignore[no-any-return]


def _fault(file: str) -> str | None:
    try:
        _decode(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(f" '{file}'", "")
        return f"the image {file} cannot be read ({reason})"
    return None
