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
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from kdtune.config.files import (
    CHECKPOINT,
    COSTS,
    EPOCHS,
    PREDICTIONS,
    PREVIOUS_STATE,
    PROVENANCE,
    STUDENTS,
    STUDENTS_CONFIG,
    STUDY,
    TEACHER,
    TEACHER_ACCURACY,
    TEACHER_RECORD,
    THUMBNAILS,
    TRIALS,
    delete_states,
)
from kdtune.config.study import Study
from kdtune.config.text import InputError, LeaseLostError, first_line
from kdtune.storage.folder import lock_study
from kdtune.storage.records import Line, Mark, Records, is_running, read_lines, read_study
from kdtune.storage.store import (
    BULK_BYTES,
    SHORT_RETRY_TIMEOUT_SECONDS,
    ConflictError,
    Object,
    Store,
    Version,
)

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
            files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
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


# Lease that lets one driver at a time write to a study on an object store.
#
# A store has no locks. The lease is an object that its holder renews every few seconds; one that
# is not renewed for LEASE_TIMEOUT_SECONDS has expired. Creating, renewing, taking over and
# releasing it are conditional writes, so of several drivers that try at once the store lets exactly
# one through. A driver that has not renewed its lease lately (cut off, suspended) does so before it
# writes anything else, and stops if it fails.


LEASE = "driver.json"
"""Name of the lease on the store: a JSON object that says who runs the study."""
LEASE_TIMEOUT_SECONDS = 30.0
"""A lease that is not renewed for this time has expired."""
RENEW_SECONDS = LEASE_TIMEOUT_SECONDS / 3
"""Time between two renewals."""
POLL_SECONDS = 1.0
"""Time between two reads of another driver's lease."""
RELEASE_SECONDS = 3.0
"""Its holder deletes a lease that it has marked as released within this time, or not at all."""
TOKEN = uuid.uuid4().hex
"""Of this process. Hosts and containers may have names and process numbers in common."""

Holder = dict[str, Any]


@contextmanager
def hold_lease(mirror: Mirror) -> Iterator[None]:
    """Hold the lease of a study on an object store; do nothing for a study in a folder.

    After the lease is lost nothing more is written to the store, and the mirror's `check` and
    `push` raise LeaseLostError.

    Raises:
        InputError: Another driver holds the lease, or the store has no conditional writes.
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
        # another driver's lease stays; one that cannot be deleted now expires
        with suppress(LeaseLostError, OSError):
            lease.release()


class Lease:
    """This process's lease of a study."""

    def __init__(self, mirror: Mirror, store: Store):
        self.mirror, self._store = mirror, store
        self._renewals = 0
        self._renewed = 0.0
        self._version: dict[str, str] | None = None
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """Create the lease, or take over one that has expired.

        Raises:
            InputError: Another driver holds the lease, or the store has no conditional writes.
            OSError: The store does not answer.
        """
        if self._store.uri.startswith("file:"):
            raise InputError(
                f"{self._store.uri} has no conditional writes. Give the folder by its path instead "
                f"(--out FOLDER)"
            )
        self._version = self._wait_for_expiry()
        self.mirror.lost = None
        try:
            self._store.retry(self._write)
        except ConflictError:
            present = self._read()
            if present is None or not _is_ours(read_holder(present)):
                raise self._refusal(present) from None
            self._version = present.version  # a write whose answer was lost
        self._check_conditional_writes()

    def renew(self) -> None:
        """Renew the lease.

        Raises:
            LeaseLostError: Another driver has taken over the lease, or it was deleted.
            OSError: The store does not answer.
        """
        with self._lock:
            self.mirror.check()
            self._overwrite()

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
        """Delete the lease; that of another driver stays.

        Deleting cannot be made conditional. So the lease is first marked as released, by a
        conditional write; others wait a moment before they take over a marked lease.

        Raises:
            LeaseLostError: Another driver has taken over the lease, or it was deleted.
            OSError: The store does not answer.
        """
        with self._lock:
            self.mirror.check()
            self._store.retry(lambda: self._overwrite(released=True))
            self._store.guard = lambda: None  # which might renew the lease
            # never later, and never again: a late deletion would be that of a successor's lease
            if 0 <= time.time() - self._renewed < RELEASE_SECONDS:
                self._store.delete_once(LEASE)

    def _overwrite(self, **state: bool) -> None:
        """Write the lease over this driver's own; raise LeaseLostError if there is none."""
        while True:
            try:
                return self._write(**state)
            except ConflictError:
                present = self._store.read(LEASE)
            holder = read_holder(present)
            if present is None:
                self.mirror.lost = (
                    f"the lease of this driver on {self._store.uri} is gone: another driver has "
                    f"run the study meanwhile, or {LEASE} was deleted. The same command resumes "
                    f"the study"
                )
                raise LeaseLostError(self.mirror.lost)
            if not _is_ours(holder):
                self.mirror.lost = (
                    f"{self._store.uri} was taken over by process {holder.get('pid')} on "
                    f"{holder.get('host')} while this driver was cut off. The study continues there"
                )
                raise LeaseLostError(self.mirror.lost)
            self._version = present.version  # an earlier write whose answer was lost

    def _write(self, **state: bool) -> None:
        now = time.time()
        self._renewals += 1  # no two contents are equal, so no two ETags are
        holder = _this_process() | {"time": now, "renewals": self._renewals} | state
        content = json.dumps(holder).encode()
        self._version = self._store.write_if(self._version, content, LEASE)
        self._renewed = now

    def _read(self) -> Object | None:
        return self._store.retry(lambda: self._store.read(LEASE))

    def _wait_for_expiry(self) -> dict[str, str] | None:
        """Return the version of the lease that is there, once it has expired; None if none is.

        A lease has expired if it does not change for the timeout by this machine's monotonic
        clock. The clocks of two machines are never compared.
        """
        present, began = self._read(), time.monotonic()
        while present is not None:
            holder = read_holder(present)
            timeout = RELEASE_SECONDS if holder.get("released") else LEASE_TIMEOUT_SECONDS
            if _is_abandoned(holder) or time.monotonic() - began >= timeout:
                return present.version
            time.sleep(POLL_SECONDS)
            before, present = present, self._read()
            if present is not None and present.version != before.version:
                if not read_holder(present).get("released"):
                    raise self._refusal(present)
                began = time.monotonic()
        return None

    def _refusal(self, present: Object | None) -> InputError:
        holder = read_holder(present)
        return InputError(
            f"{self._store.uri} is being run on {holder.get('host')} by process "
            f"{holder.get('pid')}. Wait for it, or give this study another name (--name OTHER)"
        )

    def _check_conditional_writes(self) -> None:
        """Raise InputError if the store overwrites an object that may only be created."""

        def attempt() -> None:
            present = self._store.read(LEASE)
            if present is not None:
                with suppress(ConflictError):
                    self._store.write_if(None, present.content, LEASE)
                    self._store.delete_once(LEASE)
                    raise InputError(
                        f"{self._store.uri} ignores conditional writes (If-None-Match), which keep "
                        f"two drivers apart. Use another store, or a shared folder"
                    )

        self._store.retry(attempt)


def _this_process() -> Holder:
    """Return who this process is, for other drivers and for its users."""
    names = {"host": socket.gethostname(), "pid": os.getpid(), "token": TOKEN}
    with suppress(OSError):  # Linux only
        names |= {"boot": _boot(), "started": _started(os.getpid())}
    return names


def _is_abandoned(holder: Holder) -> bool:
    """Return True if the holder was a process of this machine that has provably ended.

    The machine is the same if it is the same boot of a kernel and the same namespace of process
    numbers: containers and clones can have one host name, and processes one number.
    """
    if _is_ours(holder):
        return True  # this process could not release it
    try:
        if holder.get("boot") != _boot() or holder.get("host") != socket.gethostname():
            return False
        os.kill(int(holder["pid"]), 0)
        return _started(int(holder["pid"])) != str(holder["started"])
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, ValueError):  # a process of another user, or no Linux
        return False


def _boot() -> str:
    """Return what identifies a boot of this machine and a namespace of process numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the boot; "" if it has ended."""
    # the second field, in parentheses, may hold spaces: count from its end
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def read_holder(lease: Object | None) -> Holder:
    """Return who holds a lease; {} if there is none, or its content is no JSON object."""
    try:
        holder = json.loads("{}" if lease is None else lease.content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_ours(holder: Holder) -> bool:
    return (holder.get("pid"), holder.get("token")) == (os.getpid(), TOKEN)


# Copy of a study on an object store, for reading it.


READ = (STUDY, PROVENANCE, PREDICTIONS, COSTS, TEACHER_ACCURACY)
"""Files that `load` and the report read, besides the records."""


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
        teachers = [n for n in store.names(TEACHER) if n.endswith(f"/{TEACHER_RECORD}")]
        names = [*READ, *store.names(EPOCHS), *teachers, *store.names(THUMBNAILS)]
        store.get_all(names, folder)
    if not (folder / STUDY).exists():
        raise InputError(f"the place of a study must hold {STUDY}, but {uri} does not")
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
        names = store.names(STUDENTS)
        store.get_all([f"{STUDENTS}/{STUDENTS_CONFIG}", PROVENANCE], folder)
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
    with _reading(uri) as store:
        store.get(name, folder / name)


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
    wanted: dict[Mark, list[str]] = {
        "drop": list(dict.fromkeys(drop)),
        "restore": list(dict.fromkeys(restore)),
    }
    if both := set(drop) & set(restore):
        raise InputError(
            f"--drop and --restore must name different runs, but both name {min(both)}"
        )
    with _hold(place) as (folder, mirror):
        started, dropped = _read_trials(folder)
        for kind, trials in wanted.items():
            for trial in trials:
                _check(kind, trial, started, dropped, place)
        with Records(folder) as records:
            for kind, trials in wanted.items():
                for trial in trials:
                    records.mark(kind, started[trial], reason)
        mirror.push(EPOCHS)
        for trial in drop:  # a run that is dropped for a fault must not continue from its state
            delete_states(folder / TRIALS / trial / CHECKPOINT)
            mirror.delete(f"{TRIALS}/{trial}/{CHECKPOINT}")


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
        mirror.pull_folders(EPOCHS)
        yield folder, mirror


def _read_trials(folder: Path) -> tuple[dict[str, Line], list[str]]:
    """Return the last start of each trial by trial_id, and the trials that are dropped."""
    started, dropped = {}, {}
    for line in read_lines(folder)[0]:
        if line["kind"] == "start":
            started[line["trial_id"]] = line
        if line["kind"] == "drop":
            dropped[line["trial_id"]] = line
        elif line["kind"] in ("start", "restore"):
            dropped.pop(line["trial_id"], None)
    return started, list(dropped)


def _check(
    kind: Mark, trial: str, started: dict[str, Line], dropped: list[str], place: str
) -> None:
    """Raise InputError unless a trial is in a state to be dropped or restored."""
    if trial not in started:
        near = get_close_matches(trial, started, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"--{kind} must be the trial_id of runs of {place}, but got {trial}{hint}")
    if kind == "drop" and trial in dropped:
        raise InputError(
            f"--drop must be runs that are not dropped yet, but got {trial}; --restore {trial} "
            f"undoes it"
        )
    if kind == "restore" and trial not in dropped:
        names = ", ".join(dropped) or "there are none"
        raise InputError(f"--restore must be dropped runs ({names}), but got {trial}")
