"""Hashes of data by content, and notes in the cache folder of results that are costly to compute.

The content of files is read once; its hash is then kept under their names, sizes and times of
change. Their stamps, which are taken before the content is read, tell later that a file is still
the one that was hashed; where a stamp is another, the content is compared. An inode is no part of
a stamp, since it may be another one at each look in a file system of the network.
"""

import base64
import binascii
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write, cache_folder
from kdtune.config.owners import make_folder, open_trusted
from kdtune.config.text import printable

UNKNOWN = -1
"""Stamp of a file that this machine has not seen; no file has it, since no hash of Python is -1."""


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
    stats = [_stat(file) for file in files]
    stamps = torch.tensor([_stamp(s) for s in stats], dtype=torch.int64)
    seen = (
        f"{f.absolute()}\0{s.st_size}\0{s.st_mtime_ns}\0{s.st_ctime_ns}\0"
        for f, s in zip(paths, stats, strict=True)
    )
    name = hashlib.sha256("".join([f"{root.absolute()}\0", *seen]).encode()).hexdigest()
    if (known := _read_hashes(name, len(files))) is not None:
        return HashedFiles(known[0], torch.stack([stamps, known[1]], 1))
    digest, numbers = hashlib.sha256(), list[int]()
    for path, content in zip(paths, file_contents(files), strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + content)
        numbers.append(content_number(content))
    found, contents = digest.hexdigest()[:16], torch.tensor(numbers, dtype=torch.int64)
    # as git does: a file that has just been written may be written again at the same time stamp
    if max(s.st_mtime for s in stats) < time.time() - 2:
        own = base64.b64encode(contents.numpy().astype("<i8").tobytes()).decode()
        keep_note(name, f"{found} {own}")
    return HashedFiles(found, torch.stack([stamps, contents], 1))


def _read_hashes(name: str, count: int) -> tuple[str, Tensor] | None:
    """Return the hash of files and the numbers of their contents, int64 [N], from a note."""
    found, _, own = (read_note(name) or "").partition(" ")
    try:
        numbers = np.frombuffer(base64.b64decode(own, validate=True), "<i8").astype(np.int64)
    except (ValueError, binascii.Error):
        return None
    return (found, torch.from_numpy(numbers)) if found and len(numbers) == count else None


def content_number(digest: bytes) -> int:
    """Return the first 64 bits of the hash of a content, as many as a fingerprint has."""
    return int.from_bytes(digest[:8], "little", signed=True)


def read_if_same(file: str, content: int) -> tuple[bytes, int] | None:
    """Return the content of a file and its stamp; None if the content is not the one of a number.

    Raises:
        OSError: There is no file, or it cannot be read.
    """
    found = os.stat(file)
    if not stat.S_ISREG(found.st_mode):  # to read a pipe would wait for ever
        return None
    own = Path(file).read_bytes()
    same = content_number(hashlib.sha256(own).digest()) == content
    return (own, _stamp(found)) if same else None


def stamp_of(file: str) -> int | None:
    """Return a number that changes if a file is written or replaced; None if there is no file.

    It is made of the size and the times at which the content and the status were changed, in
    nanoseconds. The second of them cannot be set back.
    """
    try:
        return _stamp(os.stat(file))
    except OSError:
        return None


def _stamp(found: os.stat_result) -> int:
    # Python's hash of numbers, unlike that of strings, is the same in every process
    return hash((found.st_size, found.st_mtime_ns, found.st_ctime_ns))


def _stat(file: str) -> os.stat_result:
    """Return the status of a file, of a link that of its target; raise InputError without one."""
    try:
        found = os.stat(file)
    except OSError as error:
        if os.path.islink(file):
            raise InputError(
                f"the image {printable(file)} is a link to {printable(os.readlink(file))}, which "
                f"cannot be reached ({error.strerror}); restore that file or remove the link"
            ) from None
        raise InputError(unreadable(file, error)) from None
    if not stat.S_ISREG(found.st_mode):  # to read a pipe would wait for ever
        raise InputError(f"the image {printable(file)} is no file; remove it")
    return found


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
