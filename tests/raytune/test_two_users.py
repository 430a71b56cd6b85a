"""Two users of one machine: programs of one that attack the study of the other, as real users.

Each refusal has its control, so that an attack that fails for another reason is noticed.
"""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # Ray brings its own
import pytest
from users import (
    CONNECT,
    OWNER,
    STRANGER,
    as_user,
    command_of,
    common_folder,
    give,
    needs_users,
    variables_of,
)

from kdtune.config.files import TRIALS
from kdtune.storage.records import read_lines

pytestmark = [needs_users, pytest.mark.slow]

STUDY = """
import sys
from dataclasses import replace
import kdtune
from tiny_run import TINY
run = replace(TINY, teacher_epochs=0, epochs=4000)
kdtune.run(kdtune.Study(name="tiny", out=f"{sys.argv[1]}/runs", cache=f"{sys.argv[1]}/cache",
    run=run, gpus=0, repeats=1, space={"alpha": (0.0, 1.0)}))
"""
GRAB = """
import json, os, socket, subprocess, sys, urllib.error, urllib.request
from contextlib import suppress
from pathlib import Path
given = json.load(sys.stdin)
study, cache, private = (Path(given[name]) for name in ("study", "cache", "private"))
worked = []

def attempt(name, act):
    with suppress(OSError):
        act()
        worked.append(name)

attempt("read study.json", (study / "study.json").read_bytes)  # the control
for name in ("", "trials", "epochs", "teacher", "tune", *given["trials"]):
    attempt(f"write {name}", lambda: (study / name / "planted").write_bytes(b""))
for file in [study / "study.json", study / ".lock", *study.glob("epochs/*")]:
    attempt(f"append to {file.name}", lambda: file.open("r+").close())
    attempt(f"rename {file.name}", lambda: file.rename(file.with_name("other")))
for folder in [cache, *cache.glob("*"), *cache.glob("*/*")]:
    if folder.is_dir():
        attempt(f"write {folder}", lambda: (folder / "planted").write_bytes(b""))
attempt("list the private folder", lambda: os.listdir(private))
for path in given["sockets"]:
    attempt(f"connect {path}", lambda: socket.socket(socket.AF_UNIX).connect(path))
for pid in given["pids"]:
    attempt(f"environ {pid}", Path(f"/proc/{pid}/environ").read_bytes)
    attempt(f"memory {pid}", lambda: open(f"/proc/{pid}/mem", "rb").close())
    attempt(f"files {pid}", lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt(f"signal {pid}", lambda: os.kill(pid, 0))
for port in given["ports"]:
    url = f"http://127.0.0.1:{port}/api/job_agent/jobs/"
    sent = urllib.request.Request(url, b'{"entrypoint": "id"}', method="POST")
    sent.add_header("Content-Type", "application/json")
    with suppress(Exception):
        urllib.request.urlopen(sent, timeout=5)
        worked.append(f"job at {port}")
readable = [*Path("/tmp").glob("kdtune-*"), *Path("/dev/shm").iterdir(), study, cache]
readable += Path("/proc").glob("[0-9]*/cmdline")
grep = ["grep", "-rlsFf", "-", *map(str, readable)]
found = subprocess.run(grep, input=given["token"], capture_output=True, text=True).stdout
worked += [f"token in {file}" for file in found.splitlines()]
print(json.dumps(worked))
"""


@dataclass
class Victim:
    """A study that runs, of the user OWNER."""

    home: Path
    process: "subprocess.Popen[str]"

    @property
    def study(self) -> Path:
        return self.home / "runs" / "tiny"

    def trials_run(self) -> bool:
        """Wait until a trial runs; return False if none does."""
        for _ in range(240):
            names = [process.name() for process in self.processes]
            if any(name.startswith("ray::Implicit") for name in names):
                return True
            time.sleep(0.5)
        return False

    @property
    def processes(self) -> list[psutil.Process]:
        return [self.own, *self.own.children(recursive=True)]

    @property
    def own(self) -> psutil.Process:
        return psutil.Process(self.process.pid)  # unshare, sh and setpriv have become the study

    @property
    def token(self) -> str:
        # processes whose title Ray sets have it where their environment was
        raylet = next(process for process in self.processes if process.name() == "raylet")
        return str(raylet.environ()["RAY_AUTH_TOKEN"])

    @property
    def gcs(self) -> str:
        """The address as every user sees it in the list of processes."""
        commands = (" ".join(process.cmdline()) for process in self.processes)
        return next(m[1] for c in commands if (m := re.search(r"--gcs-address=(\S+)", c)))

    @property
    def ports(self) -> list[int]:
        found = (c for p in self.processes for c in p.net_connections("inet"))
        return sorted({c.laddr.port for c in found if c.status == "LISTEN"})

    @property
    def private(self) -> Path:
        """The folder above Ray's own."""
        return Path(re.search(r"(/\S+/kdtune-[^/]+)/ray", self.command_of_raylet)[1])  # type: ignore[index]

    @property
    def command_of_raylet(self) -> str:
        return next(" ".join(p.cmdline()) for p in self.processes if p.name() == "raylet")


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with common_folder() as home:
        yield from running_study(give(home, OWNER))


def running_study(home: Path) -> Iterator[Victim]:
    words = [sys.executable, "-uc", STUDY, str(home)]
    command = command_of(OWNER, words, mask=0)  # the laxest umask
    with subprocess.Popen(
        command, env=variables_of(HOME=str(home)), cwd="/", stdout=-1, stderr=-2, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Running"):
                break
        made = Victim(home, process)
        try:
            assert made.trials_run(), "".join(said)
            yield made
            assert process.poll() is None  # no attack has ended it
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=240)[0]
    assert "Interrupted" in rest
    assert not [line for line in read_lines(made.study)[0] if line.get("status") == "failed"]


@pytest.fixture
def place() -> Iterator[Path]:
    with common_folder() as folder:
        yield folder


def attack(victim: Victim) -> Any:
    given = {
        "study": str(victim.study),
        "cache": str(victim.home / "cache"),
        "private": str(victim.private),
        "trials": [f"{TRIALS}/{path.name}" for path in victim.study.glob(f"{TRIALS}/*")],
        "sockets": [str(path) for path in victim.private.rglob("sockets/*")],
        "pids": [process.pid for process in victim.processes],
        "ports": victim.ports,
        "token": victim.token,
    }
    assert len(given["sockets"]) >= 2 and len(given["pids"]) >= 6 and len(given["ports"]) >= 6
    done = subprocess.run(
        command_of(STRANGER, [sys.executable, "-c", GRAB]),
        **{"env": variables_of(), "cwd": "/", "input": json.dumps(given)},
        **{"capture_output": True, "text": True, "timeout": 200},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_stranger_reads_no_secret_and_writes_nothing(victim: Victim) -> None:
    """The study may be read: its folder follows the umask."""
    assert attack(victim) == ["read study.json"]
    assert stat.S_IMODE(victim.private.stat().st_mode) == 0o700


def test_a_stranger_cannot_join(victim: Victim) -> None:
    """Whoever reaches the GCS may join with a raylet, and have a trial or a task started there."""
    mode = {"RAY_AUTH_MODE": "token"}
    for user, own, expected in (
        (OWNER, mode | {"RAY_AUTH_TOKEN": victim.token}, "keys ["),  # the control
        (STRANGER, {}, "AuthenticationError"),
        (STRANGER, mode | {"RAY_AUTH_TOKEN": "0" * 64}, "AuthenticationError"),
    ):
        done = as_user(user, CONNECT, victim.gcs, **own)
        assert done.stdout.startswith(expected), done


def is_open(path: Path) -> bool:
    """Return whether every user may write a file; False if it has just been renamed."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        return not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & 0o002)
    return False


def test_nothing_of_a_study_is_every_users_to_write(victim: Victim) -> None:
    paths = [*victim.home.rglob("*"), *victim.private.rglob("*")]
    open_ = {path for path in paths if is_open(path)}
    # Ray's own, behind a folder that only its owner passes
    assert {path for path in open_ if not path.is_relative_to(victim.private)} == set()
    of_owner = [p for p in Path("/tmp").iterdir() if p.lstat().st_uid == OWNER and p != victim.home]
    assert {path for path in of_owner if stat.S_IMODE(path.lstat().st_mode) & 0o077} <= {
        Path(f"/tmp/torchinductor_uid_{OWNER}")  # PyTorch's; kdtune compiles nothing
    }


BUILD = """
import sys, torch
from kdtune.streams.cache import Cache
from kdtune.streams.cache import Key
cache, fill = Cache(sys.argv[1], 1), float(sys.argv[2])
made = cache.get(Key("logits", {"data": "abc"}), "logits", lambda p: {"a": torch.full((2,), fill)})
print(made["a"].tolist())
"""


def test_a_stranger_cannot_poison_a_cache(place: Path) -> None:
    cache = place / "cache"
    cache.mkdir()
    give(place, OWNER)
    cache.chmod(0o777)
    poisoned = as_user(STRANGER, BUILD, cache, 666)
    assert poisoned.stdout == "[666.0, 666.0]\n", poisoned.stderr  # the folder was open to all
    cache.chmod(0o755)
    (planted,) = cache.glob("*/*/*.safetensors")
    planted.chmod(0o644)  # as its owner may
    own = as_user(OWNER, BUILD, cache, 1)
    assert own.stdout == "[1.0, 1.0]\n"
    assert f"the cache entry {planted} belongs to user {STRANGER}" in own.stderr


def test_a_command_refuses_the_cache_of_a_stranger(place: Path) -> None:
    cache = place / "cache"
    cache.mkdir()
    give(place, STRANGER)
    run = "from kdtune.config.cli import start; start('distill')"
    done = as_user(OWNER, run, "--cache", cache, "--epochs", 1, HOME=str(place))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{cache} belongs to user {STRANGER}" in done.stderr and done.stderr.count("\n") == 1


CLEAN = """
import sys
from pathlib import Path
from kdtune.raytune import session as local_ray
local_ray._temporary_place = lambda: sys.argv[1]
with local_ray._private_folder() as folder:
    print(folder.parent)
"""


def test_folders_that_a_stranger_has_put_into_tmp_are_left_alone(place: Path) -> None:
    tmp, home = place / "tmp", place / "home"
    for folder in (tmp, home):
        folder.mkdir()
    (home / "file").write_text("precious")
    give(place, OWNER)
    tmp.chmod(0o1777)
    planted = tmp / "kdtune-planted"
    (planted / "ray").mkdir(parents=True)
    (planted / "lock").symlink_to(home / "file")
    give(planted, STRANGER)
    done = as_user(OWNER, CLEAN, tmp)
    assert done.returncode == 0, done.stderr
    assert (home / "file").read_text() == "precious"
    assert [path.name for path in tmp.iterdir()] == ["kdtune-planted"]
    os.chown(planted, OWNER, OWNER)  # the control: one's own is removed, the link with it
    (planted / "lock").unlink()
    assert as_user(OWNER, CLEAN, tmp).returncode == 0
    assert list(tmp.iterdir()) == []
