"""A folder of kdtune's own that can no longer be used: one sentence with what to do.

Folders of its own are the study's and the temporary one, where Ray has its files. What a user's
data, model or training function meets elsewhere is not meant: that is the fault of the run or of
the input, and is said as such. A cache that cannot be written is a warning, see `streams.cache`.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kdtune.config.errors import FolderUnusableError, UserError
from kdtune.config.files import TRIALS

MARK = "FolderUnusable: "
"""Begins the error of a run that an unusable folder has ended; the sentence follows."""
FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITE = "make it writable, and run the same command again to resume"
_MOUNT = "mount it again, and run the same command again to resume"
_AGAIN = (
    "mount it again if it was a mount, and run the same command again: what is left is kept, and "
    "what is gone is computed again"
)
_CONNECTION = (
    *(errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ESHUTDOWN),
)
WORDS = {
    errno.EROFS: ("has become read-only", _WRITE),
    errno.EACCES: ("may no longer be written", _WRITE),
    errno.EPERM: ("may no longer be written", _WRITE),
    errno.EIO: ("cannot be used any more", f"check its disk, {_MOUNT}"),
    **dict.fromkeys(_CONNECTION, ("has lost its connection", _MOUNT)),
    errno.ENOENT: ("is gone", _AGAIN),
    errno.ENOTDIR: ("is gone", _AGAIN),
}
"""Of each error of the system: what has become of the folder, and what to do."""
_IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How Rust's libraries, as safetensors, name an error of the system."""


class Fault(NamedTuple):
    """A folder, or a file of it, that cannot be used."""

    place: Path
    number: int
    """Of the system's error, see `errno`."""


def find_fault(error: BaseException, study: Path) -> Fault | None:
    """Return the folder of kdtune's own that led to an error; None if none did.

    A full disk is taken for one of these folders' if the error names no file elsewhere. Of other
    errors the folder is asked, since a training function may meet the same ones, and a part that
    was deleted may be made again: the folder is at fault if it takes no new file.

    Args:
        error: What was raised.
        study: The study's folder.
    """
    for number, file in _system_errors(error):
        for folder in (study, temporary_folder()):
            if file is not None and not _is_inside(file, folder):
                continue
            if number in FULL:
                return Fault(folder, number)
            if number in WORDS and (refused := _refusal(folder, Path(file or folder))):
                return Fault(folder, refused)
    return None


def fault_of_driver(error: Exception, study: Path) -> FolderUnusableError | None:
    """Return the error of a driver that met an unusable folder; None if it met something else.

    The driver runs no code of the user's. So what it cannot do to a file of the study is a fault of
    the folder, even if the folder takes other files; and of several full disks any may be meant.
    """
    if isinstance(error, UserError):
        return None
    found = find_fault(error, study)
    for number, file in _system_errors(error):
        if number in FULL:
            places = [place for place in (study, temporary_folder()) if place.exists()]
            fullest = min(places, key=lambda place: shutil.disk_usage(place).free)
            found = Fault(fullest, number)
        is_own = file is not None and isinstance(error, OSError) and _is_inside(file, study)
        if found is None and number in WORDS and is_own:
            found = Fault(Path(str(file)), number)
    return None if found is None else FolderUnusableError(describe_fault(found, study))


def describe_fault(fault: Fault, study: Path) -> str:
    """Return the sentence for a folder that cannot be used.

    Args:
        fault: The folder and the error.
        study: Folder of the study, whose runs so far say how much room one needs.
    """
    if fault.number in FULL:
        return _describe_full_disk(fault.place, study)
    what, remedy = WORDS.get(fault.number, ("cannot be used any more", _MOUNT))
    return f"{fault.place} {what} ({os.strerror(fault.number)}); {remedy}"


def temporary_folder() -> Path:
    """Return the folder in which Ray makes its own."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())


def _describe_full_disk(folder: Path, study: Path) -> str:
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    sizes = [
        sum(file.stat().st_size for file in one.rglob("*") if file.is_file())
        for one in (study / TRIALS).glob("*")
    ]
    need = f" and a run has needed up to {_mb(max(sizes))} MB" if any(sizes) else ""
    return (
        f"the disk of {folder} is full: {_mb(free)} MB are free{need}; make room, and run the same "
        f"command again to resume"
    )


def _system_errors(error: BaseException) -> Iterator[tuple[int, str | None]]:
    """Yield number and file of the errors of the system among an error and what led to it.

    torch names its own consequence ("unexpected pos 576 vs 534"), safetensors has no errno, and an
    error of a Ray task has its cause in an attribute.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    while isinstance(cause, BaseException) and id(cause) not in seen:
        seen.add(id(cause))
        number, file = getattr(cause, "errno", None), getattr(cause, "filename", None)
        if isinstance(number, int):
            yield number, os.fsdecode(file) if isinstance(file, str | bytes | Path) else None
        else:
            with suppress(Exception):  # a class of the user's may have no text
                if found := _IN_TEXT.search(str(cause)):
                    yield int(found[1]), None
        cause = cause.__cause__ or getattr(cause, "cause", None) or cause.__context__


def _is_inside(file: str, folder: Path) -> bool:
    return Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _refusal(folder: Path, place: Path) -> int | None:
    """Return the number of the error with which a folder refuses a new file; None if it takes it.

    Args:
        folder: The folder.
        place: A file or a folder in it; the file is tried there, or above where that is gone.
    """
    try:
        while place != folder and not place.is_dir():
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"kdtune")
            probe.flush()
            os.fsync(probe.fileno())  # else some disks fail later
    except OSError as error:
        return error.errno
    return None


def _mb(size: float) -> str:
    return f"{size / 1e6:.3g}"
