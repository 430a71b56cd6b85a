"""A data set in a folder of images."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import PIL
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdtune.config.text import VAL_NAMES, InputError, hidden_characters, printable
from kdtune.data.dataset import Data, Split, decode, hash_files, keep_note, name_splits, read_note

# Image files in folders: which ones are read, and what is said about the others.
#
# Images are found in the order of torchvision's ImageFolder, which follows links from folder to
# folder without an end, and passes over folders that it cannot read and formats that it does not
# know without a word.


_OTHER_FORMATS = set(
    [
        ".gif",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jfif",
        ".jpe",
        ".jp2",
        ".j2k",
        ".apng",
        ".svg",
        ".tga",
        ".ico",
        ".psd",
        ".exr",
        ".hdr",
        ".pbm",
        ".pnm",
        ".pcx",
        ".dds",
        ".dcm",
        ".qoi",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".raf",
        ".rw2",
        ".raw",
    ]
)
"""Suffixes of images that torchvision's ImageFolder does not take."""
_NO_IMAGES = set(
    [
        ".txt",
        ".json",
        ".jsonl",
        ".xml",
        ".csv",
        ".tsv",
        ".md",
        ".html",
        ".yaml",
        ".yml",
        ".log",
        ".npy",
        ".npz",
        ".pt",
        ".pth",
        ".pkl",
        ".mat",
        ".zip",
        ".py",
        ".db",
        ".ini",
        ".lock",
    ]
)
"""Suffixes of files that may stand beside images and are not opened."""
OTHER_FORMATS = "of other formats"
READ_ALREADY = "behind links to nothing or to folders that are read already"
"""Reasons of `describe_left_out`."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
"""First bytes of images: JPEG, PNG, GIF and TIFF."""
_MAGIC_OF_BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif", b"WEBP")
"""Bytes 4 to 12, or 8 to 12, of others: HEIC, AVIF and WebP."""


@dataclass
class Images:
    """Files in a folder of images and in all folders in it, in the order of their names."""

    images: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)
    """Those of the images that are not in the folder itself."""
    left_out: list[str] = field(default_factory=list)
    """Images in other formats, or without a known suffix."""
    skipped: list[str] = field(default_factory=list)
    """Links that lead nowhere, and paths to folders that are read under another one."""


def find_class_images(folders: Sequence[Path]) -> list[Images]:
    """Return the images in each of several folders and in all folders in them.

    Links to folders are followed, after the folders that are reached without a link. Each folder is
    read once, for the first of the folders that it is reached from, and links to a folder around
    them are not followed, so that each image has one label.

    Raises:
        InputError: A folder cannot be read, or a name cannot be written.
    """
    result = [Images() for _ in folders]
    for number, place, names in sorted(_walk(folders, result)):
        own = result[number]
        for name in sorted(names):
            file = os.path.join(place, name)
            is_dangling = os.path.islink(file) and not os.path.exists(file)
            if name.startswith(".") and is_dangling:  # such as the lock of an editor
                continue
            if name.lower().endswith(IMG_EXTENSIONS):
                _check_name("an image", file, hidden_characters(file, formats=False))
                own.images.append(file)
                if place != str(folders[number]):
                    own.nested.append(file)
            elif _looks_like_image(file, name):
                own.left_out.append(file)
            elif is_dangling:
                own.skipped.append(file)
    return result


def _walk(
    folders: Sequence[Path], result: Sequence[Images]
) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each folder with the number of the one that it is in, and the names of its files."""
    pending, seen = [(k, str(folder)) for k, folder in enumerate(folders)], set[str]()
    while pending:
        links = []
        for number, begin in sorted(pending):
            if _is_around(begin):
                result[number].skipped.append(begin)
                continue
            for place, inner, names in os.walk(begin, onerror=_refuse):
                real = os.path.realpath(place)
                if real in seen:
                    result[number].skipped.append(place)
                    inner.clear()
                    continue
                seen.add(real)
                paths = [os.path.join(place, name) for name in inner]
                links += [(number, path) for path in paths if os.path.islink(path)]
                yield number, place, names
        pending = links


def _is_around(path: str) -> bool:
    """Return True if a path is a link to a folder around it."""
    real, here = os.path.realpath(path), os.path.realpath(os.path.dirname(path))
    return os.path.commonpath([real, here]) == real


def _refuse(error: OSError) -> None:
    raise InputError(
        f"the folder {printable(str(error.filename))} cannot be read ({error.strerror}); make it "
        f"readable or remove it"
    ) from None


def _list_folder(folder: Path) -> list[str]:
    """Return the sorted names of what a folder holds; raise InputError if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        error.filename = str(folder)
        _refuse(error)
        raise


def _check_name(what: str, path: str, hidden: Sequence[str]) -> None:
    """Raise InputError if a name could not be written or would show as another."""
    if hidden:
        raise InputError(
            f"the name of {what} must have printable characters of UTF-8 only, but {path!a} has "
            f"others, such as {hidden[0]!a}; rename it"
        )


def _looks_like_image(file: str, name: str) -> bool:
    """Return True for a file that is an image by its suffix or its first bytes, unless hidden."""
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith(".") or suffix in _NO_IMAGES or not os.path.isfile(file):
        return False
    if suffix in _OTHER_FORMATS:
        return True
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or head[4:12].endswith(_MAGIC_OF_BOXES)


def describe_left_out(root: Path, left_out: Mapping[str, Sequence[str]]) -> str:
    """Return a sentence on files that are left out, with their number by reason; "" without any.

    Args:
        root: Folder that they are in.
        left_out: Files or folders by the reason.
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
        f"suffixes {', '.join(IMG_EXTENSIONS)}"
    )


# A data set in a folder of images.


_MAX_NAMED = 5
"""Classes that an error message lists."""


def verify(data: Data) -> None:
    """Decode every image file once.

    Files that could be read are not decoded again by a later call, in this or another process.

    Raises:
        InputError: some files cannot be read; the message names the first.
    """
    labelled = [split for name, split in data.splits.items() if name != "extra"]
    _verify(labelled, data.fingerprint)
    if data.extra is not None:
        _verify([data.splits["extra"]], data.extra.fingerprint)


def _verify(splits: Sequence[Split], fingerprint: str) -> None:
    files = [f for s in splits if isinstance(s.inputs, tuple) for f in s.inputs]
    note = f"{fingerprint}-read-by-pillow-{PIL.__version__}"
    if not files:
        return
    if read_note(note) is not None:  # only the permissions may have changed
        faults = [_unreadable(file) for file in files if not os.access(file, os.R_OK)]
    else:
        with ThreadPoolExecutor() as pool:
            faults = [fault for fault in pool.map(_decoding_fault, files) if fault]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}; replace it, make it readable or remove it")
    keep_note(note, "")


def _unreadable(file: str) -> str:
    return f"the image {printable(file)} cannot be read (no permission)"


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
        root: a folder with train/ and perhaps val/ (or validation/, valid/, dev/) and test/, and in
            each of them a folder of images for each class.

    Returns:
        The data set, without val if the folder has none.

    Raises:
        InputError: a folder is missing, a class is empty, the splits differ in classes, or a name
            cannot be used, see `find_images`.
    """
    splits = dict[str, _Split]()
    for name, folder in _split_folders(root).items():
        splits[name] = own = _read_split(folder)
        expected = splits["train"].classes
        if own.classes != expected:
            lacks = {
                "train": set(own.classes) - {*expected},
                folder.name: {*expected} - {*own.classes},
            }
            missing = [
                f"{k}/ lacks {', '.join(sorted(names))}" for k, names in lacks.items() if names
            ]
            raise InputError(
                f"{root}: train/ and {folder.name}/ must hold the same classes, but "
                f"{' and '.join(missing)}; add or remove these folders"
            )
    classes = splits["train"].classes
    if len(classes) < 2:
        raise InputError(f"{root} must hold at least two classes, but has {classes[0]} alone")
    hashed = hash_files(root, [file for own in splits.values() for file in own.files])
    stamps = hashed.stamps.split([len(own.files) for own in splits.values()])
    return Data(
        classes,
        {
            name: Split(torch.tensor(own.labels), tuple(own.files), part)
            for (name, own), part in zip(splits.items(), stamps, strict=True)
        },
        hashed.hash,
        photos=True,
        root=str(root),
        warnings=tuple(own.warning for own in splits.values() if own.warning),
        remarks=tuple(own.remark for own in splits.values() if own.remark),
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
    if not folders:
        raise InputError(
            f"{folder} must hold one folder of images for each class, but holds no folder"
        )
    for path in folders:
        _check_name("a class", str(path), hidden_characters(path.name))
    classes = find_class_images(folders)
    left_out = [file for own in classes for file in own.left_out]
    if empty := [path.name for path, own in zip(folders, classes, strict=True) if not own.images]:
        others = f". {len(left_out)} images of other formats are left out" if left_out else ""
        raise InputError(
            f"{folder} must hold one folder of images for each class, but "
            f"{', '.join(empty[:_MAX_NAMED])}{' and others' * (len(empty) > _MAX_NAMED)} "
            f"{'has' if len(empty) == 1 else 'have'} none with the suffixes "
            f"{', '.join(IMG_EXTENSIONS)} that no other class has{others}; add images, or remove "
            f"the folder"
        )
    outside = [p for p in paths if p.name.lower().endswith(IMG_EXTENSIONS) and p.is_file()]
    skipped = [file for own in classes for file in own.skipped]
    skipped += [str(p) for p in paths if not p.name.startswith(".") and not p.exists()]
    reasons = {
        OTHER_FORMATS: left_out,
        "in no folder of a class": list(map(str, outside)),
        READ_ALREADY: skipped,
    }
    remark, nested = "", [file for own in classes for file in own.nested]
    if nested:
        example = printable(os.path.relpath(nested[0], folder))
        remark = (
            f"images in {folder} in folders inside the folder of a class: {len(nested):,} (such as "
            f"{example}); they have the label of that class"
        )
    return _Split(
        classes=tuple(path.name for path in folders),
        files=[file for own in classes for file in own.images],
        labels=[k for k, own in enumerate(classes) for _ in own.images],
        warning=describe_left_out(folder, reasons),
        remark=remark,
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; raise InputError without train, or with two of val."""
    if not root.is_dir():
        raise InputError(
            f'data must be "fashion", torchvision:NAME, module:factory or a folder with train/ and '
            f"val/, but there is no folder {root}; give one (--data FOLDER)"
        )
    names = _list_folder(root)
    for name in ("train", *VAL_NAMES, "test"):
        if name in names and not (root / name).is_dir():
            raise InputError(f"{root / name} must be a folder, but is none; remove or rename it")
    folders = [name for name in names if (root / name).is_dir()]
    return {split: root / name for split, name in name_splits(folders, str(root)).items()}
