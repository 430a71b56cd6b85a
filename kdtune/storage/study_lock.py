"""The lock that lets one process at a time run a study in a folder of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kdtune.config.errors import InputError
from kdtune.config.files import LOCK, check_links

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
