"""The start and the end of Ray, and what ends a study before its end."""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from filelock import FileLock, Timeout
from ray._private import ray_constants, utils
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from kdtune.config.files import RAY_PREFIX, distrust_of
from kdtune.config.study import Study
from kdtune.config.text import InputError, RayLostError, UserError, first_line
from kdtune.storage.folder import temporary_folders
from kdtune.streams.views import KEEPS_MEMORY, count_gpus, local_cpus

# What ends a study before its end: Ctrl-C, `kill` or a batch system, a terminal that is closed.
#
# A batch system, `timeout` and a terminal signal all processes of a study, so Ray may be lost with
# the driver. Hence it is noted here that a signal has arrived.


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_arrived = threading.Event()
"""Set once SIGTERM or SIGHUP has told the study of this process to end."""
_summaries: list[Callable[[], str]] = []
"""Of the study that runs; empty once it is printed."""


@contextmanager
def signals_delayed() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP until the context is left; the second one is not delayed.

    `ray.init` that is interrupted leaves processes of which `ray.shutdown` knows nothing. An error
    after a signal is taken for its effect.
    """
    arrived: list[int] = []

    def note(number: int, _: object) -> None:
        arrived.append(number)
        if number != signal.SIGINT:  # which Ray's own processes ignore
            _arrived.set()
        if len(arrived) > 1:
            raise KeyboardInterrupt

    of_ray = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None  # `ray.init` begins with one that exits
    try:
        with _handled(STOP_SIGNALS, note):
            yield
    except Exception as error:
        if arrived:
            raise KeyboardInterrupt from error
        raise
    finally:
        utils.set_sigterm_handler = of_ray
    if arrived:
        raise KeyboardInterrupt


@contextmanager
def ended_in_words() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a study as Ctrl-C does; say so if its local Ray is lost.

    Ray's own handler of SIGTERM would end the process at once. An error after such a signal is
    taken for its effect: nothing can be printed on a terminal that is closed.

    Raises:
        RayLostError: In place of an error that follows from the end of the local Ray.
    """

    def stop(number: int, _: object) -> None:
        _arrived.set()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a script
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    try:
        with _handled([number for number in STOP_SIGNALS if number != signal.SIGINT], stop):
            yield
    except Exception as error:
        if _arrived.is_set():
            raise KeyboardInterrupt from error
        if not isinstance(error, UserError):
            check_local_ray()
        raise


@contextmanager
def _handled(
    numbers: Sequence[int], handler: Callable[[int, Any], Any] | None = None
) -> Iterator[None]:
    """Give signals back their handlers when the context is left; until then they may have another.

    Those that nohup ignores stay ignored. Only the main thread may do so. A handler that was not
    set from Python (None) cannot be given back.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if is_main}
    before = {number: old for number, old in before.items() if old is not None}
    try:
        for number, old in before.items():
            if handler is not None and old is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def summarised(describe: Callable[[], str], write: Callable[[str], None]) -> Iterator[None]:
    """Print how far a study has come if it is interrupted in the context.

    Args:
        describe: Returns the state of the study.
        write: Gets the line.
    """
    _summaries.append(describe)
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or _arrived.is_set():
            _print_summary(write)
        raise
    finally:
        _summaries.clear()


def _print_summary(write: Callable[[str], None]) -> None:
    """Print how far the study that runs has come, once."""
    with suppress(OSError, IndexError):  # of a terminal that is closed
        write(f"So far: {_summaries.pop()()}")


# What becomes of a study whose local Ray loses a process: one sentence, and nothing is left.


WATCH_SECONDS = 1.0
"""Time between two looks at Ray's processes."""
GRACE_SECONDS = 10.0
"""Time for the driver to end by itself once Ray is lost."""


def _lost_sentence() -> str | None:
    """Return a sentence if a process of the Ray that this process has started has ended."""
    node = ray._private.worker._global_node
    # a copy, since another thread may shut Ray down; Ray's dead_processes() makes none
    started: dict[str, list[Any]] = {} if node is None else dict(node.all_processes)
    for kind in ("gcs_server", "raylet"):
        if any(info.process.poll() is not None for info in started.get(kind, ())):
            return (
                f"Ray's process {kind} has ended (it was killed, perhaps for lack of memory, or "
                f"has crashed, which any user of this machine can bring about: docs/security.md); "
                f"run the same command again to resume"
            )
    return None


def check_local_ray() -> None:
    """Raise if a process of the Ray that this process has started has ended.

    Raises:
        RayLostError: It has ended.
        KeyboardInterrupt: It has ended, and this process was told to end, as Ray was then, too.
    """
    if (sentence := _lost_sentence()) is not None:
        if _arrived.is_set():
            raise KeyboardInterrupt
        raise RayLostError(sentence)


@contextmanager
def ended_if_ray_is_lost() -> Iterator[None]:
    """End this process in a sentence if Ray has lost a process of its own and blocks all else.

    Without gcs_server every call of Ray waits for a minute, and then Ray aborts this process. A Ray
    that is whole when the context is left is no longer watched: `ray.shutdown` ends its processes.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(WATCH_SECONDS):
            if _lost_sentence() is not None and not is_over.wait(GRACE_SECONDS):
                sentence = _lost_sentence()  # `ray.shutdown` may have ended the process meanwhile
                if sentence is not None:
                    _end(sentence)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        if _lost_sentence() is None:
            is_over.set()
        try:
            ray.shutdown()
        finally:
            is_over.set()


def _end(sentence: str) -> None:
    """End this process; as interrupted if it was told to end, since Ray was told so, too."""
    interrupted, text = _arrived.is_set(), f"error: {sentence}"
    try:
        if interrupted:
            _print_summary(print)
            text = "interrupted; run the same command again to resume"
        with suppress(OSError):  # of a terminal that is closed
            print(text, file=sys.stderr, flush=True)
        _kill_ray()
    finally:
        os._exit(130 if interrupted else 1)


def _kill_ray() -> None:
    """Kill what is left of the local Ray and remove its private folder."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    if (node := ray._private.worker._global_node) is not None:
        parent = Path(node.get_temp_dir_path()).parent
        if parent.name.startswith(RAY_PREFIX):
            shutil.rmtree(parent, ignore_errors=True)


# A local Ray that other users of the machine cannot reach.
#
# Whoever connects to Ray can run code as its owner. By default `ray.init` listens on all addresses,
# keeps its files where all users may read them, and writes the token that protects its ports into
# the home folder with the permissions of the umask (0644). Here the token is random and exists only
# in the environment of this process and its children, which other users cannot read; the ports
# listen on loopback; and the files are in a folder of mode 0700.


SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket (macOS; Linux allows 107)."""
RAY_SOCKET = "kdtune-12345678/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Path of Ray's longest socket below the system's temporary folder."""
RAY_LOCK = "lock"
RAY_ROOM_BYTES = 20e6
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
        arguments = {**arguments, "address": "local"}
        if arguments.get("_temp_dir") is None:
            arguments["_temp_dir"] = str(stack.enter_context(_private_folder()))
        stack.enter_context(_private_token())
        stack.enter_context(ended_if_ray_is_lost())
        # Ray's ports listen on loopback alone where it has no clusters (macOS, Windows). On Linux
        # `ray.init` replaces _node_ip_address="127.0.0.1" by an address that others can reach
        before = ray_constants.ENABLE_RAY_CLUSTER
        ray_constants.ENABLE_RAY_CLUSTER = arguments.get("_node_ip_address") is not None and before
        try:
            with signals_delayed():
                ray.init(**arguments)
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before
        yield


@contextmanager
def environment_set(**values: str | None) -> Iterator[None]:
    """Set environment variables, or unset those that are None; restore all of them at the end."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@contextmanager
def _private_token() -> Iterator[None]:
    """Give Ray a random token in the environment, unless the user has made a choice."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    is_chosen = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    is_needed = mode.lower() == "token" and not is_chosen
    token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)} if is_needed else {}
    with ExitStack() as stack:
        stack.callback(_reload_settings)  # after the environment is restored
        stack.enter_context(environment_set(RAY_AUTH_MODE=mode, **token))
        _reload_settings()
        yield


def _reload_settings() -> None:
    """Have Ray's library read its settings and the token again; this process caches both."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a folder for Ray inside a temporary one of mode 0700, which is removed at the end.

    Ray gives the folder itself mode 0777, also if it exists. So the folder above it is private. A
    process that is killed cannot remove it; the next one does.
    """
    place = Path(_temporary_place())
    _remove_abandoned(place)
    new = Path(tempfile.mkdtemp(prefix=f".{RAY_PREFIX}", dir=place))
    with FileLock(new / RAY_LOCK):
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
            of_ray = (parent / RAY_LOCK).exists() or (parent / "ray").is_dir()
            if of_ray and parent.lstat().st_uid == os.getuid():
                with FileLock(parent / RAY_LOCK, timeout=0):
                    shutil.rmtree(parent)


def _temporary_place() -> str:
    """Return the first temporary folder with room and a path short enough for Ray's sockets.

    Raises InputError if there is none, or if others could put a folder in the place of Ray's.
    """
    limit = SOCKET_PATH_BYTES - len(RAY_SOCKET) - 1
    folders = [str(folder) for folder in temporary_folders()]
    for folder in folders:
        is_writable = os.access(folder, os.W_OK | os.X_OK) and len(os.fsencode(folder)) <= limit
        if is_writable and shutil.disk_usage(folder).free >= RAY_ROOM_BYTES:
            if distrust := distrust_of(Path(folder, f"{RAY_PREFIX}ray")):
                raise InputError(
                    f"Ray's temporary folder must be one that only you may rename, but {distrust}; "
                    f"name another place with TMPDIR, or protect it as /tmp is (chmod +t)"
                )
            return folder
    raise InputError(
        f"Ray's temporary files need a writable folder with {RAY_ROOM_BYTES / 1e6:g} MB of free "
        f"space whose path has at most {limit} bytes, unlike {', '.join(folders)}; make room, or "
        f"name another folder with TMPDIR"
    )


# The start and the end of Ray as a study asks for it.


RAY_DEFAULTS = {
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner ignores verbose=0
    # Tune's CSV and JSON loggers write each report twice more; the records have it already
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's snapshots are never restored from: they lag, cannot be extended, and unpickle
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # the exporter's threads outlive ray.shutdown; a second study's could crash the process's exit
    "RAY_enable_metrics_collection": "0",
    # a task that does not fit into memory would be started again for ever
    "RAY_task_oom_retries": "2",
}
"""Environment variables of a study; values that the user has set are kept."""


@contextmanager
def ray_session(
    study: Study, ray_init: dict[str, Any] | None, photos: bool = False
) -> Iterator[None]:
    """Run Ray as the study asks for it, until the context is left.

    A Ray that already runs in this process is used and left as it is.

    Args:
        study: Names the cluster to connect to, or the GPUs that a local Ray may use.
        ray_init: Arguments of `ray.init` in place of those the study asks for. Without an address
            a local Ray is started.
        photos: Whether its examples are image files.

    Raises:
        InputError: No Ray cluster answers at the study's address.
    """
    logger = logging.getLogger("ray")
    with ExitStack() as stack:
        # Tune leaves its handler of SIGINT behind, which would swallow the first Ctrl-C after the
        # study; `ray.init` replaces that of SIGTERM for good
        stack.enter_context(_handled([signal.SIGINT, signal.SIGTERM]))
        if ray.is_initialized():
            yield
            return
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        # Ray colours the beginnings of lines wherever they go
        has_colours = sys.stdout.isatty() and sys.stderr.isatty()
        defaults = RAY_DEFAULTS | ({} if has_colours else {"RAY_COLOR_PREFIX": "0"})
        defaults |= KEEPS_MEMORY if photos else {}
        unset = {name: value for name, value in defaults.items() if name not in os.environ}
        stack.enter_context(environment_set(**unset))
        stack.callback(_arrived.clear)
        arguments = _arguments(study) if ray_init is None else {"address": "local"} | ray_init
        arguments = {"log_to_driver": False, "logging_level": logging.ERROR} | arguments
        if arguments["address"] == "local":
            stack.enter_context(environment_set(PYTHONPATH=_import_path()))
            stack.enter_context(private_ray(arguments))
        else:
            stack.callback(ray.shutdown)
            try:
                ray.init(**arguments)
            except (ConnectionError, ray.exceptions.AuthenticationError) as error:
                address = arguments["address"]
                raise InputError(
                    f"no Ray cluster answers at {address} ({first_line(error)})"
                ) from error
        stack.enter_context(ended_in_words())
        yield


def _import_path() -> str | None:
    """Return PYTHONPATH with which workers find all modules that this process finds.

    Ray passes on the folder of the main program alone, but a notebook may have extended `sys.path`.
    """
    of_python = (sys.base_prefix + os.sep, sys.prefix + os.sep)
    folders = [os.path.abspath(path) for path in sys.path if not path.startswith(of_python)]
    return os.pathsep.join(dict.fromkeys(folders)) or None


def _arguments(study: Study) -> dict[str, Any]:
    if study.address is not None:
        return {"address": study.address}
    gpus = count_gpus(study) if study.may_use_gpus else 0
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": local_cpus(),
        "num_gpus": gpus if study.gpus is None else study.gpus,
    }


def check_address(address: str) -> None:
    """Raise InputError if nothing listens at HOST:PORT, where Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise InputError(f"no Ray cluster answers at {address} ({error})") from None
