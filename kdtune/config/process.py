"""The process of a command: its standard streams, its current folder, its environment."""

import os
import sys

from kdtune.config.errors import InputError
from kdtune.config.text import shown

ABSOLUTE = ("HOME", "XDG_CACHE_HOME", "TMPDIR")
"""Variables that name a folder. Trials have another current folder, so the paths are absolute."""


def prepare_streams() -> None:
    """Make the standard streams usable, whatever the terminal and its encoding.

    A stream that is closed becomes one to the null device: else the next file that is opened would
    take its number, and child processes would write their output into that file. A character that
    the encoding lacks is written as an escape.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # not that of a test or a notebook
            reconfigure(errors="backslashreplace")


def check_environment() -> None:
    """Raise InputError if the current folder is gone, or a variable names no absolute path."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the current folder cannot be used ({error.strerror}); change to another folder (cd)"
        ) from None
    for name in ABSOLUTE:
        value = os.environ.get(name)
        if value == "":  # as if it were not set; else ~ would be the root folder
            del os.environ[name]
        elif value is not None and not os.path.isabs(value):
            raise InputError(f"{name} must be an absolute path, but got {name}={shown(value)}")


def output_error(error: OSError) -> InputError | None:
    """Return what to say of an error if it is one of the standard output; else None."""
    if error.filename is not None:
        return None
    try:
        sys.stdout.flush()
    except OSError as again:
        if again.errno == error.errno:
            return InputError(
                f"the standard output cannot be written ({error.strerror}); direct it elsewhere"
            )
    return None


def end_streams() -> None:
    """Flush the standard streams; what cannot be written is given up, so that exits are silent."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
