"""Files and folders: names in a study's folder, atomic writes, who may write."""

import grp
import os
import pwd
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from kdtune.config.text import InputError, did_you_mean, first_line, shown

if TYPE_CHECKING:
    from PIL.Image import Image

# Names of a study's files.

STUDY = "study.json"
PROVENANCE = "provenance.json"
PREDICTIONS = "predictions.parquet"
COSTS = "costs.json"
OPTUNA = "optuna.db"
THUMBNAILS = "thumbnails"
"""Small pictures of the images that the report shows."""
TEACHER = "teacher"
TEACHER_RECORD = "teacher.json"
"""What a fine-tuned teacher was made of, in teacher/ or a folder in it."""
TEACHER_ACCURACY = "teacher/accuracy.json"
LOCK = ".lock"
TRIALS = "trials"
STUDENTS = "students"
STUDENTS_CONFIG = "students.json"
"""The best configuration, in students/."""
EXPORTS = ("best.*", "best-int8.*", "README*.md")
"""Patterns of the files that kdtune.export writes into students/."""
CHECKPOINT = "checkpoint.pt"
"""Last state of an unfinished run, in trials/<trial_id>."""
STUDENT = "student.safetensors"
"""Weights of a trained student, in trials/<trial_id>."""
TRIAL_FILES = "files"
"""What a training function of the user's own writes, in trials/<trial_id>; kept for resuming."""
EPOCHS_LOG = ".kdtune-epochs.json"
"""The epochs that such a function has yielded so far, among its files."""
EPOCHS, FIGURES = "epochs", "figures"

RAY_PREFIX = "kdtune-"
"""Begins the name of a private folder of Ray in the temporary folder."""
PART = re.compile(r"(?P<file>.+)\.[0-9a-f]{8}\.part")
"""Name of the temporary file of `atomic_write`, which a killed process leaves."""


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path; at the end rename it to the file.

    Readers see the old file or the whole new one. If writing fails, the temporary file is deleted.
    A file that is a symbolic link is replaced; nothing is written to where it leads.
    """
    # a name that nobody can foresee, and O_EXCL: no link that others have put there is followed
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664))
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file as `atomic_write` does."""
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Raise InputError in place of an error of writing to a folder or file.

    Args:
        path: The folder or file.
        advice: What would do.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path} cannot be written ({reason}); {advice}") from error


@contextmanager
def not_writable_by_all() -> Iterator[None]:
    """Have this process and its children create no files that every user may write.

    Otherwise the user's umask holds.
    """
    before = os.umask(0o077)
    os.umask(before | 0o002)
    try:
        yield
    finally:
        os.umask(before)


def student_file(repeat: int) -> str:
    """Return the name of a file of weights in students/."""
    return f"repeat-{repeat:02d}.safetensors"


def join_uri(uri: str, name: str) -> str:
    """Return the URI of a name below another URI; options (?region=...) stay at the end."""
    base, mark, options = uri.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def existing_file(subject: str, field: str, path: str, suffix: str = "") -> Path:
    """Return the path of a file that the user names.

    Args:
        subject: What the file is, such as "an experiment".
        field: The field or word that names it, for the error.
        path: Its path.
        suffix: The end of its name; "": any.

    Raises:
        InputError: There is none; the most similar name in its folder is suggested.
    """
    check_path(field, path)
    file = Path(path).expanduser()
    if file.is_file() and file.name.endswith(suffix):
        return file
    kind = f" ({suffix})" if suffix else ""
    raise missing_path(f"{subject} must be a file{kind}", file, f"*{suffix or '.*'}")


def check_exists(requirement: str, name: str) -> None:
    """Raise InputError, see `missing_path`, if a path that is no URI or pattern does not exist."""
    path = Path(name).expanduser()
    if "://" not in name and not has_magic(name) and not path.exists():
        raise missing_path(requirement, path)


def missing_path(requirement: str, path: Path, pattern: str = "*") -> InputError:
    """Return the error for a path that is not usable, with the most similar name in its folder.

    Args:
        requirement: What the user must give, such as "an experiment must be a file".
        path: What is not one.
        pattern: Of the names that are similar.
    """
    others = [other.name for other in path.parent.glob(pattern) if other != path]
    hint = did_you_mean(path.name, others, 0.6)
    return InputError(f"{requirement}, but {describe_missing(path)}{hint}")


def describe_missing(path: Path) -> str:
    """Return why a path is not usable: it does not exist, or is of another kind."""
    return f"{path} is not one" if path.exists() else f"{path} does not exist"


def cache_folder() -> Path:
    """Return kdtune's folder in the user's cache folder (XDG_CACHE_HOME on Linux)."""
    from platformdirs import user_cache_path

    return user_cache_path("kdtune")


# Who may change a file: files that other users of the machine may write are not trusted.
#
# A file is trusted if this user or root owns it, and nobody else may write it. A group may, if it
# is the user's private one, as Fedora and Debian make it for each user: its name is the user's, and
# nobody else is in it. OpenSSH asks the same of a user's files.

ROOT = 0


class StrangerError(PermissionError):
    """A file or folder that another user owns or may change; the message says which and who."""


def why_untrusted(status: os.stat_result) -> str:
    """Return who else may change a file, as the end of "FILE ..."; "" if nobody may."""
    if status.st_uid not in (os.geteuid(), ROOT):
        return f"belongs to user {status.st_uid}"
    if stat.S_ISLNK(status.st_mode):
        return ""  # the permissions of a link say nothing
    if status.st_mode & stat.S_IWOTH:
        return "may be written by every user"
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
        return f"may be written by group {status.st_gid}"
    return ""


def distrust_of(folder: Path) -> str:
    """Return who else may change what a folder holds, as "FOLDER ..."; "" if nobody may.

    A folder that does not exist yet is trusted if the folder where it will be is no place where
    every user may rename what others own (one without the sticky bit that /tmp has).
    """
    with suppress(OSError):  # it does not exist; or it is of no use, which its first use says
        # of a link, too: its owner may turn it elsewhere
        for status in (folder.lstat(), folder.stat()):
            if why := why_untrusted(status):
                return f"{folder} {why}"
    for parent in Path(os.path.realpath(folder)).parents:
        with suppress(OSError):
            mode = parent.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                return f"{folder} is inside {parent}, which may be written by every user"
    return ""


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
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = os.fdopen(os.open(file, flags), "rb")
    status = os.fstat(opened.fileno())
    why = why_untrusted(status) if stat.S_ISREG(status.st_mode) else "is no file"
    if why:
        opened.close()
        raise StrangerError(f"{file} {why}")
    return opened


def _is_private(group: int) -> bool:
    """Return whether a group is root's, or has this user as its only member."""
    if group == ROOT:
        return True
    try:
        entry = grp.getgrgid(group)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user without a name
        return False
    return entry.gr_name == user and set(entry.gr_mem) <= {user}


# Paths and URIs of object stores that the user gives: those that cannot be are refused.

S3, AZURE = ("s3", "s3a"), ("az", "azure", "abfs", "abfss")
SCHEMES = (*S3, "gs", *AZURE, "memory")
"""Schemes of the URIs of object stores."""
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Longest name of a file and longest path, on Linux and macOS."""


def check_path(name: str, path: str) -> None:
    """Raise InputError if a path or URI cannot be one.

    Args:
        name: The field that has it, for the error.
        path: The path, or SCHEME://BUCKET/PREFIX.
    """
    if "://" in path:
        check_uri(path)
        return
    raw = os.fsencode(path)
    is_short = len(raw) <= MAX_PATH_BYTES and max(map(len, raw.split(b"/"))) <= MAX_NAME_BYTES
    if not path or not is_short or os.path.expanduser(path).startswith("~"):
        raise InputError(
            f"{name} must be a path of at most {MAX_PATH_BYTES} bytes, with names of at most "
            f"{MAX_NAME_BYTES}, and begin with no ~ but that of a user, but got {name}="
            f"{shown(path)}"
        )


def check_uri(uri: str) -> None:
    """Raise InputError unless a URI has a known scheme and a bucket."""
    try:
        parts = urlsplit(uri)
        has_bucket = parts.netloc or parts.scheme == "memory"
    except ValueError:  # [ without ]
        has_bucket = False
    if not has_bucket or parts.scheme not in SCHEMES:
        raise InputError(
            f"a URI must be SCHEME://BUCKET/PREFIX, with a scheme of {', '.join(SCHEMES)}, but got "
            f"{uri}"
        )


# EXIF orientation of images of Pillow, which a command line is read without.

TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's `Image.Transpose` that shows an image upright, by its EXIF orientation; 1: as stored."""
ORIENTATION_TAG = 274


def oriented(image: "Image", orientation: str | None) -> "Image":
    """Return an image of Pillow as its EXIF data say, or, if `orientation` is stored, as it is."""
    if orientation == "stored":
        return image
    # first, since some formats load in getexif; a second load after a failure returns black
    image.load()
    try:
        turn: Any = TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # Pillow raises errors of all kinds for damaged EXIF data, which say nothing
        return image
    # not ImageOps.exif_transpose, which also writes the other EXIF data anew and may fail
    return image if turn is None else image.transpose(turn)
