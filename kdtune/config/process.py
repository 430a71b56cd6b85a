"""The process of a command: its standard streams, its current folder, its environment."""

import os
import sys
from collections.abc import Callable
from typing import Any

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
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for name in ("write", "flush"):
        if sys.stdout is sys.__stdout__:  # not that of a test or a notebook
            setattr(sys.stdout, name, _saying(name))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
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


def check_docstrings() -> None:
    """Raise InputError if Python drops docstrings, without which Ray cannot be imported."""
    if sys.flags.optimize > 1:
        raise InputError(
            "Ray needs docstrings, which Python drops with -OO and PYTHONOPTIMIZE=2; leave it out, "
            "or use -O or PYTHONOPTIMIZE=1"
        )


def _saying(name: str) -> Callable[..., Any]:
    """Return a method of the standard output that raises InputError where it cannot be written.

    A full disk raises OSError without the name of a file, as if it were one of the study's.
    """
    method = getattr(sys.stdout, name)

    def call(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except BrokenPipeError:  # the reader has ended
            raise
        except OSError as error:
            raise InputError(
                f"the standard output cannot be written ({error.strerror}); direct it elsewhere"
            ) from None

    return call


def end_streams() -> None:
    """Flush the standard streams; what cannot be written is given up, so that exits are silent."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, InputError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
