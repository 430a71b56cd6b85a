"""Table of the commands; `kdtune --help`, exit codes and shell completion follow from it.

    python -m kdtune                     lists the commands
    python -m kdtune search --gpus 4     the same as python -m kdtune.search --gpus 4
    kdtune search --gpus 4               the same, as a console script

A new command is one entry of `COMMANDS` and a module `kdtune.NAME` with `main(flags) -> int`.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.files import not_writable_by_all

if TYPE_CHECKING:
    from kdtune.config.flags import Flag

EXIT_CODES = {
    0: "success",
    1: "no run completed, an image could not be read, or an exported file differs from its student",
    2: "invalid input",
    3: "a warning, with --strict",
    130: "interrupted",
    141: "the reader of the output has ended",
    143: "terminated",
}
"""What the exit codes mean, in a few words; docs/commands.md says when each occurs."""
_OF_ALL = (0, 2, 130)
"""Exit codes in the help of every command."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: the functions that read its command line, and how it may end."""

    summary: str
    """What it does, in one line."""
    parser: str
    """FILE:FUNCTION in kdtune.config. It takes the command's name and the words of its command
    line, and returns the argument of `main` in the module kdtune.NAME."""
    flags: str
    """FILE:FUNCTION in kdtune.config. It takes the command's name and returns its `Flag`s."""
    exit_codes: tuple[int, ...] = _OF_ALL
    """Exit codes that --help lists; keys of `EXIT_CODES`."""
    resumes: bool = False
    """Whether the same command continues where it was interrupted."""
    uses_ray: bool = False
    """Whether it imports Ray."""
    collects_garbage: bool = True
    """Whether cyclic garbage is collected; a short process is faster without."""


_of_study = partial(Command, parser="cli:parse", flags="cli:study_flags")
_of_reading = partial(Command, parser="flags:parse_reading", flags="flags:reading_flags")
COMMANDS = {
    "search": _of_study(
        summary="Run a study: every configuration in every repeat. Repeat it to resume.",
        exit_codes=(0, 1, 2, 130),
        resumes=True,
        uses_ray=True,
    ),
    "distill": _of_study(
        summary="Run one distillation and print its epochs.", exit_codes=(0, 1, 2, 130)
    ),
    "teacher": _of_study(summary="Fine-tune the teacher of a study.", resumes=True),
    "analysis": _of_reading(
        summary="Print the table, comparison and conclusion of a study or a csv file.",
        exit_codes=(0, 2, 3, 130),
    ),
    "report": _of_reading(
        summary="Write report.html and the figures of a study.", collects_garbage=False
    ),
    "predict": Command(
        summary="Predict the classes of images with a student that a study has trained.",
        parser="predict_flags:parse_command",
        flags="predict_flags:predict_flags",
        exit_codes=(0, 1, 2, 130),
    ),
    "export": Command(
        summary="Export a student to ONNX or torch.export, checked on test; --int8.",
        parser="export_flags:parse_export",
        flags="export_flags:export_flags",
        exit_codes=(0, 1, 2, 130),
    ),
    "track": Command(
        summary="Send the records of a study to a tracker: MLflow or Weights & Biases.",
        parser="flags:parse_track",
        flags="flags:track_flags",
        exit_codes=(0, 1, 2, 130),
    ),
    "convert": Command(
        summary="Convert the weights of another tool to alpha and temperature.",
        parser="convert_flags:parse_convert",
        flags="convert_flags:convert_flags",
    ),
    "completion": Command(
        summary="Print the script that completes commands and flags in a shell.",
        parser="completion:parse",
        flags="completion:flags",
    ),
}
"""The commands by name, in the order of `kdtune --help`."""


def parse_command(name: str, words: Sequence[str]) -> Any:
    """Return what `main` of a command takes.

    For --help and unknown flags it ends the process, as `flags.parse_flags` does.

    Raises:
        InputError: A value is not allowed.
    """
    return _function(COMMANDS[name].parser)(name, list(words))


def command_flags(name: str) -> "Iterable[Flag]":
    """Return the flags of a command."""
    flags: Iterable[Flag] = _function(COMMANDS[name].flags)(name)
    return flags


def run_command(name: str, argument: Any) -> int:
    """Run a command and return its exit code.

    Its module is loaded under its own name: Ray cannot unpickle what `__main__` defines.
    """
    with not_writable_by_all():
        return int(import_module(f"kdtune.{name}").main(argument))


def _function(place: str) -> Callable[..., Any]:
    file, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"kdtune.config.{file}"), name)
    return function


def unknown_command(word: str) -> InputError:
    """Return the error for a word that is no command; it names the nearest one."""
    if word.startswith("-"):
        return InputError(
            f"flags must follow a command, but got {word} first; kdtune --help lists the commands"
        )
    near = get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "kdtune --help lists them"
    return InputError(f"COMMAND must be a command of kdtune, but got {word}; {hint}")


def version() -> str:
    """Return what --version prints."""
    return f"kdtune {__version__}"


def program(name: str) -> str:
    """Return a command as its user calls it: by the console script or by its module."""
    if Path(sys.argv[0]).stem == "kdtune":
        return f"kdtune {name}"
    return f"python -m kdtune.{name}"


def describe_exit_codes(name: str) -> str:
    """Return the exit codes of a command as a sentence for --help."""
    codes = (f"{code} {EXIT_CODES[code]}" for code in COMMANDS[name].exit_codes)
    return f"Exit codes: {'; '.join(codes)}."


def overview() -> str:
    """Return the help of `kdtune`: its commands with one line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kdtune COMMAND ...            (or: python -m kdtune.COMMAND ...)",
            "",
            "Hyperparameter studies of knowledge distillation for classifiers on Ray Tune.",
            "",
            *lines,
            "",
            "kdtune COMMAND --help lists the flags and exit codes of a command.",
            "kdtune --version prints the version.",
        ]
    )
