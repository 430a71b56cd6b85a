"""A study's folder on this machine: its lock, and folders that cannot be used."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kdtune.config.files import LOCK, RAY_PREFIX, writing
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
        InputError: Another process holds the lock, or the folder cannot be written.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = _acquire(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that is not empty stays, and those above it
            if created and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                for path in created:
                    path.rmdir()
        lock.release()


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    with writing(folder, "give another --out FOLDER"):
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=TIMEOUT_SECONDS)
            except Timeout:
                raise InputError(
                    f"{folder} is in use by another process; wait for it to end, or give --name "
                    f"OTHER"
                ) from None
            if (folder / LOCK).exists():
                return lock
            lock.release()  # the previous holder has deleted the file, so this lock has no effect


# Folders that kdtune writes and that can no longer be written: the study's, and the temporary one
# with Ray's files. Errors of the user's data, models and training functions in other folders are
# those of a run or of the input. A cache that cannot be written is a warning, see `streams.cache`.


MARK = "FolderUnusable: "
"""Begins the error of a run that an unusable folder has ended; the sentence follows."""
FULL = (errno.ENOSPC, errno.EDQUOT)
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How Rust's libraries, as safetensors, name an error of the system."""


def describe_folder_fault(error: BaseException, study: Path, in_driver: bool = False) -> str | None:
    """Return the sentence for a folder of kdtune's that led to an error; None if none did.

    A training function may meet the same errors elsewhere, and a part of the study that was deleted
    may be made again. So a new file is tried in the folder; only if that fails is it at fault. On a
    full disk a small file may succeed: there the error counts unless it names a file elsewhere.

    Args:
        error: What was raised.
        study: The study's folder.
        in_driver: Whether the driver raised it, where no training function runs. So what it cannot
            do to a file of the study is a fault of the folder, even if the folder takes other
            files, and a full disk ends the study wherever the file is.
    """
    study = Path(os.path.abspath(study))
    for number, file in _system_errors(error):
        path = Path(os.path.abspath(file or study))
        folder = _folder_of(path, study)
        by_driver = in_driver and file is not None and isinstance(error, OSError)
        if folder is not None:
            reason = number if number in FULL else _refusal(folder)
            if reason is not None:
                return _describe(folder, reason)
        if by_driver and (number in FULL or folder == study):
            return _describe(path, number)
    return None


@contextmanager
def folder_faults_described(study: Path, in_driver: bool = False) -> Iterator[None]:
    """Raise FolderUnusableError in place of an error that a folder of kdtune's has led to."""
    try:
        yield
    except Exception as error:
        has_sentence = in_driver and isinstance(error, UserError)
        fault = None if has_sentence else describe_folder_fault(error, study, in_driver)
        if fault is None:
            raise
        raise FolderUnusableError(fault) from error


def temporary_folders() -> list[Path]:
    """Return the folders in which Ray's may be, in the order in which they are tried."""
    last = "/tmp"  # noqa: S108 - the last resort, and a folder of mode 0700 in it
    names = filter(None, [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), last])
    return [Path(os.path.abspath(name)) for name in dict.fromkeys(names)]


def _folder_of(path: Path, study: Path) -> Path | None:
    """Return the folder of kdtune's that a path is in: the study's, or that of Ray's folder."""
    if path.is_relative_to(study):
        return study
    of_ray = (parent for parent in path.parents if parent.name.startswith(RAY_PREFIX))
    return next((f.parent for f in of_ray if f.parent in temporary_folders()), None)


def _describe(path: Path, number: int) -> str:
    """Return the sentence for a folder or file that cannot be used."""
    free = ""
    if number in FULL:
        folder = path if path.is_dir() else path.parent
        free = f", {shutil.disk_usage(folder).free / 1e6:.3g} MB are free"
    return (
        f"{path} cannot be used any more ({os.strerror(number)}{free}); make room, mount it again "
        f"or make it writable, and run the same command again to resume. What is left is kept, "
        f"what is gone is computed again"
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
                if match := _RUST_ERROR.search(str(cause)):
                    yield int(match[1]), None
        cause = cause.__cause__ or getattr(cause, "cause", None) or cause.__context__


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
