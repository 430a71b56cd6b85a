"""Data sets: their classes and splits."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdtune.config.errors import DataChangedError, InputError
from kdtune.config.inputs import VAL_NAMES, are_images
from kdtune.config.run import Run, derive_seed
from kdtune.config.run_data import Orientation
from kdtune.config.text import printable
from kdtune.data.content import read_if_same, stamp_of, unreadable
from kdtune.data.decoding import decode

Kind = Literal["files", "images", "tensors"]
"""What examples are: image files, images of one size, or other tensors of one shape."""


@dataclass(frozen=True)
class Split:
    """Examples with labels: train, val or test."""

    labels: Tensor
    """Class of each example, int64 [N]."""
    inputs: Tensor | tuple[str, ...]
    """Images, uint8 [N, C, H, W], or their files, or other tensors of any type, [N, ...]."""
    stamps: Tensor | None = None
    """Stamp and content of each file, int64 [N, 2], see `content.HashedFiles`; None without.

    Where a file has another stamp but the same content, it is replaced by the new one.
    """

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> Kind:
        """What the examples are."""
        if not isinstance(self.inputs, Tensor):
            return "files"
        return "images" if are_images(self.inputs) else "tensors"

    def example(self, index: int, orientation: Orientation | None = None) -> Tensor:
        """Return one example; an image from a file is uint8 [3, H, W].

        Args:
            index: of the example.
            orientation: of an image from a file, see `decode`.

        Raises:
            InputError: the file cannot be read.
            DataChangedError: it is not the file that was hashed any more.
        """
        if isinstance(self.inputs, Tensor):
            return self.inputs[index]
        file = self.inputs[index]
        if self.stamps is None:
            return decode(file, orientation)
        if self._has_stamp(index, file):
            try:
                image = decode(file, orientation)
            except InputError:
                if self._has_stamp(index, file):
                    raise
            else:  # afterwards: a file may be overwritten while it is decoded
                if self._has_stamp(index, file):
                    return image
        return decode(file, orientation, content=self._hashed_content(index, file))

    def _has_stamp(self, index: int, file: str) -> bool:
        return self.stamps is None or stamp_of(file) == int(self.stamps[index, 0])

    def _hashed_content(self, index: int, file: str) -> bytes:
        """Return the content of a file that has another stamp, if it is the one that was hashed."""
        assert self.stamps is not None  # noqa: S101 - without stamps none is another
        what = "changed"
        try:
            if found := read_if_same(file, int(self.stamps[index, 1])):
                content, self.stamps[index, 0] = found
                return content
        except (FileNotFoundError, NotADirectoryError):
            what = "removed"
        except OSError as error:
            raise InputError(unreadable(file, error)) from None
        raise DataChangedError(
            f"the image {printable(file)} has been {what} since the study read its data; restore "
            f"it, and the same command goes on"
        )

    def changed_files(self) -> list[str]:
        """Return the files that have been changed or removed since they were hashed."""
        if isinstance(self.inputs, Tensor) or self.stamps is None:
            return []
        others = [i for i, file in enumerate(self.inputs) if not self._has_stamp(i, file)]
        with ThreadPoolExecutor() as pool:
            changed = list(pool.map(self._is_changed, others))
        return [self.inputs[i] for i, is_changed in zip(others, changed, strict=True) if is_changed]

    def _is_changed(self, index: int) -> bool:
        try:
            self._hashed_content(index, str(self.inputs[index]))
        except (InputError, DataChangedError):
            return True
        return False

    def select(self, index: Tensor) -> "Split":
        """Return some of the examples, in this order.

        Args:
            index: int64 [N].
        """
        if isinstance(self.inputs, Tensor):
            return Split(self.labels[index], self.inputs[index])
        files = tuple(self.inputs[i] for i in index.tolist())
        return Split(self.labels[index], files, None if self.stamps is None else self.stamps[index])


@dataclass(frozen=True)
class ValCut:
    """How a val was cut from train: drawn with a seed, the same share of each class."""

    seed: int
    share: float


@dataclass(frozen=True)
class Fold:
    """How train and val of a repeat were drawn from their pooled examples."""

    folds: int
    """Number of folds N in a partition."""
    repeat: int
    seed: int
    source: str
    """Fingerprint of the data before their train and val were pooled."""
    pool: str
    """Fingerprint of the pooled data, the same in all repeats."""
    train: Tensor
    """Number of each train example in the pool, int64 [N], ascending."""
    val: Tensor
    """Number of each val example in the pool, int64 [N], ascending."""

    @property
    def smallest_train(self) -> int:
        """Number of train examples in the repeats that have the fewest."""
        pool = len(self.train) + len(self.val)
        return pool - -(-pool // self.folds)


@dataclass(frozen=True)
class Extra:
    """Where the images without labels come from."""

    fingerprint: str
    """16 hex digits that change with the content of the images."""
    source: str
    """As it was given: a folder, module:factory or rest."""
    root: str
    """Folder that the image files are named relative to; "" without files."""


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: class names and the splits train, val and perhaps test.

    Where images without labels are used, the splits have "extra" as well, see `data.extra`. Two
    data sets are equal only if they are one, so a cache can have them as keys.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]
    fingerprint: str
    """16 hex digits that change with the content of the examples, their labels and classes."""
    photos: bool
    """Whether examples are image files of any size; if not, all have the same shape."""
    root: str = ""
    """Folder that the image files are named relative to."""
    cut: ValCut | None = None
    """How val was cut from train; None if the data have a val."""
    fold: Fold | None = None
    """How train and val were drawn from their pooled examples; None without --folds."""
    extra: Extra | None = None
    """Where the split "extra" comes from; None without it."""
    warnings: tuple[str, ...] = ()
    """Sentences on images that were left out."""
    remarks: tuple[str, ...] = ()
    """Sentences on images whose labels may surprise."""

    @property
    def study_fingerprint(self) -> str:
        """Fingerprint of the data of all repeats of a study."""
        return self.fingerprint if self.fold is None else self.fold.pool

    def numbers(self, split: str) -> Tensor:
        """Return the number of each example of a split, int64 [N]: its index in the split.

        With --folds an example of train or val has its number in the pool, the same in all repeats.
        """
        if self.fold is not None and split in ("train", "val"):
            return self.fold.train if split == "train" else self.fold.val
        return torch.arange(len(self.splits[split]))

    @property
    def kind(self) -> Kind:
        """What the examples are."""
        return self.splits["train"].kind

    def subset(self, run: Run) -> Tensor:
        """Return the indices of the train examples that the student learns from.

        These are `run.train_images` examples, evenly over the classes. They are drawn with the
        study's seed, so they are the same in every repeat.

        Returns:
            int64 [N], ascending.

        Raises:
            InputError: there are fewer examples, or fewer examples than classes are asked for.
        """
        labels = self.splits["train"].labels
        if run.train_images is None:
            return torch.arange(len(labels))
        most = len(labels) if self.fold is None else self.fold.smallest_train
        if not len(self.classes) <= run.train_images <= most:
            raise InputError(
                f"train_images must lie between {len(self.classes)} (one per class) and "
                f"{most} (all of train), but got train_images={run.train_images}"
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


def name_splits(present: Collection[str], what: str) -> dict[str, str]:
    """Return the name that each split has in data; val may also be validation, valid or dev.

    Args:
        present: names in the data.
        what: names the data in an error.

    Raises:
        InputError: there is no train, or more than one val.
    """
    if "train" not in present:
        raise InputError(f"{what} must have train, but has {', '.join(present) or 'nothing'}")
    of_val = [name for name in VAL_NAMES if name in present]
    if len(of_val) > 1:
        raise InputError(
            f"{what} must have one split for val, but has {' and '.join(of_val)}; rename or remove "
            f"the others"
        )
    named = {"train": "train", "val": of_val[0] if of_val else "val", "test": "test"}
    return {split: name for split, name in named.items() if name in present}
