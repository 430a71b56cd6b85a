"""What becomes of a study whose local Ray loses a process: one sentence, and nothing is left."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray

from kdtune.config.errors import RayLostError, UserError
from kdtune.config.files import RAY_PREFIX
from kdtune.raytune.stop_signals import has_arrived, say_summary

POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""Time for the driver to end by itself once Ray is lost."""


@contextmanager
def ended_if_ray_is_lost() -> Iterator[None]:
    """End this process in a sentence if Ray has lost a process of its own and blocks all else.

    Without gcs_server every call of Ray waits for a minute, and then Ray aborts this process. A Ray
    that is whole when the context is left is no longer watched: `ray.shutdown` ends its processes.
    """
    is_over = threading.Event()
    threading.Thread(target=_watch, args=[is_over], daemon=True, name="kdtune-ray-watch").start()
    try:
        yield
    finally:
        if lost_sentence() is None:
            is_over.set()
        try:
            ray.shutdown()
        finally:
            is_over.set()


def _watch(is_over: threading.Event) -> None:
    while not is_over.wait(POLL_SECONDS):
        if lost_sentence() is not None and not is_over.wait(GRACE_SECONDS):
            sentence = lost_sentence()  # `ray.shutdown` may have ended the process meanwhile
            if sentence is not None:
                _end(sentence)


def _end(sentence: str) -> None:
    """End this process; as interrupted if it was told to end, since Ray was told so, too."""
    code = 130 if has_arrived() else 1
    try:
        text = f"error: {sentence}"
        if has_arrived():
            say_summary(print)
            text = "interrupted; run the same command again to resume"
        with suppress(OSError):  # of a terminal that is closed
            sys.stdout.flush()
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        _kill_ray()
    finally:
        os._exit(code)


def _kill_ray() -> None:
    """Kill what is left of the local Ray and remove its private folder."""
    node = ray._private.worker._global_node
    if node is not None:
        parent = Path(node.get_temp_dir_path()).parent
        below: list[psutil.Process] = []
        for _, process in node.live_processes():
            with suppress(psutil.Error):  # it has ended just now
                below += psutil.Process(process.pid).children(recursive=True)
        node.kill_all_processes(check_alive=False, allow_graceful=False)
        for child in below:  # they notice the death of their parent, but late
            with suppress(psutil.Error):
                child.kill()
        if parent.name.startswith(RAY_PREFIX):
            shutil.rmtree(parent, ignore_errors=True)


def lost_sentence() -> str | None:
    """Return a sentence if a process of the Ray that this process has started has ended."""
    node = ray._private.worker._global_node
    # a copy, since another thread may shut Ray down; Ray's dead_processes() makes none
    started: list[tuple[str, Any]] = [] if node is None else list(node.all_processes.items())
    dead = {kind for kind, infos in started if any(i.process.poll() is not None for i in infos)}
    for kind in sorted(dead & {"gcs_server", "raylet"}):
        return (
            f"Ray's process {kind} has ended (it was killed, perhaps for lack of memory, or has "
            f"crashed); run the same command again to resume"
        )
    return None


def check_local_ray() -> None:
    """Raise if a process of the Ray that this process has started has ended.

    Raises:
        RayLostError: It has ended.
        KeyboardInterrupt: It has ended, and this process was told to end, as Ray was then, too.
    """
    if (sentence := lost_sentence()) is not None:
        if has_arrived():
            raise KeyboardInterrupt
        raise RayLostError(sentence)


@contextmanager
def lost_ray_in_words() -> Iterator[None]:
    """Raise what `check_local_ray` does in place of what follows from the end of the local Ray."""
    try:
        yield
    except UserError:
        raise
    except Exception:
        check_local_ray()
        raise
