"""Two users of one machine: programs of one that attack the study of the other, as real users.

Each refusal has its control, so that an attack that fails for another reason is noticed. A user
here is a number that nobody has: the kernel asks for no more.
"""

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil  # Ray brings its own
import pytest

from kdtune.config.files import TRIALS
from kdtune.storage.records import read_lines

OWNER, STRANGER = 54321, 54322
LAUNCH = 'umask "$1"; user=$2; shift 2; exec setpriv --reuid="$user" --regid="$user"'
LAUNCH += ' --clear-groups -- "$@"'


def can_have_users() -> bool:
    """Whether this process may make mount namespaces and run programs as others."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


needs_users = pytest.mark.skipif(
    not can_have_users(), reason="only root may run programs as other users"
)


def give(folder: Path, user: int) -> Path:
    """Give a folder, and all that is in it, to a user; let all users see what is in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    folder.chmod(0o755)
    return folder


@contextmanager
def common_folder() -> Iterator[Path]:
    """Yield a temporary folder that all users reach; those of pytest are for their owner alone."""
    with TemporaryDirectory(prefix="users-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_user(
    user: int, code: str, *words: object, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run Python code as a user, with this standard input, and wait for its end."""
    command = command_of(user, [sys.executable, "-c", code, *map(str, words)])
    streams = {"input": given, "capture_output": True, "text": True}
    return subprocess.run(command, env=variables_of(), cwd="/", timeout=200, **streams)


def command_of(user: int, command: list[str], mask: int = 0o022) -> list[str]:
    """Return the command that runs a command as a user.

    In a mount namespace, which ends with the command, all may pass the folders above Python.
    """
    script = "\n".join([*_opened(), LAUNCH])
    namespace = ["unshare", "--mount", "--propagation", "private"]
    return [*namespace, "sh", "-ec", script, "sh", f"{mask:03o}", str(user), *command]


def variables_of(**variables: str) -> dict[str, str]:
    """Return environment variables with nothing of this process's but where programs are."""
    places = os.pathsep.join(place for place in sys.path if place)
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": places} | variables


def _opened() -> Iterator[str]:
    """Yield commands that let every user pass the folders above Python that only root may pass."""
    ways = [Path(w).resolve() for w in (sys.base_prefix, sys.prefix, *filter(None, sys.path))]
    above = {a for way in ways for a in (way, *way.parents) if a.is_dir()}
    closed = {a for a in above if not a.stat().st_mode & 0o001}
    for folder in map(shlex.quote, map(str, sorted(closed))):
        yield "tmp=$(mktemp -d); mount -t tmpfs none $tmp; mkdir -m 755 $tmp/up $tmp/work"
        layers = f"lowerdir={folder},upperdir=$tmp/up,workdir=$tmp/work"
        yield f"mount -t overlay -o {layers} none {folder}"


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
import json, os, socket, subprocess, sys
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

    @property
    def processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)  # unshare, sh and setpriv have become the study
        return [first, *first.children(recursive=True)]

    @property
    def raylet(self) -> psutil.Process:
        return next(process for process in self.processes if process.name() == "raylet")

    @property
    def private(self) -> Path:
        """The folder above Ray's own."""
        words = " ".join(self.raylet.cmdline())
        return Path(re.search(r"(/\S+/kdtune-[^/]+)/ray", words)[1])  # type: ignore[index]

    def trials_run(self) -> bool:
        """Wait until a trial runs; return False if none does."""
        for _ in range(240):
            if any(process.name().startswith("ray::Implicit") for process in self.processes):
                return True
            time.sleep(0.5)
        return False


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with common_folder() as home:
        words = [sys.executable, "-uc", STUDY, str(give(home, OWNER))]
        command = command_of(OWNER, words, mask=0)  # the laxest umask
        with subprocess.Popen(
            command, env=variables_of(HOME=str(home)), cwd="/", stdout=-1, stderr=-2, text=True
        ) as process:
            assert process.stdout is not None
            assert any(line.startswith("Running") for line in process.stdout)
            made = Victim(home, process)
            try:
                assert made.trials_run()
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
        # processes whose title Ray sets have it where their environment was
        "token": victim.raylet.environ()["RAY_AUTH_TOKEN"],
    }
    assert len(given["sockets"]) >= 2 and len(given["pids"]) >= 6
    # not as a word of the command: every user sees it, and the token is searched for there
    done = as_user(STRANGER, GRAB, given=json.dumps(given))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_stranger_reads_no_secret_and_writes_nothing(victim: Victim) -> None:
    """The study may be read: its folder follows the umask."""
    assert attack(victim) == ["read study.json"]
    assert stat.S_IMODE(victim.private.stat().st_mode) == 0o700


def mode_of(path: Path) -> int:
    """Return the permissions of a file; 0 of a link and of one that has just been renamed."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        return 0 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
    return 0


def test_nothing_of_a_study_is_every_users_to_write(victim: Victim) -> None:
    assert not [path for path in victim.home.rglob("*") if mode_of(path) & 0o002]
    of_owner = [p for p in Path("/tmp").iterdir() if p.lstat().st_uid == OWNER and p != victim.home]
    # PyTorch's; kdtune compiles nothing
    assert {p.name for p in of_owner if mode_of(p) & 0o077} <= {f"torchinductor_uid_{OWNER}"}


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
