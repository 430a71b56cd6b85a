"""A local Ray that others cannot reach, and what ends or delays a study."""

import http.client
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from drivers import wait_until
from ray._private import ray_constants
from users import CONNECT

import kdtune
from kdtune.config.files import LOCK
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError, RayLostError
from kdtune.raytune import session as local_ray
from kdtune.raytune.session import (
    RAY_DEFAULTS,
    _own_places,
    check_address,
    check_local_ray,
    ended_if_ray_is_lost,
    environment_set,
    folder_watch,
    ray_session,
)

# -- what ends or delays a study; no Ray runs --


POLL, GRACE = 0.05, 0.5


class Ended(list[str]):
    """What the watch has said in place of ending this process."""


@pytest.fixture
def ended(no_shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Instead of the end of this process."""
    said = Ended()
    monkeypatch.setattr(local_ray, "_end", said.append)
    monkeypatch.setattr(local_ray, "WATCH_SECONDS", POLL)
    monkeypatch.setattr(local_ray, "GRACE_SECONDS", GRACE)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return said


@pytest.fixture
def raylet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A process in the place of a raylet that this process has started."""
    with subprocess.Popen(["sleep", "60"]) as process:
        kinds = {"raylet": [SimpleNamespace(process=process)]}
        node = ray._private.node.Node.__new__(ray._private.node.Node)
        node.all_processes = kinds
        monkeypatch.setattr(ray._private.worker, "_global_node", node)
        yield SimpleNamespace(process=process, kinds=kinds)
        process.kill()


def test_a_lost_raylet_ends_a_driver_that_does_not_end_by_itself(ended: Ended, raylet: Any) -> None:
    with ended_if_ray_is_lost():
        raylet.process.kill()
        time.sleep(POLL + 2 * GRACE)
    assert ended and "Ray's process raylet has ended" in ended[0]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_ray_that_was_told_to_end_with_this_process_is_an_interruption(
    name: str, raylet: Any
) -> None:
    raylet.process.kill()
    raylet.process.wait()
    with pytest.raises(RayLostError):
        check_local_ray()
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # nohup lets this process ignore SIGHUP
    try:
        with pytest.raises(KeyboardInterrupt), local_ray.signals_as_ctrl_c():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            check_local_ray()
    finally:
        signal.signal(number, before)
        local_ray._arrived.clear()
    with pytest.raises(RayLostError):
        check_local_ray()


@pytest.mark.parametrize(("arrived", "code"), [(True, 130), (False, 1)])
def test_the_watch_ends_a_study_that_was_told_to_end_as_interrupted(
    arrived: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(local_ray.os, "_exit", codes.append)
    monkeypatch.setattr(local_ray, "_kill_ray", lambda: None)
    monkeypatch.setattr(local_ray, "_arrived", threading.Event())
    if arrived:
        local_ray._note(signal.SIGTERM)
    with local_ray.summarised(lambda: "3 of 4 runs", print):
        local_ray._end("it is lost")
    said = capsys.readouterr()
    assert codes == [code]
    assert said.out == "So far: 3 of 4 runs\n" * arrived
    resume = "interrupted; run the same command again to resume\n"
    assert said.err == (resume if arrived else "error: it is lost\n")


SILENT = 0.3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, which is asked often."""
    monkeypatch.setattr(local_ray, "FOLDER_SILENT_SECONDS", SILENT)
    monkeypatch.setattr(local_ray, "ASK_SECONDS", 0.02)
    (tmp_path / LOCK).touch()
    return tmp_path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is set the folder answers."""
    event = threading.Event()
    event.set()
    touch = os.utime

    def answer(file: Path) -> None:
        event.wait(60)
        touch(file)

    monkeypatch.setattr(local_ray.os, "utime", answer)
    yield event
    event.set()


def test_a_silence_and_its_end_are_said_once(folder: Path, answers: threading.Event) -> None:
    said: list[str] = []
    with folder_watch(folder, said.append):
        time.sleep(2 * SILENT)
        assert said == []
        answers.clear()
        time.sleep(4 * SILENT)
        assert said == [f"warning: {folder} has not answered for {SILENT} s; waiting"]
        answers.set()
        wait_until(lambda: len(said) == 2, 10)
        assert said[1] == f"{folder} answers again; the study goes on"
        time.sleep(2 * SILENT)
    assert len(said) == 2


# -- a local Ray --


AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass
class Session:
    home: Path
    """The home folder of the process that runs Ray."""
    witness: Path
    """Where the trials of `factories:gpu_witness` leave their notes."""

    @property
    def token(self) -> str:
        return os.environ["RAY_AUTH_TOKEN"]

    @property
    def folder(self) -> Path:
        """The private folder above Ray's own."""
        return Path(ray._private.worker._global_node.get_temp_dir_path()).parent


@pytest.fixture(scope="module")
def session(no_shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A Ray with 4 logical GPUs, as a study starts it; afterwards nothing of it is left."""
    home, witness = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("witness")
    init = {"num_cpus": 4, "num_gpus": 4, "include_dashboard": False}
    init["runtime_env"] = {"env_vars": {"KDTUNE_WITNESS": str(witness)}}
    without = dict.fromkeys([*AUTH, *RAY_DEFAULTS])
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with environment_set(HOME=str(home), **without):
        with ray_session(Study(gpus=0), init):
            made = Session(home, witness)
            folder = made.folder
            yield made
        assert without.keys().isdisjoint(os.environ)
    assert not ray.is_initialized()
    assert not folder.exists()
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert signal.getsignal(signal.SIGTERM) is on_sigterm  # Ray has one of its own


def test_a_process_without_the_token_cannot_connect(session: Session) -> None:
    command = [sys.executable, "-c", CONNECT, ray.get_runtime_context().gcs_address]
    own = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    mode = {"RAY_AUTH_MODE": "token"}
    for given, said in (
        ({}, "AuthenticationError"),
        (mode | {"RAY_AUTH_TOKEN": "0" * 64}, "AuthenticationError"),
        (mode | {"RAY_AUTH_TOKEN": session.token}, "keys ["),
    ):
        done = subprocess.run(command, env=own | given, capture_output=True, text=True)
        assert done.stdout.startswith(said), done.stderr


def test_code_is_run_for_those_who_know_the_token_alone(session: Session) -> None:
    """`PushTask` is the request that makes a worker run a function."""
    grpc = pytest.importorskip("grpc", reason="pip install -e '.[dev]' brings grpcio")
    assert ray.get(ray.remote(lambda: 1 + 1).remote()) == 2  # so there is a worker
    codes: dict[str, list[str]] = {"none": [], "wrong": [], "right": []}
    for _, _, port in listeners():
        for kind, token in (("none", None), ("wrong", "0" * 64), ("right", session.token)):
            own = [] if token is None else [("authorization", f"Bearer {token}")]
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                push = channel.unary_unary("/ray.rpc.CoreWorkerService/PushTask")
                with pytest.raises(grpc.RpcError) as refused:  # an empty request is no task
                    push(b"", timeout=5, metadata=own)
                codes[kind].append(refused.value.code().name)
    workers = [i for i, code in enumerate(codes["none"]) if code == "UNAUTHENTICATED"]
    assert len(workers) >= 2  # the driver and its worker
    assert {codes["wrong"][i] for i in workers} == {"UNAUTHENTICATED"}
    assert {codes["right"][i] for i in workers} == {"ABORTED"}  # read, and found to be no task
    elsewhere = set(codes["none"]) - {"UNAUTHENTICATED"}
    assert elsewhere <= {"UNIMPLEMENTED", "UNAVAILABLE"}  # no such method, or no gRPC


def test_jobs_are_refused_without_the_token(session: Session) -> None:
    """The dashboard's agent runs the command line that it is sent."""
    statuses: dict[str, set[int]] = {}
    for process, _, port in listeners():
        url = f"http://127.0.0.1:{port}/api/job_agent/jobs/"
        request = urllib.request.Request(url, b'{"entrypoint": "id"}', method="POST")
        request.add_header("Content-Type", "application/json")
        try:
            status = urllib.request.urlopen(request, timeout=5).status
        except urllib.error.HTTPError as error:
            status = error.code
        except (OSError, http.client.HTTPException):
            continue  # not HTTP
        statuses.setdefault(process, set()).add(status)
    assert {401} in statuses.values()
    for agent in ("ray::DashboardAgent", "ray::RuntimeEnvAgent"):
        assert statuses.pop(agent, {401}) == {401}
    # counters for Prometheus, and an agent that does not have its name yet
    assert set().union(*statuses.values()) <= {401, 405}, statuses


def test_ray_listens_on_loopback_alone(session: Session) -> None:
    addresses = {address.removeprefix("::ffff:") for _, address, _ in listeners()}
    assert addresses == {"127.0.0.1"}


def test_the_token_and_the_files_are_the_owners(session: Session) -> None:
    assert not (session.home / ".ray").exists()
    assert len(session.token) == 64
    mode = session.folder.stat().st_mode
    assert stat.S_IMODE(mode) == 0o700 and session.folder.stat().st_uid == os.getuid()
    commands = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert session.token not in commands
    found = subprocess.run(["grep", "-rlF", session.token, session.folder], capture_output=True)
    assert found.stdout == b""


@pytest.mark.slow
def test_four_trials_run_at_once_one_a_gpu(session: Session, tiny: Run, tmp_path: Path) -> None:
    study = Study(
        name="tiny",
        out=str(tmp_path / "runs"),
        cache=str(tmp_path / "cache"),
        run=replace(tiny, student="factories:gpu_witness", teacher_epochs=0, epochs=1),
        gpus=4,
        repeats=2,
        space={"alpha": (0.0, 1.0)},
    )
    kdtune.run(study, ray_init={"num_cpus": 4, "num_gpus": 4})
    seen = [json.loads(line) for line in (session.witness / "witness").read_text().splitlines()]
    first_four = sorted(seen, key=lambda note: note[1])[:4]
    assert sorted(gpu for gpu, _ in first_four) == ["0", "1", "2", "3"]
    assert ray.is_initialized()  # a Ray that ran before is left as it is


def listeners() -> list[tuple[str, str, int]]:
    """Process, address and port of whatever this process and Ray's below it listen on."""
    import psutil  # Ray brings its own

    own = psutil.Process()
    below = [p for p in own.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    ray_s = [p for p in below if re.search(r"^ray::|/ray/", " ".join(p.cmdline()))]
    assert len(ray_s) >= 5
    processes = [own, *ray_s]
    connections = [(p.name(), c) for p in processes for c in p.net_connections("inet")]
    return [(name, c.laddr.ip, c.laddr.port) for name, c in connections if c.status == "LISTEN"]


@pytest.mark.parametrize(
    "given",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "mine"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/somewhere"},
    ],
)
def test_what_the_user_has_set_is_kept(given: dict[str, str]) -> None:
    with environment_set(**dict.fromkeys(AUTH) | given):
        with local_ray._private_token():
            mode = given.get("RAY_AUTH_MODE", "token")
            assert {n: os.environ[n] for n in AUTH if n in os.environ} == {
                **given,
                "RAY_AUTH_MODE": mode,
            }
        assert {name: os.environ[name] for name in AUTH if name in os.environ} == given


def test_each_session_has_a_token_of_its_own() -> None:
    tokens = set()
    for mode in (None, "token"):
        with environment_set(**dict.fromkeys(AUTH) | {"RAY_AUTH_MODE": mode}):
            with local_ray._private_token():
                tokens.add(os.environ["RAY_AUTH_TOKEN"])
                assert os.environ["RAY_AUTH_MODE"] == "token"
            assert os.environ.get("RAY_AUTH_MODE") == mode and "RAY_AUTH_TOKEN" not in os.environ
    assert len(tokens) == 2


def test_sockets_whose_path_would_be_too_long_are_in_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with local_ray._private_folder() as folder:
        assert folder.parent.parent == Path("/tmp")
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        folder.mkdir()
    assert not folder.parent.exists()
    monkeypatch.setattr(local_ray, "SOCKET_PATH_BYTES", 80)  # also for /tmp
    with pytest.raises(
        InputError, match=rf"there are only {long} \(\d.* name another folder with TMPDIR"
    ):
        local_ray._temporary_place()


def test_the_folder_of_a_killed_process_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ray, "_temporary_place", lambda: str(tmp_path))
    script = (
        "import os\nfrom pathlib import Path\nfrom kdtune.raytune import session as local_ray\n"
        f"local_ray._temporary_place = lambda: {str(tmp_path)!r}\n"
        "with local_ray._private_folder() as folder:\n"
        "    folder.mkdir()\n"
        "    print(folder.parent, flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert theirs.parent == tmp_path
        with local_ray._private_folder():
            assert (theirs / "ray").exists()  # its process lives
        other.kill()
    assert theirs.exists()
    with local_ray._private_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder.parent]
    assert list(tmp_path.iterdir()) == []


def test_an_address_where_nothing_listens_is_refused() -> None:
    with pytest.raises(InputError, match=r"no Ray cluster answers at 127.0.0.1:9 .*refused"):
        check_address("127.0.0.1:9")


def test_workers_are_told_where_this_process_finds_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever `sys.path` has besides Python and its packages, in its order, each once."""
    monkeypatch.chdir(tmp_path)
    packages = str(Path(pytest.__file__).parents[1])
    own = ["", "/own/src", os.__file__.rpartition("/")[0], packages, "/own/src", "/own/lib"]
    monkeypatch.setattr(sys, "path", own)
    assert _own_places() == os.pathsep.join([str(tmp_path), "/own/src", "/own/lib"])
