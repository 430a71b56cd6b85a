"""A study's folder on this machine: its lock, and folders that cannot be used."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from kdtune.config.files import LOCK, RAY_PREFIX, TRIALS, check_links
from kdtune.config.text import FolderUnusableError, InputError, UserError

# The lock that lets one process at a time run a study in a folder of this machine.


TIMEOUT_SECONDS = 0.5
"""A reader of the study takes the lock for a moment, to learn whether a driver holds it."""


@contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Hold the lock of a study's folder, which is created if it does not exist.

    Folders that were created for the lock are removed at the end if nothing else is in them, so
    that a study with invalid input leaves no folders.

    Raises:
        InputError: Another process holds the lock, the folder cannot be written, or something in
            it is a symbolic link that leads out of it.
    """
    check_links(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = _acquire(folder)
    try:
        yield
    finally:
        if created:
            _remove_if_unused(folder, created)
        lock.release()


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    try:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=TIMEOUT_SECONDS)
            if (folder / LOCK).exists():
                return lock
            lock.release()  # the previous holder has deleted the file, so this lock has no effect
    except Timeout:
        raise InputError(
            f"{folder} is in use by another process; wait for it to end, or give --name OTHER"
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); give another --out FOLDER"
        ) from None


def _remove_if_unused(folder: Path, created: list[Path]) -> None:
    """Remove the lock's file and the folders created for it if there is nothing else in them."""
    with suppress(OSError):  # a folder that is not empty stays, and those above it
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            for path in created:
                path.rmdir()


# A folder of kdtune's own that can no longer be used: one sentence with what to do.
#
# Folders of its own are the study's and the temporary one, where Ray has its files. Errors of the
# user's data, models and training functions in other folders are not handled here: they are those
# of
# a run or of the input. A cache that cannot be written is a warning, see `streams.cache`.


MARK = "FolderUnusable: "
"""Begins the error of a run that an unusable folder has ended; the sentence follows."""
FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITE = "make it writable, and run the same command again to resume"
_MOUNT = "mount it again, and run the same command again to resume"
_AGAIN = (
    "if it was a mount, mount it again; then run the same command again to resume. What is left is "
    "kept, what is gone is computed again"
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
ROOM_BYTES = 1e9
"""A disk with more room than that is not the one that is full, if the error names no file."""
_IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How Rust's libraries, as safetensors, name an error of the system."""


class Fault(NamedTuple):
    """A folder, or a file of it, that cannot be used."""

    place: Path
    number: int
    """Of the system's error, see `errno`."""


def find_fault(error: BaseException, study: Path) -> Fault | None:
    """Return the folder of kdtune's own that led to an error; None if none did.

    A training function may meet the same errors elsewhere, and a part of the study that was deleted
    may be made again. So a new file is tried in the folder; only if that fails is it at fault. On a
    full disk a small file may succeed: there the error counts if it names a file of the folder, or
    names none and the disk has little room.

    Args:
        error: What was raised.
        study: The study's folder.
    """
    study = Path(os.path.abspath(study))
    for number, file in _system_errors(error):
        for folder in _own_folders(study, file):
            if number in FULL and (file is not None or _has_little_room(folder, number)):
                return Fault(folder, number)
            is_meant = file is not None or folder == study
            if number in WORDS and is_meant and (refused := _refusal(folder)):
                return Fault(folder, refused)
    return None


def _own_folders(study: Path, file: str | None) -> list[Path]:
    """Return the folders that an error may be about: of the file it names, or all.

    Args:
        study: The study's folder.
        file: That the error names.
    """
    if file is None:
        return [study, *temporary_folders()]
    if _is_inside(file, study):
        part = study.joinpath(*Path(os.path.abspath(file)).relative_to(study).parts[:1])
        return [study, *([part] if part.is_dir() else [])]
    return [
        place
        for place in temporary_folders()
        if _is_inside(file, place)
        and Path(os.path.abspath(file)).relative_to(place).parts[0].startswith(RAY_PREFIX)
    ]


@contextmanager
def faults_said(study: Path) -> Iterator[None]:
    """Raise FolderUnusableError in place of an error that a folder of kdtune's own has led to."""
    try:
        yield
    except Exception as error:
        if (fault := find_fault(error, study)) is not None:
            raise FolderUnusableError(describe_fault(fault, study)) from None
        raise


def fault_of_driver(error: Exception, study: Path) -> FolderUnusableError | None:
    """Return the error of a driver that met an unusable folder; None if it met something else.

    No training function runs in the driver. So what it cannot do to a file of the study is a fault
    of the folder, even if the folder takes other files, and a full disk ends the study wherever the
    file is. If the error names no file, the folder with the least room is named.
    """
    if isinstance(error, UserError):
        return None
    found, study = find_fault(error, study), Path(os.path.abspath(study))
    for number, file in _system_errors(error):
        if number in FULL:
            places = [place for place in (study, *temporary_folders()) if place.exists()]
            if file is not None and not _is_inside(file, study):
                places = [Path(file).parent]
            place = min(places, key=lambda place: shutil.disk_usage(place).free)
            found = Fault(place, number) if file or _has_little_room(place, number) else found
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


def temporary_folders() -> list[Path]:
    """Return the folders in which Ray's may be, in the order in which they are tried."""
    last = "/tmp"  # noqa: S108 - the last resort, and a folder of mode 0700 in it
    names = filter(None, [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), last])
    return [Path(os.path.abspath(name)) for name in dict.fromkeys(names)]


def _describe_full_disk(folder: Path, study: Path) -> str:
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    sizes = []
    for one in (study / TRIALS).glob("*"):
        with suppress(OSError):  # other trials write and rename their files meanwhile
            sizes.append(sum(file.stat().st_size for file in one.rglob("*") if file.is_file()))
    need = f" and a run has needed up to {_mb(max(sizes))} MB" if any(sizes) else ""
    return (
        f"the disk of {folder} is full: {_mb(free)} MB are free{need}; make room, and run the same "
        f"command again to resume"
    )


def _has_little_room(folder: Path, number: int) -> bool:
    """Return True if a full disk, or quota, may be that of a folder."""
    if number != errno.ENOSPC:  # room does not say how much of a quota is left
        return True
    with suppress(OSError):
        return shutil.disk_usage(folder).free < ROOM_BYTES
    return False


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


def _refusal(folder: Path) -> int | None:
    """Return the number of the error with which a folder refuses a new file; None if none."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"kdtune")
            probe.flush()
            os.fsync(probe.fileno())  # else some disks fail later
    except OSError as error:
        return error.errno
    return None


def _mb(size: float) -> str:
    return f"{size / 1e6:.3g}"
