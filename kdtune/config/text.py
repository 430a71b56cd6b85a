"""Text for people: error messages, numbers, names of unknown origin."""

import importlib.util
import os
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import Any
from unicodedata import category

# Texts of unknown origin, made safe to show.


HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, of formats (bidi and zero-width characters, the soft hyphen),
of lone surrogates (bytes of a file name that are not UTF-8), of line and paragraph separators."""

JOINERS = "\u200c\u200d"
"""Formats without which Persian, Indian languages and some emoji cannot be written."""
_MAX_SHOWN = 200
"""Letters or digits of a value that an error shows."""


def printable(text: str) -> str:
    r"""Return the text with every character that acts on what surrounds it as its escape.

    A terminal obeys control characters, a reader is misled by characters that turn the direction
    of writing or take no room, and a lone surrogate cannot be encoded. They become Python's
    escapes; all other characters, a backslash included, stay as they are. The result is one line.

    >>> print(printable("a\x1b[2Jb\u202ec\n"), printable("7 × größer"))
    a\x1b[2Jb\u202ec\n 7 × größer
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode("ascii") if category(c) in HIDDEN else c for c in text
    )


def printable_lines(text: str) -> str:
    """Return the text with each of its lines as `printable` returns it."""
    return "\n".join(map(printable, text.split("\n")))


def wrap_lines(text: str, indent: str = "") -> str:
    """Return the text with lines of at most 80 characters, as far as words and tables allow.

    Args:
        text: Lines; rows of tables begin with "|" and stay as they are.
        indent: Of the second and later parts of a line.
    """
    wrap = partial(
        fill, width=80, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(line if line.startswith("|") else wrap(line) for line in text.split("\n"))


def time_text(seconds: float) -> str:
    """Return e.g. "about 0:02:00"; no number below a minute: start and end take nearly as long."""
    return f"about {timedelta(seconds=round(seconds))}" if seconds >= 60 else "less than a minute"


def in_spreadsheet(text: str) -> str:
    """Return a text for a cell of a csv file, which a spreadsheet must not take for a formula.

    Spreadsheets evaluate texts that begin with = + - or @. They get an apostrophe in front, unless
    they are numbers.

    >>> [in_spreadsheet(text) for text in ("=1+1", "-0.5", "-x", "alpha 0.5", "-")]
    ["'=1+1", '-0.5', "'-x", 'alpha 0.5', '-']
    """
    if not text.startswith(("=", "+", "-", "@")) or len(text) == 1:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def hidden_characters(text: str, formats: bool = True) -> list[str]:
    """Return the characters of `HIDDEN` in a text, but for joiners.

    They could forge what a terminal, a page or a file name shows.

    Args:
        text: Any text.
        formats: Whether those of formats are among them. They are harmless where the text is only
            shown by `printable`, such as the marks that Windows puts into dates in file names.
    """
    if text.isprintable():
        return []
    kinds = HIDDEN if formats else HIDDEN - {"Cf"}
    return [c for c in text if category(c) in kinds and c not in JOINERS]


def shown(value: object) -> str:
    """Return a value as an error shows it: `repr`, but not too long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def did_you_mean(word: str, options: Iterable[str], cutoff: float = 0.5, most: int = 1) -> str:
    """Return "; did you mean OPTION?" with the options that are most like a word, or "".

    Args:
        word: The word, misspelt.
        options: The words that are allowed. Those that begin or end with the word come first.
        cutoff: Least similarity in [0, 1], see `difflib.get_close_matches`.
        most: How many options to name.
    """
    options = list(options)
    whole = [o for o in options if word and (o.startswith(word) or o.endswith(word))]
    near = dict.fromkeys([*whole, *get_close_matches(word, options, most, cutoff)])
    return f"; did you mean {', '.join([*near][:most])}?" if near else ""


def list_some(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return names in words: of many the first `most`, and how many there are besides."""
    more = f"{separator}and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


# Exceptions whose message is one sentence for the user; a traceback is for bugs.


PACKAGE = str(Path(__file__).parents[1])


class UserError(Exception):
    """An error that the user can act on: a command prints its message, not its traceback.

    >>> issubclass(kdtune.InputError, kdtune.UserError)
    True
    """

    exit_code = 1
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

    exit_code = 2


class LeaseLostError(UserError):
    """Another driver has taken over the study on its object store; this one must not write."""


class DataChangedError(UserError):
    """The data changed while a study was reading them; its results are of the data as they were."""


class RayLostError(UserError):
    """Ray itself has ended while a study ran; the same command resumes the study."""


class FolderUnusableError(UserError):
    """The study's folder, or Ray's, is full, read-only, gone or fails; once mended it resumes."""


class NodeMismatchError(UserError):
    """A machine of the cluster cannot run the study's trials, or differs from the driver's."""

    exit_code = 2


class ExportMismatchError(UserError):
    """An exported file does not compute what the student does in PyTorch."""


class Diverged(UserError, RuntimeError):
    """A metric of a run became NaN or infinite, and the run is lost.

    Records begin its message with the name of this class, and such a run is not tried again.
    """


DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
"""Errors of reading JSON that has other values than kdtune writes; InputError is a ValueError."""


def first_line(error: BaseException, length: int = 200) -> str:
    """Return the first line of an error's message, at most `length` characters of it.

    It may quote what others wrote, so nothing in it acts on the terminal, see `text.printable`.
    """
    text = str(error).strip() or repr(error)
    return printable(text.splitlines()[0][:length])


# Text of numbers: short, and distinct also close to 1.


_CLOSE_TO_ONE = 0.99
"""Above it, significant digits are those of the distance from 1."""


TABLE_DIGITS = 6
"""Significant digits of a hyperparameter in a table."""


def short(value: float, digits: int) -> str:
    """Return a number with so many significant digits; close below 1 they are those of 1 - value.

    0.99987 and 0.99991 are as different as 0.00013 and 0.00009 on the log-odds scale; with three
    digits of their own both would be 1, which is a different hyperparameter value altogether.

    >>> short(0.123456, 3), short(0.00123456, 3), short(0.99876544, 3)
    ('0.123', '0.00123', '0.99877')
    """
    if not _CLOSE_TO_ONE < value < 1:
        return f"{value:.{digits}g}"
    return f"{1 - Decimal(f'{1 - value:.{digits}g}'):f}"


# Errors in the user's own code: experiments, factories of models, objectives.


_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_NOT_THE_USERS = ("<", *(f"{folder}{os.sep}" for folder in (PACKAGE, *_LIBRARIES)))
"""Beginnings of the names of files that are not the user's: of kdtune, Python and its packages."""


@contextmanager
def user_code(failure: str, only_exits: bool = False) -> Iterator[None]:
    """Turn every exception raised inside into an InputError, but for an interrupt by the user.

    That includes sys.exit(), which would end a command with the exit code of a success.

    Args:
        failure: What failed, such as "mine.py cannot be run". The message adds the exception and
            the file and line of the user's code.
        only_exits: Leave errors as they are: turn only sys.exit(), and a class of the user's that
            derives from BaseException, which nothing else would catch.
    """
    passed = Exception if only_exits else InputError
    try:
        yield
    except (passed, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a class of the user's may derive from it
        raise InputError(f"{failure}: {_describe_fault(error)}") from error


def check_packages(subject: str, names: Sequence[str], extra: str) -> None:
    """Raise InputError, with the extra that has them, if packages are not installed.

    Args:
        subject: What needs them, with its verb, such as "--tracker wandb needs".
        names: The packages.
        extra: The extra of kdtune.
    """
    specs = {name: importlib.util.find_spec(name) for name in names}
    # a folder, such as that of wandb's runs, has no origin
    missing = [name for name, spec in specs.items() if spec is None or spec.origin is None]
    if missing:
        raise InputError(f"{subject} {', '.join(missing)}: pip install 'kdtune[{extra}]'")


def import_package(package: str, name: str) -> Any:
    """Return a package that a name needs; raise InputError, with its extra, if it is missing."""
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"{name} needs {package}: pip install 'kdtune[{package}]'") from None


def import_named(noun: str, name: str) -> Any:
    """Return the user's function or class of a name, module:attribute.

    Args:
        noun: What it is, such as "the model".
        name: The name.

    Raises:
        InputError: It cannot be imported.
    """
    module, _, attribute = name.partition(":")
    with user_code(f"{noun} {name} cannot be imported"):
        return getattr(import_module(module), attribute)


def _describe_fault(error: BaseException) -> str:
    """Return what went wrong, with file and line of the last call in the user's code."""
    calls = traceback.extract_tb(error.__traceback__)
    lines = [(c.filename, c.lineno) for c in calls if not c.filename.startswith(_NOT_THE_USERS)]
    text = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, SyntaxError) and error.filename:
        text, lines = f"SyntaxError: {error.msg}", [(error.filename, error.lineno)]
    line = " ({}, line {})".format(*lines[-1]) if lines else ""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else f"{error.code!r:.60}"
        return f"it calls sys.exit({code}){line}; leave the call out, or raise an error"
    return f"{text}{line}"


def is_user_file(file: str) -> bool:
    """Return True if a file belongs neither to Python nor to a package nor to kdtune."""
    packages = {"site-packages", "dist-packages"}
    return not file.startswith(_NOT_THE_USERS) and not packages & set(Path(file).parts)


# What counts as an image, for data sets and models alike.


VAL_NAMES = ("val", "validation", "valid", "dev")
"""Names under which data may hold the split val."""
IMAGE_CHANNELS = (1, 3)
"""Channels of an image: grey or RGB."""


def are_images(inputs: Any) -> bool:
    """Return True if a tensor holds images: uint8 [N, C, H, W] with one or three channels.

    All other tensors are given to the models as they are.
    """
    # compared by name, since config does without torch
    is_bytes = str(inputs.dtype) == "torch.uint8"
    return is_bytes and inputs.ndim == 4 and inputs.shape[1] in IMAGE_CHANNELS
