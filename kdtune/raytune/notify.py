"""The command of --notify, which is run once at the end of a study."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from signal import SIGKILL

from kdtune.config.errors import first_line
from kdtune.config.study import Study
from kdtune.config.text import printable
from kdtune.results.study_results import load

TIMEOUT_SECONDS = 60.0
"""Longest time that the command may take."""
MAX_VARIABLE = 10_000
"""Characters of KDTUNE_VERDICT; systems limit the size of the environment."""


@dataclass(frozen=True)
class Outcome:
    """How a study ended."""

    status: str
    """completed, failed (no run completed, or an error) or interrupted."""
    verdict: str
    """The conclusion in words; without one, why the study ended."""


@contextmanager
def notified(
    command: str | None, study: Study, say: Callable[[str], None] = print
) -> Iterator[None]:
    """Run a command when the context ends, with the study's outcome; None runs nothing.

    Args:
        command: For the shell.
        study: Its results are read if the context ends without an exception.
        say: Is given a warning if the command fails.
    """
    try:
        yield
    except BaseException as error:
        if command is not None:
            notify(command, study, outcome_of_error(error), say)
        raise
    if command is not None:
        notify(command, study, outcome_of_results(study), say)


def outcome_of_error(error: BaseException) -> Outcome:
    """Return the outcome of a study that an exception has ended."""
    if isinstance(error, KeyboardInterrupt):
        reason = f" ({error})" if str(error) else ""
        return Outcome("interrupted", f"The study was interrupted{reason}.")
    return Outcome("failed", f"The study failed: {type(error).__name__}: {first_line(error)}")


def outcome_of_results(study: Study) -> Outcome:
    """Return the outcome of a study that has ended, from its folder."""
    results = load(study.folder)
    has_completed = "completed" in set(results.trials.status)
    return Outcome("completed" if has_completed else "failed", results.verdict())


def notify(command: str, study: Study, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Run the command; a command that fails or takes too long is a warning.

    It gets the verdict on its standard input and in environment variables. No text of the study
    becomes part of the command, so nothing in a verdict can be run.
    """
    variables = {
        "KDTUNE_STUDY": study.name,
        "KDTUNE_FOLDER": study.uri or str(study.folder.absolute()),
        "KDTUNE_STATUS": outcome.status,
        "KDTUNE_VERDICT": outcome.verdict.replace("\0", "")[:MAX_VARIABLE],
    }
    with tempfile.TemporaryFile() as text, tempfile.TemporaryFile() as output:
        text.write(f"{outcome.verdict}\n".encode())
        text.seek(0)
        try:  # files, not pipes: a command may read nothing, or leave a process in the background
            process = subprocess.Popen(  # noqa: S602 - the user's own command
                command,
                shell=True,
                stdin=text,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
                start_new_session=True,
            )
            code = process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(OSError, AttributeError):  # Windows has no groups of processes
                os.killpg(process.pid, SIGKILL)
            process.kill()
            process.wait()
            say(f"warning: --notify was ended after {TIMEOUT_SECONDS:.0f} s")
        except OSError as error:
            say(f"warning: --notify cannot be run ({error})")
        else:
            if code != 0:
                output.seek(0)
                last = output.read().decode(errors="replace").strip().splitlines()[-1:]
                reason = "".join(f": {printable(line[:200])}" for line in last)
                say(f"warning: --notify ended with exit code {code}{reason}")
