"""A local Ray that others cannot reach, and what ends or delays a study."""

import http.client
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest
import ray
from drivers import wait_until
from ray._private import ray_constants
from tiny_run import TINY

import kdtune
from kdtune.config.files import RAY_PREFIX
from kdtune.config.study import Study
from kdtune.config.text import InputError, RayLostError
from kdtune.raytune import session as local_ray
from kdtune.streams.views import KEEPS_MEMORY


@pytest.fixture
def raylet(no_shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A process in the place of a raylet that this process has started."""
    with subprocess.Popen(["sleep", "60"]) as process:
        node = ray._private.node.Node.__new__(ray._private.node.Node)
        node.all_processes = {"raylet": [SimpleNamespace(process=process)]}
        monkeypatch.setattr(ray._private.worker, "_global_node", node)
        yield process
        process.kill()


@pytest.mark.parametrize(("arrived", "code"), [(True, 130), (False, 1)])
def test_a_lost_raylet_ends_a_driver_that_does_not_end_by_itself(
    arrived: bool,
    code: int,
    raylet: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As interrupted if it was told to end."""
    codes: list[int] = []
    monkeypatch.setattr(local_ray.os, "_exit", codes.append)
    values = {"WATCH_SECONDS": 0.05, "GRACE_SECONDS": 0.2, "_arrived": threading.Event()}
    for name, value in (values | {"_kill_ray": lambda: None}).items():
        monkeypatch.setattr(local_ray, name, value)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if arrived:
        local_ray._arrived.set()
    with local_ray.summarised(lambda: "3 of 4 runs", print), local_ray.ended_if_ray_is_lost():
        raylet.kill()
        wait_until(lambda: bool(codes), 10)
    said = capsys.readouterr()
    assert codes == [code] and said.out == "So far: 3 of 4 runs\n" * arrived
    resume = "interrupted; run the same command again to resume\n"
    lost = "error: Ray's process raylet has ended (it was killed"
    assert said.err.startswith(resume if arrived else lost)
    assert ("docs/security.md" in said.err) is not arrived


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_ray_told_to_end_with_this_process_is_an_interruption(name: str, raylet: Any) -> None:
    raylet.kill()
    raylet.wait()
    with pytest.raises(RayLostError):
        local_ray.check_local_ray()
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # nohup lets this process ignore SIGHUP
    try:
        with pytest.raises(KeyboardInterrupt), local_ray.ended_in_words():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            local_ray.check_local_ray()
    finally:
        signal.signal(number, before)
        local_ray._arrived.clear()
    with pytest.raises(RayLostError):
        local_ray.check_local_ray()


def test_what_is_no_study_is_refused() -> None:
    with pytest.raises(InputError, match=r"study must be a kdtune\.Study, but got 5"):
        kdtune.run(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="folder must be the path of a study, but got None"):
        kdtune.load(None)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("no_shared_ray")
def test_four_trials_run_at_once_one_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_WITNESS", str(tmp_path))
    run = replace(TINY, student="factories:gpu_witness", teacher_epochs=0, epochs=1)
    space = {"alpha": (0.0, 1.0)}
    study = Study(name="t", out=str(tmp_path), run=run, gpus=4, repeats=2, space=space)
    kdtune.run(study, ray_init={"num_cpus": 4, "num_gpus": 4, "include_dashboard": False})
    notes = [json.loads(line) for line in (tmp_path / "witness").read_text().splitlines()]
    first_four = sorted(notes, key=lambda note: note[1])[:4]
    assert sorted(gpu for gpu, _ in first_four) == ["0", "1", "2", "3"]


AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class Session(NamedTuple):
    home: Path
    """The home folder of the process that runs Ray."""
    token: str
    folder: Path
    """The private folder above Ray's own."""


@pytest.fixture(scope="module")
def session(no_shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A Ray as a study starts it; afterwards nothing of it is left."""
    home, without = (
        tmp_path_factory.mktemp("home"),
        dict.fromkeys([*AUTH, *local_ray.RAY_DEFAULTS, *KEEPS_MEMORY]),
    )
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with local_ray.environment_set(HOME=str(home), **without):
        with local_ray.ray_session(Study(gpus=0), {"num_cpus": 1, "include_dashboard": False}):
            folder = Path(ray._private.worker._global_node.get_temp_dir_path()).parent
            yield Session(home, os.environ["RAY_AUTH_TOKEN"], folder)
        assert without.keys().isdisjoint(os.environ)
    assert not ray.is_initialized() and not folder.exists() and ray_constants.ENABLE_RAY_CLUSTER
    assert signal.getsignal(signal.SIGTERM) is on_sigterm  # Ray has one of its own


@pytest.mark.usefixtures("session")
def test_rays_lines_have_no_colours_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line: dict[str, Any] = {"lines": ["it has died"], "pid": "raylet", "is_err": True}
    ray._private.worker.print_to_stdstream(line, ignore_prefix=False)
    assert capsys.readouterr().err == "(raylet) it has died\n"


CONNECT = """
import json, os, sys
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient
for variables in json.loads(sys.argv[2]):
    os.environ.update(variables)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        client = GcsClient(address=sys.argv[1])
        print("keys", client.internal_kv_keys(b"", b"session", timeout=10))
    except Exception as error:
        print(type(error).__name__)
"""
"""Asks the GCS of a Ray for its keys, with the token of its environment."""


def test_a_process_without_the_token_cannot_connect(session: Session) -> None:
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    variables = json.dumps([{}, wrong, {"RAY_AUTH_TOKEN": session.token}])
    command = [sys.executable, "-c", CONNECT, ray.get_runtime_context().gcs_address, variables]
    own = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(command, env=own, capture_output=True, text=True)
    *refused, allowed = done.stdout.splitlines()
    assert refused == ["AuthenticationError"] * 2, done.stderr
    assert allowed.startswith("keys ["), done.stderr


@pytest.mark.slow
def test_code_is_run_for_those_who_know_the_token_alone(session: Session) -> None:
    """`PushTask` is the request that makes a worker run a function."""
    grpc = pytest.importorskip("grpc", reason="pip install -e '.[dev]' brings grpcio")
    assert ray.get(ray.remote(lambda: 1 + 1).remote()) == 2  # so there is a worker
    codes: dict[str | None, list[str]] = {None: [], "0" * 64: [], session.token: []}
    for _, _, port in listeners():
        for token in codes:
            header = [] if token is None else [("authorization", f"Bearer {token}")]
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                push = channel.unary_unary("/ray.rpc.CoreWorkerService/PushTask")
                with pytest.raises(grpc.RpcError) as refused:  # an empty request is no task
                    push(b"", timeout=5, metadata=header)
                codes[token].append(refused.value.code().name)
    without, wrong, right = codes.values()
    workers = [i for i, code in enumerate(without) if code == "UNAUTHENTICATED"]
    assert len(workers) >= 2  # the driver and its worker
    assert {wrong[i] for i in workers} == {"UNAUTHENTICATED"}
    assert {right[i] for i in workers} == {"ABORTED"}  # read, and found to be no task
    # no such method, or no gRPC
    assert set(without) <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}


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


def test_ray_is_on_loopback_and_its_token_and_files_are_the_owners(session: Session) -> None:
    assert {address.removeprefix("::ffff:") for _, address, _ in listeners()} == {"127.0.0.1"}
    assert not (session.home / ".ray").exists() and len(session.token) == 64
    of = session.folder.stat()
    assert stat.S_IMODE(of.st_mode) == 0o700 and of.st_uid == os.getuid()
    commands = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert session.token not in commands
    files = subprocess.run(["grep", "-rlF", session.token, session.folder], capture_output=True)
    assert files.stdout == b""


def listeners() -> list[tuple[str, str, int]]:
    """Process, address and port of whatever this process and Ray's below it listen on."""
    own = psutil.Process()
    below = [p for p in own.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    ray_s = [p for p in below if re.search(r"^ray::|/ray/", " ".join(p.cmdline()))]
    assert len(ray_s) >= 5
    connections = [(p.name(), c) for p in [own, *ray_s] for c in p.net_connections("inet")]
    return [(name, c.laddr.ip, c.laddr.port) for name, c in connections if c.status == "LISTEN"]


@pytest.mark.parametrize(
    "settings",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "mine"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/somewhere"},
    ],
)
def test_what_the_user_has_set_is_kept(settings: dict[str, str]) -> None:
    with local_ray.environment_set(**dict.fromkeys(AUTH) | settings):
        with local_ray._private_token():
            inside = {name: os.environ[name] for name in AUTH if name in os.environ}
            assert inside == {"RAY_AUTH_MODE": "token"} | settings
        assert {name: os.environ[name] for name in AUTH if name in os.environ} == settings


def test_a_place_where_others_may_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(local_ray, "SOCKET_PATH_BYTES", 1000)
    tmp_path.chmod(0o777)
    words = f"is inside {tmp_path}, which may be written by every user; name another place"
    with pytest.raises(InputError, match=words), local_ray._private_folder():
        pass
    tmp_path.chmod(0o1777)
    with local_ray._private_folder() as folder:
        assert folder.parent.parent == tmp_path


def test_only_abandoned_folders_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ray, "_temporary_place", lambda: str(tmp_path))
    with local_ray._private_folder() as used:
        (tmp_path / f"{RAY_PREFIX}abandoned" / "ray").mkdir(parents=True)
        with local_ray._private_folder() as folder:
            assert set(tmp_path.iterdir()) == {used.parent, folder.parent}
    assert list(tmp_path.iterdir()) == []
