"""Processes that send a running study's records to trackers."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import IO

from kdtune.config.text import printable

END_SECONDS = 120.0
"""Longest time that a search waits at its end for a tracker to receive the rest."""
COMMAND, COMPLETE = "kdtune.track", "complete"
"""The module that sends, and what it reads at the end of a complete study. It may use the report,
which raytune may not import; so it is named here."""


class TrackerProcess:
    """A process that sends records until this one closes its input or dies.

    A client of a tracker may hang in a silent network, start threads or leave functions for the
    interpreter's end. In a process of its own it cannot slow or harm the search. It reads the
    records from the study's folder, so there is no queue that could be lost or overflow.

    Args:
        name: Of the tracker.
        folder: Of the study, with its study.json.
        say: Is given lines for the terminal, from another thread.
    """

    def __init__(self, name: str, folder: Path, say: Callable[[str], None]):
        self.name, self.say = name, say
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        command = [sys.executable, "-m", COMMAND, str(folder), "--tracker", name, "--follow"]
        self.process = subprocess.Popen(  # noqa: S603 - kdtune itself
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C must not end it before it has sent the rest
        )
        self._printer = Thread(target=self._print, daemon=True)
        self._printer.start()

    def _print(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - a pipe, see __init__
        for line in self.process.stdout:
            self.say(printable(line.rstrip()))

    def close_input(self, is_complete: bool) -> None:
        """Tell the process that no more records come, and whether the study is complete."""
        assert self.process.stdin is not None  # noqa: S101 - a pipe, see __init__
        with suppress(OSError):  # it has ended
            if is_complete:
                self.process.stdin.write(f"{COMPLETE}\n")
            self.process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for the process to send the rest; kill it after so many seconds."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.say(
                f"warning: {self.name} did not receive everything within {seconds:.0f} s; python "
                f"-m {COMMAND} STUDY --tracker {self.name} sends the rest"
            )
            self.kill()
            return
        self._printer.join(1)
        if code not in (0, 1):  # 1: it has said why itself
            reason = self._last_error() or f"exit code {code}"
            self.say(f"warning: {self.name} has ended ({reason})")

    def kill(self) -> None:
        """End the process at once, and those that it has started."""
        with suppress(OSError, AttributeError):  # Windows has no groups of processes
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self._errors.close()

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


@contextmanager
def tracked(
    names: Sequence[str], folder: Path, say: Callable[[str], None] = print
) -> Iterator[None]:
    """Send the records of a study to trackers while the context lasts.

    A study whose context ends without an exception is complete, and trackers get its conclusion.
    """
    with ExitStack() as stack:
        processes = []
        for name in names:
            try:
                process = TrackerProcess(name, folder, say)
            except OSError as error:
                say(f"warning: {name} cannot be started ({error})")
                continue
            processes.append(process)
            stack.callback(process.kill)
        is_complete = False
        try:
            yield
            is_complete = True
        finally:
            for process in processes:
                process.close_input(is_complete)
            for process in processes:
                process.wait(END_SECONDS)
