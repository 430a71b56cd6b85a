"""Other users of this machine, for tests that run as root.

A user here is a number that nobody has: the kernel asks for no more.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

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
    user: int, code: str, *words: object, mask: int = 0o022, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code as a user, and wait for its end."""
    command = command_of(user, [sys.executable, "-c", code, *map(str, words)], mask)
    own = variables_of(**variables)
    return subprocess.run(command, env=own, cwd="/", capture_output=True, text=True, timeout=240)


def command_of(user: int, command: list[str], mask: int = 0o022) -> list[str]:
    """Return the command that runs a command as a user.

    A folder that only root may pass, such as /root, is replaced by one with the folders of Python
    alone, in a mount namespace that ends with the command.
    """
    script = "\n".join([*_opened(), LAUNCH])
    namespace = ["unshare", "--mount", "--propagation", "private"]
    return [*namespace, "sh", "-ec", script, "sh", f"{mask:03o}", str(user), *command]


def variables_of(**variables: str) -> dict[str, str]:
    """Return environment variables with nothing of this process's but where programs are."""
    places = os.pathsep.join(place for place in sys.path if place)
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": places} | variables


def _opened() -> Iterator[str]:
    closed: dict[Path, set[Path]] = {}
    for place in (sys.base_prefix, sys.prefix, *filter(None, sys.path)):
        line = [*reversed(Path(place).resolve().parents), Path(place).resolve()]
        for above, below in pairwise(line):
            if not above.stat().st_mode & 0o001:
                closed.setdefault(above, set()).add(below)
                break
    for above, inside in closed.items():
        yield f"tmp=$(mktemp -d); mount -t tmpfs none $tmp; {_binds(inside, '$tmp')}"
        yield f"mount -t tmpfs -o mode=755 none {shlex.quote(str(above))}"
        for below in inside:
            yield f"mkdir {shlex.quote(str(below))}"
            yield f"mount --move $tmp/{shlex.quote(below.name)} {shlex.quote(str(below))}"
        yield "umount $tmp; rmdir $tmp"


def _binds(inside: set[Path], place: str) -> str:
    binds: list[Any] = []
    for below in inside:
        target = f"{place}/{shlex.quote(below.name)}"
        binds.append(f"mkdir {target}; mount --bind {shlex.quote(str(below))} {target}")
    return "; ".join(binds)
