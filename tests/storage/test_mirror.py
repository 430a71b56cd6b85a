"""A study's working folder and its place on a store, moto's S3 over HTTP; its lease there.

One driver at a time holds the lease, through suspensions and outages.
"""

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

import pandas as pd
import pytest
from s3_service import S3
from study_folders import at, draw, make, write_records
from tiny_run import TINY

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError, LeaseLostError
from kdtune.raytune.driver import Interrupted
from kdtune.results.frames import read_frames
from kdtune.storage import mirror as leases
from kdtune.storage.folder import lock_study
from kdtune.storage.mirror import (
    LEASE,
    Lease,
    Mirror,
    RecordsUploader,
    fetch,
    hold_lease,
    mark_trials,
)
from kdtune.storage.records import Records, read_lines
from kdtune.storage.store import ConflictError, Store


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return Study(name="tiny", out=f"s3://kdtune/{tmp_path.name}", run=TINY)


def test_push_uploads_changes_and_pull_replaces_local_files(
    s3: S3, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Mirror(study)
    (study.folder / "epochs").mkdir(parents=True)
    for name in ("study.json", "epochs/00000.jsonl", "epochs/00001.jsonl", "x.7.part"):
        (study.folder / name).write_text(name)
    here.push("study.json", "epochs", "x.7.part", "gone")
    assert here.store is not None
    assert here.store.names() == ["epochs/00000.jsonl", "epochs/00001.jsonl", "study.json"]
    here.store.delete("epochs/00000.jsonl")
    here.push("epochs")  # nothing has changed, so nothing is uploaded
    assert here.store.names("epochs") == ["epochs/00001.jsonl"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    (study.folder / "epochs").mkdir(parents=True)
    (study.folder / "epochs" / "00007.jsonl").write_text("of an earlier study on this machine")
    there = Mirror(study)
    (study.folder / "gone").write_text("of an attempt that another machine has finished since")
    there.pull("study.json", "gone")
    assert not (study.folder / "gone").exists()
    there.pull_folders("epochs")
    assert (study.folder / "study.json").read_text() == "study.json"
    assert [p.name for p in (study.folder / "epochs").iterdir()] == ["00001.jsonl"]
    here.store.delete("epochs/00001.jsonl")
    there.push("study.json", "epochs")  # what was downloaded is not uploaded before it changes
    assert here.store.names() == ["study.json"]
    (study.folder / "epochs" / "00001.jsonl").write_text("more")
    there.push("study.json", "epochs")
    assert here.store.names() == ["epochs/00001.jsonl", "study.json"]


def test_a_push_in_the_background_does_not_block_and_raises_its_failure(
    s3: S3, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, state = Mirror(study), study.folder / "state"
    study.folder.mkdir(parents=True)
    assert here.store is not None
    s3.process.send_signal(signal.SIGSTOP)  # the store is silent
    try:
        with here.push_in_background("state") as push:
            for number in range(3):
                state.write_text(str(number))
                os.utime(state, (number, number))
                push()
            s3.process.send_signal(signal.SIGCONT)
            while not here.store.names():
                time.sleep(0.05)
            push()
    finally:
        s3.process.send_signal(signal.SIGCONT)
    assert here.store.get("state", study.folder / "there")
    assert (study.folder / "there").read_text() == "2"

    def put(*_: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(here.store, "put", put)
    state.write_text("new")
    with pytest.raises(OSError, match="gone"), here.push_in_background("state") as push:
        push()


def test_uri_and_working_folder_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    study = Study(name="a", out="s3://bucket/runs/?region=x&scheme=http", run=TINY)
    assert study.uri == "s3://bucket/runs/a?region=x&scheme=http"
    other = replace(study, out="s3://other/runs")
    assert study.folder.name == other.folder.name == "a" and study.folder != other.folder
    assert study.folder.is_relative_to("/caches/kdtune/studies")


EPOCH = {"val": {"n_examples": 2, "loss": 1.0, "ce": 1.0, "acc": 0.5}}


def test_records_are_uploaded_in_parts_that_never_change(s3: S3, study: Study) -> None:
    """A checkpoint is deleted after the end of its trial is uploaded."""
    mirror, records = Mirror(study), Records(study.folder)
    uploader = RecordsUploader(mirror, records)
    (study.folder / "study.json").write_text(study.to_json())
    checkpoint = study.folder / "trials" / "x" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("state")
    mirror.push("study.json", "trials")
    records.start(study.run, 0)
    uploader.tick()
    assert mirror.store is not None and mirror.store.names("epochs") == []  # not yet
    uploader.flush()
    for number in range(3):
        records.epoch(study.run, 0, {"number": number, "seconds": 1.0, "splits": EPOCH})
    uploader.flush()
    uploader.flush()  # nothing new: no part
    records.end(study.run, 0, "completed")
    uploader.delete_later("trials/x/checkpoint.pt")
    assert mirror.store.names("trials") == ["trials/x/checkpoint.pt"]
    uploader.flush()
    assert mirror.store.names("trials") == []
    parts = [f"epochs/{number:05d}.jsonl" for number in range(3)]
    assert mirror.store.names("epochs") == parts
    mirror.store.get_all(parts, study.folder / "again")
    for part in parts:  # as they were uploaded
        assert (study.folder / "again" / part).read_bytes() == (study.folder / part).read_bytes()
    assert study.uri is not None
    trials = read_frames(fetch(study.uri)[0]).trials
    assert trials[["status", "n_epochs"]].values.tolist() == [["completed", 3]]


def test_a_driver_that_was_suspended_overwrites_only_what_it_has_read(
    s3: S3, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the records is never overwritten; a small file only by who has read it last."""
    late, folder = Mirror(study), study.folder
    late.leased = True
    names = ("study.json", "provenance.json")
    late.pull(*names)  # there is none
    with Records(folder) as records:
        records.start(study.run, 0)
    for text in ("one", "three"):
        (folder / "study.json").write_text(text)
        late.push("study.json")
    (folder / "summary.md").write_text("never pulled")
    late.push("summary.md")
    late.pull("study.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    successor = Mirror(study)
    with Records(study.folder) as records, RecordsUploader(successor, records):
        records.start(study.run, 1)
    for name in names:
        (study.folder / name).write_text("its successor's")
    successor.push(*names)
    part = "epochs/00000.jsonl"
    for name in (*names, part):
        if name != part:
            (folder / name).write_text("late")
        with pytest.raises(LeaseLostError, match=f"{name} was written by another driver"):
            late.push(name)
        with pytest.raises(LeaseLostError):
            late.check()
        late.lost = None
        assert successor.store is not None and successor.store.get(name, tmp_path / "there")
        assert (tmp_path / "there").read_bytes() == (study.folder / name).read_bytes()
    Mirror(study).push("epochs")  # with the same content: an earlier attempt has landed


@pytest.mark.usefixtures("in_this_process", "without_texts")
def test_a_study_on_a_store_is_there_whole_and_goes_on_from_another_machine(
    s3: S3, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(study.run, data="own_data:clothes", epochs=1)
    own = {"space": {"alpha": (0.0, 1.0)}, "repeats": 1, "cache": str(tmp_path / "cache")}
    study = replace(study, run=run, **own)
    kdtune.run(study)
    there = kdtune.load(str(study.uri))
    assert list(there.trials.status) == ["completed"] * 2
    store = Mirror(study).store
    assert store is not None
    assert {"summary.md", "students/repeat-00.safetensors"} <= set(store.names())
    assert not [n for n in store.names("trials") if n.endswith("student.safetensors")]
    assert not [name for name in store.names() if "checkpoint" in name]
    assert len(pd.read_parquet(there.folder / "predictions.parquet")) == 2 * (48 + 36)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a new head"))
    again = kdtune.run(study, ray_init={"no such argument": 1})  # nothing is left to do: no Ray
    pd.testing.assert_frame_equal(again.trials, there.trials)
    mark_trials(str(study.uri), [there.trials.trial_id[0]], [])
    assert list(kdtune.load(str(study.uri)).trials.status) == ["dropped", "completed"]


def test_an_outage_longer_than_the_retry_timeout_interrupts_the_study(
    s3: S3, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*names: object) -> None:
        raise OSError("PUT http://store: no answer")

    monkeypatch.setattr(Mirror, "push", fails)
    with pytest.raises(Interrupted, match="PUT http://store: no answer"):
        kdtune.run(study, ray_init={"no such argument": 1})  # it does not come to Ray
    lease = Store(str(study.uri)).read(LEASE)
    assert lease is not None and b'"released": true' in lease.content


GONE = at(0.5, 1).trial_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "made", draw({0.5: 0.05, 1.0: 0.0}, 4), out=str(tmp_path))
    return tmp_path / "made"


def test_a_dropped_run_counts_in_no_table_until_it_is_restored(folder: Path) -> None:
    before, lines = kdtune.load(folder), read_lines(folder)[0]
    checkpoint = folder / "trials" / GONE / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    mark_trials(str(folder), [GONE], [])
    assert not list(checkpoint.parent.iterdir())
    dropped = kdtune.load(folder)
    rest = before.trials.trial_id != GONE
    assert dropped.trials.status.tolist() == ["completed" if k else "dropped" for k in rest]
    columns = [name for name in before.trials if name != "error"]  # its dtype has changed
    assert dropped.trials[rest][columns].equals(before.trials[rest][columns])
    assert dropped.compare().n[0] == 3  # paired: the baseline's repeat is left out, too
    now = read_lines(folder)[0]
    assert now[: len(lines)] == lines and [x["kind"] for x in now[len(lines) :]] == ["drop"]

    mark_trials(str(folder), [], [GONE])
    assert kdtune.load(folder).trials.equals(before.trials)
    mark_trials(str(folder), [GONE], [])
    write_records(folder, {at(0.5, 1): [0.1, 0.2, 0.9]}, attempt=1)  # a new attempt
    trials = kdtune.load(folder).trials.set_index("trial_id")
    assert trials.status[GONE] == "completed" and trials["val/acc@last"][GONE] == 0.9


def test_refusals_change_nothing(folder: Path) -> None:
    lines = read_lines(folder)[0]
    for drop, restore, message in (
        ([GONE, f"{GONE[:-1]}7"], [], f"not dropped, but got .*7; did you mean {GONE[:-2]}"),
        ([], [GONE], f"--restore must be .* that is dropped, but got {GONE}"),
        ([GONE], [GONE], f"--restore must be .* that is dropped, but got {GONE}"),
    ):
        with pytest.raises(InputError, match=message):
            mark_trials(str(folder), drop, restore)
    with lock_study(folder), pytest.raises(InputError, match="need a study that is not running"):
        mark_trials(str(folder), [GONE], [])
    assert read_lines(folder)[0] == lines


@pytest.fixture
def leased(study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study, whose lease is renewed often and expires soon."""
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.2)
    study.folder.mkdir(parents=True)
    return study


@pytest.fixture
def in_memory(leased: Study) -> Mirror:
    """A study on a store of this process, with conditional writes."""
    mirror = Mirror(replace(leased, out=leased.out.replace("s3://kdtune/", "memory://")))
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
    s3: S3, leased: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    """Also where all of them watch the same lease expire."""
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 2.0)
    here, refusals = Mirror(leased), threading.Semaphore(0)
    drivers = [Mirror(leased) for _ in range(5)]
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


def test_a_lost_machines_lease_expires(in_memory: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is damaged."""
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 0.3)
    for holder in ({"host": "gone", "pid": 1, "token": "x"}, {}, {"pid": "y"}):
        put_lease(in_memory, **holder)
        (in_memory.folder / LEASE).write_text("another token")
        began = time.monotonic()
        with hold_lease(in_memory):
            assert time.monotonic() - began >= 0.3
            assert holder_of(in_memory)["host"] == socket.gethostname()


def test_a_study_has_one_driver(s3: S3, leased: Study, tmp_path: Path) -> None:
    """Another that was suspended writes nothing over its successor's."""
    here, uri = Mirror(leased), str(leased.uri)
    (leased.folder / "study.json").write_text(leased.to_json())
    here.push("study.json")
    with driver(leased, tmp_path / "other machine") as other:
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
            records = Records(leased.folder)
            records.start(leased.run, 7)
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


def test_a_lost_response_is_a_write(in_memory: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
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
