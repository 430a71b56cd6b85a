"""Who drives a study on a store: one process at a time, by a claim there that it keeps renewing.

A store has no locks. A claim that stands still for LEASE_TIMEOUT_SECONDS is void, whoever's it was. So a
driver that has not renewed its own of late, cut off or suspended, asks whose the place is before it
writes anything: two that write records do so under the same names.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write
from kdtune.storage.mirror import Mirror
from kdtune.storage.object_store import DRIVER, LEASE_TIMEOUT_SECONDS, Store

BEAT_SECONDS = LEASE_TIMEOUT_SECONDS / 3
"""A driver renews its claim so often."""
TOKEN = uuid.uuid4().hex
"""Of this process: containers may have host name and process number in common."""


@contextmanager
def hold_lease(mirror: Mirror) -> Iterator[None]:
    """Hold the study's place on its store.

    Raises InputError where another driver renews its own claim. If another takes the place
    meanwhile, nothing more is written, and the mirror's `check` raises it.
    """
    store = mirror.store
    if store is None:
        yield
        return
    _await_silence(mirror, store)
    claim = Lease(mirror, store)
    store.retry(claim.take)
    store.guard = claim.guard
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(claim, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        with suppress(InputError):  # what is another's stays
            mirror.drop(DRIVER)


class Lease:
    """This process's claim to a study's place."""

    def __init__(self, mirror: Mirror, store: Store):
        self.mirror, self._store = mirror, store
        # a try that is repeated through an outage might overwrite who came meanwhile
        self._hasty = store.without_retries()
        self._file = mirror.folder / DRIVER
        self._renewed = 0.0
        self._turn = threading.Lock()

    def take(self) -> None:
        """Write the claim, over one that is void; raises OSError."""
        with self._turn:
            self.mirror.lost = None
            self._write()

    def renew(self) -> None:
        """Write the claim again if it is still there; raises InputError if not, and OSError."""
        with self._turn:
            self.mirror.check()
            there = self._hasty.get(DRIVER, self._file)
            claim = json.loads(self._file.read_text()) if there else None
            if not _is_ours(claim):
                self.mirror.lost = _loss(self._store.uri, claim)
            self.mirror.check()
            self._write()

    def guard(self) -> None:
        """Raise InputError where the place is another's; the store is asked if it may be."""
        self.mirror.check()
        # half of the time, since what is written now takes some, too; no clock that stops in sleep
        if not 0 <= time.time() - self._renewed < LEASE_TIMEOUT_SECONDS / 2:
            self._store.retry(self.renew)

    def _write(self) -> None:
        now = time.time()
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "token": TOKEN, "time": now}
        with atomic_write(self._file) as aside:
            aside.write_text(json.dumps(mine))
        self._hasty.put(self._file, DRIVER)
        self._renewed = now


def _beat(claim: Lease, over: threading.Event) -> None:
    """Renew the claim until it is over, or another's."""
    while not over.wait(BEAT_SECONDS):
        try:
            claim.renew()
        except OSError:
            continue  # an outage: the next beat may get through
        except InputError:
            return  # the main thread meets it at its next tick


def _await_silence(mirror: Mirror, store: Store) -> None:
    """Wait until the claim that is there is void."""
    file = mirror.folder / DRIVER
    mirror.pull(DRIVER)
    first = file.read_text() if file.exists() else None
    until = time.monotonic() + LEASE_TIMEOUT_SECONDS
    while file.exists() and time.monotonic() < until and not _is_dead(first):
        time.sleep(1.0)
        mirror.pull(DRIVER)
        if file.exists() and file.read_text() != first:
            other = json.loads(file.read_text())
            raise InputError(
                f"{store.uri} is being run on {other['host']} by process {other['pid']}; "
                f"wait for it, or give --name OTHER"
            )


def _is_dead(text: str | None) -> bool:
    """Whether the claim is that of a process of this machine that is no more, or of this one."""
    claim = json.loads(text or "{}")
    if claim.get("host") != socket.gethostname():
        return False
    try:
        os.kill(claim["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's: who knows
        return False
    return _is_ours(claim)


def _is_ours(claim: dict[str, Any] | None) -> bool:
    return claim is not None and (claim.get("pid"), claim.get("token")) == (os.getpid(), TOKEN)


def _loss(uri: str, claim: dict[str, Any] | None) -> str:
    """How a place was lost."""
    if claim is None:
        return (
            f"{uri} is this driver's no more: another has run the study meanwhile, or its "
            f"{DRIVER} was deleted; the same command goes on"
        )
    return (
        f"{uri} was taken over by process {claim['pid']} on {claim['host']} while this driver was "
        f"cut off; the study goes on there"
    )
