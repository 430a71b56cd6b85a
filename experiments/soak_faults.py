"""The faults of a soak: one function each, in one table. A new fault is one more entry."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from soak_damage import (
    append_garbage,
    cut_last_line,
    damage_line,
    damage_tables,
    delete_trial_folder,
    delete_working_folder,
    empty_cache,
    flip_checkpoint,
    truncate_cache_entry,
    truncate_checkpoint,
)
from soak_places import WORKERS, OnHosts, OnStore
from soak_processes import end, send
from soak_studies import PLACES, Scene, said_by

Moment = Literal["running", "stopped", "complete"]
"""When a fault comes: while the driver runs; between two calls; when the study is complete, before
the same command is given once more."""
REFUSED = 2
"""Exit code of a driver that is refused."""


class Broken(Exception):
    """What a fault has shown to be wrong, in a sentence."""


class Fault(NamedTuple):
    """A fault."""

    inject: Callable[[Scene, Random], str | None]
    """Does it, and returns what was hit; None if there was nothing to hit."""
    moment: Moment = "running"
    places: tuple[str, ...] = PLACES
    needs_disk: bool = False
    """Whether the study must have a small disk of its own."""


def _to_driver(number: signal.Signals) -> Callable[[Scene, Random], str | None]:
    """Return the fault that sends a signal to the driver, as a terminal does to its group."""

    def inject(scene: Scene, rng: Random) -> str | None:
        pid, whole = scene.driver_pid, number in (signal.SIGINT, signal.SIGHUP)
        with suppress(ProcessLookupError):
            if whole and os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
            return f"driver {pid}"
        return None

    return inject


WORKER = r"ray::(?!\w*Agent)"
"""Title of Ray's workers; its agents have similar ones."""


def _kill(name: str) -> Callable[[Scene, Random], str | None]:
    """Return the fault that kills one of Ray's processes, by a pattern of its command."""

    def inject(scene: Scene, rng: Random) -> str | None:
        found = scene.processes(name)
        if not found:
            return None
        hit = rng.choice(found)
        return f"{hit.command[:60]} {hit.pid}" if send(hit.pid, signal.SIGKILL) else None

    return inject


def _freeze_worker(scene: Scene, rng: Random) -> str | None:
    found = scene.processes(WORKER)
    return _freeze(rng.choice(found).pid, rng.uniform(2, 10), "worker") if found else None


def _freeze_driver(scene: Scene, rng: Random) -> str | None:
    hit = _freeze(scene.driver_pid, rng.uniform(2, 12), "driver")
    assert scene.driver is not None
    send(scene.driver.pid, signal.SIGCONT)  # of a host: nsenter suspends itself with its child
    return hit


def _freeze(pid: int, seconds: float, what: str) -> str | None:
    if not send(pid, signal.SIGSTOP):
        return None
    time.sleep(seconds)
    send(pid, signal.SIGCONT)
    return f"{what} {pid} for {seconds:.1f} s"


def _start_second_driver(scene: Scene, rng: Random) -> str | None:
    """Start the same command; of a store as from another machine, with a folder of its own."""
    log = scene.home / f"second-{scene.calls:02d}-{rng.randrange(1000)}.log"
    other = {"XDG_CACHE_HOME": str(scene.home / "other machine")}
    own = scene.environment | (other if scene.place == "s3" else {})
    second, until = scene.start(log, own), time.monotonic() + 120
    while second.poll() is None and scene.is_running and time.monotonic() < until:
        time.sleep(0.2)
    if second.poll() is None:
        second.kill()
        second.wait()
        if scene.is_running:
            raise Broken(f"a second driver is not refused in 120 s: {log}")
        return "the first driver ended meanwhile"
    if second.returncode != REFUSED and scene.is_running:
        raise Broken(f"a second driver ends with exit code {second.returncode}: {log}")
    return said_by(log).strip()[-200:]


def _fill_cache(scene: Scene, rng: Random) -> str | None:
    return _fill(scene.cache, rng.uniform(2, 8))


def _fill_study(scene: Scene, rng: Random) -> str | None:
    return _fill(scene.folder.parent, rng.uniform(2, 8))


def _fill(place: Path, seconds: float) -> str:
    """Fill the disk of a folder for some seconds."""
    filler = place / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        time.sleep(seconds)
    finally:
        filler.unlink(missing_ok=True)
    return f"{place.name} for {seconds:.1f} s"


def _freeze_store(scene: Scene, rng: Random) -> str | None:
    assert isinstance(scene, OnStore)
    return _freeze(scene.service.moto.process.pid, rng.uniform(5, 20), "moto")


def _restart_store(scene: Scene, rng: Random) -> str | None:
    """Let the store go away and come back."""
    assert isinstance(scene, OnStore)
    return _for_a_while(rng.uniform(1, 15), scene.service.relay.down, scene.service.relay.up)


def _cycle_power(scene: Scene, rng: Random) -> str | None:
    assert isinstance(scene, OnHosts)
    name, hosts = rng.choice(WORKERS), scene.lab.hosts
    cut, mend = partial(hosts.off, name), partial(hosts.on, name)
    return f"{name} {_for_a_while(rng.uniform(1, 10), cut, mend)}"


def _cut_cable(scene: Scene, rng: Random) -> str | None:
    assert isinstance(scene, OnHosts)
    name, hosts = rng.choice(WORKERS), scene.lab.hosts
    cut, mend = partial(hosts.cut, name), partial(hosts.plug, name)
    return f"{name} {_for_a_while(rng.uniform(2, 45), cut, mend)}"


def _for_a_while(seconds: float, begin: Callable[[], None], end: Callable[[], None]) -> str:
    """Begin a fault, end it after some seconds, and return how long it was."""
    begin()
    try:
        time.sleep(seconds)
    finally:
        end()
    return f"for {seconds:.1f} s"


HERE = ("folder", "s3")
FAULTS: dict[str, Fault] = {
    "driver killed": Fault(_to_driver(signal.SIGKILL)),
    "worker killed": Fault(_kill(WORKER)),
    "raylet killed": Fault(_kill("raylet/raylet$"), places=HERE),
    "gcs_server killed": Fault(_kill("gcs_server$"), places=HERE),
    "worker frozen": Fault(_freeze_worker),
    "driver frozen": Fault(_freeze_driver),
    "Ctrl-C": Fault(_to_driver(signal.SIGINT)),
    "SIGTERM": Fault(_to_driver(signal.SIGTERM)),
    "terminal closed (SIGHUP)": Fault(_to_driver(signal.SIGHUP)),
    "second driver": Fault(_start_second_driver),
    "cache emptied": Fault(empty_cache, places=HERE),
    "cache entry truncated": Fault(truncate_cache_entry, places=HERE),
    "cache's disk full": Fault(_fill_cache, places=("folder",), needs_disk=True),
    "study's disk full": Fault(_fill_study, places=("folder",), needs_disk=True),
    "store frozen": Fault(_freeze_store, places=("s3",)),
    "store restarted": Fault(_restart_store, places=("s3",)),
    "host powered off and on": Fault(_cycle_power, places=("hosts",)),
    "host's cable cut": Fault(_cut_cable, places=("hosts",)),
    "checkpoint truncated": Fault(truncate_checkpoint, "stopped", ("folder", "hosts")),
    "bit of checkpoint flipped": Fault(flip_checkpoint, "stopped", ("folder", "hosts")),
    "trial's folder deleted": Fault(delete_trial_folder, "stopped", ("folder", "hosts")),
    "working folder deleted": Fault(delete_working_folder, "stopped", ("s3",)),
    "garbage in records": Fault(append_garbage, "stopped", ("folder", "hosts")),
    "record cut": Fault(cut_last_line, "stopped", ("folder", "hosts")),
    "record damaged": Fault(damage_line, "stopped", ("folder", "hosts")),
    "table damaged": Fault(damage_tables, "complete", ("folder", "hosts")),
}
ENDING = ("driver killed", "Ctrl-C", "SIGTERM", "terminal closed (SIGHUP)")
"""Faults that end a driver, for those that come between two calls."""


def applicable(place: str, has_root: bool) -> list[str]:
    """Return the faults that a study at this place may meet."""
    return [
        name
        for name, fault in FAULTS.items()
        if place in fault.places and (has_root or not fault.needs_disk)
    ]


def stop(scene: Scene) -> None:
    """Kill the driver, and what is left of its Ray."""
    if scene.is_running:
        _to_driver(signal.SIGKILL)(scene, Random(0))
        assert scene.driver is not None
        scene.driver.wait()
    end(scene.leftovers())
