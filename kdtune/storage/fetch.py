"""Copy of a study on an object store, for reading it."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import (
    COSTS,
    PREDICTIONS,
    PROVENANCE,
    STUDENTS,
    STUDENTS_CONFIG,
    STUDY,
    TEACHER,
    TEACHER_ACCURACY,
    TEACHER_RECORD,
    THUMBNAILS,
)
from kdtune.storage import lease
from kdtune.storage.object_store import SHORT_RETRY_TIMEOUT_SECONDS, Store

READ = (STUDY, PROVENANCE, PREDICTIONS, COSTS, TEACHER_ACCURACY)
"""Files that `load` and the report read, besides the records."""


class FetchedStudy(NamedTuple):
    """A copy of what `load` reads of a study."""

    folder: Path
    """Temporary; deleted when the process ends."""
    is_running: bool
    """Whether a driver held the study's lease."""


def fetch(uri: str) -> FetchedStudy:
    """Download what `load` reads of a study on an object store.

    Raises:
        InputError: The place cannot be read, or holds no study.
    """
    folder = _temporary_folder()
    store = Store(uri, SHORT_RETRY_TIMEOUT_SECONDS)
    try:
        is_running = _is_running(store)
        of_teachers = [n for n in store.names(TEACHER) if n.endswith(f"/{TEACHER_RECORD}")]
        others = [*store.names("epochs"), *of_teachers, *store.names(THUMBNAILS)]
        store.get_all([*READ, *others], folder)
    except OSError as error:
        raise InputError(f"{uri} cannot be read ({first_line(error)})") from None
    if not (folder / STUDY).exists():
        raise InputError(f"the place of a study must hold {STUDY}, but {uri} does not")
    return FetchedStudy(folder, is_running)


def _is_running(store: Store) -> bool:
    """Return whether a driver has renewed the study's lease lately.

    Both times are the store's own: this machine's clock may be wrong by more than the timeout.
    """
    found = store.retry(lambda: store.read(lease.LEASE))
    if found is None or lease.read_holder(found).get("released"):
        return False
    return store.clock() - found.modified < lease.LEASE_TIMEOUT_SECONDS


def fetch_students(uri: str) -> tuple[Path, list[str]]:
    """Download students.json of a study on an object store.

    Returns:
        The folder students/ in a temporary copy of the study, and the names of all its files on
        the store, students/...; `fetch_file` downloads the others.

    Raises:
        InputError: The place cannot be read, or holds no students.
    """
    folder = _temporary_folder()
    store = Store(uri, SHORT_RETRY_TIMEOUT_SECONDS)
    try:
        names = store.names(STUDENTS)
        store.get_all([f"{STUDENTS}/{STUDENTS_CONFIG}", PROVENANCE], folder)
    except OSError as error:
        raise InputError(f"{uri} cannot be read ({first_line(error)})") from None
    if not names:
        raise InputError(
            f"{uri} has no folder {STUDENTS}/, which is written when a study is complete; give the "
            f"place of a study, or repeat the study's command"
        )
    return folder / STUDENTS, names


def fetch_file(uri: str, name: str, folder: Path) -> None:
    """Download one file of a study on an object store into a folder, under the same name.

    Raises:
        InputError: The store cannot be read.
    """
    try:
        Store(uri, SHORT_RETRY_TIMEOUT_SECONDS).get(name, folder / name)
    except OSError as error:
        raise InputError(f"{uri} cannot be read ({first_line(error)})") from None


def _temporary_folder() -> Path:
    """Return a new folder that is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="kdtune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
