"""A probe that tells whether all machines see the study's folder or object store."""

import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from kdtune.config.errors import InputError
from kdtune.config.files import join_uri
from kdtune.config.study import Study
from kdtune.storage.object_store import SHORT_RETRY_TIMEOUT_SECONDS, Store

PROPAGATION_SECONDS = 5.0
"""A shared folder may show what other machines wrote with a delay (NFS: 3 s)."""


class StorageProbe:
    """Small files by which the machines find out whether they share the study's place.

    Args:
        study: Says which place it is.
        retry_timeout: Seconds for which requests to the object store are retried in an outage.
    """

    def __init__(self, study: Study, retry_timeout: float = SHORT_RETRY_TIMEOUT_SECONDS):
        self.retry_timeout = retry_timeout
        self.folder = study.folder / f".preflight-{uuid.uuid4().hex[:8]}"
        self.uri = None if study.uri is None else join_uri(study.uri, self.folder.name)
        self.place = study.uri or str(study.folder)
        self.advice = "--out must be a folder that all machines share, or s3://BUCKET/PREFIX"

    def exchange(self, name: str) -> None:
        """Read the driver's file, then write one of this name for the driver.

        Raises:
            InputError: The driver's file is not there.
            OSError: The place cannot be written.
        """
        if not self.sees("driver"):
            raise InputError(f"does not see what the driver wrote into {self.place}; {self.advice}")
        self.write(name)

    def write(self, name: str) -> None:
        """Write a file of this name for the other machines."""
        if self.uri is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(name)
            return
        working_folder = self.folder.parent
        working_folder.mkdir(parents=True, exist_ok=True)
        # temporary: `remove` cannot delete what another machine has in its working folder
        with TemporaryDirectory(prefix=".preflight-", dir=working_folder) as local:
            file = Path(local) / name
            file.write_text(name)
            self._store().put(file, name)

    def sees(self, name: str) -> bool:
        """Return True if the file of this name is there."""
        if self.uri is not None:
            store = self._store()
            return store.retry(lambda: store.read(name)) is not None
        until = time.monotonic() + PROPAGATION_SECONDS
        while not (self.folder / name).exists() and time.monotonic() < until:
            time.sleep(0.2)
        return (self.folder / name).exists()

    def remove(self) -> None:
        """Delete the files; those on a store that cannot be reached stay there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.uri is not None:
            with suppress(InputError, OSError):
                for name in self._store().names():
                    self._store().delete(name)

    def _store(self) -> Store:
        assert self.uri is not None  # noqa: S101 - the callers have looked
        return Store(self.uri, self.retry_timeout)
