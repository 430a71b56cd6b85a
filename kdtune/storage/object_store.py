"""A place on an object store: whole objects in and out, outages ridden out. No torch, no Ray."""

import atexit
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from os import environ
from pathlib import Path
from typing import TypeVar

from pyarrow import ArrowInvalid, fs

from kdtune.config.errors import InputError
from kdtune.config.files import PREDICTIONS, PROVENANCE, STUDY

RETRY_TIMEOUT_SECONDS = 120.0
"""An outage of the store is ridden out for so long."""
SHORT_RETRY_TIMEOUT_SECONDS = 10.0
"""The same where nothing is at stake yet: who begins, or only reads, wants to hear soon."""
FIRST_WAIT = 0.5
ANSWER_SECONDS = 10.0
"""A store that is silent for so long is taken to be gone."""
FATAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""What no waiting mends: AWS's own words, as Arrow passes them on."""
STREAMS = 16
"""Files that are fetched at once: a store answers slowly, but many."""
DRIVER = "driver.json"
"""Who runs the study now."""
LEASE_TIMEOUT_SECONDS = 30.0
"""A claim that is not renewed for so long is void."""
READ = (STUDY, PROVENANCE, PREDICTIONS, DRIVER, "teacher/teacher.json")
"""What `load` reads of a study beside its records."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class Store:
    """A place on an object store, by its URI: s3://BUCKET/PREFIX, or any that Arrow knows.

    `AWS_ENDPOINT_URL` names another service than Amazon's. Names are paths below the place. Copies
    are Arrow's own, since a Python stream that is left by an error completes the object.

    Args:
        uri: the place.
        patience: seconds for which an outage is ridden out.

    Raises:
        InputError: there is no such kind of place, or it cannot be reached.
    """

    def __init__(self, uri: str, patience: float = RETRY_TIMEOUT_SECONDS):
        self.uri, self.patience = uri.rstrip("/"), patience
        self.guard: Callable[[], None] = lambda: None
        """Called before each try to write; what it raises, but for OSError, ends the writing."""
        try:
            self._fs, self._root = self.retry(lambda: _connect(self.uri))
        except (ArrowInvalid, OSError) as error:
            raise InputError(f"{uri} cannot be reached ({_reason(error)})") from None

    def put(self, file: Path, name: str) -> None:
        """Upload a file; readers see the old object or the whole new one."""

        def attempt() -> None:
            self.guard()
            fs.copy_files(str(file), self._path(name), fs.LocalFileSystem(), self._fs)

        self.retry(attempt)

    def get(self, name: str, file: Path) -> bool:
        """Fetch an object, aside and renamed; False where there is none."""
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            ends = (self._fs, fs.LocalFileSystem())
            self.retry(lambda: fs.copy_files(self._path(name), str(aside), *ends))
        except FileNotFoundError:
            return False
        else:
            os.replace(aside, file)
        finally:
            aside.unlink(missing_ok=True)
        return True

    def get_all(self, names: list[str], folder: Path) -> None:
        """Fetch objects into a folder, many at once; those that are not there are left out."""
        with ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(lambda name: self.get(name, folder / name), names))

    def names(self, below: str = "") -> list[str]:
        """Names of all objects below a prefix, sorted; none where there is nothing."""
        place = self._path(below) if below else self._root
        selector = fs.FileSelector(place, recursive=True, allow_not_found=True)
        found = self.retry(lambda: self._fs.get_file_info(selector))
        return sorted(i.path[len(self._root) :].lstrip("/") for i in found if i.is_file)

    def delete(self, name: str) -> None:
        """Delete an object; no matter if there is none."""

        def attempt() -> None:
            self.guard()
            self._fs.delete_file(self._path(name))

        with suppress(FileNotFoundError):
            self.retry(attempt)

    def without_retries(self) -> "Store":
        """The same place, unguarded, where each thing is tried once."""
        other = copy(self)
        other.patience, other.guard = 0.0, lambda: None
        return other

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def retry(self, attempt: Callable[[], T]) -> T:
        """Try until it works, ever less often; the last error where patience ends."""
        wait, until = FIRST_WAIT, time.monotonic() + self.patience
        while True:
            try:
                return attempt()
            except FileNotFoundError:
                raise
            except OSError as error:
                hopeless = any(word in str(error) for word in FATAL)
                if hopeless or time.monotonic() + wait > until:
                    raise
                log.warning("%s: %s; trying again", self.uri, _reason(error))
            time.sleep(wait)
            wait = min(2 * wait, self.patience / 8)


def reach(uri: str) -> None:
    """Raise InputError, soon, where the place cannot be reached."""
    try:
        Store(uri, SHORT_RETRY_TIMEOUT_SECONDS).names("epochs")
    except OSError as error:
        raise InputError(f"{uri} cannot be reached ({_reason(error)})") from None


def is_running(folder: Path) -> bool:
    """Whether the study fetched into this folder had a driver that renewed its claim of late."""
    try:
        claim = json.loads((folder / DRIVER).read_text())
    except (OSError, ValueError):
        return False
    return time.time() - float(claim["time"]) < LEASE_TIMEOUT_SECONDS


def fetch(uri: str) -> Path:
    """What `load` reads of a study on a store, in a temporary folder that ends with the process.

    Raises InputError where the place cannot be reached.
    """
    folder = Path(tempfile.mkdtemp(prefix="kdtune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = Store(uri, SHORT_RETRY_TIMEOUT_SECONDS)
    try:
        store.get_all([*READ, *store.names("epochs")], folder)
    except OSError as error:
        raise InputError(f"{uri} cannot be read ({_reason(error)})") from None
    if not (folder / STUDY).exists():
        raise InputError(f"a study's place must hold {STUDY}, but {uri} does not")
    return folder


def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of the place, and its path there."""
    system, root = fs.FileSystem.from_uri(uri)  # knows the bucket's region
    if isinstance(system, fs.S3FileSystem):
        # of its own it tries a silent service for 100 s, deaf to Ctrl-C; waiting is done here
        system = fs.S3FileSystem(
            region=system.region,
            # from_uri heeds these two, S3FileSystem does not
            endpoint_override=environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL"),
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            connect_timeout=ANSWER_SECONDS,
            request_timeout=ANSWER_SECONDS,
        )
    return system, root


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
