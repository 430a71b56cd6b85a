"""A data set in a folder of images."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdtune.config.errors import InputError
from kdtune.config.inputs import VAL_NAMES
from kdtune.config.text import printable
from kdtune.data.content import hash_files, keep_note, read_note
from kdtune.data.dataset import Data, Split, name_splits
from kdtune.data.decoding import decode
from kdtune.data.scan import (
    LEFT_OUT,
    NESTED,
    OUTSIDE,
    check_apart,
    check_link,
    class_folders,
    describe,
    find_images,
    is_image,
    list_folder,
)

MAX_NAMED = 5
"""Classes that an error message lists."""


def verify(data: Data) -> None:
    """Decode every image file once.

    Files that could be read are not decoded again by a later call, in this or another process.

    Raises:
        InputError: some files cannot be read; the message names the first.
    """
    own = [split for name, split in data.splits.items() if name != "extra"]
    _verify(own, data.fingerprint)
    if data.extra is not None:
        _verify([data.splits["extra"]], data.extra.fingerprint)


def _verify(splits: Sequence[Split], fingerprint: str) -> None:
    files = [f for s in splits if isinstance(s.inputs, tuple) for f in s.inputs]
    note = f"{fingerprint}-read-by-pillow-{PIL.__version__}"
    if not files:
        return
    if read_note(note) is not None:
        _check_readable(files)
        return
    with ThreadPoolExecutor() as pool:
        broken = [error for error in pool.map(_fault, files) if error]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(f"{broken[0]}{more}; replace or remove the file")
    keep_note(note, "")


def _check_readable(files: Sequence[str]) -> None:
    """Raise InputError if the permissions of a file that was read before have changed."""
    if locked := [file for file in files if not os.access(file, os.R_OK)]:
        more = f" (and {len(locked) - 1} more)" if len(locked) > 1 else ""
        raise InputError(
            f"the image {printable(locked[0])} cannot be read (no permission){more}; make it "
            f"readable"
        )


def load_folder(root: Path) -> Data:
    """Return the data set in a folder.

    Args:
        root: a folder with train/ and perhaps val/ (or validation/, valid/, dev/) and test/, and in
            each of them a folder of images for each class.

    Returns:
        The data set, without val if the folder has none.

    Raises:
        InputError: a folder is missing, a class is empty, the splits differ in classes, or a name
            or a link cannot be used, see `scan`.
    """
    classes, found = dict[str, tuple[str, ...]](), dict[str, _Images]()
    warnings, remarks = list[str](), list[str]()
    for name, folder in _folders(root).items():
        found[name] = own = _read_split(folder)
        warnings += [describe(own.left_out, folder, LEFT_OUT)]
        warnings += [describe(own.outside, folder, OUTSIDE)]
        remarks += [describe(own.nested, folder, NESTED)]
        classes[name] = own.classes
        if classes[name] != classes["train"]:
            lacks = {
                "train": sorted(set(classes[name]) - set(classes["train"])),
                folder.name: sorted(set(classes["train"]) - set(classes[name])),
            }
            missing = (
                f"{place}/ lacks {', '.join(names)}" for place, names in lacks.items() if names
            )
            raise InputError(
                f"{root}: train/ and {folder.name}/ must hold the same classes, but "
                f"{' and '.join(missing)}; add or remove these folders"
            )
    if len(classes["train"]) < 2:
        only = classes["train"][0]
        raise InputError(f"{root} must hold at least two classes, but has {only} alone")
    files = tuple(file for own in found.values() for file in own.files)
    fingerprint, stamps = hash_files(root, files)
    parts = stamps.split([len(own.files) for own in found.values()])
    splits = {
        name: Split(torch.tensor(own.labels), own.files, part)
        for (name, own), part in zip(found.items(), parts, strict=True)
    }
    return Data(
        classes["train"],
        splits,
        fingerprint,
        photos=True,
        root=str(root),
        warnings=tuple(filter(None, warnings)),
        remarks=tuple(filter(None, remarks)),
    )


@dataclass(frozen=True)
class _Images:
    """What the folder of a split holds."""

    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    nested: tuple[str, ...]
    left_out: tuple[str, ...]
    outside: tuple[str, ...]
    """Images that are in no folder of a class."""


def _read_split(folder: Path) -> _Images:
    """Return the images in the folder of a split; raise InputError if a class has none."""
    folders = class_folders(folder)
    if not folders:
        raise InputError(
            f"{folder} must hold one folder of images for each class, but holds no folder"
        )
    found = [find_images(own) for own in folders]
    check_apart(found)
    left_out = tuple(file for own in found for file in own.left_out)
    if empty := [own.name for own, its in zip(folders, found, strict=True) if not its.images]:
        others = f". {len(left_out)} images of other formats are left out" if left_out else ""
        raise InputError(
            f"{folder} must hold one folder of images for each class, but "
            f"{', '.join(empty[:MAX_NAMED])}{' and others' * (len(empty) > MAX_NAMED)} "
            f"{'has' if len(empty) == 1 else 'have'} none with the suffixes "
            f"{', '.join(IMG_EXTENSIONS)}{others}; add images, or remove the folder"
        )
    return _Images(
        classes=tuple(own.name for own in folders),
        files=tuple(file for own in found for file in own.images),
        labels=tuple(k for k, own in enumerate(found) for _ in own.images),
        nested=tuple(file for own in found for file in own.nested),
        left_out=left_out,
        outside=tuple(str(folder / name) for name in list_folder(folder) if is_image(folder, name)),
    )


def _folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; raise InputError without train, or with two of val."""
    if not root.is_dir():
        raise InputError(
            f'data must be "fashion", torchvision:NAME, module:factory or a folder with train/ and '
            f"val/, but there is no folder {root}; give one (--data FOLDER)"
        )
    present = list_folder(root)
    for name in ("train", *VAL_NAMES, "test"):
        check_link(root / name)
        if name in present and not (root / name).is_dir():
            raise InputError(f"{root / name} must be a folder, but is a file; remove or rename it")
    folders = [name for name in present if (root / name).is_dir()]
    return {split: root / name for split, name in name_splits(folders, str(root)).items()}


def _fault(file: str) -> str | None:
    """Return a sentence if the image cannot be decoded, else None."""
    try:
        decode(file, "stored")
    except InputError as error:
        return str(error)
    return None
