"""The faults of a soak: one function each, in one table. A new fault is one more entry."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from soak_comparison import told
from soak_processes import end, send
from soak_studies import PLACES, Scene, said_by

from kdtune.config.files import CHECKPOINT
from kdtune.storage.records import Line, read_lines

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
    return _freeze(scene.driver_pid, rng.uniform(2, 12), "driver")


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


def _empty_cache(scene: Scene, rng: Random) -> str | None:
    entries = list(scene.cache.iterdir())
    for entry in entries:
        shutil.rmtree(entry, ignore_errors=True)
    return f"{len(entries)} folders" if entries else None


def _truncate_cache_entry(scene: Scene, rng: Random) -> str | None:
    entries = sorted(scene.cache.rglob("*.safetensors"))
    return _truncate(rng.choice(entries), rng) if entries else None


def _truncate(file: Path, rng: Random) -> str | None:
    """Cut a file as a crash of the machine does; those who have mapped the old one keep it."""
    with suppress(FileNotFoundError):
        content = file.read_bytes()
        size = rng.randrange(len(content)) if content else 0
        _replace(file, content[:size])
        return f"{file.name} to {size} of {len(content)} bytes"
    return None


def _flip(file: Path, rng: Random) -> str | None:
    content = bytearray(file.read_bytes())
    if not content:
        return None
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    _replace(file, bytes(content))
    return f"bit {bit} of byte {place} of {len(content)} of {file.parent.name}/{file.name}"


def _replace(file: Path, content: bytes) -> None:
    """Write the content as a new file: one that is mapped, cut in place, would kill its reader."""
    part = file.with_name(f"{file.name}.soak")
    part.write_bytes(content)
    part.rename(file)


def _newest_checkpoint(scene: Scene) -> Path | None:
    files = (scene.folder / "trials").glob(f"*/{CHECKPOINT}")
    return max(files, key=lambda file: file.stat().st_mtime_ns, default=None)


def _truncate_checkpoint(scene: Scene, rng: Random) -> str | None:
    newest = _newest_checkpoint(scene)
    return None if newest is None else _truncate(newest, rng)


def _flip_checkpoint(scene: Scene, rng: Random) -> str | None:
    newest = _newest_checkpoint(scene)
    return None if newest is None else _flip(newest, rng)


def _delete_trial_folder(scene: Scene, rng: Random) -> str | None:
    folders = [scene.folder / "trials" / trial for trial in scene.unfinished()]
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        return None
    shutil.rmtree(hit := rng.choice(there))
    return hit.name


def _delete_working_folder(scene: Scene, rng: Random) -> str | None:
    """Delete what this machine has of a study on a store, as if another machine went on."""
    if not scene.folder.exists():
        return None
    shutil.rmtree(scene.folder)
    return str(scene.folder)


GARBAGE = (
    b"\x00\xff\xfe binary \x80\n",
    b"{\n",
    b'{"kind": "epoch"}\n',
    b'{"kind": "epoch", "trial_id": "stran',
    b"[]\n",
    b"\n\n",
    b'"text"\n',
)


def _append_garbage(scene: Scene, rng: Random) -> str | None:
    parts = sorted((scene.folder / "epochs").glob("*.jsonl"))
    if not parts:
        return None
    part, garbage = rng.choice(parts), rng.choice(GARBAGE)
    with part.open("ab") as file:
        file.write(garbage)
    return f"{garbage!r} to {part.name}"


def _cut_last_line(scene: Scene, rng: Random) -> str | None:
    """Cut the last line of the records, as a crash of the machine does."""
    parts = [p for p in sorted((scene.folder / "epochs").glob("*.jsonl")) if p.stat().st_size]
    if not parts:
        return None
    part = parts[-1]
    before = _all_lines(scene)
    whole = part.read_bytes().rstrip(b"\n")
    start = whole.rfind(b"\n") + 1
    part.write_bytes(whole[: rng.randrange(start, len(whole))])
    after = _all_lines(scene)
    gone = [line for line in before if line not in after]
    scene.damaged |= {told(line) for line in gone if line["kind"] == "epoch"}
    return f"{part.name}: {[(line['kind'], line.get('trial_id')) for line in gone]}"


def _all_lines(scene: Scene) -> list[Line]:
    return read_lines(scene.folder)[0]


def _damage_tables(scene: Scene, rng: Random) -> str | None:
    names = ("epochs.parquet", "trials.parquet", "predictions.parquet", "summary.csv", "summary.md")
    files = [scene.folder / name for name in names if (scene.folder / name).exists()]
    if not files:
        return None
    file = rng.choice(files)
    how = rng.choice((_truncate, _flip))
    return f"{file.name}: {how(file, rng)}"


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
    "cache emptied": Fault(_empty_cache, places=HERE),
    "cache entry truncated": Fault(_truncate_cache_entry, places=HERE),
    "cache's disk full": Fault(_fill_cache, places=("folder",), needs_disk=True),
    "study's disk full": Fault(_fill_study, places=("folder",), needs_disk=True),
    "checkpoint truncated": Fault(_truncate_checkpoint, "stopped", ("folder", "hosts")),
    "bit of checkpoint flipped": Fault(_flip_checkpoint, "stopped", ("folder", "hosts")),
    "trial's folder deleted": Fault(_delete_trial_folder, "stopped", ("folder", "hosts")),
    "working folder deleted": Fault(_delete_working_folder, "stopped", ("s3",)),
    "garbage in records": Fault(_append_garbage, "stopped", ("folder", "hosts")),
    "record cut": Fault(_cut_last_line, "stopped", ("folder", "hosts")),
    "table damaged": Fault(_damage_tables, "complete", ("folder", "hosts")),
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
    end(scene.processes("ray"))
