"""Who may change a file: files that other users of the machine may write are not trusted.

A file is trusted if this user or root owns it, and nobody else may write it. A group may, if it is
the user's private one, as Fedora and Debian make it for each user: its name is the user's, and
nobody else is in it. OpenSSH asks the same of a user's files.
"""

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

ROOT = 0


class Distrust(NamedTuple):
    """Why what is in a folder is not trusted, and what would do."""

    why: str
    """A sentence without its end."""
    remedy: str


class StrangerError(PermissionError):
    """A file or folder that another user owns or may change; the message says which and who."""


def why_untrusted(status: os.stat_result) -> str:
    """Return who else may change a file, as the end of "FILE ..."; "" if nobody may."""
    if status.st_uid not in (os.geteuid(), ROOT):
        return f"belongs to user {_user(status.st_uid)}"
    if stat.S_ISLNK(status.st_mode):
        return ""  # the permissions of a link say nothing
    if status.st_mode & stat.S_IWOTH:
        return "may be written by every user"
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
        return f"may be written by group {_group(status.st_gid)}"
    return ""


def distrust_of(folder: Path) -> Distrust | None:
    """Return who else may change what a folder holds, and what would do; None if nobody may.

    A folder that does not exist yet is trusted if the folder where it will be is no place where
    every user may rename what others own (one without the sticky bit that /tmp has).
    """
    with suppress(OSError):  # it does not exist; or it is of no use, which its first use says
        # of a link, too: its owner may turn it elsewhere
        for status in (folder.lstat(), folder.stat()):
            if why := why_untrusted(status):
                is_mine = status.st_uid in (os.geteuid(), ROOT)
                close = f"if it is yours, close it: chmod -R go-w {folder}"
                take = f"take it over, as root: chown -R {os.geteuid()} {folder}"
                return Distrust(f"{folder} {why}", close if is_mine else take)
    for parent in Path(os.path.realpath(folder)).parents:
        with suppress(OSError):
            mode = parent.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                return Distrust(
                    f"{folder} is inside {parent}, which may be written by every user",
                    f"if that folder is yours, close it: chmod o-w {parent}, or chmod +t {parent}",
                )
    return None


def make_folder(base: Path, *names: str) -> Path:
    """Return a folder below another one, created where it is missing.

    Raises:
        StrangerError: One of the folders below `base` is a link or is not trusted.
        OSError: It cannot be created.
    """
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = base
    for name in names:
        folder = folder / name
        folder.mkdir(mode=0o755, exist_ok=True)
        status = folder.lstat()
        why = "is a link" if stat.S_ISLNK(status.st_mode) else why_untrusted(status)
        if why:
            raise StrangerError(f"{folder} {why}")
    return folder


def open_trusted(file: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        StrangerError: It is no ordinary file, or is not trusted.
        OSError: It cannot be opened.
    """
    # a link is not followed, and a named pipe is not waited for
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        why = why_untrusted(status) if stat.S_ISREG(status.st_mode) else "is no file"
        if why:
            raise StrangerError(f"{file} {why}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _is_private(group: int) -> bool:
    """Return whether a group is root's, or has this user as its only member."""
    if group == ROOT:
        return True
    try:
        known = grp.getgrgid(group)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user without a name
        return False
    return known.gr_name == user and set(known.gr_mem) <= {user}


def _user(uid: int) -> str:
    with suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    return str(uid)


def _group(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
