"""A study's folder that does not answer, as a network mount whose server is away.

Every call of the system that writes there waits then, in the driver and in the trials, and goes on
by itself once the folder answers: nothing fails and nothing is lost. So kdtune only prints a
warning. Ctrl-C and other signals take effect once the folder answers: until then the system keeps
every process that waits for it.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from kdtune.config.errors import UserError
from kdtune.config.files import LOCK

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
    is_silent = False
    while not is_over.wait(TICK_SECONDS):
        seconds = seconds + TICK_SECONDS if asking.is_set() else 0.0
        line = None
        if seconds >= SILENT_SECONDS and not is_silent:
            is_silent = True
            line = f"warning: {folder} has not answered for {SILENT_SECONDS} s; waiting"
        elif is_silent and seconds == 0:
            is_silent = False
            line = f"{folder} answers again; the study goes on"
        if line is not None:
            with suppress(OSError, UserError):  # of a terminal that is closed
                say(line)
