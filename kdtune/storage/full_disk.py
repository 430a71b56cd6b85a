"""A full disk, said in one sentence with its folder, what is free, and what a run needs there."""

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from kdtune.config.errors import DiskFullError
from kdtune.config.files import TRIALS

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
MARK = "DiskFull: "
"""Begins the error of a run that a full disk has ended; the sentence follows."""


def is_disk_full(error: BaseException) -> bool:
    """Return True if an error, or what led to it, is a full disk or quota.

    torch names its own consequence ("unexpected pos 576 vs 534"), safetensors has no errno.
    """
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in FULL:
            return True
        with suppress(Exception):  # a class of the user's may have no text
            if f"(os error {errno.ENOSPC})" in str(cause):
                return True
        cause = cause.__cause__ or cause.__context__
    return False


def describe_full_disk(folder: Path, study: Path) -> str:
    """Return the sentence for a folder whose disk is full.

    Args:
        folder: That could not be written.
        study: Folder of the study, whose runs so far say what one needs.
    """
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


def full_disk_of_driver(study: Path) -> DiskFullError:
    """Return the error of a driver that met a full disk: in the study's or the temporary folder."""
    temporary = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    places = [place for place in (study, Path(temporary)) if place.exists()]
    fullest = min(places, key=lambda place: shutil.disk_usage(place).free)
    return DiskFullError(describe_full_disk(fullest, study))


def _mb(size: float) -> str:
    return f"{size / 1e6:.3g}"
