"""A study on a store has one driver, whatever stops, and for how long."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from s3_service import S3

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.storage import lease as claims
from kdtune.storage.lease import hold_lease
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.object_store import DRIVER, Store, fetch, is_running
from kdtune.storage.records import Records

Driver = subprocess.Popen[str]


@pytest.fixture
def study(tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    made = Study(name="tiny", out=f"s3://kdtune/{tmp_path.name}", run=tiny)
    made.folder.mkdir(parents=True)
    return made


DRIVE = """
import os, sys, time
from kdtune.storage import lease as claim
from kdtune.config.errors import InputError
from kdtune.config.study import Study
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.records import Records
claim.BEAT_SECONDS, claim.LEASE_TIMEOUT_SECONDS = float(sys.argv[2]), 4.0
study = Study.from_json(sys.argv[1])
mirror = Mirror(study)
study.folder.mkdir(parents=True, exist_ok=True)
try:
    with claim.hold_lease(mirror):
        uplink = RecordsUploader(mirror, Records(study.folder))
        time.sleep(1)
        print("held", flush=True)
        for number, _ in enumerate(sys.stdin):
            uplink.records.start(study.run, number)
            uplink.flush()
            print("sent", flush=True)
except InputError as error:
    print(error, flush=True)
"""
"""Another machine's driver, with a folder of its own: sends a part for each line it is given."""


@contextmanager
def driver(study: Study, folder: Path, beat: float) -> Iterator[Driver]:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVE, study.to_json(), str(beat)],
        env=os.environ | {"XDG_CACHE_HOME": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def send(process: Driver) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.5)
    monkeypatch.setattr(claims, "LEASE_TIMEOUT_SECONDS", 4.0)


def store_of(mirror: Mirror) -> Store:
    assert mirror.store is not None
    return mirror.store


@pytest.mark.usefixtures("soon")
def test_a_study_has_one_driver(s3: S3, study: Study, tmp_path: Path) -> None:
    here = Mirror(study)
    (study.folder / "study.json").write_text(study.to_json())
    here.push("study.json")
    with driver(study, tmp_path / "other machine", beat=0.5) as other:
        words = f"on {socket.gethostname()} by process {other.pid}"
        with pytest.raises(InputError, match=words), hold_lease(here):
            pass
        assert study.uri is not None and is_running(fetch(study.uri))
    began = time.monotonic()
    with hold_lease(here):  # at once: its process is no more
        assert json.loads((study.folder / DRIVER).read_text())["pid"] == os.getpid()
        assert time.monotonic() - began < 4
    assert DRIVER not in contents(here, tmp_path / "there")


@pytest.mark.usefixtures("soon")
def test_a_claim_of_a_lost_machine_is_void_after_a_while(s3: S3, study: Study) -> None:
    here = Mirror(study)
    (study.folder / DRIVER).write_text(json.dumps({"host": "gone", "pid": 1, "time": 0}))
    here.push(DRIVER)
    with hold_lease(here):
        assert json.loads((study.folder / DRIVER).read_text())["host"] == socket.gethostname()


@pytest.mark.usefixtures("soon")
def test_a_driver_that_was_suspended_writes_nothing_over_its_successors(
    s3: S3, study: Study, tmp_path: Path
) -> None:
    here = Mirror(study)
    # without a beat, that might be stopped on its way to the store
    with driver(study, tmp_path / "other machine", beat=1000) as other:
        assert other.stdout is not None
        send(other)
        assert other.stdout.readline() == "sent\n"
        other.send_signal(signal.SIGSTOP)
        here.pull_below("epochs")
        with hold_lease(here):  # void, since it stands still
            records = Records(study.folder)
            records.start(study.run, 7)
            RecordsUploader(here, records).flush()
            before = contents(here, tmp_path / "before")
            assert {"epochs/00000.jsonl", "epochs/00001.jsonl"} <= set(before)
            send(other)  # of which it would make epochs/00001.jsonl
            other.send_signal(signal.SIGCONT)
            assert other.wait(60) == 0
            said = other.stdout.read()
            assert f"was taken over by process {os.getpid()} on {socket.gethostname()}" in said
            after = contents(here, tmp_path / "after")
            assert json.loads(after.pop(DRIVER))["token"] == claims.TOKEN
            assert after.items() < before.items()


def contents(mirror: Mirror, folder: Path) -> dict[str, bytes]:
    store = store_of(mirror)
    store.get_all(store.names(), folder)
    return {name: (folder / name).read_bytes() for name in store.names()}


@pytest.mark.usefixtures("soon")
def test_a_beat_that_meets_anothers_claim_stops_the_driver_at_its_next_tick(
    s3: S3, study: Study, tmp_path: Path
) -> None:
    here = Mirror(study)
    foreign = tmp_path / DRIVER  # of a container with the same host name and process number
    foreign.write_text(
        json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": "x", "time": 0})
    )
    with hold_lease(here):
        uplink = RecordsUploader(here, Records(study.folder))
        uplink.tick()
        Store(store_of(here).uri).put(foreign, DRIVER)
        until = time.monotonic() + 20
        with pytest.raises(InputError, match="the study goes on there"):
            while time.monotonic() < until:
                uplink.tick()
                time.sleep(0.1)
        uplink.records.start(study.run, 0)
        with pytest.raises(InputError, match="the study goes on there"):
            uplink.flush()
        with pytest.raises(InputError, match="the study goes on there"):
            here.push("epochs")
    assert store_of(here).names() == [DRIVER]
    assert store_of(here).get(DRIVER, tmp_path / "there")
    assert (tmp_path / "there").read_text() == foreign.read_text()


@pytest.mark.usefixtures("soon")
def test_a_claim_that_is_gone_is_not_renewed(s3: S3, study: Study) -> None:
    here = Mirror(study)
    with hold_lease(here):
        Store(store_of(here).uri).delete(DRIVER)
        until = time.monotonic() + 20
        while here.lost is None and time.monotonic() < until:
            time.sleep(0.1)
        with pytest.raises(InputError, match=r"this driver's no more.*driver\.json was deleted"):
            here.check()
    assert store_of(here).names() == []


def test_a_process_of_another_user_is_not_known_to_be_dead() -> None:
    """Process 1 is root's; who asks is nobody."""
    code = (
        "import os, socket, json\n"
        "from kdtune.storage.lease import _is_dead\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "assert not _is_dead(json.dumps({'host': socket.gethostname(), 'pid': 1, 'token': 'x'}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
