"""Copies between a study's working folder on this machine and its place on an object store.

An object cannot be appended to, so the records are uploaded as parts that never change afterwards;
checkpoints, students and predictions are uploaded whole. An upload replaces the object or fails, so
of a run's states the store has the last one alone. The store has precedence: a machine downloads
what it needs, in place of earlier files in its folder.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

from kdtune.config.errors import LeaseLostError
from kdtune.config.files import EPOCHS, PREVIOUS_STATE
from kdtune.config.study import Study
from kdtune.storage.object_store import BULK_BYTES, ConflictError, Store, Version
from kdtune.storage.records import Records

PART_SECONDS = 5.0
"""Time between two parts of the records, or a 200th of the time since the start if that is more:
a week makes some 1,500 parts."""


class Mirror:
    """Copies between a study's working folder and its place on an object store, if it has one.

    For a study in a folder that all machines share, every method returns at once.
    """

    def __init__(self, study: Study):
        self.folder, self._uri = study.folder, study.uri
        self._sent: dict[str, int] = {}
        self._versions: dict[str, Version] = {}
        self.leased = False
        """Whether this process holds the study's lease: small files are then overwritten only if
        nobody else has changed them, so that no late write of an earlier driver goes unnoticed."""
        self.lost: str | None = None
        """Who has taken over the study's lease from this driver, in a sentence."""

    @cached_property
    def store(self) -> Store | None:
        """The place on an object store; connected to at the first use."""
        return None if self._uri is None else Store(self._uri)

    def check(self) -> None:
        """Raise LeaseLostError if another driver has taken over the study."""
        if self.lost is not None:
            raise LeaseLostError(self.lost)

    def push(self, *names: str) -> None:
        """Upload files of the working folder, or all files below a folder of it, if they changed.

        Files that are missing, empty, still being written (*.part), or the state before a run's
        last one are left out.

        Raises:
            LeaseLostError: Another driver has written a file that this one wants to write.
        """
        if self.store is None:
            return
        for name in names:
            place = self.folder / name
            files = (
                sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
            )
            for file in files:
                self._push_file(self.store, file)

    def _push_file(self, store: Store, file: Path) -> None:
        name = file.relative_to(self.folder).as_posix()
        if file.suffix in (".part", PREVIOUS_STATE) or not file.is_file():
            return
        written, size = file.stat().st_mtime_ns, file.stat().st_size
        if not size or self._sent.get(name) == written:
            return
        try:
            self._versions[name] = store.put(file, name, self._expected(name, size))
        except ConflictError:
            self.lost = self.lost or (
                f"{store.uri}/{name} was written by another driver meanwhile; the same command "
                f"resumes the study"
            )
            raise LeaseLostError(self.lost) from None
        self._sent[name] = written

    def _expected(self, name: str, size: int) -> Version | None:
        """Return the version that a file may overwrite: {} for none, None for any."""
        if name.startswith(f"{EPOCHS}/"):
            return {}  # a part of the records never changes
        if not self.leased or size > BULK_BYTES:
            return None
        return self._versions.get(name)

    @contextmanager
    def push_in_background(self, *names: str) -> Iterator[Callable[[], None]]:
        """Yield push(), which returns at once and uploads the files in another thread.

        A call during an upload does nothing: the next one will upload what is newer. At the end of
        the context no upload is running. A failed upload raises its OSError from the next push() or
        at the end.
        """
        if self.store is None:
            yield lambda: None
            return
        uploads: list[Future[None]] = []
        with ThreadPoolExecutor(max_workers=1) as pool:

            def push() -> None:
                if uploads and not uploads[0].done():
                    return
                if uploads:
                    uploads.pop().result()
                uploads.append(pool.submit(self.push, *names))

            yield push
        if uploads:
            uploads.pop().result()

    def pull(self, *names: str) -> None:
        """Replace files of the working folder by those of the store; delete what it lacks."""
        if self.store is None:
            return
        for name in names:
            file = self.folder / name
            version = self.store.get(name, file)
            if version is None:
                file.unlink(missing_ok=True)
            self._versions[name] = version or {}
        self._remember(names)

    def pull_folders(self, *folders: str) -> None:
        """Replace folders of the working folder by those of the store."""
        if self.store is None:
            return
        for folder in folders:
            shutil.rmtree(self.folder / folder, ignore_errors=True)
            names = self.store.names(folder)
            self.store.get_all(names, self.folder)
            self._remember(names)

    def pull_trials(self, trials: list[str], name: str) -> None:
        """Download the file of this name of each trial, unless the working folder has it."""
        if self.store is None:
            return
        names = [f"trials/{trial}/{name}" for trial in trials]
        missing = [n for n in names if not (self.folder / n).exists()]
        self.store.get_all(missing, self.folder)
        self._remember(missing)

    def _remember(self, names: Iterable[str]) -> None:
        """Note that downloaded files need no upload before they change."""
        for name in names:
            if (file := self.folder / name).is_file():
                self._sent[name] = file.stat().st_mtime_ns

    def delete(self, *names: str) -> None:
        """Delete files on the store, not those of the working folder."""
        if self.store is None:
            return
        for name in names:
            self.store.delete(name)
            self._sent.pop(name, None)
            self._versions.pop(name, None)

    def delete_removed(self, folder: str) -> None:
        """Delete on the store the files that a folder of the working folder no longer has."""
        if self.store is not None:
            removed = [n for n in self.store.names(folder) if not (self.folder / n).exists()]
            self.delete(*removed)

    def delete_below(self, folder: str, name: str) -> None:
        """Delete on the store all files of this name below a folder."""
        if self.store is not None:
            self.delete(*(n for n in self.store.names(folder) if n.endswith(f"/{name}")))

    def clear(self, folder: str) -> None:
        """Delete a folder of the working folder if the study has a store, which holds it all."""
        if self.store is not None:
            shutil.rmtree(self.folder / folder, ignore_errors=True)


class RecordsUploader:
    """Uploader of the records of a running study, part by part; a context manager.

    Leaving the context uploads what is left. Files that are no longer needed once the records are
    uploaded are deleted after that: a trial with neither a checkpoint nor a recorded end would
    start from its beginning.
    """

    def __init__(self, mirror: Mirror, records: Records):
        self.mirror, self.records = mirror, records
        self._began = self._last = time.monotonic()
        self._superfluous: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def delete_later(self, name: str) -> None:
        """Delete a file on the store once the records written so far are uploaded."""
        self._superfluous.append(name)

    def tick(self) -> None:
        """Upload new records if the last upload is long ago.

        Raises:
            LeaseLostError: Another driver has taken over the study.
        """
        self.mirror.check()
        now = time.monotonic()
        if now - self._last >= max(PART_SECONDS, (now - self._began) / 200):
            self.flush()

    def flush(self) -> None:
        """Upload new records.

        Raises:
            LeaseLostError: Another driver has taken over the study.
        """
        self.mirror.check()
        if self.mirror.store is not None:
            self.records.roll()
            self.mirror.push(EPOCHS)
            self.mirror.delete(*self._superfluous)
        self._superfluous = []
        self._last = time.monotonic()
