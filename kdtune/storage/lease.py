"""Lease that lets one driver at a time write to a study on an object store.

A store has no locks. The lease is an object that its holder renews every few seconds; one that is
not renewed for LEASE_TIMEOUT_SECONDS has expired. Creating, renewing, taking over and releasing it
are conditional writes, so of several drivers that try at once the store lets exactly one through.
A driver that has not renewed its lease lately (cut off, suspended) does so before it writes
anything else, and stops if it fails.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdtune.config.errors import InputError, LeaseLostError
from kdtune.storage.mirror import Mirror
from kdtune.storage.object_store import ConflictError, Object, Store

LEASE = "driver.json"
"""Name of the lease on the store: a JSON object that says who runs the study."""
LEASE_TIMEOUT_SECONDS = 30.0
"""A lease that is not renewed for this time has expired."""
RENEW_SECONDS = LEASE_TIMEOUT_SECONDS / 3
"""Time between two renewals."""
POLL_SECONDS = 1.0
"""Time between two reads of another driver's lease."""
RELEASE_SECONDS = 3.0
"""Its holder needs at most this time to delete a lease that it has marked as released."""
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
    heartbeat = threading.Thread(target=_keep_renewing, args=(lease, ended), daemon=True)
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
            found = self._read()
            if found is None or not _is_ours(read_holder(found)):
                raise self._refusal(found) from None
            self._version = found.version  # a write whose answer was lost
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
            self._store.delete(LEASE)

    def _overwrite(self, **state: bool) -> None:
        """Write the lease over this driver's own; raise LeaseLostError if there is none."""
        while True:
            try:
                return self._write(**state)
            except ConflictError:
                found = self._store.read(LEASE)
            if found is None or not _is_ours(read_holder(found)):
                self.mirror.lost = _loss(self._store.uri, found)
                raise LeaseLostError(self.mirror.lost)
            self._version = found.version  # an earlier write whose answer was lost

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
        found, began = self._read(), time.monotonic()
        while found is not None:
            holder = read_holder(found)
            timeout = RELEASE_SECONDS if holder.get("released") else LEASE_TIMEOUT_SECONDS
            if _is_abandoned(holder) or time.monotonic() - began >= timeout:
                return found.version
            time.sleep(POLL_SECONDS)
            before, found = found, self._read()
            if found is not None and found.version != before.version:
                if not read_holder(found).get("released"):
                    raise self._refusal(found)
                began = time.monotonic()
        return None

    def _refusal(self, found: Object | None) -> InputError:
        holder = {} if found is None else read_holder(found)
        return InputError(
            f"{self._store.uri} is being run on {holder.get('host')} by process "
            f"{holder.get('pid')}. Wait for it, or give this study another name (--name OTHER)"
        )

    def _check_conditional_writes(self) -> None:
        """Raise InputError if the store overwrites an object that may only be created."""

        def attempt() -> None:
            found = self._store.read(LEASE)
            if found is not None:
                with suppress(ConflictError):
                    self._store.write_if(None, found.content, LEASE)
                    self._store.delete(LEASE)
                    raise InputError(
                        f"{self._store.uri} ignores conditional writes (If-None-Match), which keep "
                        f"two drivers apart. Use another store, or a shared folder"
                    )

        self._store.retry(attempt)


def _keep_renewing(lease: Lease, ended: threading.Event) -> None:
    """Renew the lease until the driver ends or has lost it."""
    while not ended.wait(RENEW_SECONDS):
        try:
            lease.renew()
        except LeaseLostError:
            return  # the main thread raises it at its next tick
        except OSError:
            continue  # an outage: the next renewal may get through


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


def read_holder(found: Object) -> Holder:
    """Return who holds a lease; an empty dictionary if its content is no JSON object."""
    try:
        holder = json.loads(found.content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_ours(holder: Holder) -> bool:
    return (holder.get("pid"), holder.get("token")) == (os.getpid(), TOKEN)


def _loss(uri: str, found: Object | None) -> str:
    """Return how the lease was lost, in a sentence."""
    if found is None:
        return (
            f"the lease of this driver on {uri} is gone: another driver has run the study "
            f"meanwhile, or {LEASE} was deleted. The same command resumes the study"
        )
    holder = read_holder(found)
    return (
        f"{uri} was taken over by process {holder.get('pid')} on {holder.get('host')} while this "
        f"driver was cut off. The study continues there"
    )
