"""A study on an object store: its lease, copies to and from it, dropped runs."""

import atexit
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtune.config import files
from kdtune.config.study import Study
from kdtune.config.text import InputError, LeaseLostError, did_you_mean, first_line
from kdtune.storage.folder import lock_study
from kdtune.storage.records import Line, Mark, Records, is_running, read_lines, read_study
from kdtune.storage.store import BULK_BYTES, ConflictError, Object, Store, Version

# Copies between a study's working folder on this machine and its place on an object store.
#
# An object cannot be appended to, so the records are uploaded as parts that never change
# afterwards; checkpoints, students and predictions are uploaded whole. An upload replaces the
# object or fails, so of a run's states the store has the last one alone. The store has precedence:
# a machine downloads what it needs, in place of earlier files in its folder.


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
            path = self.folder / name
            paths = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for file in paths:
                self._push_file(self.store, file)

    def _push_file(self, store: Store, file: Path) -> None:
        name = file.relative_to(self.folder).as_posix()
        if file.suffix == ".part" or not file.is_file():
            return
        written, size = file.stat().st_mtime_ns, file.stat().st_size
        if not size or self._sent.get(name) == written:
            return
        expected: Version | None = None  # any version
        if name.startswith(f"{files.EPOCHS}/"):
            expected = {}  # none, since a part of the records never changes
        elif self.leased and size <= BULK_BYTES:
            expected = self._versions.get(name)
        try:
            self._versions[name] = store.put(file, name, expected)
        except ConflictError:
            self.lost = self.lost or (
                f"{store.uri}/{name} was written by another driver meanwhile; the same command "
                f"resumes the study"
            )
            raise LeaseLostError(self.lost) from None
        self._sent[name] = written

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
        for name, version in self.store.get_all(names, self.folder).items():
            file = self.folder / name
            self._versions[name] = version or {}
            if version is None:
                file.unlink(missing_ok=True)
            else:  # it needs no upload before it changes
                self._sent[name] = file.stat().st_mtime_ns

    def pull_folders(self, *folders: str) -> None:
        """Replace folders of the working folder by those of the store."""
        if self.store is None:
            return
        for folder in folders:
            shutil.rmtree(self.folder / folder, ignore_errors=True)
            self.pull(*self.store.names(folder))

    def pull_trials(self, trials: Iterable[str], name: str) -> None:
        """Download the file of this name of each trial, unless the working folder has it."""
        names = [f"{files.TRIALS}/{trial}/{name}" for trial in trials]
        self.pull(*(name for name in names if not (self.folder / name).exists()))

    def delete(self, *names: str) -> None:
        """Delete files on the store, not those of the working folder."""
        if self.store is None:
            return
        for name in names:
            self.store.delete(name)
            self._sent.pop(name, None)
            self._versions.pop(name, None)

    def delete_removed(self, folder: str, name: str = "") -> None:
        """Delete on the store the files that a folder of the working folder no longer has.

        Args:
            folder: The folder.
            name: Name of the files; empty: all files.
        """
        if self.store is not None:
            names = [n for n in self.store.names(folder) if n.endswith(name)]
            self.delete(*(n for n in names if not (self.folder / n).exists()))

    def clear(self, folder: str) -> None:
        """Delete a folder of the working folder if the study has a store, which holds it all."""
        if self.store is not None:
            shutil.rmtree(self.folder / folder, ignore_errors=True)


class RecordsUploader(AbstractContextManager["RecordsUploader"]):
    """Uploader of the records of a running study, part by part; a context manager.

    Leaving the context uploads what is left. Files that are no longer needed once the records are
    uploaded are deleted after that: a trial with neither a checkpoint nor a recorded end would
    start from its beginning.
    """

    def __init__(self, mirror: Mirror, records: Records):
        self.mirror, self.records = mirror, records
        self._began = self._last = time.monotonic()
        self._superfluous: list[str] = []

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
            self.mirror.push(files.EPOCHS)
            self.mirror.delete(*self._superfluous)
        self._superfluous = []
        self._last = time.monotonic()


# Lease that lets one driver at a time write to a study on an object store.
#
# A store has no locks. The lease is an object that its holder renews every few seconds; one that
# is not renewed for LEASE_TIMEOUT_SECONDS has expired. Creating, renewing, taking over and
# releasing it are conditional writes, so of several drivers that try at once the store lets exactly
# one through. A driver that has not renewed its lease lately (cut off, suspended) does so before it
# writes anything else, and stops if it fails. A released lease stays on the store, marked as such:
# to delete it would be the one write that cannot be conditional.


LEASE = "driver.json"
"""Name of the lease on the store: a JSON object that says who runs the study. The working folder
has the token of the lease that was last acquired there in a file of the same name."""
LEASE_TIMEOUT_SECONDS = 30.0
"""A lease that is not renewed for this time has expired."""
RENEW_SECONDS = LEASE_TIMEOUT_SECONDS / 3
"""Time between two renewals."""
POLL_SECONDS = 1.0
"""Time between two reads of another driver's lease."""


@contextmanager
def hold_lease(mirror: Mirror) -> Iterator[None]:
    """Hold the lease of a study on an object store; do nothing for a study in a folder.

    The lock of the working folder (`lock_study`) must be held. After the lease is lost nothing more
    is written to the store, and the mirror's `check` and `push` raise LeaseLostError.

    Raises:
        InputError: Another driver holds the lease.
    """
    store = mirror.store
    if store is None:
        yield
        return
    lease = Lease(mirror, store)
    lease.acquire()
    store.guard, mirror.leased = lease.guard, True
    ended = threading.Event()

    def keep_renewing() -> None:
        while not ended.wait(RENEW_SECONDS):
            try:
                lease.renew()
            except LeaseLostError:
                return  # the main thread raises it at its next tick
            except OSError:
                continue  # an outage: the next renewal may get through

    heartbeat = threading.Thread(target=keep_renewing, daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        ended.set()
        heartbeat.join()
        # another driver's lease stays; one that cannot be released now expires
        with suppress(LeaseLostError, OSError):
            lease.release()


class Lease:
    """This process's lease of a study."""

    def __init__(self, mirror: Mirror, store: Store):
        self.mirror, self._store = mirror, store
        self._token = uuid.uuid4().hex
        self._token_file = mirror.folder / LEASE
        self._version: Version | None = None
        self._renewed = 0.0
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Create the lease, or take over one that has expired.

        Raises:
            InputError: Another driver holds the lease.
            OSError: The store does not answer.
        """
        self._version = self._wait_for_expiry()
        self.mirror.lost = None
        try:
            self._store.retry(self._write)
        except ConflictError:
            raise self._refusal() from None
        self._token_file.write_text(self._token)

    def renew(self, released: bool = False) -> None:
        """Renew the lease, or mark it as released.

        Raises:
            LeaseLostError: Another driver has taken over the lease, or it was deleted.
            OSError: The store does not answer.
        """
        with self._lock:
            self.mirror.check()
            try:
                self._write(released)
            except ConflictError:
                holder = read_holder(self._store.read(LEASE))
                by = f"process {holder.get('pid')} on {holder.get('host')}"
                self.mirror.lost = (
                    f"{self._store.uri} was taken over by {by} while this driver was cut off. The "
                    f"study continues there"
                    if holder
                    else f"{LEASE} of {self._store.uri} was deleted, so another driver may have "
                    f"run the study meanwhile. The same command resumes the study"
                )
                raise LeaseLostError(self.mirror.lost) from None

    def guard(self) -> None:
        """Renew the lease if that was long ago; called before each write.

        Raises:
            LeaseLostError: Another driver has taken over the lease, or it was deleted.
        """
        self.mirror.check()
        # half of the time, since the write that follows takes some; monotonic clocks stop in sleep
        if not 0 <= time.time() - self._renewed < LEASE_TIMEOUT_SECONDS / 2:
            self._store.retry(self.renew)

    def release(self) -> None:
        """Mark the lease as released; that of another driver stays as it is.

        Raises:
            LeaseLostError: Another driver has taken over the lease, or it was deleted.
            OSError: The store does not answer.
        """
        self._store.retry(lambda: self.renew(released=True))
        self._store.guard = lambda: None  # which might renew the lease
        self._token_file.unlink(missing_ok=True)

    def _write(self, released: bool = False) -> None:
        """Write the lease; raise ConflictError if that on the store is another driver's."""
        while True:
            now = time.time()
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
            content = json.dumps(holder | {"time": now, "released": released}).encode()
            try:
                self._version = self._store.write_if(self._version, content, LEASE)
            except ConflictError:
                present = self._store.read(LEASE)
                if present is None or read_holder(present).get("token") != self._token:
                    raise
                self._version = present.version  # an earlier write whose answer was lost
            else:
                self._renewed = now
                return

    def _wait_for_expiry(self) -> Version | None:
        """Return the version of the lease that is there, once it has expired; None if none is.

        A lease has expired if it does not change for the timeout by this machine's monotonic
        clock. The clocks of two machines are never compared.
        """
        present, began = self._read(), time.monotonic()
        while not self._is_free(present) and time.monotonic() - began < LEASE_TIMEOUT_SECONDS:
            time.sleep(POLL_SECONDS)
            before, present = present, self._read()
            if present != before and not self._is_free(present):
                raise self._refusal()
        return None if present is None else present.version

    def _is_free(self, lease: Object | None) -> bool:
        """Return True if there is no lease, or its holder is known to have ended.

        A holder of this host that has left its token in this working folder had the lock of it,
        which this process holds now. Hosts may share the folder, but not always its locks.
        """
        holder = read_holder(lease)
        if lease is None or holder.get("released"):
            return True
        is_here = holder.get("host") == socket.gethostname() and self._token_file.is_file()
        return is_here and holder.get("token") == self._token_file.read_text()

    def _read(self) -> Object | None:
        return self._store.retry(lambda: self._store.read(LEASE))

    def _refusal(self) -> InputError:
        holder = read_holder(self._read())
        return InputError(
            f"{self._store.uri} is being run on {holder.get('host')} by process "
            f"{holder.get('pid')}. Wait for it, or give this study another name (--name OTHER)"
        )


def read_holder(lease: Object | None) -> dict[str, Any]:
    """Return who holds a lease; {} if there is none."""
    return {} if lease is None else dict(json.loads(lease.content))


# Copy of a study on an object store, for reading it.


READ = (files.STUDY, files.PROVENANCE, files.PREDICTIONS, files.COSTS, files.TEACHER_ACCURACY)
"""Files that `load` and the report read, besides the records."""
SHORT_RETRY_TIMEOUT_SECONDS = 10.0
"""Failed requests of a driver that starts, and of a reader, are retried for this time: they have no
results to lose."""


def fetch(uri: str) -> tuple[Path, bool]:
    """Download what `load` reads of a study on an object store.

    Returns:
        A temporary folder, which is deleted when the process ends, and whether a driver runs the
        study: whether its lease was renewed lately, by the clock of this machine. Only what is
        shown depends on that; a driver that starts compares no clocks.

    Raises:
        InputError: The place cannot be read, or holds no study.
    """
    folder = _temporary_folder()
    with _reading(uri) as store:
        lease = store.retry(lambda: store.read(LEASE))
        teachers = [n for n in store.names(files.TEACHER) if n.endswith(f"/{files.TEACHER_RECORD}")]
        names = [*READ, *store.names(files.EPOCHS), *teachers, *store.names(files.THUMBNAILS)]
        store.get_all(names, folder)
    if not (folder / files.STUDY).exists():
        raise InputError(f"the place of a study must hold {files.STUDY}, but {uri} does not")
    if lease is None or read_holder(lease).get("released"):
        return folder, False
    return folder, time.time() - lease.modified < LEASE_TIMEOUT_SECONDS


def fetch_students(uri: str) -> tuple[Path, list[str]]:
    """Download students.json of a study on an object store.

    Returns:
        The folder students/ in a temporary copy of the study, and the names of all its files on
        the store, students/...; `fetch_file` downloads the others.

    Raises:
        InputError: The place cannot be read, or holds no students.
    """
    folder = _temporary_folder()
    with _reading(uri) as store:
        names = store.names(files.STUDENTS)
        store.get_all([f"{files.STUDENTS}/{files.STUDENTS_CONFIG}", files.PROVENANCE], folder)
    if not names:
        raise InputError(
            f"{uri} has no folder {files.STUDENTS}/, which is written when a study is complete; "
            f"give the place of a study, or repeat the study's command"
        )
    return folder / files.STUDENTS, names


def fetch_file(uri: str, name: str, folder: Path) -> None:
    """Download one file of a study on an object store into a folder, under the same name.

    Raises:
        InputError: The store cannot be read.
    """
    with _reading(uri) as store:
        store.get(name, folder / name)


def reach(uri: str) -> None:
    """Raise InputError, after a short time, if the place of a study cannot be read."""
    with _reading(uri) as store:
        store.names(files.EPOCHS)


@contextmanager
def _reading(uri: str) -> Iterator[Store]:
    """Yield the store of a study that is read; raise InputError if it cannot be read."""
    store = Store(uri, SHORT_RETRY_TIMEOUT_SECONDS)
    try:
        yield store
    except OSError as error:
        raise InputError(f"{uri} cannot be read ({first_line(error)})") from None


def _temporary_folder() -> Path:
    """Return a new folder that is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="kdtune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# Runs that are dropped from a study, and restored: records appended while no driver runs it.
#
# A dropped run stays in the records, counts in no table, and is not run again unless
# `--rerun-dropped` asks for it.


def mark_trials(
    place: str, drop: Sequence[str], restore: Sequence[str], reason: str | None = None
) -> None:
    """Drop runs of a study and restore dropped ones; all of them, or none if one is refused.

    Args:
        place: Folder of the study, or its URI on an object store.
        drop: Ids of the trials to drop.
        restore: Ids of dropped trials that count again, with the results that they had.
        reason: Why; recorded and shown with the runs.

    Raises:
        InputError: A driver runs the study, or a trial is not in a state to be dropped or restored.
    """
    marks: list[tuple[Mark, str]] = [("drop", trial) for trial in dict.fromkeys(drop)]
    marks += [("restore", trial) for trial in dict.fromkeys(restore)]
    with _hold(place) as (folder, mirror):
        started, dropped = _read_trials(folder)
        for kind, trial in marks:
            if trial not in started or (trial in dropped) == (kind == "drop"):
                hint = "" if trial in started else did_you_mean(trial, started, 0.0)
                state = "that is not dropped" if kind == "drop" else "that is dropped"
                raise InputError(
                    f"--{kind} must be the trial_id of a run of {place} {state}, but got "
                    f"{trial}{hint}"
                )
        with Records(folder) as records:
            for kind, trial in marks:
                records.mark(kind, started[trial], reason)
        mirror.push(files.EPOCHS)
        for trial in drop:  # a run that is dropped for a fault must not continue from its state
            (folder / files.TRIALS / trial / files.CHECKPOINT).unlink(missing_ok=True)
            mirror.delete(f"{files.TRIALS}/{trial}/{files.CHECKPOINT}")


@contextmanager
def _hold(place: str) -> Iterator[tuple[Path, Mirror]]:
    """Hold the lock of a study, on a store its lease; yield its folder with current records."""
    if "://" in place:
        copy, running = fetch(place)
        uri, mark, options = place.partition("?")
        out, _, name = uri.rstrip("/").rpartition("/")
        study = replace(read_study(copy), out=f"{out}{mark}{options}", name=name)
        folder = study.folder
    else:
        folder = Path(place).expanduser()
        study, running = read_study(folder), is_running(folder)
        if study.uri is not None and folder.resolve() == study.folder.resolve():
            raise InputError(f"{place} is a copy of {study.uri}; give that URI instead")
        study = replace(study, out=str(folder.resolve().parent), name=folder.resolve().name)
    if running:
        raise InputError(
            f"--drop and --restore need a study that is not running, but {place} is; wait for its "
            f"end, or stop it with Ctrl-C"
        )
    mirror = Mirror(study)
    with lock_study(folder), hold_lease(mirror):
        mirror.pull_folders(files.EPOCHS)
        yield folder, mirror


def _read_trials(folder: Path) -> tuple[dict[str, Line], set[str]]:
    """Return the last start of each trial by trial_id, and the trials that are dropped."""
    started: dict[str, Line] = {}
    dropped: set[str] = set()
    for line in read_lines(folder)[0]:
        if line["kind"] == "drop":
            dropped.add(line["trial_id"])
        elif line["kind"] in ("start", "restore"):
            dropped.discard(line["trial_id"])
        if line["kind"] == "start":
            started[line["trial_id"]] = line
    return started, dropped
