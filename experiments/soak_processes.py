"""The processes that a soak starts: found by their descent, whatever happens to their parents.

The soak is the "subreaper" of its descendants (Linux, prctl(2)): a process whose parent has died
becomes its child. So Ray's processes stay below it when their driver is killed, and all of them can
be found, and ended by their number.
"""

import ctypes
import os
import re
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36
MOST_SECONDS_TO_END = 30.0
"""Time that a killed process may take to end."""


class Process(NamedTuple):
    """A process that runs."""

    pid: int
    parent: int
    state: str
    """A letter, as in proc(5): Z is a zombie."""
    command: str
    """Its command line; for Ray's workers their title, such as ray::ImplicitFunc.train."""


def adopt_orphans() -> None:
    """Become the parent of all descendants whose parent dies."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def below(root: int, kept: Collection[int] = ()) -> list[Process]:
    """Return the descendants of a process, parents before children, in the order of numbers.

    Args:
        root: The process.
        kept: Those that are left out, with all of their descendants.
    """
    children: dict[int, list[Process]] = {}
    for process in sorted(_all()):
        children.setdefault(process.parent, []).append(process)
    found, open_ = [], [root]
    while open_:
        own = [process for process in children.get(open_.pop(0), []) if process.pid not in kept]
        found += own
        open_ += [process.pid for process in own]
    return found


def _all() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it has ended
            # the second field, in parentheses, may hold spaces: count from its end
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            yield Process(int(folder.name), int(parent), state, words.strip())


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a process; return False if it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def remaining(kept: set[int], seconds: float, late: re.Pattern[str]) -> list[Process]:
    """Return the processes of this one that have not ended after some seconds.

    Args:
        kept: Processes that shall go on, with all of their descendants.
        seconds: How long to wait.
        late: Matches the commands of those that may end later; they are killed.
    """
    until = time.monotonic() + seconds
    while found := [process for process in _running(kept) if not late.match(process.command)]:
        if time.monotonic() >= until:
            break
        time.sleep(0.2)
    end([process for process in _running(kept) if late.match(process.command)])
    return found


def end(processes: list[Process]) -> None:
    """Kill processes, also those that are suspended."""
    for process in processes:
        send(process.pid, signal.SIGKILL)


def end_all(kept: set[int]) -> None:
    """Kill the processes of this one until none is left: some start others meanwhile.

    Args:
        kept: Processes that shall go on, with all of their descendants.
    """
    until = time.monotonic() + MOST_SECONDS_TO_END
    while (found := _running(kept)) and time.monotonic() < until:
        end(found)
        time.sleep(0.1)


def _running(kept: set[int]) -> list[Process]:
    """Return this process's descendants; bury those that have ended and have no other parent."""
    own, found = os.getpid(), []
    for process in below(own, kept):
        if process.state != "Z":
            found.append(process)
        elif process.parent == own:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    return found
