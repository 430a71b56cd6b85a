"""A study on an object store: a working folder on each machine, and what of it all must see.

Nothing can be appended to an object, so the records go up as parts that are never changed again;
checkpoints, students and predictions go up whole. What is on the store is the truth: a machine
fetches what it needs before it works, whatever it has from earlier.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from kdtune.config.errors import InputError
from kdtune.config.study import Study
from kdtune.storage.object_store import Store
from kdtune.storage.records import Records

PART_SECONDS = 5.0
"""Time between two parts of the records, or a 200th of the time since the start if that is more:
a week makes some 1,500 parts."""


class Mirror:
    """Between a study's working folder on this machine and its place on a store, if it has one.

    A study in a folder that all machines share needs none of this: every method returns at once.
    """

    def __init__(self, study: Study):
        self.folder, self._uri = study.folder, study.uri
        self._sent: dict[str, int] = {}
        self.lost: str | None = None
        """Who has taken the study's place from the driver whose mirror this is, in a sentence."""

    @cached_property
    def store(self) -> Store | None:
        """The place on a store; reached for when it is first needed."""
        return None if self._uri is None else Store(self._uri)

    def check(self) -> None:
        """Raise InputError where another driver has taken the study's place from this one."""
        if self.lost is not None:
            raise InputError(self.lost)

    def push(self, *names: str) -> None:
        """Upload files of the working folder, or all files below a folder of it, if they changed.

        Files that are not there, empty, or still being written (*.part) are left out.
        """
        if self.store is None:
            return
        for name in names:
            place = self.folder / name
            files = (
                sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
            )
            for file in files:
                self._push_file(file)

    def _push_file(self, file: Path) -> None:
        assert self.store is not None
        name = file.relative_to(self.folder).as_posix()
        if file.suffix == ".part" or not file.is_file():
            return
        written = file.stat().st_mtime_ns
        if file.stat().st_size and self._sent.get(name) != written:
            self.store.put(file, name)
            self._sent[name] = written

    @contextmanager
    def pushing(self, *names: str) -> Iterator[Callable[[], None]]:
        """Yields push(), which returns at once: what it uploads goes beside the caller's own work.

        Called before the last upload has ended it does nothing: the next one will send what is
        newer. At the end of the context nothing is under way any more. Raises, from push() or at
        the end, the OSError of a store that has failed.
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
        """Make files of the working folder those of the store; what it lacks goes here, too."""
        if self.store is None:
            return
        for name in names:
            file = self.folder / name
            if not self.store.get(name, file):
                file.unlink(missing_ok=True)
        self._remember(names)

    def pull_below(self, *folders: str) -> None:
        """Make folders of the working folder those of the store."""
        if self.store is None:
            return
        for folder in folders:
            shutil.rmtree(self.folder / folder, ignore_errors=True)
            names = self.store.names(folder)
            self.store.get_all(names, self.folder)
            self._remember(names)

    def pull_trials(self, trials: list[str], name: str) -> None:
        """Fetch the file of this name of each of the trials, where it is not here."""
        if self.store is None:
            return
        names = [f"trials/{trial}/{name}" for trial in trials]
        missing = [n for n in names if not (self.folder / n).exists()]
        self.store.get_all(missing, self.folder)
        self._remember(missing)

    def _remember(self, names: Iterable[str]) -> None:
        """What has been fetched is not sent back before it changes."""
        for name in names:
            if (file := self.folder / name).is_file():
                self._sent[name] = file.stat().st_mtime_ns

    def drop(self, *names: str) -> None:
        """Delete files on the store; those of the working folder are the caller's."""
        for name in names if self.store is not None else ():
            self.store.delete(name)  # type: ignore[union-attr]
            self._sent.pop(name, None)

    def prune(self, folder: str) -> None:
        """Delete on the store what a folder of the working folder no longer has."""
        if self.store is not None:
            gone = [n for n in self.store.names(folder) if not (self.folder / n).exists()]
            self.drop(*gone)

    def tidy(self, folder: str) -> None:
        """Delete a folder of the working folder, all of which is on the store."""
        if self.store is not None:
            shutil.rmtree(self.folder / folder, ignore_errors=True)


class RecordsUploader:
    """Sends the records of a study that runs, part by part, and deletes what they make useless.

    A checkpoint goes only after the records of its run's end are safe: without either the run
    would begin anew.
    """

    def __init__(self, mirror: Mirror, records: Records):
        self.mirror, self.records = mirror, records
        self._began = self._last = time.monotonic()
        self._useless: list[str] = []

    def useless(self, name: str) -> None:
        """A file that nobody needs once the records so far are on the store."""
        self._useless.append(name)

    def tick(self) -> None:
        """Send what there is, if it is time; raises InputError where the place is another's."""
        self.mirror.check()
        now = time.monotonic()
        if now - self._last >= max(PART_SECONDS, (now - self._began) / 200):
            self.flush()

    def flush(self) -> None:
        """Send what there is; raises InputError where the place is another's."""
        self.mirror.check()
        if self.mirror.store is not None:
            self.records.roll()
            self.mirror.push("epochs")
            self.mirror.drop(*self._useless)
        self._useless = []
        self._last = time.monotonic()
