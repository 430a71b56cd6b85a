"""Exceptions whose message is one sentence for the user; a traceback is for bugs."""

import traceback
from pathlib import Path

from kdtune.config.text import printable, printable_lines

PACKAGE = str(Path(__file__).parents[1])


class UserError(Exception):
    """An error that the user can act on: a command prints its message, not its traceback.

    >>> issubclass(kdtune.InputError, kdtune.UserError)
    True
    """

    exit_code = 2
    """Of a command that ends with the error: 2 if the input is invalid, 1 if it is not to blame."""

    def __str__(self) -> str:
        """Return the message; what it repeats of a file or flag cannot act on a terminal."""
        return printable_lines(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the line that called kdtune, and the message."""
        line = ""
        for frame in traceback.extract_tb(self.__traceback__):
            if frame.filename.startswith(PACKAGE):
                break
            line = frame.line or line  # the __init__ of a dataclass has no source
        return [*([f"----> {line}"] if line else []), f"{type(self).__name__}: {self}"]


class InputError(UserError, ValueError):
    """Invalid input of the user. The message names the value and the valid alternatives.

    >>> try:
    ...     kdtune.Run(alpha=2)
    ... except kdtune.InputError as error:
    ...     print(error)
    alpha must lie in [0, 1], but got alpha=2
    """


class LeaseLostError(UserError):
    """Another driver has taken over the study on its object store; this one must not write."""

    exit_code = 1


class DataChangedError(UserError):
    """The data changed while a study was reading them; its results are of the data as they were."""

    exit_code = 1


class RayLostError(UserError):
    """Ray itself has ended while a study ran; the same command resumes the study."""

    exit_code = 1


class FolderUnusableError(UserError):
    """The study's folder, or Ray's, is full, read-only, gone or fails; once mended it resumes."""

    exit_code = 1


class NodeMismatchError(UserError):
    """A machine of the cluster cannot run the study's trials, or differs from the driver's."""


class ExportMismatchError(UserError):
    """An exported file does not compute what the student does in PyTorch."""

    exit_code = 1


class Diverged(UserError, RuntimeError):
    """A metric of a run became NaN or infinite, and the run is lost.

    Records begin its message with the name of this class, and such a run is not tried again.
    """

    exit_code = 1


DAMAGED = (
    *(ValueError, TypeError, KeyError, AttributeError),
    *(RecursionError, OverflowError),
)
"""Errors of reading JSON that has other values than kdtune writes; InputError is a ValueError."""


def first_line(error: BaseException, length: int = 200) -> str:
    """Return the first line of an error's message, at most `length` characters of it.

    It may quote what others wrote, so nothing in it acts on the terminal, see `text.printable`.
    """
    try:
        text = str(error).strip() or repr(error)
    except Exception:  # a class of the user's may raise here as well
        text = f"a {type(error).__name__} without a message"
    return printable(text.splitlines()[0][:length])
