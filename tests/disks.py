"""Disks of tests, as root: an ext4 file system in a file, which can freeze, fail and vanish."""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D
"""Linux: ends a file system at once, as the loss of its device does."""
AFTER_A_SYNC = 0
"""Else a training function of the test might find its state cut off, as after a loss of power."""


def why_not() -> str | None:
    """Return why there can be no such disk here; None if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("mkfs.ext4", "fsfreeze") if shutil.which(name) is None]
    return f"needs {missing[0]}" if missing else None


class Disk:
    """An ext4 file system of 64 MB; a context manager that unmounts it.

    Args:
        folder: Gets the image and the folder on which it is mounted.
    """

    def __init__(self, folder: Path):
        self._image, self.place = folder / "image", folder / "disk"

    def __enter__(self) -> "Disk":
        self.place.mkdir()
        with self._image.open("wb") as image:
            image.truncate(64 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)

    def mount(self) -> None:
        # a loop device may be in use by another process in the same moment
        subprocess.run(["mount", "-o", "loop", self._image, self.place], check=True)

    def mend(self) -> None:
        """Mount it anew, which replays its journal."""
        subprocess.run(["umount", self.place], check=True)
        self.mount()

    def become_read_only(self) -> None:
        """Do what the system does when it finds an error on a disk."""
        subprocess.run(["mount", "-o", "remount,abort", self.place], check=True)

    def fail(self) -> None:
        """Answer every write with an input/output error."""
        number = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(number, EXT4_IOC_SHUTDOWN, struct.pack("I", AFTER_A_SYNC))
        finally:
            os.close(number)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let everything wait that writes to it, as a silent network mount does."""
        subprocess.run(["fsfreeze", "-f", self.place], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "-u", self.place], check=True)
