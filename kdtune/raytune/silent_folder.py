"""A study's folder that does not answer, as a network mount whose server is away.

Every call of the system that writes there waits then, in the driver and in the trials, and goes on
by itself once the folder answers: nothing fails and nothing is lost. So it is only said. Python
cannot act on Ctrl-C while its main thread waits in such a call; the watch does it instead.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from kdtune.config.files import LOCK
from kdtune.raytune.lost_ray import kill_ray
from kdtune.raytune.stop_signals import STOP_SIGNALS

SILENT_SECONDS = 30
"""A folder that has not answered for so long is named."""
ASK_SECONDS = 5.0
"""Time between two questions."""
TICK_SECONDS = 1.0
"""Time between two looks at whether an answer is awaited; shorter, so that none is missed."""


@contextmanager
def silence_said(folder: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Say if a folder does not answer while the context lasts, and when it answers again.

    Args:
        folder: Of a study whose lock this process holds.
        say: Gets the lines, in another thread.
    """
    asking, is_over = threading.Event(), threading.Event()
    own = (folder, asking, is_over)
    for task in (partial(_ask, *own), partial(_watch, *own, say)):
        threading.Thread(target=task, daemon=True, name="kdtune-folder-watch").start()
    try:
        yield
    finally:
        is_over.set()


def _ask(folder: Path, asking: threading.Event, is_over: threading.Event) -> None:
    """Ask the folder again and again; `asking` is set while an answer is awaited."""
    while not is_over.wait(ASK_SECONDS):
        asking.set()
        with suppress(OSError):  # an error is an answer; who writes there says it
            os.utime(folder / LOCK)  # changes what is on the disk, and makes nothing
        asking.clear()


def _watch(
    folder: Path,
    asking: threading.Event,
    is_over: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Say when the folder has been silent for long, and when it answers."""
    seconds = 0.0  # counted, so that a process that was suspended takes that for no silence
    while not is_over.wait(TICK_SECONDS):
        seconds = seconds + TICK_SECONDS if asking.is_set() else 0.0
        if seconds >= SILENT_SECONDS:
            say(f"warning: {folder} has not answered for {SILENT_SECONDS} s; waiting")
            stopped = _wait_for_answer(asking, is_over, say)
            if not is_over.is_set():
                say(f"{folder} answers again; the study goes on")
            seconds = 0.0
            if stopped is not None:
                os.kill(os.getpid(), stopped)  # for the main thread, which can act on it now


def _wait_for_answer(
    asking: threading.Event, is_over: threading.Event, say: Callable[[str], None]
) -> int | None:
    """Wait until the folder answers; end this process on a second signal to stop.

    Returns:
        The first signal, which has not been acted upon; None if none came.
    """
    stopped = None
    while asking.is_set() and not is_over.is_set():
        if (arrived := _next_signal()) is None:
            continue
        if stopped is not None:
            _end()
        stopped = arrived
        say("interrupted; the study ends when its folder answers, or at once with a second Ctrl-C")
    return stopped


def _end() -> NoReturn:
    """End this process and its Ray; the system delays the end of what waits for the folder."""
    try:
        with suppress(OSError):  # of a terminal that is closed
            print("interrupted; run the same command again to resume", file=sys.stderr, flush=True)
        kill_ray()
    finally:
        os._exit(130)


def _next_signal() -> int | None:
    """Wait for a signal to stop that the main thread does not take; None after a tick."""
    if not hasattr(signal, "sigtimedwait"):  # macOS
        threading.Event().wait(TICK_SECONDS)
        return None
    found = signal.sigtimedwait(STOP_SIGNALS, TICK_SECONDS)
    return None if found is None else found.si_signo
