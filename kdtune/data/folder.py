"""A data set in a folder of images."""

import hashlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import PIL
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import atomic_write, cache_folder
from kdtune.data.dataset import Data, Split, decode


def verify(data: Data) -> None:
    """Decode every image file once.

    Files that could be read are not decoded again by a later call, in this or another process.

    Raises:
        InputError: some files cannot be read; the message names the first.
    """
    files = [f for s in data.splits.values() if not isinstance(s.images, Tensor) for f in s.images]
    passed = _note(f"{data.fingerprint}-read-by-pillow-{PIL.__version__}")
    if not files or passed.exists():
        return
    with ThreadPoolExecutor() as pool:
        broken = [error for error in pool.map(_fault, files) if error]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(f"{broken[0]}{more}; replace or remove the file")
    _keep(passed, "")


def load_folder(root: Path) -> Data:
    """Return the data set in a folder.

    Args:
        root: a folder with train/, val/ and perhaps test/, and in each of them a folder of images
            for each class.

    Raises:
        InputError: a folder is missing, a class is empty, or the splits differ in classes.
    """
    if not root.is_dir():
        raise InputError(
            f'data must be "fashion" or a folder with train/ and val/, but there is no folder '
            f"{root}; give one (--data FOLDER)"
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
                f"{root / name} must hold one folder of images for each class: {first_line(error)}"
            ) from None
        classes[name] = tuple(found.classes)
        files = tuple(path for path, _ in found.samples)
        splits[name] = Split(torch.tensor(found.targets), files)
    for name, have in classes.items():
        if have != classes["train"]:
            odd = sorted(set(have) ^ set(classes["train"]))
            raise InputError(f"{root}: train/ and {name}/ must hold the same classes; {odd} differ")
    if len(classes["train"]) < 2:
        only = classes["train"][0]
        raise InputError(f"{root} must hold at least two classes, but has {only} alone")
    return Data(classes["train"], splits, _fingerprint(root, splits.values()), photos=True)


def _fingerprint(root: Path, splits: Iterable[Split]) -> str:
    """Return a hash of all names and contents.

    Contents are read once; the hash is then kept under the names, sizes and times of change.
    """
    files = [Path(file) for split in splits for file in split.images]
    stats = [file.stat() for file in files]
    seen = (
        f"{f.absolute()}\0{s.st_size}\0{s.st_mtime_ns}\0" for f, s in zip(files, stats, strict=True)
    )
    note = _note(hashlib.sha256("".join(seen).encode()).hexdigest())
    if note.exists():
        return note.read_text()
    with ThreadPoolExecutor() as pool:
        contents = pool.map(_content, files)
    digest = hashlib.sha256()
    for file, content in zip(files, contents, strict=True):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + content)
    found = digest.hexdigest()[:16]
    # as git does: a file that has just been written may be written again at the same time stamp
    if max(s.st_mtime for s in stats) < time.time() - 2:
        _keep(note, found)
    return found


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise InputError(f"the image {file} cannot be read ({error.strerror})") from None


def _note(name: str) -> Path:
    """Return the file that keeps a result about a folder of images that is costly to compute."""
    return cache_folder() / "data" / name


def _keep(note: Path, text: str) -> None:
    with suppress(OSError):  # if it cannot be written, it is computed again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(note) as part:
            part.write_text(text)


def _fault(file: str) -> str | None:
    """Return a sentence if the image cannot be decoded, else None."""
    try:
        decode(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = first_line(error).replace(f" '{file}'", "")
        return f"the image {file} cannot be read ({reason})"
    return None
