"""Lease of a study on an object store: one driver at a time, through suspensions and outages."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from s3_service import S3

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError, LeaseLostError
from kdtune.storage import mirror as leases
from kdtune.storage.mirror import LEASE, Lease, Mirror, RecordsUploader, fetch, hold_lease
from kdtune.storage.records import Records
from kdtune.storage.store import ConflictError, Store


@pytest.fixture
def study(tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    made = Study(name="tiny", out=f"s3://kdtune/{tmp_path.name}", run=tiny)
    made.folder.mkdir(parents=True)
    return made


@pytest.fixture
def in_memory(study: Study) -> Mirror:
    """A study on a store of this process, with conditional writes."""
    mirror = Mirror(replace(study, out=study.out.replace("s3://kdtune/", "memory://")))
    mirror.folder.mkdir(parents=True)
    return mirror


DRIVE = """
import sys
from kdtune.storage import mirror as lease
from kdtune.config.text import UserError
from kdtune.config.study import Study
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.records import Records
lease.RENEW_SECONDS, lease.LEASE_TIMEOUT_SECONDS = 0.3, 3.0
study = Study.from_json(sys.argv[1])
mirror = Mirror(study)
study.folder.mkdir(parents=True, exist_ok=True)
try:
    with lease.hold_lease(mirror):
        uploader = RecordsUploader(mirror, Records(study.folder))
        print("held", flush=True)
        for number, _ in enumerate(sys.stdin):
            uploader.records.start(study.run, number)
            uploader.flush()
            print("sent", flush=True)
except UserError as error:
    print(type(error).__name__, error, flush=True)
"""
"""Another machine's driver, with a folder of its own: acquires the lease, and uploads a part of
the records for each line that it gets."""


@contextmanager
def driver(study: Study, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver that holds the lease."""
    command, pipe = [sys.executable, "-c", DRIVE, study.to_json()], subprocess.PIPE
    env = os.environ | {"XDG_CACHE_HOME": str(folder)}
    process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.2)


def store_of(mirror: Mirror) -> Store:
    assert mirror.store is not None
    return mirror.store


def holder_of(mirror: Mirror) -> dict:
    found = store_of(mirror).read(LEASE)
    assert found is not None
    return json.loads(found.content)


def put_lease(mirror: Mirror, **holder: object) -> None:
    """Write a lease as another process would, whatever is there."""
    file = mirror.folder / "foreign"
    file.write_text(json.dumps(holder))
    Store(store_of(mirror).uri).put(file, LEASE)


def test_a_dead_driver_of_this_folder_is_succeeded_at_once(in_memory: Mirror) -> None:
    """It had the lock of the folder; so has a driver that could not release its lease."""
    Lease(in_memory, store_of(in_memory)).acquire()
    before, began = holder_of(in_memory), time.monotonic()
    with hold_lease(in_memory):
        assert holder_of(in_memory)["token"] != before["token"]
    with hold_lease(in_memory):  # also one that was released
        pass
    assert time.monotonic() - began < leases.LEASE_TIMEOUT_SECONDS / 2
    assert list(in_memory.folder.iterdir()) == []  # the token is gone, too


@pytest.mark.parametrize("expired", [False, True])
def test_of_drivers_that_start_at_once_exactly_one_runs(
    s3: S3, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    """Also where all of them watch the same lease expire."""
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 2.0)
    here, refusals = Mirror(study), threading.Semaphore(0)
    drivers = [Mirror(study) for _ in range(5)]
    if expired:
        put_lease(here, host="gone", pid=1)

    def drive(driver: Mirror, number: int) -> str:
        driver.folder = tmp_path / str(number)
        driver.folder.mkdir()
        try:
            with hold_lease(driver):
                assert all(refusals.acquire(timeout=20) for _ in drivers[1:])
                return (driver.folder / LEASE).read_text()
        except InputError as error:
            refusals.release()
            return str(error)

    with ThreadPoolExecutor(len(drivers)) as pool:
        answers = list(pool.map(drive, drivers, range(len(drivers))))
    token = holder_of(here)["token"]
    assert answers.count(token) == 1
    assert all(f"by process {os.getpid()}." in words for words in answers if words != token)


def test_the_lease_of_a_lost_machine_expires(
    in_memory: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is damaged."""
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 0.3)
    for holder in ({"host": "gone", "pid": 1, "token": "x"}, {}, {"pid": "y"}):
        put_lease(in_memory, **holder)
        (in_memory.folder / LEASE).write_text("another token")
        began = time.monotonic()
        with hold_lease(in_memory):
            assert time.monotonic() - began >= 0.3
            assert holder_of(in_memory)["host"] == socket.gethostname()


def test_a_study_has_one_driver(s3: S3, study: Study, tmp_path: Path) -> None:
    """Another that was suspended writes nothing over its successor's."""
    here, uri = Mirror(study), str(study.uri)
    (study.folder / "study.json").write_text(study.to_json())
    here.push("study.json")
    with driver(study, tmp_path / "other machine") as other:
        assert other.stdout is not None
        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == "sent\n"
        words = f"on {socket.gethostname()} by process {other.pid}"
        with pytest.raises(InputError, match=words), hold_lease(here):
            pass
        assert fetch(uri)[1]
        other.send_signal(signal.SIGSTOP)
        here.pull_folders("epochs")
        began = time.monotonic()
        with hold_lease(here):  # expires, since it is not renewed
            assert time.monotonic() - began > leases.LEASE_TIMEOUT_SECONDS / 2
            assert holder_of(here)["pid"] == os.getpid() and fetch(uri)[1]
            records = Records(study.folder)
            records.start(study.run, 7)
            RecordsUploader(here, records).flush()
            before = contents(here, tmp_path / "before")
            assert {"epochs/00000.jsonl", "epochs/00001.jsonl"} <= set(before)
            print(file=other.stdin, flush=True)  # it would upload this as epochs/00001.jsonl
            other.send_signal(signal.SIGCONT)
            assert other.wait(60) == 0
            said = other.stdout.read()
            assert said.startswith("LeaseLostError")
            assert f"was taken over by process {os.getpid()} on {socket.gethostname()}" in said
            after = contents(here, tmp_path / "after")
            assert json.loads(after.pop(LEASE))["pid"] == os.getpid()
            assert after.items() < before.items()
    assert holder_of(here)["released"] and not fetch(uri)[1]


def contents(mirror: Mirror, folder: Path) -> dict[str, bytes]:
    store = store_of(mirror)
    store.get_all(store.names(), folder)
    return {name: (folder / name).read_bytes() for name in store.names()}


# another container's, with the same host name and process number
FOREIGN = {"host": socket.gethostname(), "pid": os.getpid(), "token": "x", "time": 0}


@pytest.mark.parametrize(
    ("holder", "words"),
    [(FOREIGN, "The study continues there"), (None, r"driver\.json of .* was deleted")],
)
def test_a_driver_that_has_lost_its_lease_stops_at_its_next_tick(
    in_memory: Mirror, holder: dict | None, words: str
) -> None:
    here, store = in_memory, store_of(in_memory)
    with hold_lease(here):
        uploader = RecordsUploader(here, Records(here.folder))
        uploader.tick()
        if holder is None:
            Store(store.uri).delete(LEASE)
        else:
            put_lease(here, **holder)
        until = time.monotonic() + 20
        with pytest.raises(LeaseLostError, match=words):
            while time.monotonic() < until:
                uploader.tick()
                time.sleep(0.05)
        uploader.records.start(Run(), 0)
        for write in (uploader.flush, partial(here.push, "epochs")):
            with pytest.raises(LeaseLostError, match=words):
                write()
    assert store.names() == ([] if holder is None else [LEASE])
    assert holder is None or holder_of(here) == holder


def test_a_write_in_flight_does_not_land_on_the_successors_lease(in_memory: Mirror) -> None:
    """The driver was suspended after it decided to write and before it sent the request."""
    store = store_of(in_memory)
    lease = Lease(in_memory, store)
    lease.acquire()
    present = store.read(LEASE)
    put_lease(in_memory, host="other", pid=1, token="x")
    assert present is not None
    with pytest.raises(ConflictError):
        store.write_if(present.version, b"late", LEASE)
    for write in (lease.renew, lease.release):
        with pytest.raises(LeaseLostError, match="taken over by process 1 on other"):
            write()
    assert holder_of(in_memory)["host"] == "other" and "released" not in holder_of(in_memory)


def test_a_write_whose_response_was_lost_counts_as_written(
    in_memory: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, lost = store_of(in_memory), []
    lease, write = Lease(in_memory, store), store.write_if
    monkeypatch.setattr("kdtune.storage.store.FIRST_WAIT", 0.01)

    def write_if(*arguments: Any) -> object:
        version = write(*arguments)
        if not lost:
            lost.append(version)
            raise OSError("no answer")
        return version

    monkeypatch.setattr(store, "write_if", write_if)
    for act in (lease.acquire, lambda: store.retry(lease.renew), lease.release):
        lost.clear()
        act()
        assert lost and in_memory.lost is None
    assert holder_of(in_memory)["released"]
