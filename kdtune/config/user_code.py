"""Errors in the user's own code: experiments, factories of models, objectives."""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdtune.config.errors import InputError, first_line

_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_NOT_THE_USERS = (
    "<",
    *(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], *_LIBRARIES)),
)
"""Beginnings of the names of files that are not the user's: of kdtune, Python and its packages."""


@contextmanager
def user_code(failure: str) -> Iterator[None]:
    """Turn every exception raised inside into an InputError, but for an interrupt by the user.

    That includes sys.exit(), which would end a command with the exit code of a success.

    Args:
        failure: What failed, such as "mine.py cannot be run". The message adds the exception and
            the file and line of the user's code.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt, GeneratorExit):
        raise
    except SystemExit as stop:
        raise InputError(f"{failure}: {describe_exit(stop)}") from stop
    except SyntaxError as error:
        place = f" ({error.filename}, line {error.lineno})" if error.filename else ""
        raise InputError(f"{failure}: SyntaxError: {error.msg}{place}") from error
    except BaseException as error:  # a class of the user's may derive from it
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{failure}: {reason}{_place(error)}") from error


@contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Turn sys.exit() that is called inside into an InputError; errors stay as they are.

    So is a class of the user's that derives from BaseException, which nothing else would catch.

    Args:
        what: Whose code is called, such as "the student mine:net".
    """
    try:
        yield
    except SystemExit as stop:
        raise InputError(f"{what} ended: {describe_exit(stop)}") from stop
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{what} ended: {reason}{_place(error)}") from error


def describe_exit(stop: SystemExit) -> str:
    """Return what the user's code called to end the process, where, and what would do."""
    code = "" if stop.code is None else f"{stop.code!r:.60}"
    return f"it calls sys.exit({code}){_place(stop)}; leave the call out, or raise an error"


def _place(error: BaseException) -> str:
    """Return file and line of the last call in the user's code; "" if there is none."""
    calls = traceback.extract_tb(error.__traceback__)
    own = [call for call in calls if not call.filename.startswith(_NOT_THE_USERS)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def is_users_own(file: str) -> bool:
    """Return True if a file belongs neither to Python nor to a package nor to kdtune."""
    packages = {"site-packages", "dist-packages"}
    return not file.startswith(_NOT_THE_USERS) and not packages & set(Path(file).parts)
