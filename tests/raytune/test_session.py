"""A local Ray that other users of the machine cannot reach, and what it leaves behind."""

import http.client
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from users import CONNECT

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.raytune import session as local_ray
from kdtune.raytune.session import (
    RAY_DEFAULTS,
    _own_places,
    check_address,
    environment_set,
    ray_session,
)

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


# -- A process that ran studies ends well, however slowly: Ray's threads outlive ray.shutdown --


SLOW_EXIT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct call { void (*function)(void *); void *object; };

static void slowly(void *data) {
  struct call *call = data;
  call->function(call->object);
  usleep(10000);
}

/* each static object of Ray's library takes 10 ms more to be destroyed at the process's exit */
int __cxa_atexit(void (*function)(void *), void *object, void *library) {
  int (*next)(void (*)(void *), void *, void *) = dlsym(RTLD_NEXT, "__cxa_atexit");
  Dl_info info;
  if (!dladdr(library, &info) || !info.dli_fname || !strstr(info.dli_fname, "_raylet"))
    return next(function, object, library);
  struct call *call = malloc(sizeof *call);
  *call = (struct call){function, object};
  return next(slowly, call, library);
}
"""

TWO_STUDIES = """
from kdtune.config.study import Study
from kdtune.raytune.session import ray_session

for _ in range(2):
    with ray_session(Study(gpus=0), None):
        pass
"""


@pytest.mark.slow  # half a minute
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and cc")
def test_a_process_whose_objects_die_slowly_does_not_crash(tmp_path: Path) -> None:
    """With Ray's metrics on it ended in SIGSEGV, five times of five: the export found no logger."""
    (tmp_path / "slow.c").write_text(SLOW_EXIT)
    library = tmp_path / "slow.so"
    build = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "slow.c"), "-ldl"]
    subprocess.run(build, check=True)
    kept = {k: v for k, v in os.environ.items() if k != "RAY_enable_metrics_collection"}
    environment = kept | {"LD_PRELOAD": str(library), "RAY_metrics_report_interval_ms": "1000"}
    ended = subprocess.run([sys.executable, "-c", TWO_STUDIES], env=environment, timeout=250)
    assert ended.returncode == 0
