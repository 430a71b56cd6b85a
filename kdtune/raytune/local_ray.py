"""A local Ray that other users of the machine cannot reach.

Whoever connects to Ray can run code as its owner. By default `ray.init` listens on all addresses,
keeps its files where all users may read them, and writes the token that protects its ports into
the home folder with the permissions of the umask (0644). Here the token is random and exists only
in the environment of this process and its children, which other users cannot read; the ports
listen on loopback; and the files are in a folder of mode 0700.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from kdtune.config.errors import InputError
from kdtune.config.files import RAY_PREFIX
from kdtune.raytune.lost_ray import ended_if_ray_is_lost
from kdtune.raytune.stop_signals import signals_delayed
from kdtune.storage.unusable_folder import temporary_folders

SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket (macOS; Linux allows 107)."""
RAY_SOCKET = "kdtune-12345678/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Path of Ray's longest socket below the system's temporary folder."""
LOCK = "lock"
ROOM_BYTES = 20e6
"""Free space that Ray needs for its logs; without it `ray.init` waits for a minute and fails."""
REMOVAL_TRIES = 20


@contextmanager
def private_ray(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Start a local Ray for this process and its children alone, and stop it at the end.

    Environment variables are restored at the end.

    Args:
        arguments: Of `ray.init`. `_temp_dir` and `_node_ip_address` are kept if they are given, and
            so are the user's RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and a RAY_AUTH_MODE other than
            "token".

    Raises:
        InputError: No temporary folder has a path short enough for Ray's sockets.
    """
    with ExitStack() as stack:
        own: dict[str, Any] = {}
        if arguments.get("_temp_dir") is None:
            own["_temp_dir"] = str(stack.enter_context(_private_folder()))
        stack.enter_context(_private_token())
        stack.enter_context(ended_if_ray_is_lost())
        with ExitStack() as starting:
            if arguments.get("_node_ip_address") is None:
                starting.enter_context(_loopback())
            starting.enter_context(signals_delayed())
            ray.init(**{**arguments, **own, "address": "local"})
        yield


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables, or unset those that are None; restore all of them at the end."""
    before = {name: os.environ.get(name) for name in values}
    _update(values)
    try:
        yield
    finally:
        _update(before)


def _update(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _private_token() -> Iterator[None]:
    """Give Ray a random token in the environment, unless the user has made a choice."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    given = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if name in os.environ]
    own = {} if mode.lower() != "token" or given else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ExitStack() as stack:
        stack.callback(_reload_settings)  # after the environment is restored
        stack.enter_context(environment(RAY_AUTH_MODE=mode, **own))
        _reload_settings()
        yield


def _reload_settings() -> None:
    """Have Ray's library read its settings and the token again; this process caches both."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _loopback() -> Iterator[None]:
    """Have a Ray that starts take 127.0.0.1 for the machine's address, and listen there alone.

    Ray does so on macOS and Windows. On Linux `ray.init` replaces `_node_ip_address="127.0.0.1"` by
    an address that other machines can reach, and Ray's ports then listen on all addresses.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a folder for Ray inside a temporary one of mode 0700, which is removed at the end.

    Ray gives the folder itself mode 0777, also if it exists. So the folder above it is private. A
    process that is killed cannot remove it; the next one does.
    """
    place = Path(_temporary_place())
    _remove_abandoned(place)
    new = Path(tempfile.mkdtemp(prefix=f".{RAY_PREFIX}", dir=place))
    with FileLock(new / LOCK):
        parent = new.rename(place / new.name.removeprefix("."))  # now that it is locked
        try:
            yield parent / "ray"
        finally:
            for _ in range(REMOVAL_TRIES):  # Ray's last processes may still write
                shutil.rmtree(parent, ignore_errors=True)
                if not parent.exists():
                    break
                time.sleep(0.1)


def _remove_abandoned(place: Path) -> None:
    """Remove this user's folders whose lock no process holds any more."""
    for parent in place.glob(f"{RAY_PREFIX}*"):
        with suppress(OSError, Timeout):
            # Ray's last processes may write after its lock has been removed
            of_ray = (parent / LOCK).exists() or (parent / "ray").is_dir()
            if of_ray and parent.lstat().st_uid == os.getuid():
                with FileLock(parent / LOCK, timeout=0):
                    shutil.rmtree(parent)


def _temporary_place() -> str:
    """Return the first temporary folder with room and a path short enough for Ray's sockets."""
    full = None
    for place in map(str, temporary_folders()):
        length = len(os.fsencode(os.path.join(place, RAY_SOCKET)))
        if length <= SOCKET_PATH_BYTES and os.access(place, os.W_OK | os.X_OK):
            if shutil.disk_usage(place).free >= ROOM_BYTES:
                return place
            full = full or place
    if full is not None:
        free = shutil.disk_usage(full).free / 1e6
        raise InputError(
            f"Ray needs {ROOM_BYTES / 1e6:g} MB for its temporary files, but the disk of {full} is "
            f"full: {free:.3g} MB are free; make room, or name another folder with TMPDIR"
        )
    limit = SOCKET_PATH_BYTES - len(RAY_SOCKET) - 1
    raise InputError(
        f"TMPDIR must be a writable folder whose path has at most {limit} bytes, but got "
        f"TMPDIR={tempfile.gettempdir()}. Ray's sockets have longer paths than the system allows"
    )
