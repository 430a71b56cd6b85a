"""Command lines: `python -m kdtune.<command> [EXPERIMENT.py] [--flags]`.

Flags take precedence over the experiment, the experiment over the defaults. Nothing here imports
torch or Ray, so that `--help` and misspelt flags are answered at once. The commands and their exit
codes: `kdtune.config.commands`.
"""

import atexit
import gc
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn

from kdtune.config.commands import COMMANDS, parse_command, run_command, version
from kdtune.config.defaults import TEACHER_RECIPE, describe_teacher_default, fashion
from kdtune.config.errors import InputError, UserError
from kdtune.config.fields import StudyCommand, declarations, docstrings, searchable
from kdtune.config.files import describe_missing
from kdtune.config.flags import (
    Flag,
    choices_of,
    help_of,
    metavar_of,
    parse_flags,
)
from kdtune.config.function_flags import function_flags, with_function_flags, with_repeats
from kdtune.config.hyperparameters import HYPERPARAMETERS, Range
from kdtune.config.names import is_output_file
from kdtune.config.places import check_place
from kdtune.config.process import check_docstrings, check_environment, end_streams, prepare_streams
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import printable, printable_lines, repr_or_type
from kdtune.config.user_code import user_code
from kdtune.config.words import check_distinct, number_or_range, parse_range

ABOUT: dict[StudyCommand, str] = {
    "search": "Run a hyperparameter study of knowledge distillation: every configuration in the "
    "same repeats. A hyperparameter given several values, or a range (--lr 1e-4..1e-1:log, "
    "--alpha 0.001..0.999:logit), is searched: --alpha 0.1 0.5 1.",
    "teacher": "Fine-tune the teacher of a study.",
    "distill": "Run one distillation and print its epochs.",
}

NAME_OF_DATA = "name-of-the-data"
"""Default of --name with other data than the default study's: the name of the data's folder."""

MAX_SHOWN = 80
"""Longest value that an error message shows whole."""


def start(command: str, words: Sequence[str] | None = None) -> NoReturn:
    """Run a command of kdtune and end the process with its exit code.

    The command line is parsed before the module is loaded, since the modules load torch and Ray.

    Args:
        command: A key of `COMMANDS`.
        words: Its command line; None: that of the process.
    """
    arguments = sys.argv[1:] if words is None else list(words)
    if not COMMANDS[command].collects_garbage:
        gc.disable()
        atexit.register(gc.freeze)  # otherwise the exit collects the garbage of the whole run

    def main() -> int:
        check_environment()
        if arguments[:1] == ["--version"]:
            print(version())
            return 0
        argument = parse_command(command, arguments)
        if COMMANDS[command].uses_ray:
            check_docstrings()
        return run_command(command, argument)

    warnings.formatwarning = _format_warning
    run_and_exit(main, resumes=COMMANDS[command].resumes)


_format_of_python = warnings.formatwarning


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return a line for a warning of kdtune; those of libraries keep their file and line."""
    if filename.startswith(str(Path(__file__).parents[1])):
        return f"warning: {printable_lines(str(message))}\n"
    return _format_of_python(message, category, filename, lineno, line)


def run_and_exit(main: Callable[[], int], resumes: bool = False) -> NoReturn:
    """Run a command and end the process; print errors for the user as one sentence each.

    Args:
        main: The command; returns its exit code.
        resumes: Whether the same command continues where it was interrupted.
    """
    prepare_streams()
    try:
        code = _run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt as stop:
        reason = f" ({printable(str(stop))})" if str(stop) else ""
        rest = "; run the same command again to resume" if resumes else ""
        with suppress(OSError):  # of a terminal that is closed
            print(f"interrupted{reason}{rest}", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # | head
        code = 141
    end_streams()
    sys.exit(code)


def _run(main: Callable[[], int]) -> int:
    """Return the exit code of a command, once its output is written; raise if it cannot be."""
    try:
        code = main()
    except SystemExit:  # of tyro, after --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def parse(command: StudyCommand, arguments: list[str]) -> Study:
    """Return the study that a command line asks for.

    For --help and unknown flags it ends the process, see `parse_flags`.

    Raises:
        InputError: A value is not allowed, or the experiment cannot be run.
    """
    base, arguments = _base(arguments)
    about = (
        f"{ABOUT[command]}\n\n[EXPERIMENT.py] may stand before the flags: a file with "
        f"`study = kdtune.Study(...)`; flags take precedence over it."
    )
    own_function = base.train is not None
    if own_function and command != "search":
        raise InputError(
            f"kdtune.{command} is for distillation, but the experiment has train=...; use "
            f"python -m kdtune.search"
        )
    every = tuple(function_flags(base) if own_function else _flags(command, base))
    values = parse_flags(command, about, every, arguments)
    given = {word.partition("=")[0].removeprefix("--no-").lstrip("-") for word in arguments}
    flags = tuple(name for name in values if name.replace("_", "-") in given)
    if own_function:
        return replace(with_function_flags(base, values), flags=flags)
    begins_otherwise = "teacher_weights" in flags or _is_file(values.get("teacher"))
    if begins_otherwise and base == fashion():  # whose recipe is for random weights
        own = {f"teacher_{name}" for name in TEACHER_RECIPE} - set(flags)
        values |= {name: None for name in own & values.keys()}
    study = _lay_over(base, base.space if command == "search" else {}, values)
    if "cache" in flags and Path(str(study.cache)).expanduser().is_file():
        raise InputError(f"cache must be a folder, but {study.cache} is a file")
    return replace(study, flags=flags)


def _is_file(teacher: Any) -> bool:
    """Return True if the value of --teacher is one file of outputs, or several."""
    names = teacher if isinstance(teacher, tuple) else (teacher,)
    return all(isinstance(name, str) and is_output_file(name) for name in names)


def study_flags(command: StudyCommand) -> Iterator[Flag]:
    """Return the flags of a command that takes a study, with the default study's values."""
    return _flags(command, fashion())


def _base(arguments: list[str]) -> tuple[Study, list[str]]:
    """Return the study that flags are laid over, and the flags.

    It is the experiment, the default study, or a study of plain defaults for other data.
    """
    if arguments and not arguments[0].startswith("-"):
        return _experiment(Path(arguments[0])), arguments[1:]
    words = [part for word in arguments for part in word.split("=", 1)]
    own_data = "--data" in words and words[words.index("--data") :][1:2] != ["fashion"]
    return Study(name=NAME_OF_DATA) if own_data else fashion(), arguments


def _experiment(file: Path) -> Study:
    """Return the study of an experiment, a Python file."""
    check_place("EXPERIMENT", str(file))
    if not file.is_file() or file.suffix != ".py":
        others = [p.name for p in file.parent.glob("*.py") if p.is_file() and p != file]
        near = get_close_matches(file.name, others, n=1)
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise InputError(
            f"an experiment must be a Python file (.py), but {describe_missing(file)}{hint}"
        )
    folder, streams = Path.cwd(), (sys.stdin, sys.stdout, sys.stderr)
    try:
        with user_code(f"{file} cannot be run"):
            study = runpy.run_path(str(file)).get("study")
            shown = repr_or_type(study, MAX_SHOWN)
    finally:  # otherwise nobody would see what the command prints
        sys.stdin, sys.stdout, sys.stderr = streams
    if not isinstance(study, Study):
        raise InputError(f"{file} must define `study = kdtune.Study(...)`, but got {shown}")
    if Path.cwd() != folder:
        warnings.warn(
            f"{file} has changed the working folder from {folder} to {Path.cwd()}; relative paths, "
            f"also those of flags, are relative to the latter",
            stacklevel=1,
        )
    return study


def _flags(command: StudyCommand, base: Study) -> Iterator[Flag]:
    """Yield the flags of a command, the study's own first, with the base study's values."""
    is_default_study, elsewhere = base == fashion(), Study(name=NAME_OF_DATA)
    owners: list[tuple[type, Any]] = [(Study, base), (Run, base.run)]
    for owner, values in owners:
        texts = docstrings(owner)
        for name, declared in declarations(owner).items():
            if command not in declared.setting.commands:
                continue
            kind, default, metavar = declared.kind, getattr(values, name), metavar_of(declared)
            if name == "repeats":
                kind = int | Literal["auto"]
                default = "auto" if base.until_decided else default
            elif command == "search" and name in searchable(Run):
                number = declared.number_kind
                one: Any = kind
                if number is not None:
                    one = number_or_range(number, optional=number != kind)
                kind = tuple[one, ...]
                listed = base.values(name)
                default = (str(listed),) if isinstance(listed, Range) else listed
                metavar = metavar and f"[{metavar} [...]]"
            of_teacher = describe_teacher_default(name.removeprefix("teacher_"))
            text = f"{texts[name]} {of_teacher}" if name.startswith("teacher_") else texts[name]
            about = help_of(declared, text.rstrip())
            if is_default_study:
                about += _default_elsewhere(name, base, elsewhere)
            choices, place = choices_of(declared), declared.setting.place
            yield Flag(name, kind, about, default, metavar, choices, place)


def _default_elsewhere(name: str, base: Study, elsewhere: Study) -> str:
    """Return the sentence on a flag's default with other data, if it differs; else ""."""
    if name not in declarations(Run) or name in ("data", "repeat"):
        return ""
    here, there = (
        (s.values(name) if name in HYPERPARAMETERS else getattr(s.run, name))
        for s in (base, elsewhere)
    )
    if here == there:
        return ""
    shown = there[0] if isinstance(there, tuple) else there
    return f" With other --data the default is {shown}."


def _lay_over(base: Study, space: Mapping[str, Any], flags: dict[str, Any]) -> Study:
    """Return the base study with the values of the flags."""
    space, fixed, own = dict(space), {}, {}
    for name, value in flags.items():
        if name not in declarations(Run):
            own[name] = value
        elif not isinstance(value, tuple) or name not in searchable(Run):
            fixed[name] = value
        elif ranges := parse_range(name, value, declarations(Run)[name].number_kind):
            space[name] = ranges
        elif len(value) == 1:
            fixed[name] = value[0]
            space.pop(name, None)
        else:
            if value != space.get(name):  # an experiment may have made its list as it likes
                check_distinct(name, value)
            space[name] = value
    own = with_repeats(base, own)
    if own["name"] == NAME_OF_DATA:
        own["name"] = ""
    run = replace(base.run, **fixed, study_values=()).absolute()
    return replace(base, run=run, space=space, **own)
