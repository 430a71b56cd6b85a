"""A data set in a folder of images."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import PIL
import torch
from PIL import Image

from kdtune.config.fields import FORMS_OF_DATA
from kdtune.config.files import missing_path
from kdtune.config.text import VAL_NAMES, InputError, hidden_characters, list_some, printable, shown
from kdtune.data.dataset import Data, Split, decode, hash_files, keep_note, name_splits, read_note

# Image files in folders: which ones are read, and a warning on the others. ImageFolder of
# torchvision passes over formats that it does not know without a word.

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""
IMAGE_SUFFIXES = ", ".join(IMG_EXTENSIONS)
"""Those of the files that are read, for messages."""
OTHER_FORMATS = "of other formats"
"""Reason of `describe_left_out`."""
_OTHER_SUFFIXES = re.compile(
    r"\.(gif|heic|heif|avif|jxl|jfif|jpe|jp2|j2k|apng|svg|tga|ico|psd|exr|hdr|pbm|pnm|pcx|dds|dcm|"
    r"qoi|dng|cr2|cr3|nef|arw|orf|raf|rw2|raw)"
)
"""Suffixes of images that torchvision's ImageFolder does not take."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
"""First bytes of images: JPEG, PNG, GIF and TIFF."""


@dataclass
class Images:
    """Files in a folder of images and in all folders in it."""

    files: list[str] = field(default_factory=list)
    """Those that are read, in the order of torchvision's ImageFolder."""
    nested: list[str] = field(default_factory=list)
    """Those of them that are not in the folder itself."""
    left_out: list[str] = field(default_factory=list)
    """Images in other formats, or without a suffix."""


def scan_images(folder: Path) -> Images:
    """Return the images in a folder and in all folders in it.

    Links to folders are followed; a folder that is reached again is not read again, so that a
    circle of links ends.

    Raises:
        InputError: A folder cannot be read, or a name cannot be written.
    """
    images, seen, names_by_folder = Images(), set[str](), dict[str, list[str]]()
    for path, inner, names in os.walk(folder, followlinks=True, onerror=_refuse):
        if (real := os.path.realpath(path)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        names_by_folder[path] = names
    for path, names in sorted(names_by_folder.items()):
        for name in sorted(names):
            file = os.path.join(path, name)
            if name.lower().endswith(IMG_EXTENSIONS):
                _check_name("an image", file, hidden_characters(file, formats=False))
                images.files.append(file)
                if path != str(folder):
                    images.nested.append(file)
            elif _looks_like_image(file):
                images.left_out.append(file)
    return images


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"the folder {printable(str(error.filename))} cannot be read ({error.strerror}); make it "
        f"readable or remove it"
    ) from None


def _list_folder(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        _refuse(error)


def _check_name(kind: str, path: str, hidden: Sequence[str]) -> None:
    """Raise InputError if a name could not be written or would show as another."""
    if hidden:
        raise InputError(
            f"the name of {kind} must have printable characters of UTF-8 only, but {path!a} has "
            f"others, such as {hidden[0]!a}; rename it"
        )


def _looks_like_image(file: str) -> bool:
    """Return True for an image by its suffix, or without one by its first bytes, unless hidden."""
    path = Path(file)
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix:
        return _OTHER_SUFFIXES.fullmatch(path.suffix.lower()) is not None
    try:
        with path.open("rb") as stream:
            return stream.read(8).startswith(_MAGIC)
    except OSError:
        return False


def describe_left_out(root: Path, left_out: Mapping[str, Sequence[str]]) -> str:
    """Return a sentence on files that are left out, with their number by reason; "" without any.

    Args:
        root: Folder that they are in.
        left_out: Files by the reason.
    """
    parts = [
        f"{len(files):,} {reason} (such as {printable(os.path.relpath(files[0], root))})"
        for reason, files in left_out.items()
        if files
    ]
    if not parts:
        return ""
    return (
        f"files left out of {root}: {', '.join(parts)}; images are read from files with the "
        f"suffixes {IMAGE_SUFFIXES}"
    )


# A data set in a folder of images.


def verify(data: Data) -> None:
    """Decode every image file once.

    Files that could be read are not decoded again by a later call, in this or another process.

    Raises:
        InputError: some files cannot be read; the message names the first.
    """
    labelled = [split for name, split in data.splits.items() if name != "extra"]
    _verify(labelled, data.fingerprint, data.describe_row)
    if data.extra is not None:
        _verify([data.splits["extra"]], data.extra.fingerprint, lambda _: "")


def _verify(splits: Sequence[Split], fingerprint: str, describe_row: Callable[[str], str]) -> None:
    files = [f for s in splits if isinstance(s.inputs, tuple) for f in s.inputs]
    note = f"{fingerprint}-read-by-pillow-{PIL.__version__}"
    if not files or read_note(note) is not None:
        return
    with ThreadPoolExecutor() as pool:
        tried = zip(files, pool.map(_decoding_fault, files), strict=True)
        faults = [fault + describe_row(file) for file, fault in tried if fault]
    if faults:
        raise InputError(f"{list_some(faults, 1)}; replace it, make it readable or remove it")
    keep_note(note, "")


SMALL = 64
"""Pixels of the larger side up to which image files count as small."""


def small_side(data: Data) -> int | None:
    """Return the largest side of a data set's image files in pixels if all are small, else None.

    Only the heads of files are read, up to the first image that is not small.
    """
    labelled = [split.inputs for name, split in data.splits.items() if name != "extra"]
    files = [file for inputs in labelled if isinstance(inputs, tuple) for file in inputs]
    if not files:
        return None
    note = f"{data.fingerprint}-largest-side"
    if (noted := read_note(note)) is not None and noted.isdecimal():
        largest = int(noted)
    else:
        largest = 0
        for file in files:
            with suppress(OSError), Image.open(file) as image:  # of no image `verify` says so
                largest = max(largest, *image.size)
            if largest > SMALL:
                break
        keep_note(note, str(largest))
    return largest if 0 < largest <= SMALL else None


def _decoding_fault(file: str) -> str:
    """Return a sentence if the image cannot be decoded, else ""."""
    try:
        decode(file, "stored")
    except InputError as error:
        return str(error)
    return ""


def load_folder(root: Path) -> Data:
    """Return the data set in a folder.

    Args:
        root: a folder of images for each class; or train/ and perhaps val/ (or validation/, valid/,
            dev/) and test/, and in each of them a folder of images for each class.

    Returns:
        The data set, without val if the folder has none.

    Raises:
        InputError: a folder is missing, a class is empty, the splits differ in classes, or a name
            cannot be used, see `scan_images`.
    """
    folders = _split_folders(root)
    splits = {name: _read_split(folder) for name, folder in folders.items()}
    classes = splits["train"].classes
    if folders == {"train": root} and (remark := splits["train"].remark):
        raise InputError(  # such as Training/ and Testing/, which are no classes
            f"{root} must have train/, or a folder of images for each class, but has "
            f"{remark.partition(';')[0]}; name the splits train, val and test, or move the folders "
            f"of classes into train/"
        )
    for name, split in splits.items():
        if split.classes != classes:
            other = folders[name].name
            of_train, of_other = {*classes} - {*split.classes}, {*split.classes} - {*classes}
            raise InputError(
                f"{root}: train/ and {other}/ must hold the same classes, but train/ alone has "
                f"{', '.join(sorted(of_train)) or 'none'} and {other}/ alone has "
                f"{', '.join(sorted(of_other)) or 'none'}; add or remove these folders"
            )
    if len(classes) < 2:
        raise InputError(f"{root} must hold at least two classes, but has {classes[0]} alone")
    hashed = hash_files(root, [file for split in splits.values() for file in split.files])
    stamps = hashed.stamps.split([len(split.files) for split in splits.values()])
    return Data(
        classes,
        {
            name: Split(torch.tensor(split.labels), tuple(split.files), part)
            for (name, split), part in zip(splits.items(), stamps, strict=True)
        },
        hashed.hash,
        photos=True,
        root=str(root),
        warnings=tuple(split.warning for split in splits.values() if split.warning),
        remarks=tuple(split.remark for split in splits.values() if split.remark),
    )


@dataclass(frozen=True)
class _Split:
    """Content of the folder of a split."""

    classes: tuple[str, ...]
    files: list[str]
    labels: list[int]
    warning: str
    """On files that are left out; or ""."""
    remark: str
    """On images whose labels may surprise; or ""."""


def _read_split(folder: Path) -> _Split:
    """Return the images in the folder of a split; raise InputError if a class has none."""
    paths = [folder / name for name in _list_folder(folder)]
    folders = [path for path in paths if path.is_dir()]
    for path in folders:
        _check_name("a class", str(path), hidden_characters(path.name))
    classes = [scan_images(path) for path in folders]
    left_out = [file for images in classes for file in images.left_out]
    empty = [p.name for p, images in zip(folders, classes, strict=True) if not images.files]
    if empty or not folders:
        others = f". {len(left_out)} images of other formats are left out" if left_out else ""
        lack = f"there are none in {shown(empty)}{others}" if folders else "it holds no folder"
        raise InputError(
            f"{folder} must hold one folder of images for each class, files with the suffixes "
            f"{IMAGE_SUFFIXES}, but {lack}; add images, or remove the folder"
        )
    outside = [str(p) for p in paths if p.name.lower().endswith(IMG_EXTENSIONS) and p.is_file()]
    reasons = {OTHER_FORMATS: left_out, "in no folder of a class": outside}
    remark, nested = "", [file for images in classes for file in images.nested]
    if nested:
        example = printable(os.path.relpath(nested[0], folder))
        remark = (
            f"images in {folder} in folders inside the folder of a class: {len(nested):,} (such as "
            f"{example}); they have the label of that class"
        )
    return _Split(
        classes=tuple(path.name for path in folders),
        files=[file for images in classes for file in images.files],
        labels=[k for k, images in enumerate(classes) for _ in images.files],
        warning=describe_left_out(folder, reasons),
        remark=remark,
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split: the root itself if it has no split, but classes.

    Raises InputError with splits but no train, or with two of val.
    """
    if not root.is_dir():
        raise missing_path(FORMS_OF_DATA, root)
    names = _list_folder(root)
    splits = {"train", *VAL_NAMES, "test"}.intersection(names)
    for name in sorted(splits):  # a split that is a file, or a link that leads nowhere
        if not (root / name).is_dir():
            raise InputError(f"{root / name} must be a folder, but is none; remove or rename it")
    if not splits:
        return {"train": root}
    folders = [name for name in names if (root / name).is_dir()]
    return {split: root / name for split, name in name_splits(folders, str(root)).items()}
