"""Lease of a study on an object store: one driver at a time, through suspensions and outages."""

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

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError, LeaseLostError
from kdtune.storage import mirror as leases
from kdtune.storage.mirror import LEASE, Lease, Mirror, RecordsUploader, fetch, hold_lease
from kdtune.storage.records import Records
from kdtune.storage.store import ConflictError, Object, Store

Driver = subprocess.Popen[str]


@pytest.fixture
def study(tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    made = Study(name="tiny", out=f"s3://kdtune/{tmp_path.name}", run=tiny)
    made.folder.mkdir(parents=True)
    return made


@pytest.fixture
def in_memory(tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study on a store of this process, with conditional writes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    made = Study(name="tiny", out=f"memory://{tmp_path.name}", run=tiny)
    made.folder.mkdir(parents=True)
    return made


DRIVE = """
import sys
from kdtune.storage import mirror as lease
from kdtune.config.text import UserError
from kdtune.config.study import Study
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.records import Records
lease.RENEW_SECONDS, lease.LEASE_TIMEOUT_SECONDS = float(sys.argv[2]), 4.0
study = Study.from_json(sys.argv[1])
mirror = Mirror(study)
study.folder.mkdir(parents=True, exist_ok=True)
print("ready", flush=True)
sys.stdin.readline()
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
"""Another machine's driver, with a folder of its own: acquires the lease when it gets a line, and
uploads a part of the records for each further line."""


@contextmanager
def process(study: Study, folder: Path, renew: float) -> Iterator[Driver]:
    """A driver that has not asked for the lease yet."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVE, study.to_json(), str(renew)],
        env=os.environ | {"XDG_CACHE_HOME": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert line(process) == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def driver(study: Study, folder: Path, renew: float) -> Iterator[Driver]:
    """A driver that holds the lease."""
    with process(study, folder, renew) as started:
        send(started)
        assert line(started) == "held\n"
        yield started


def send(process: Driver) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def line(process: Driver) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(leases, "LEASE_TIMEOUT_SECONDS", 4.0)
    monkeypatch.setattr(leases, "RELEASE_SECONDS", 1.0)
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


@pytest.mark.usefixtures("soon")
def test_a_study_has_one_driver(s3: S3, study: Study, tmp_path: Path) -> None:
    here = Mirror(study)
    (study.folder / "study.json").write_text(study.to_json())
    here.push("study.json")
    with driver(study, tmp_path / "other machine", renew=0.5) as other:
        words = f"on {socket.gethostname()} by process {other.pid}"
        with pytest.raises(InputError, match=words), hold_lease(here):
            pass
        assert study.uri is not None and fetch(study.uri)[1]
    began = time.monotonic()
    with hold_lease(here):  # at once: its process is no more
        assert holder_of(here)["pid"] == os.getpid()
        assert time.monotonic() - began < leases.LEASE_TIMEOUT_SECONDS / 2
    assert LEASE not in contents(here, tmp_path / "there")


@pytest.mark.parametrize("expired", [False, True])
def test_of_drivers_that_start_at_once_exactly_one_runs(
    s3: S3, study: Study, tmp_path: Path, expired: bool
) -> None:
    """Also where all of them watch the same lease expire."""
    here = Mirror(study)
    if expired:
        put_lease(here, host="gone", pid=1)
    names = ("a", "b", "c")
    with (
        process(study, tmp_path / names[0], renew=0.5) as a,
        process(study, tmp_path / names[1], renew=0.5) as b,
        process(study, tmp_path / names[2], renew=0.5) as c,
    ):
        drivers = [a, b, c]
        for one in drivers:
            send(one)
        said = [line(one) for one in drivers]
        assert said.count("held\n") == 1
        winner = drivers[said.index("held\n")]
        refused = [words for words in said if words != "held\n"]
        for words in refused:
            assert words.startswith("InputError") and f"by process {winner.pid}." in words
        assert holder_of(here)["pid"] == winner.pid


@pytest.mark.usefixtures("soon")
def test_the_lease_of_a_lost_machine_expires(s3: S3, study: Study) -> None:
    here = Mirror(study)
    put_lease(here, host="gone", pid=1, time=0)
    began = time.monotonic()
    with hold_lease(here):
        assert time.monotonic() - began >= 4
        assert holder_of(here)["host"] == socket.gethostname()


@pytest.mark.usefixtures("soon")
def test_a_driver_that_was_suspended_writes_nothing_over_its_successors(
    s3: S3, study: Study, tmp_path: Path
) -> None:
    here = Mirror(study)
    # without renewals, which might be stopped on their way to the store
    with driver(study, tmp_path / "other machine", renew=1000) as other:
        send(other)
        assert line(other) == "sent\n"
        other.send_signal(signal.SIGSTOP)
        here.pull_folders("epochs")
        with hold_lease(here):  # expired, since it is not renewed
            records = Records(study.folder)
            records.start(study.run, 7)
            RecordsUploader(here, records).flush()
            before = contents(here, tmp_path / "before")
            assert {"epochs/00000.jsonl", "epochs/00001.jsonl"} <= set(before)
            send(other)  # it would upload this as epochs/00001.jsonl
            other.send_signal(signal.SIGCONT)
            assert other.wait(60) == 0
            assert other.stdout is not None
            said = other.stdout.read()
            assert said.startswith("LeaseLostError")
            assert f"was taken over by process {os.getpid()} on {socket.gethostname()}" in said
            after = contents(here, tmp_path / "after")
            assert json.loads(after.pop(LEASE))["token"] == leases.TOKEN
            assert after.items() < before.items()


def contents(mirror: Mirror, folder: Path) -> dict[str, bytes]:
    store = store_of(mirror)
    store.get_all(store.names(), folder)
    return {name: (folder / name).read_bytes() for name in store.names()}


@pytest.mark.usefixtures("soon")
def test_a_renewal_that_meets_anothers_lease_stops_the_driver_at_its_next_tick(
    s3: S3, study: Study, tmp_path: Path
) -> None:
    here = Mirror(study)
    # another container's, with the same host name and process number
    foreign = {"host": socket.gethostname(), "pid": os.getpid(), "token": "x", "time": 0}
    with hold_lease(here):
        uploader = RecordsUploader(here, Records(study.folder))
        uploader.tick()
        put_lease(here, **foreign)
        until = time.monotonic() + 20
        with pytest.raises(LeaseLostError, match="The study continues there"):
            while time.monotonic() < until:
                uploader.tick()
                time.sleep(0.1)
        uploader.records.start(study.run, 0)
        with pytest.raises(LeaseLostError, match="The study continues there"):
            uploader.flush()
        with pytest.raises(LeaseLostError, match="The study continues there"):
            here.push("epochs")
    assert store_of(here).names() == [LEASE]
    assert store_of(here).get(LEASE, tmp_path / "there")
    assert json.loads((tmp_path / "there").read_text()) == foreign


@pytest.mark.usefixtures("soon")
def test_a_lease_that_is_gone_is_not_renewed(s3: S3, study: Study) -> None:
    here = Mirror(study)
    with hold_lease(here):
        Store(store_of(here).uri).delete(LEASE)
        until = time.monotonic() + 20
        while here.lost is None and time.monotonic() < until:
            time.sleep(0.1)
        with pytest.raises(LeaseLostError, match=r"is gone.*driver\.json was deleted"):
            here.check()
    assert store_of(here).names() == []


@pytest.mark.usefixtures("soon")
def test_a_write_in_flight_does_not_land_on_the_successors_lease(in_memory: Study) -> None:
    """The driver was suspended after it decided to write and before it sent the request."""
    here = Mirror(in_memory)
    store = store_of(here)
    lease = Lease(here, store)
    lease.acquire()
    in_flight = dict(lease._version or {})
    put_lease(here, host="other", pid=1, token="x")
    with pytest.raises(ConflictError):
        store.write_if(in_flight, b"late", LEASE)
    with pytest.raises(LeaseLostError, match="taken over by process 1 on other"):
        lease.renew()
    assert holder_of(here)["host"] == "other"


@pytest.mark.usefixtures("soon")
def test_a_release_leaves_anothers_lease(in_memory: Study) -> None:
    here = Mirror(in_memory)
    with hold_lease(here):
        put_lease(here, host="other", pid=1, token="x")
    assert holder_of(here)["host"] == "other"


class LossyStore:
    """A store that loses the response to one write after carrying it out."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        self.lost, write = 0, store.write_if
        monkeypatch.setattr("kdtune.storage.store.FIRST_WAIT", 0.01)

        def write_if(*arguments: object) -> object:
            version = write(*arguments)  # type: ignore[arg-type]
            if self.lost < 1:
                self.lost += 1
                raise OSError("no answer")
            return version

        monkeypatch.setattr(store, "write_if", write_if)


@pytest.mark.usefixtures("soon")
def test_a_write_whose_response_was_lost_counts_as_written(
    in_memory: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Mirror(in_memory)
    store = store_of(here)
    lease = Lease(here, store)
    for act in (lease.acquire, lambda: store.retry(lease.renew), lease.release):
        lossy = LossyStore(store, monkeypatch)
        act()
        assert lossy.lost == 1 and here.lost is None
    assert store.names() == []


@pytest.mark.usefixtures("soon")
def test_a_released_lease_is_given_time_to_be_deleted(in_memory: Study) -> None:
    """Its holder's deletion, which is not conditional, must not hit the next driver's lease."""
    here = Mirror(in_memory)
    put_lease(here, host="other", pid=1, released=True)
    began = time.monotonic()
    with hold_lease(here):
        assert 1 <= time.monotonic() - began < 4


@pytest.mark.usefixtures("soon")
def test_a_released_lease_is_deleted_in_time_or_not_at_all(
    in_memory: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the deletion could be that of the lease of the driver that has taken it over."""
    here, attempts = Mirror(in_memory), []

    def refuse(name: str) -> None:
        attempts.append(name)
        raise OSError("no answer")

    with hold_lease(here):
        monkeypatch.setattr(store_of(here), "delete_once", refuse)
    assert attempts == [LEASE] and holder_of(here)["released"]
    lease = Lease(here, store_of(here))
    lease.acquire()
    monkeypatch.setattr(leases, "RELEASE_SECONDS", 0.0)  # over when the mark is written
    lease.release()
    assert attempts == [LEASE] and holder_of(here)["released"]


def test_a_store_without_conditional_writes_is_refused(
    in_memory: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Mirror(in_memory)
    store = store_of(here)

    def write_if(version: object, content: bytes, name: str) -> dict[str, str]:
        (tmp_path / "x").write_bytes(content)
        return store.put(tmp_path / "x", name)

    monkeypatch.setattr(store, "write_if", write_if)
    with pytest.raises(InputError, match="ignores conditional writes"), hold_lease(here):
        pass
    assert store.names() == []
    in_folder = Study(name="tiny", out=tmp_path.as_uri(), run=in_memory.run)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(InputError, match=r"has no conditional writes.*--out FOLDER"):  # noqa: SIM117
        with hold_lease(Mirror(in_folder)):
            pass


def test_only_a_process_that_has_provably_ended_has_abandoned_its_lease() -> None:
    """Not one of another machine or container that has the same host name and process number."""
    child = subprocess.Popen(["sleep", "1000"])
    own = leases._this_process()
    holder = own | {"pid": child.pid, "token": "x", "started": leases._started(child.pid)}
    try:
        assert not leases._is_abandoned(holder)
        assert leases._is_abandoned(holder | {"started": "1"})  # its number is another's now
        elsewhere = {"boot": "another kernel", "host": holder["host"]}
        assert not leases._is_abandoned(holder | {"started": "1"} | elsewhere)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has waited
        assert leases._is_abandoned(holder)
    finally:
        child.kill()
        child.wait()
    assert leases._is_abandoned(holder)
    namespace = holder["boot"].split()[0] + " pid:[1]"
    for name, other in (("boot", "another kernel"), ("boot", namespace), ("host", "another")):
        assert not leases._is_abandoned(holder | {name: other})
    assert not leases._is_abandoned({"host": socket.gethostname(), "pid": child.pid})
    assert leases._is_abandoned(own)  # this process could not release it


def test_a_process_of_another_user_is_not_known_to_be_dead() -> None:
    """Process 1 belongs to root; the process that asks belongs to nobody."""
    code = (
        "import os\n"
        "from kdtune.storage import mirror as lease\n"
        "holder = lease._this_process() | {'pid': 1, 'token': 'x', 'started': '0'}\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "assert not lease._is_abandoned(holder)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_damaged_lease_expires_like_any_other(content: bytes) -> None:
    holder = leases.read_holder(Object(content, {}, 0.0))
    assert not leases._is_abandoned(holder)


@pytest.mark.usefixtures("soon")
def test_a_reader_sees_whether_the_study_is_run(s3: S3, study: Study) -> None:
    here = Mirror(study)
    (study.folder / "study.json").write_text(study.to_json())
    here.push("study.json")

    def is_run() -> bool:
        assert study.uri is not None
        return fetch(study.uri)[1]

    with hold_lease(here):
        assert is_run()
    assert not is_run()
    put_lease(here, host="gone", pid=1)
    time.sleep(5)  # the clock of HTTP has seconds
    assert not is_run()
    put_lease(here, host="other", pid=1, released=True)
    assert not is_run()
