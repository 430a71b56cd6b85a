"""Data sets: classes, splits, folds, hashes by content."""

import base64
import binascii
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdtune.config.fields import REST
from kdtune.config.files import atomic_write, cache_folder, make_folder, open_trusted, oriented
from kdtune.config.run import Orientation, Run, derive_seed
from kdtune.config.text import (
    VAL_NAMES,
    DataChangedError,
    InputError,
    are_images,
    first_line,
    list_some,
    printable,
)

# Hashes of data by content, and notes in the cache folder of results that are costly to compute.
#
# The content of files is read once; its hash is then kept under their names, sizes and times of
# change. Their stamps, which are taken before the content is read, tell later that a file is still
# the one that was hashed; where a stamp is another, the content is compared. An inode is no part of
# a stamp, since it may be another one at each look in a file system of the network.


class HashedFiles(NamedTuple):
    """A hash of files, and what tells that they have not changed since."""

    hash: str
    """16 hex digits, of the names below a folder and of the contents."""
    stamps: Tensor
    """Stamp and content of each file, int64 [N, 2]; see `stamp_of` and `content_number`."""


def hash_files(root: Path, files: Sequence[str]) -> HashedFiles:
    """Return a hash of the names below `root` and the contents of files, and their stamps.

    Raises:
        InputError: a file is missing, is no file or cannot be read.
    """
    paths = [Path(file) for file in files]
    try:
        stats = [os.stat(file) for file in files]
    except OSError as error:
        raise InputError(unreadable(str(error.filename), error)) from None
    for file, status in zip(files, stats, strict=True):
        if not stat.S_ISREG(status.st_mode):  # to read a pipe would wait for ever
            raise InputError(f"the image {printable(file)} is no file; remove it")
    stamps = torch.tensor([_stamp(s) for s in stats], dtype=torch.int64)
    seen = (
        f"{f.absolute()}\0{s.st_size}\0{s.st_mtime_ns}\0{s.st_ctime_ns}\0"
        for f, s in zip(paths, stats, strict=True)
    )
    name = hashlib.sha256("".join([f"{root.absolute()}\0", *seen]).encode()).hexdigest()
    if (noted := _read_hashes(name, len(files))) is not None:
        return HashedFiles(noted[0], torch.stack([stamps, noted[1]], 1))
    digest, numbers = hashlib.sha256(), list[int]()
    for path, content in zip(paths, file_contents(files), strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + content)
        numbers.append(content_number(content))
    hash_, contents = digest.hexdigest()[:16], torch.tensor(numbers, dtype=torch.int64)
    # as git does: a file that has just been written may be written again at the same time stamp
    if max(s.st_mtime for s in stats) < time.time() - 2:
        encoded = base64.b64encode(contents.numpy().astype("<i8").tobytes()).decode()
        keep_note(name, f"{hash_} {encoded}")
    return HashedFiles(hash_, torch.stack([stamps, contents], 1))


def _read_hashes(name: str, count: int) -> tuple[str, Tensor] | None:
    """Return the hash of files and the numbers of their contents, int64 [N], from a note."""
    hash_, _, encoded = (read_note(name) or "").partition(" ")
    try:
        numbers = np.frombuffer(base64.b64decode(encoded, validate=True), "<i8").astype(np.int64)
    except (ValueError, binascii.Error):
        return None
    return (hash_, torch.from_numpy(numbers)) if hash_ and len(numbers) == count else None


def content_number(digest: bytes) -> int:
    """Return the first 64 bits of the hash of a content, as many as a fingerprint has."""
    return int.from_bytes(digest[:8], "little", signed=True)


def stamp_of(file: str) -> int | None:
    """Return a number that changes if a file is written or replaced; None if there is no file.

    It is made of the size and the times at which the content and the status were changed, in
    nanoseconds. The second of them cannot be set back.
    """
    try:
        return _stamp(os.stat(file))
    except OSError:
        return None


def _stamp(status: os.stat_result) -> int:
    # Python's hash of numbers, unlike that of strings, is the same in every process
    return hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def unreadable(file: str, error: OSError) -> str:
    """Return a sentence on a file that cannot be read."""
    return f"the image {printable(file)} cannot be read ({error.strerror})"


def file_contents(files: Sequence[str]) -> Iterable[bytes]:
    """Yield the hash of the content of each file; raise InputError if one cannot be read."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(_content, files)


def _content(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise InputError(unreadable(file, error)) from None


def hash_tensor(values: Tensor) -> str:
    """Return a hash of the type, shape and values of a tensor, 64 hex digits."""
    digest = hashlib.sha256(f"{values.dtype} {list(values.shape)}\0".encode())
    digest.update(_bytes(values).numpy().data)
    return digest.hexdigest()


def _bytes(values: Tensor) -> Tensor:
    """Return the bytes of a tensor, uint8 [size]."""
    return values.contiguous().view(-1).view(torch.uint8)


def combine_hashes(*parts: str) -> str:
    """Return 16 hex digits that change with every part."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def read_note(name: str) -> str | None:
    """Return the text that was kept under a name; None if there is none that can be trusted."""
    try:
        with open_trusted(_note(name)) as note:
            return note.read().decode()
    except (OSError, UnicodeDecodeError):
        return None


def keep_note(name: str, text: str) -> None:
    """Keep a text under a name, for this and other processes."""
    note = _note(name)
    with suppress(OSError):  # if it cannot be written, it is computed again next time
        make_folder(cache_folder(), note.parent.name)
        with atomic_write(note) as part:
            part.write_text(text, encoding="utf-8")


def _note(name: str) -> Path:
    return cache_folder() / "data" / name


# Decoding of image files by Pillow: pixels of 8 bits, rotated as their EXIF data say.


def decode(
    file: Image.Image | str | Path,
    orientation: Orientation | None,
    mode: Literal["L", "RGB"] = "RGB",
    content: bytes | None = None,
) -> Tensor:
    """Return an image file with 8 bits per channel, uint8 [3, H, W]; in mode L [1, H, W].

    Args:
        file: the file; or an image of Pillow.
        orientation: whether the image is rotated and mirrored as its EXIF data say; None: it is.
        mode: of Pillow.
        content: of the file, if it has been read.

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        if isinstance(file, Image.Image):
            return pixels(oriented(file, orientation), mode)
        with Image.open(file if content is None else io.BytesIO(content)) as image:
            return pixels(oriented(image, orientation), mode)
    except Exception as error:  # Pillow raises errors of all kinds for a damaged file
        reason = re.sub(f" ('{re.escape(str(file))}'|<_io.BytesIO.*>)", "", first_line(error))
        text = f"the image {printable(str(file))} cannot be read ({reason})"
        raise InputError(text) from None


def pixels(image: Image.Image, mode: Literal["L", "RGB"]) -> Tensor:
    """Return an image of Pillow with 8 bits per channel, uint8 [1, H, W] (L) or [3, H, W] (RGB).

    Raises:
        ValueError: its pixels have neither 8 nor 16 bits.
    """
    shown: Image.Image = image
    if image.mode.startswith("I;16"):  # Pillow clips at 255, which leaves white
        shown = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels have the mode {image.mode}, not 8 or 16 bits")
    array = np.array(shown.convert(mode)).reshape(image.height, image.width, -1)
    return torch.from_numpy(array).permute(2, 0, 1)


# Data sets: their classes and splits.


DataKind = Literal["files", "images", "tensors"]
"""What examples are: image files, images of one size, or other tensors of one shape."""
Groups = NDArray[np.str_]
"""Name of the group of each example, such as its speaker, patient or video, [N]."""


@dataclass(frozen=True)
class Split:
    """Examples with labels: train, val or test."""

    labels: Tensor
    """Class of each example, int64 [N]."""
    inputs: Tensor | tuple[str, ...]
    """Images, uint8 [N, C, H, W], or their files, or other tensors of any type, [N, ...]."""
    stamps: Tensor | None = None
    """Stamp and content of each file, int64 [N, 2], see `HashedFiles`; None without.

    Where a file has another stamp but the same content, it is replaced by the new one.
    """
    groups: Groups | None = None
    """Names that are common to all splits; None if the examples are independent."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> DataKind:
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
        content = None if self.stamps is None else self._content(index)
        return decode(self.inputs[index], orientation, content=content)

    def contents(self) -> Iterable[bytes]:
        """Yield the hash of the content of each example."""
        if isinstance(self.inputs, Tensor):
            rows = _bytes(self.inputs).reshape(len(self), -1).numpy()
            return (hashlib.sha256(row.tobytes()).digest() for row in rows)
        return file_contents(self.inputs)

    def _content(self, index: int) -> bytes:
        """Return the content of a file, which must be the one that was hashed."""
        assert self.stamps is not None  # noqa: S101 - the caller has looked
        file = str(self.inputs[index])
        stamp, number = self.stamps[index].tolist()
        try:
            status = os.stat(file)
            if stat.S_ISREG(status.st_mode):  # to read a pipe would wait for ever
                content = Path(file).read_bytes()
                # also afterwards: a file may be overwritten while it is read
                if _stamp(status) == stamp == stamp_of(file):
                    return content
                if content_number(hashlib.sha256(content).digest()) == number:
                    self.stamps[index, 0] = _stamp(status)
                    return content
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise InputError(unreadable(file, error)) from None
        raise DataChangedError(
            f"the image {printable(file)} has been changed or removed since the study read its "
            f"data; restore it, and the same command goes on"
        )

    def changed_files(self) -> list[str]:
        """Return the files that have been changed or removed since they were hashed."""
        if isinstance(self.inputs, Tensor) or self.stamps is None:
            return []
        stamps = self.stamps[:, 0].tolist()
        others = [i for i, file in enumerate(self.inputs) if stamp_of(file) != stamps[i]]
        with ThreadPoolExecutor() as pool:
            changed = list(pool.map(self._is_changed, others))
        return [self.inputs[i] for i, is_changed in zip(others, changed, strict=True) if is_changed]

    def _is_changed(self, index: int) -> bool:
        try:
            self._content(index)
        except (InputError, DataChangedError):
            return True
        return False

    def select(self, index: Tensor) -> "Split":
        """Return some of the examples, in this order.

        Args:
            index: int64 [N].
        """
        groups = None if self.groups is None else self.groups[index.numpy()]
        if isinstance(self.inputs, Tensor):
            return Split(self.labels[index], self.inputs[index], groups=groups)
        files = tuple(self.inputs[i] for i in index.tolist())
        stamps = None if self.stamps is None else self.stamps[index]
        return Split(self.labels[index], files, stamps, groups)


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
    whole: "Data"
    """The data before their train and val were pooled."""
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
    describe_row: Callable[[str], str] = field(default=lambda _: "")
    """Return the row of a table that names an image file, in parentheses; "" without a table."""

    @property
    def study_fingerprint(self) -> str:
        """Fingerprint of the data of all repeats of a study."""
        return self.fingerprint if self.fold is None else self.fold.pool

    @property
    def other_extra(self) -> Extra | None:
        """Where images without labels come from that are no part of train; None without any."""
        return None if self.extra is None or self.extra.source == REST else self.extra

    def numbers(self, split: str) -> Tensor:
        """Return the number of each example of a split, int64 [N]: its index in the split.

        With --folds an example of train or val has its number in the pool, the same in all repeats.
        """
        if self.fold is not None and split in ("train", "val"):
            return self.fold.train if split == "train" else self.fold.val
        return torch.arange(len(self.splits[split]))

    @property
    def kind(self) -> DataKind:
        """What the examples are."""
        return self.splits["train"].kind

    def subset(self, run: Run) -> Tensor:
        """Return the indices of the train examples that the student learns from.

        These are `run.train_images` examples, evenly over the classes, drawn with the study's seed
        and, see `Run.train_draw`, the repeat. Fewer examples are a part of more.

        Returns:
            int64 [N], ascending.

        Raises:
            InputError: there are fewer examples, or fewer examples than classes are asked for.
        """
        labels = self.splits["train"].labels
        if run.train_images is None:
            return torch.arange(len(labels))
        most = len(labels)
        if self.fold is not None:  # folds of groups differ in size
            most = min(most, self.fold.smallest_train)
        if not len(self.classes) <= run.train_images <= most:
            raise InputError(
                f"train_images must lie between {len(self.classes)} (one per class) and "
                f"{most} (all of train), but got train_images={run.train_images}"
            )
        repeat = [] if run.repeat_of_draw is None else [run.repeat_of_draw]
        generator = torch.Generator().manual_seed(derive_seed(run.seed, "subset", *repeat))
        order = torch.randperm(len(labels), generator=generator)
        # sorted by the rank within the class, so that the first k are an even draw
        rank = torch.empty(len(labels), dtype=torch.int64)
        for k in range(len(self.classes)):
            members = order[labels[order] == k]
            rank[members] = torch.arange(len(members))
        chosen = order[torch.argsort(rank[order], stable=True)][: run.train_images]
        return chosen.sort().values


def name_splits(present: Collection[str], noun: str) -> dict[str, str]:
    """Return the name that each split has in data; val may also be validation, valid or dev.

    Args:
        present: names in the data.
        noun: names the data in an error.

    Raises:
        InputError: there is no train, or more than one val.
    """
    if "train" not in present:
        names = ", ".join(present) or "nothing"
        raise InputError(
            f"{noun} must have train, but has {names}; name what is learned from train"
        )
    of_val = [name for name in VAL_NAMES if name in present]
    if len(of_val) > 1:
        raise InputError(
            f"{noun} must have one split for val, but has {' and '.join(of_val)}; rename or remove "
            f"the others"
        )
    named = {"train": "train", "val": of_val[0] if of_val else "val", "test": "test"}
    return {split: name for split, name in named.items() if name in present}


# Groups of examples that belong together. A cut of the data never divides a group.


def with_groups(name: str, data: Data, groups: Mapping[str, Groups]) -> Data:
    """Return the data with the groups of each split's examples, which join the fingerprint.

    Args:
        name: Of the data, for errors.
        data: Without groups.
        groups: By split.

    Raises:
        InputError: They are not one for each example, or all examples of a split are of one group.
    """
    sizes = {split: len(examples) for split, examples in data.splits.items()}
    if (counts := {split: len(names) for split, names in groups.items()}) != sizes:
        raise InputError(
            f"the groups of {name} must be one for each example of each split, but there are "
            f"{counts} for {sizes}"
        )
    for split, names in groups.items():
        if len(set(names)) < 2:
            raise InputError(
                f"{name} ({split}) must have examples of at least two groups, but all are of "
                f"{names[0]}; add some of other groups, or leave the groups out"
            )
    splits = {split: replace(rows, groups=groups[split]) for split, rows in data.splits.items()}
    fingerprint = combine_hashes(data.fingerprint, "groups", *np.concatenate([*groups.values()]))
    return replace(data, splits=splits, fingerprint=fingerprint)


def group_files(name: str, data: Data, pattern: str) -> Data:
    """Return data of image files with the groups that a regular expression finds in their paths.

    A path is that below the innermost folder with all files of the split, such as ants/p3_1.png. Of
    an expression with parentheses, the group is what the first ones enclose.

    Args:
        name: Of the data, for errors.
        data: Without groups.
        pattern: The expression.

    Raises:
        InputError: The examples are no files, have groups already, or one has no match; and see
            `with_groups`.
    """
    groups = {}
    for split, examples in data.splits.items():
        if isinstance(examples.inputs, Tensor) or examples.groups is not None:
            has = "no files" if examples.groups is None else "groups of their own"
            raise InputError(
                f"--groups must be left out unless the data are image files without groups, but "
                f"the examples of {name} have {has}; a function may return groups beside its splits"
            )
        folder = os.path.commonpath(map(os.path.dirname, examples.inputs))
        paths = [Path(file).relative_to(folder).as_posix() for file in examples.inputs]
        found = [re.search(pattern, path) for path in paths]
        names = [match[min(1, match.re.groups)] if match else None for match in found]
        if lacking := [path for path, group in zip(paths, names, strict=True) if not group]:
            raise InputError(
                f"--groups must match a part of each image's path, but {pattern} does not match "
                f"{list_some(list(map(printable, lacking)), 3)} in {split}; change it, or rename "
                f"these images"
            )
        groups[split] = np.array(names, dtype=np.str_)
    return with_groups(name, data, groups)


def _count_by_group(split: Split) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the number of each example's group, [N], and the examples by group and class."""
    _, number = np.unique(np.asarray(split.groups), return_inverse=True)
    counts = np.zeros((number.max() + 1, int(split.labels.max()) + 1))
    np.add.at(counts, (number, split.labels.numpy()), 1)
    return number, counts


def _deal_groups(split: Split, shares: Sequence[float], generator: torch.Generator) -> Tensor:
    """Return the part that each example belongs to, int64 [N], where a group is in one part.

    The groups come in random order, those of twice the size first. Each goes to the part where it
    brings all classes closest to these shares of their examples, by Pearson's chi-squared. But a
    class that has only as many groups left as parts lack it goes to one of these parts.
    """
    number, counts = _count_by_group(split)
    counts = np.c_[counts, counts.sum(1)]  # all examples, too, are to have these shares
    of_group, left = counts / counts.sum(0), (counts > 0).sum(0)
    wanted = np.array(shares)[:, None]
    dealt, parts = np.zeros((len(wanted), counts.shape[1])), np.zeros(len(counts), np.int64)
    order = torch.randperm(len(counts), generator=generator).numpy()
    for g in order[np.argsort(-np.floor(np.log2(counts[order, -1])), kind="stable")]:
        added, has = of_group[g], counts[g] > 0
        cost = ((2 * (dealt - wanted) * added + added**2) / wanted).sum(1)
        lacks = dealt == 0
        is_needed = (lacks & has & (left <= lacks.sum(0))).any(1)
        parts[g] = (cost - 1e9 * is_needed * wanted[:, 0]).argmin()  # of train and val, train first
        dealt[parts[g]] += added
        left -= has
    return torch.from_numpy(parts[number])


# A val that is cut from train, where data have none.


def cut_val(data: Data, cut: ValCut) -> Data:
    """Return the data with a val that is cut from train.

    Each class gives the same share of its examples, rounded, but at least one and not all. A class
    with a single example stays in train. Where there are groups, whole ones are taken, so that the
    shares are close to that.

    Args:
        data: without val.
        cut: seed and share.

    Returns:
        The data; the examples in val are part of its fingerprint.

    Raises:
        InputError: no class has two examples, or there are too few groups.
    """
    train = data.splits["train"]
    generator = torch.Generator().manual_seed(derive_seed(cut.seed, "val"))
    if train.groups is not None:
        chosen = _deal_groups(train, (1 - cut.share, cut.share), generator) == 1
        is_whole = len(train.labels[~chosen].unique()) == len(data.classes)
        if not is_whole or len(set(train.groups[chosen.numpy()])) < 2:
            raise InputError(
                f"val cannot be cut from train by groups, since {len(set(train.groups))} groups "
                f"leave train without a class or val without two groups at --val-share "
                f"{cut.share:g}; change it, use --folds, or give the data a val"
            )
    else:
        order = torch.randperm(len(train), generator=generator)
        chosen = torch.zeros(len(train), dtype=torch.bool)
        for k in range(len(data.classes)):
            members = order[train.labels[order] == k]
            count = min(max(round(cut.share * len(members)), 1), len(members) - 1)
            chosen[members[: max(count, 0)]] = True
        if not chosen.any():
            raise InputError(
                "val cannot be cut from train, since no class has two examples; give the data a val"
            )
    rest, val = (train.select(part.nonzero()[:, 0]) for part in (~chosen, chosen))
    others = {name: split for name, split in data.splits.items() if name != "train"}
    # the examples themselves, since another version of torch may draw others
    fingerprint = combine_hashes(data.fingerprint, hash_tensor(chosen))
    splits = {"train": rest, "val": val, **others}
    return replace(data, splits=splits, fingerprint=fingerprint, cut=cut)


# Train and val pooled, and split anew in each repeat: repeated stratified k-fold.


@dataclass(frozen=True)
class FoldCut:
    """Which split of the pool into train and val is asked for."""

    seed: int
    """Seed of the study, which draws the partitions."""
    folds: int
    """Number of folds N in a partition."""
    repeat: int
    """Repeat r, from 0: val is fold r mod N of partition number r // N."""


def cut_fold(data: Data, cut: FoldCut) -> Data:
    """Return the data with the train and val of a repeat, both from their pooled examples.

    The examples in val are part of its fingerprint, and so of the identity of the repeat's teacher
    and of every cache key. Test stays as it is.

    Args:
        data: Of a study, with or without val; the pool is train, followed by val.
        cut: The repeat and the number of folds.

    Raises:
        InputError: A class has fewer examples, or groups, than there are folds.
    """
    pool = pooled(data)
    counts, noun = pool.labels.bincount(minlength=len(data.classes)).tolist(), "examples"
    if pool.groups is not None:
        counts, noun = (_count_by_group(pool)[1] > 0).sum(0).tolist(), "groups"
    smallest, count = min(zip(data.classes, counts, strict=True), key=lambda pair: pair[1])
    if count < cut.folds:
        raise InputError(
            f"--folds must be at most the number of {noun} of each class in train and val, but "
            f"got --folds {cut.folds}, and {smallest} has {count}; use fewer folds, or remove the "
            f"class"
        )
    # the examples themselves, since another version of torch may draw others
    first = hash_tensor(assign_folds(pool, replace(cut, repeat=0)))
    of_pool = combine_hashes(data.fingerprint, "folds", first)
    is_val = assign_folds(pool, cut) == cut.repeat % cut.folds
    train, val = (part.nonzero()[:, 0] for part in (~is_val, is_val))
    rest = {name: split for name, split in data.splits.items() if name not in ("train", "val")}
    return replace(
        data,
        splits={"train": pool.select(train), "val": pool.select(val), **rest},
        fingerprint=combine_hashes(of_pool, hash_tensor(is_val)),
        fold=Fold(cut.folds, cut.repeat, cut.seed, data, of_pool, train, val),
    )


def pooled(data: Data) -> Split:
    """Return the examples of train, followed by those of val if the data have one."""
    train, val = data.splits["train"], data.splits.get("val")
    if val is None:
        return train
    labels, groups = torch.cat([train.labels, val.labels]), None
    if train.groups is not None and val.groups is not None:
        groups = np.concatenate([train.groups, val.groups])
    if isinstance(train.inputs, Tensor) and isinstance(val.inputs, Tensor):
        return Split(labels, torch.cat([train.inputs, val.inputs]), groups=groups)
    assert isinstance(train.inputs, tuple) and isinstance(val.inputs, tuple)  # noqa: S101 - both splits are of one kind
    stamps = None
    if train.stamps is not None and val.stamps is not None:
        stamps = torch.cat([train.stamps, val.stamps])
    return Split(labels, (*train.inputs, *val.inputs), stamps, groups)


def assign_folds(pool: Split, cut: FoldCut) -> Tensor:
    """Return the fold of each example in the partition of a repeat.

    The examples are shuffled, sorted by class and dealt to the folds in turn, so that the folds
    have each class, and all examples, in equal numbers within 1. Groups are dealt whole, so that
    these numbers are close.

    Args:
        pool: The N examples.
        cut: The repeat; all those with the same quotient r // folds have the same partition.

    Returns:
        int64 [N], in [0, folds).
    """
    seed = derive_seed(cut.seed, "folds", cut.repeat // cut.folds)
    generator, labels = torch.Generator().manual_seed(seed), pool.labels
    if pool.groups is not None:
        return _deal_groups(pool, [1 / cut.folds] * cut.folds, generator)
    order = torch.randperm(len(labels), generator=generator)
    order = order[torch.argsort(labels[order], stable=True)]
    folds = torch.empty(len(labels), dtype=torch.int64)
    folds[order] = torch.arange(len(labels)) % cut.folds
    return folds
