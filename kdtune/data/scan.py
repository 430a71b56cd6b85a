"""Image files in folders: which ones are taken, and what is refused or said about the others.

Images are found in the order of torchvision's ImageFolder, which follows links from folder to
folder without an end, and passes over folders that it cannot read and formats that it does not know
without a word.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from kdtune.config.errors import InputError
from kdtune.config.text import printable

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
BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of writing, so that a name looks like another."""


@dataclass(frozen=True)
class Found:
    """Files in a folder of images and in all folders in it."""

    images: tuple[str, ...]
    nested: tuple[str, ...] = ()
    """Those of the images that are not in the folder itself."""
    left_out: tuple[str, ...] = ()
    """Images in other formats, or without a known suffix."""


def find_images(folder: Path, links: bool = False) -> Found:
    """Return the images in a folder and in all folders in it, in the order of their names.

    Args:
        folder: which may be a link itself.
        links: whether links to folders inside are followed, but never in a circle; else they are
            refused.

    Raises:
        InputError: a folder cannot be read, is a link, or a name cannot be written.
    """
    images, nested, left_out = list[str](), list[str](), list[str]()
    for place, names in sorted(_walk(folder, links)):
        for name in sorted(names):
            file = os.path.join(place, name)
            if name.lower().endswith(IMG_EXTENSIONS):
                _check_file_name(file)
                images.append(file)
                if place != str(folder):
                    nested.append(file)
            elif _looks_like_image(file, name):
                left_out.append(file)
    return Found(tuple(images), tuple(nested), tuple(left_out))


def _walk(folder: Path, links: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder and the names of its files."""
    for place, folders, names in os.walk(folder, followlinks=links, onerror=_refuse):
        if links:
            here = os.path.realpath(place)
            real = {name: os.path.realpath(os.path.join(place, name)) for name in folders}
            folders[:] = [n for n in folders if os.path.commonpath([real[n], here]) != real[n]]
        elif linked := [n for n in folders if os.path.islink(os.path.join(place, n))]:
            link = os.path.join(place, sorted(linked)[0])
            raise InputError(
                f"a folder inside the folder of a class must not be a link, but {printable(link)} "
                f"links to {printable(os.readlink(link))}, whose images would be "
                f"{printable(folder.name)}; remove the link, or copy the images that belong there"
            )
        yield place, names


def _refuse(error: OSError) -> None:
    raise InputError(
        f"the folder {printable(str(error.filename))} cannot be read ({error.strerror}); make it "
        f"readable or remove it"
    ) from None


def list_folder(folder: Path) -> list[str]:
    """Return the sorted names of what a folder holds.

    Raises:
        InputError: it cannot be read, or a link in it leads nowhere.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        error.filename = str(folder)
        _refuse(error)
        raise
    for name in names:
        path = os.path.join(folder, name)
        if os.path.islink(path) and not os.path.exists(path):
            raise InputError(
                f"the link {printable(path)} to {printable(os.readlink(path))} leads nowhere, or "
                f"in a circle; restore its target or remove it"
            )
    return names


def class_folders(split: Path) -> list[Path]:
    """Return the folders of the classes in the folder of a split, by name.

    Raises:
        InputError: a name cannot be shown, a link leads nowhere, or an image would have two
            classes.
    """
    folders = [split / name for name in list_folder(split) if (split / name).is_dir()]
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
    odd = ("Cc", "Cs", "Zl", "Zp")
    if hidden := [c for c in name if unicodedata.category(c) in odd or c in BIDIRECTIONAL]:
        raise InputError(
            f"the name of a class must have printable characters of UTF-8 only, but {what} has "
            f"others, such as {hidden[0]!a}; rename it"
        )


def _check_file_name(file: str) -> None:
    if file.isprintable():
        return
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in file):
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


def describe_left_out(files: Sequence[str], root: Path) -> str:
    """Return a sentence on images that were left out; "" if there are none."""
    if not files:
        return ""
    many = len(files) > 1
    return (
        f"{len(files):,} image{'s' * many} in {root} {'are' if many else 'is'} left out (such as "
        f"{_below(files[0], root)}), since only files with the suffixes "
        f"{', '.join(IMG_EXTENSIONS)} are read; convert {'them' if many else 'it'}"
    )


def describe_outside(files: Sequence[str], root: Path) -> str:
    """Return a sentence on images in no folder of a class; "" if there are none."""
    if not files:
        return ""
    many = len(files) > 1
    return (
        f"{len(files):,} image{'s' * many} in {root} {'are' if many else 'is'} in no folder of a "
        f"class (such as {_below(files[0], root)}) and left out; put {'them' if many else 'it'} "
        f"into such a folder"
    )


def describe_nested(files: Sequence[str], root: Path) -> str:
    """Return a sentence on images in folders inside those of classes; "" if there are none."""
    if not files:
        return ""
    many = len(files) > 1
    return (
        f"{len(files):,} image{'s' * many} in {root} {'are' if many else 'is'} in folders inside "
        f"the folder of a class (such as {_below(files[0], root)}) and {'have' if many else 'has'} "
        f"the label of that class"
    )


def _below(file: str, root: Path) -> str:
    return printable(os.path.relpath(file, root))
