"""Content-addressed cache of tensors on disk, shared by all processes of a machine.

An entry is a safetensors file named by the hash of its key. It is written to a temporary file and
renamed, with its key and a checksum inside. The first process that needs an entry builds it and
holds the lock of its key; others wait. A process that waits for a builder that has died or hangs
builds the entry itself. An entry that cannot be read is built again, and one that cannot be written
is not kept, so the numbers are the same as without a cache.

Whoever may write an entry decides numbers of a study. So the folder must be this user's or root's,
and nobody else's to write, and an entry of another user counts as missing.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import atomic_write, cache_folder
from kdtune.config.owners import (
    StrangerError,
    distrust_of,
    make_folder,
    why_untrusted,
)
from kdtune.streams.entries import Tensors, checksum, read
from kdtune.streams.keys import KINDS, Key

Progress = Callable[[int, int], None]
"""progress(done, total): called by a builder regularly, which also shows that it is alive."""

HANG_SECONDS = 60.0
"""A builder without a heartbeat for so long is taken to hang."""

HEARTBEAT_SECONDS = 0.5

LOCK_SECONDS = 24 * 3600.0
"""Lock files that nobody has taken for so long are deleted."""


class _LargerThanCache(Exception):
    """The file of an entry is larger than the whole cache."""


class Building(NamedTuple):
    """An entry that is being built."""

    what: str
    """For people, for example "logits, repeat 3, epoch 7"."""
    done: int
    """Images so far."""
    total: int
    """Images of the whole entry."""


class Cache:
    """The cache in a folder.

    Args:
        folder: where the entries are; None for kdtune's folder in the user's cache folder.
        gigabytes: maximum size; the least recently used entries are deleted first. 0: no cache.
    """

    def __init__(self, folder: str | Path | None = None, gigabytes: float = 20.0):
        self.folder = Path(folder).expanduser() if folder else cache_folder()
        self.limit = int(gigabytes * 1e9)
        # bytes written since the size of the folder was last computed; the first write computes it
        self._uncounted = self.limit
        self._distrusted = False
        self.warning: str | None = None
        """Why an entry could not be written, in a sentence."""

    def get(self, key: Key, what: str, build: Callable[[Progress], Tensors]) -> Tensors:
        """Return the entry of this key, built by `build(progress)` if it is not there.

        Args:
            key: everything that the tensors depend on. A build may get entries of an earlier kind
                only, so that two builders never wait for each other.
            what: the entry in words, for the display of progress.
            build: returns the tensors, and calls progress(done, total) regularly.

        Returns:
            The tensors. If they come from the disk they are memory-mapped and copy-on-write.
        """
        if not self.limit:
            return build(lambda done, total: None)
        found = self.find(key)
        if found is not None:
            return found
        try:
            lock = self._lock(key)
        except OSError as error:  # the folder cannot be created, or has no locks
            self._warn(error)
            return build(lambda done, total: None)
        try:
            return self.find(key) or self._build(key, what, build)
        finally:
            if lock is not None:
                lock.release()

    def find(self, key: Key) -> Tensors | None:
        """Return the entry of this key, or None if it is not there; never wait, never build."""
        try:
            return read(self._path(key), key.text) if self.limit else None
        except StrangerError as error:
            self._distrust(error)
            return None

    def check(self) -> None:
        """Raise InputError if other users may change what is in the folder."""
        if self.limit and (found := distrust_of(self.folder)):
            raise InputError(
                f"the cache must be a folder that only you may write, but {found.why}, who could "
                f"change the logits that runs read; name another one (--cache FOLDER), or "
                f"{found.remedy}"
            )

    def strangers(self) -> str | None:
        """Return a sentence on entries that others own or may write; None if there are none."""
        found = []
        for path in self._entries():
            with suppress(FileNotFoundError):
                if why := why_untrusted(path.lstat()):
                    found.append(f"{path} {why}")
        if not self.limit or not found:
            return None
        return (
            f"{len(found)} entries of the cache are not used, but computed again, since others "
            f"could have made them up: {min(found)}"
        )

    def fault(self) -> str | None:
        """Return why nothing can be written, in a sentence; None if all is well or limit is 0."""
        if not self.limit:
            return None
        try:
            make_folder(self.folder)
            with TemporaryFile(dir=self.folder) as probe:
                probe.write(b"kdtune")
        except OSError as error:
            return self._sentence(error)
        return None

    def building(self) -> Iterator[Building]:
        """Yield what processes that are alive are building now."""
        for heartbeat in (self.folder / "building").glob("*.json"):
            with suppress(OSError, ValueError):
                if time.time() - heartbeat.stat().st_mtime < HANG_SECONDS:
                    yield Building(**json.loads(heartbeat.read_text()))

    def _path(self, key: Key) -> Path:
        return self.folder / key.kind / key.name[:2] / f"{key.name}.safetensors"

    def _lock(self, key: Key) -> FileLock | None:
        """Wait for the lock of this key and take it; return None if its holder hangs."""
        file = self.folder / "locks" / f"{key.kind}-{key.name}.lock"
        heartbeat, seen = self._heartbeat(key), 0.0
        last = time.monotonic()  # clocks may jump: only a change of the heartbeat's time counts
        make_folder(self.folder, file.parent.name)
        lock = FileLock(file, mode=0o644)
        while True:
            try:
                lock.acquire(timeout=1.0, poll_interval=0.02)
            except Timeout:
                # kept: a builder that writes its entry has removed its heartbeat
                with suppress(FileNotFoundError):
                    beat = heartbeat.stat().st_mtime
                    if beat != seen:
                        seen, last = beat, time.monotonic()
                if time.monotonic() - last > HANG_SECONDS:
                    return None
            else:
                with suppress(OSError):
                    os.utime(file)  # used now, so deleted late
                return lock

    def _heartbeat(self, key: Key) -> Path:
        return self.folder / "building" / f"{key.name}.json"

    def _build(self, key: Key, what: str, build: Callable[[Progress], Tensors]) -> Tensors:
        heartbeat = self._heartbeat(key)
        last = time.monotonic()  # a build that is shorter than a heartbeat needs no file

        def progress(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= HEARTBEAT_SECONDS:
                last = time.monotonic()
                with suppress(OSError):
                    make_folder(self.folder, heartbeat.parent.name)
                    heartbeat.write_text(json.dumps(Building(what, done, total)._asdict()))

        try:
            tensors = {name: value.contiguous() for name, value in build(progress).items()}
        finally:
            with suppress(OSError):
                heartbeat.unlink()
        try:
            self._write(key, tensors)
        except (OSError, SafetensorError) as error:  # the disk is full or read-only
            self._warn(error)
        return tensors

    def _write(self, key: Key, tensors: Tensors) -> None:
        size = sum(t.nbytes for t in tensors.values())
        if size > self.limit:
            return
        path = self._path(key)
        make_folder(self.folder, *path.parent.relative_to(self.folder).parts)
        with suppress(_LargerThanCache), atomic_write(path) as part:
            save_file(tensors, part, {"key": key.text, "crc": str(checksum(tensors))})
            if part.stat().st_size > self.limit:
                raise _LargerThanCache
        self._uncounted += size
        if self._uncounted > self.limit / 50:
            self._uncounted = 0
            self._evict()
            self._delete_old_locks()

    def _evict(self) -> None:
        """Delete the least recently used entries until the others fit the limit."""
        entries = []
        for path in self._entries():
            with suppress(FileNotFoundError):
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _entries(self) -> Iterator[Path]:
        """Yield files with names of entries; the user may keep other files in this folder."""
        for kind in KINDS:
            yield from (self.folder / kind).glob(f"??/{'[0-9a-f]' * 32}.*")

    def _delete_old_locks(self) -> None:
        """Delete lock files that nobody has taken for a day and nobody holds.

        A process that opens such a file while it is deleted locks nothing, so that two may build
        one entry. That costs time and changes no number.
        """
        for file in (self.folder / "locks").glob("*.lock"):
            with suppress(OSError, Timeout):
                if time.time() - file.stat().st_mtime > LOCK_SECONDS:
                    with FileLock(file, timeout=0, mode=0o644):
                        file.unlink(missing_ok=True)

    def _warn(self, error: Exception) -> None:
        if self.warning is None:
            self.warning = self._sentence(error)
            print(self.warning, file=sys.stderr)

    def _distrust(self, error: StrangerError) -> None:
        if not self._distrusted:
            self._distrusted = True
            print(f"the cache entry {error}, so it is computed again", file=sys.stderr)

    def _sentence(self, error: Exception) -> str:
        return (
            f"the cache folder {self.folder} cannot be written ({first_line(error)}), so every "
            f"run computes its own views, logits and features; --cache FOLDER names another "
            f"folder, --cache-gb 0 uses no cache"
        )
