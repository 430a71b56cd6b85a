"""Hashes of data by content, and notes in the cache folder of results that are costly to compute.

The content of files is read once; its hash is then kept under their names, sizes and times of
change.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write, cache_folder
from kdtune.config.owners import make_folder, open_trusted


def hash_files(root: Path, files: Sequence[str]) -> str:
    """Return a hash of the names below `root` and the contents of files, 16 hex digits.

    Raises:
        InputError: a file cannot be read.
    """
    paths = [Path(file) for file in files]
    stats = [path.stat() for path in paths]
    seen = (
        f"{f.absolute()}\0{s.st_size}\0{s.st_mtime_ns}\0" for f, s in zip(paths, stats, strict=True)
    )
    name = hashlib.sha256("".join([f"{root.absolute()}\0", *seen]).encode()).hexdigest()
    if (known := read_note(name)) is not None:
        return known
    digest = hashlib.sha256()
    for path, content in zip(paths, file_contents(files), strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + content)
    found = digest.hexdigest()[:16]
    # as git does: a file that has just been written may be written again at the same time stamp
    if max(s.st_mtime for s in stats) < time.time() - 2:
        keep_note(name, found)
    return found


def file_contents(files: Sequence[str]) -> Iterable[bytes]:
    """Yield the hash of the content of each file; raise InputError if one cannot be read."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(_content, files)


def _content(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise InputError(f"the image {file} cannot be read ({error.strerror})") from None


def row_contents(rows: Tensor) -> Iterable[bytes]:
    """Yield the hash of the content of each row of a tensor [N, ...]."""
    for row in _bytes(rows).reshape(len(rows), -1).numpy():
        yield hashlib.sha256(row.tobytes()).digest()


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
