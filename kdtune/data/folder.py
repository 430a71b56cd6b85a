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

# Image files in folders: which ones are taken, and what is refused or said about the others.
#
# Images are found in the order of torchvision's ImageFolder, which follows links from folder to
# folder without an end, and passes over folders that it cannot read and formats that it does not
# know
# without a word.


OTHER_FORMATS = (
    *(".gif", ".heic", ".heif", ".avif", ".jxl", ".jfif", ".jpe", ".jp2", ".j2k", ".apng", ".svg"),
    *(".tga", ".ico", ".psd", ".exr", ".hdr", ".pbm", ".pnm", ".pcx", ".dds", ".dcm", ".qoi"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw"),
)
"""Suffixes of images that torchvision's ImageFolder does not take."""
NO_IMAGES = (
    *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".md", ".html", ".yaml", ".yml", ".log"),
    *(".npy", ".npz", ".pt", ".pth", ".pkl", ".mat", ".zip", ".py", ".db", ".ini", ".lock"),
)
"""Suffixes of files that may stand beside images and are not opened."""
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
"""First bytes of images: JPEG, PNG, GIF and TIFF."""
MAGIC_OF_BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif", b"WEBP")
"""Bytes 4 to 12, or 8 to 12, of others: HEIC, AVIF and WebP."""

LEFT_OUT = (
    "{images} {are} left out (such as {example}), since only files with the suffixes "
    f"{', '.join(IMG_EXTENSIONS)} are read; convert {{them}}"
)
OUTSIDE = (
    "{images} {are} in no folder of a class (such as {example}) and left out; put {them} into such "
    "a folder"
)
NESTED = (
    "{images} {are} in folders inside the folder of a class (such as {example}) and {have} the "
    "label of that class"
)
"""Sentences of `describe`."""
ONE = {"s": "", "are": "is", "have": "has", "them": "it"}
MANY = {"s": "s", "are": "are", "have": "have", "them": "them"}


@dataclass(frozen=True)
class Found:
    """Files in a folder of images and in all folders in it."""

    images: tuple[str, ...]
    nested: tuple[str, ...] = ()
    """Those of the images that are not in the folder itself."""
    left_out: tuple[str, ...] = ()
    """Images in other formats, or without a known suffix."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """The folder itself and all in it: the path without links, and the one that leads there."""


def find_images(folder: Path, circles: bool = False) -> Found:
    """Return the images in a folder and in all folders in it, in the order of their names.

    Links to folders inside are followed, but each folder is taken once.

    Args:
        folder: which may be a link itself.
        circles: whether links to a folder around them are passed over; else they are refused.

    Raises:
        InputError: a folder cannot be read, a link leads in a circle or nowhere, or a name cannot
            be written.
    """
    images, nested, left_out = list[str](), list[str](), list[str]()
    folders = dict[str, str]()
    for place, names in sorted(_walk(folder, circles, folders)):
        for name in sorted(names):
            file = os.path.join(place, name)
            if name.startswith(".") and _is_dangling(file):  # such as the lock of an editor
                continue
            if name.lower().endswith(IMG_EXTENSIONS):
                _check_file_name(file)
                images.append(file)
                if place != str(folder):
                    nested.append(file)
            elif _looks_like_image(file, name):
                left_out.append(file)
            elif _may_be_folder(name):
                check_link(Path(file))
    return Found(tuple(images), tuple(nested), tuple(left_out), folders)


def _walk(folder: Path, circles: bool, seen: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder and the names of its files, once.

    Links are followed after the folders that are reached without, in the order of their names, so
    which of several paths a folder has does not depend on the order of the system.

    Args:
        folder: to begin with.
        circles: whether links to a folder around them are passed over; else they are refused.
        seen: gets the folders, see `Found.folders`.
    """
    pending = [str(folder)]
    while pending:
        links = list[str]()
        for begin in sorted(pending):
            for place, folders, names in os.walk(begin, onerror=_refuse):
                here = os.path.realpath(place)
                if here in seen:
                    folders.clear()
                    continue
                seen[here] = place
                inside = (os.path.join(place, name) for name in sorted(folders))
                links += [p for p in inside if os.path.islink(p) and not _is_circle(p, circles)]
                yield place, names
        pending = links


def _is_circle(link: str, allowed: bool) -> bool:
    """Return True if a link leads to a folder around it; raise InputError if it may not."""
    real, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    if os.path.commonpath([real, here]) != real:
        return False
    if allowed:
        return True
    raise InputError(
        f"a link inside the folder of a class must not lead to a folder around it, but "
        f"{printable(link)} links to {printable(os.readlink(link))}; remove the link"
    )


def check_apart(found: Sequence[Found]) -> None:
    """Raise InputError if links lead from two classes of a split to the same folder."""
    places = dict[str, str]()
    for own in found:
        if twice := sorted(own.folders.keys() & places.keys()):
            real = twice[0]
            raise InputError(
                f"each image must be in the folder of one class, but the folder {printable(real)} "
                f"is reached as {printable(places[real])} and as {printable(own.folders[real])}; "
                f"remove the link"
            )
        places |= own.folders


def _refuse(error: OSError) -> None:
    raise InputError(
        f"the folder {printable(str(error.filename))} cannot be read ({error.strerror}); make it "
        f"readable or remove it"
    ) from None


def list_folder(folder: Path) -> list[str]:
    """Return the sorted names of what a folder holds; raise InputError if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        error.filename = str(folder)
        _refuse(error)
        raise


def check_link(path: Path) -> None:
    """Raise InputError if a path in the place of a folder is a link that leads nowhere."""
    if _is_dangling(str(path)):
        raise InputError(
            f"the link {printable(str(path))} to {printable(os.readlink(path))} leads nowhere, or "
            f"in a circle; restore its target or remove it"
        )


def _may_be_folder(name: str) -> bool:
    """Return False for a name that a link to a folder would not have."""
    return not name.startswith(".") and not name.lower().endswith(NO_IMAGES)


def _is_dangling(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def class_folders(split: Path) -> list[Path]:
    """Return the folders of the classes in the folder of a split, by name.

    Raises:
        InputError: a name cannot be shown, a link leads nowhere, or an image would have two
            classes.
    """
    names = list_folder(split)
    for name in names:
        if _may_be_folder(name):
            check_link(split / name)
    folders = [split / name for name in names if (split / name).is_dir()]
    for own in folders:
        check_class_name(own.name, f"the folder {str(own)!a}")
    real = {own: Path(os.path.realpath(own)) for own in folders}
    classes = {place: own for own, place in reversed(real.items())}
    here = Path(os.path.realpath(split))
    around = {place: split for place in (here, *here.parents)}
    for own, place in real.items():
        within = [classes[p] for p in (place, *place.parents) if classes.get(p, own) != own]
        if other := around.get(place) or next(iter(within), None):
            raise InputError(
                f"each image must be in the folder of one class, but those in {own}, which is the "
                f"folder {place}, are also in {other}; remove the link"
            )
    return folders


def check_class_name(name: str, what: str) -> None:
    """Raise InputError if the name of a class could not be written or would show as another."""
    if hidden := hidden_characters(name):
        raise InputError(
            f"the name of a class must have printable characters of UTF-8 only, but {what} has "
            f"others, such as {hidden[0]!a}; rename it"
        )


def _check_file_name(file: str) -> None:
    if hidden_characters(file, formats=False):
        raise InputError(
            f"the name of an image must have printable characters of UTF-8 only, but the file "
            f"{file!a} has others; rename it"
        )


def is_image(folder: Path, name: str) -> bool:
    """Return True if a name in a folder is that of a file with the suffix of an image."""
    return name.lower().endswith(IMG_EXTENSIONS) and (folder / name).is_file()


def _looks_like_image(file: str, name: str) -> bool:
    """Return True for a file that is an image by its suffix or its first bytes, unless hidden."""
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith(".") or suffix in NO_IMAGES or not os.path.isfile(file):
        return False
    if suffix in OTHER_FORMATS:
        return True
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
    except OSError:
        return False
    return head.startswith(MAGIC) or head[4:12].endswith(MAGIC_OF_BOXES)


def describe(files: Sequence[str], root: Path, what: str) -> str:
    """Return a sentence on images; "" if there are none.

    Args:
        files: The images.
        root: Folder that they are in.
        what: `LEFT_OUT`, `OUTSIDE` or `NESTED`.
    """
    if not files:
        return ""
    words = MANY if len(files) > 1 else ONE
    images, example = f"{len(files):,} image{words['s']} in {root}", _below(files[0], root)
    return what.format(images=images, example=example, **words)


def _below(file: str, root: Path) -> str:
    return printable(os.path.relpath(file, root))


# A data set in a folder of images.


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
