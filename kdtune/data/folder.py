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

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write, cache_folder
from kdtune.data.dataset import Data, Split, decode


def verify(data: Data) -> None:
    """Decode every image file once; raises InputError that names those that cannot be read.

    Files that passed are not decoded again by a later call, in this process or another.
    """
    files = [f for s in data.splits.values() if not isinstance(s.images, Tensor) for f in s.images]
    passed = _note(f"{data.fingerprint}-read-by-pillow-{PIL.__version__}")
    if not files or passed.exists():
        return
    with ThreadPoolExecutor() as pool:
        broken = [error for error in pool.map(_fault, files) if error]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(f"{broken[0]}{more}; replace the file or take it away")
    _remember(passed, "")


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
    if len(classes["train"]) < 2:
        only = classes["train"][0]
        raise InputError(f"{root} must hold two classes or more, but has {only} alone")
    return Data(classes["train"], splits, _fingerprint(root, splits.values()), photos=True)


def _fingerprint(root: Path, splits: Iterable[Split]) -> str:
    """Over all names and contents, read once: then remembered by name, size and time of change."""
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
    # as git does: what was written a moment ago may be written again without its time changing
    if max(s.st_mtime for s in stats) < time.time() - 2:
        _remember(note, found)
    return found


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise InputError(f"the image {file} cannot be read ({error.strerror})") from None


def _note(name: str) -> Path:
    """The file that remembers what is costly to find out about a folder of images."""
    return cache_folder() / "data" / name


def _remember(note: Path, text: str) -> None:
    with suppress(OSError):  # a home that cannot be written: found out again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(note) as aside:
            aside.write_text(text)


def _fault(file: str) -> str | None:
    try:
        decode(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(f" '{file}'", "")
        return f"the image {file} cannot be read ({reason})"
    return None
