"""A content-addressed cache of tensors on disk, shared by all processes of a machine.

An entry is a safetensors file named by the hash of its key, written aside and renamed, with the
key and a checksum in it. The first who needs it builds it under a file lock while others wait; who
waits for a builder that died or stands still builds it itself. Whatever fails to be read is built
again, whatever fails to be written is only not kept: the numbers are the same with no cache at all.
"""

import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdtune.config.files import cache_folder

Tensors = dict[str, Tensor]


Key = Mapping[str, str | int | float | bool | None]


Tick = Callable[[int, int], None]
"""tick(done, total): the builder is alive, and so far."""


STUCK_SECONDS = 60.0
"""A builder that has not ticked for so long is taken for dead."""


LOCKS = 256
"""Lock files a kind of entry: a fixed number, since one that is deleted locks nothing."""


BEAT_SECONDS = 0.5


FORMAT = 2
"""What an entry holds; where that changes, entries made before are not found."""


KINDS = ("views", "logits", "features")
"""A builder may ask for entries of an earlier kind."""


class Cache:
    """The cache in a folder.

    Args:
        folder: where; None for `cache_folder()`.
        gigabytes: how much it may hold; the least recently used entries go first. 0: no cache.
    """

    def __init__(self, folder: str | Path | None = None, gigabytes: float = 20.0):
        self.folder = Path(folder).expanduser() if folder else cache_folder()
        self.limit = int(gigabytes * 1e9)
        self._unscanned = self.limit  # the first write looks at what is there
        self._complained = False

    def get(self, kind: str, key: Key, what: str, build: Callable[[Tick], Tensors]) -> Tensors:
        """The entry of this key, built by `build(tick)` where it is not there.

        Args:
            kind: "views", "logits", "features": a build may get entries of an earlier kind only,
                so that two builders never wait for each other.
            key: all that the tensors depend on.
            what: for whoever watches, e.g. "teacher logits, repeat 3, epoch 7".
            build: makes the tensors; calls tick(done, total) now and then.

        Returns:
            The tensors; memory-mapped and copy-on-write where they come from the disk.
        """
        if not self.limit:
            return build(lambda done, total: None)
        path, text = self._place(kind, key)
        found = read(path, text)
        if found is not None:
            return found
        try:
            lock = self._turn(kind, path.stem)
        except OSError as error:  # a folder that cannot be made or locked
            self._complain(error)
            return build(lambda done, total: None)
        try:
            return read(path, text) or self._build(path, text, what, build)
        finally:
            if lock is not None:
                lock.release()

    def find(self, kind: str, key: Key) -> Tensors | None:
        """The entry of this key where it is there: nothing is waited for, nothing built."""
        return read(*self._place(kind, key)) if self.limit else None

    def _place(self, kind: str, key: Key) -> tuple[Path, str]:
        text = json.dumps({"format": FORMAT, "kind": kind, **key}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self.folder / kind / name[:2] / f"{name}.safetensors", text

    def fault(self) -> str | None:
        """Why nothing can be kept, in a sentence; None where all is well or no cache is wanted."""
        if not self.limit:
            return None
        probe = self.folder / f"{os.getpid()}.probe"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_text("kdtune")
            probe.unlink()
        except OSError as error:
            return self._sentence(error)
        return None

    def building(self) -> Iterator[tuple[str, int, int]]:
        """What is being built now: (what, done, total) of each builder that is alive."""
        for beat in (self.folder / "building").glob("*.json"):
            with suppress(OSError, ValueError):
                if time.time() - beat.stat().st_mtime < STUCK_SECONDS:
                    values = json.loads(beat.read_text())
                    yield values["what"], values["done"], values["total"]

    def _turn(self, kind: str, name: str) -> FileLock | None:
        """Wait for and take the entry's lock; None where its holder stands still here."""
        file = self.folder / "locks" / f"{kind}-{int(name[:8], 16) % LOCKS:03d}.lock"
        waited_since = time.time()
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file)
        while True:
            try:
                lock.acquire(timeout=1.0, poll_interval=0.02)
                return lock
            except Timeout:
                last = waited_since
                with suppress(FileNotFoundError):
                    last = max(last, self._beat(name).stat().st_mtime)
                if time.time() - last > STUCK_SECONDS:
                    return None

    def _beat(self, name: str) -> Path:
        return self.folder / "building" / f"{name}.json"

    def _build(self, path: Path, text: str, what: str, build: Callable[[Tick], Tensors]) -> Tensors:
        beat = self._beat(path.stem)
        last = time.time()  # what takes less than a beat is worth no file

        def tick(done: int, total: int) -> None:
            nonlocal last
            if time.time() - last >= BEAT_SECONDS:
                last = time.time()
                with suppress(OSError):
                    beat.parent.mkdir(exist_ok=True)
                    beat.write_text(json.dumps({"what": what, "done": done, "total": total}))

        try:
            tensors = {name: value.contiguous() for name, value in build(tick).items()}
        finally:
            with suppress(OSError):
                beat.unlink()
        try:
            self._write(path, text, tensors)
        except (OSError, SafetensorError) as error:  # full or read-only
            self._complain(error)
        return tensors

    def _write(self, path: Path, text: str, tensors: Tensors) -> None:
        size = sum(t.nbytes for t in tensors.values())
        if size > self.limit:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file(tensors, aside, {"key": text, "crc": str(checksum(tensors))})
            if aside.stat().st_size > self.limit:
                return
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        self._unscanned += size
        if self._unscanned > self.limit / 50:
            self._unscanned = 0
            self._evict()

    def _evict(self) -> None:
        entries = []
        # only what has our names: the folder may be the user's own
        files = (f for kind in KINDS for f in (self.folder / kind).glob(f"??/{'[0-9a-f]' * 32}.*"))
        for path in files:
            with suppress(FileNotFoundError):
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            print(self._sentence(error), file=sys.stderr)

    def _sentence(self, error: Exception) -> str:
        return (
            f"streams are not kept, every run makes its own: the cache folder {self.folder} "
            f"cannot be written ({error}); --cache FOLDER names another, --cache-gb 0 none"
        )


def read(path: Path, text: str) -> Tensors | None:
    """The tensors of the file if it is whole and has this key, else None."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    if metadata.get("key") != text or metadata.get("crc") != str(checksum(tensors)):
        return None
    with suppress(OSError):
        os.utime(path)  # used now, so evicted late
    return tensors


def checksum(tensors: Tensors) -> int:
    """CRC-32 over names, types, shapes and bytes."""
    crc = 0
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
