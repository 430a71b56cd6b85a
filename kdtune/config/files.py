"""Names of a study's files, atomic writes, the cache folder."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdtune.config.errors import InputError

STUDY = "study.json"
PROVENANCE = "provenance.json"
PREDICTIONS = "predictions.parquet"
COSTS = "costs.json"
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
"""Last state of an unfinished run, in trials/<trial_id>; see `state_files`."""
PREVIOUS_STATE = ".previous-state"
"""Suffix of the state before the last one."""
STUDENT = "student.safetensors"
"""Weights of a trained student, in trials/<trial_id>."""
EPOCHS, FIGURES, RAY = "epochs", "figures", "tune"
FOLDERS = (EPOCHS, TEACHER, TRIALS, STUDENTS, f"{STUDENTS}.part", THUMBNAILS, FIGURES, RAY)
"""Names of the folders that kdtune and Ray make in a study's folder."""

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


def state_files(file: Path) -> tuple[Path, Path]:
    """Return the file of the last state of a run or teacher, and that of the state before it."""
    return file, file.with_name(f"{file.name}{PREVIOUS_STATE}")


def delete_states(file: Path) -> None:
    """Delete both states of a run or teacher, as far as they exist; see `state_files`."""
    for state in state_files(file):
        delete(state)


def delete(file: Path) -> None:
    """Delete a file if it exists, or a folder that somebody has put in its place."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def check_links(folder: Path) -> None:
    """Raise InputError if something in a study's folder leads out of it when it is written.

    Folders there must be no symbolic links, and nothing in Ray's own folder may be one. The study's
    folder itself may be reached through a link. Other files may be links: they are replaced.
    """
    for entry, level in _entries(folder, 2):
        of_ray = level == 2 and Path(entry.path).parent.name == RAY
        if entry.is_symlink() and (of_ray or entry.name in FOLDERS or entry.is_dir()):
            raise InputError(
                f"{entry.path} must be no symbolic link, since files would be written to where it "
                f"leads, {os.path.realpath(entry.path)}; replace it by a folder of its own, or "
                f"copy the study's folder with `cp -rL`"
            )


def _entries(folder: Path, levels: int, level: int = 1) -> Iterator[tuple[os.DirEntry[str], int]]:
    """Yield what is in a folder and in the folders in it, with its level, from 1."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:  # it does not exist; who needs it says so
        return
    for entry in entries:
        yield entry, level
        if level < levels and entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path), levels, level + 1)


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
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def describe_missing(path: Path) -> str:
    """Return why a path is not usable: it does not exist, or is of another kind."""
    return f"{path} is not one" if path.exists() else f"{path} does not exist"


def cache_folder() -> Path:
    """Return kdtune's folder in the user's cache folder (XDG_CACHE_HOME on Linux)."""
    from platformdirs import user_cache_path

    return user_cache_path("kdtune")
