"""The user's own code, experiments and factories of models: where it is at fault."""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdtune.config.errors import InputError

LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
OTHERS = ("<", *(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], *LIBRARIES)))
"""How the names of files begin that are not the user's: kdtune's, Python's, its packages'."""


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Whatever is raised inside becomes an InputError, `what` went wrong and on which line."""
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        place = f" ({error.filename}, line {error.lineno})"
        raise InputError(f"{what}: SyntaxError: {error.msg}{place}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(f"{what}: {reason}{_place(error)}") from error


def _place(error: Exception) -> str:
    """File and line of the last call that is the user's; nothing where none is."""
    calls = traceback.extract_tb(error.__traceback__)
    own = [call for call in calls if not call.filename.startswith(OTHERS)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
