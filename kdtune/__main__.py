"""List the commands, or run one of them.

python -m kdtune [COMMAND] [--flags]
kdtune [COMMAND] [--flags]
"""

import os
import sys
from typing import NoReturn

from kdtune import __version__
from kdtune.config.cli import COMMANDS, run_and_exit, start
from kdtune.config.text import InputError, did_you_mean

_OVERVIEW = """\
usage: kdtune COMMAND ...            (or: python -m kdtune.COMMAND ...)

Hyperparameter studies of knowledge distillation for classifiers on Ray Tune.

{commands}

kdtune COMMAND --help lists the flags and exit codes of a command.
kdtune --version prints the version."""


def main() -> NoReturn:
    """Run the command that the command line names, and end the process with its exit code."""
    word, *words = sys.argv[1:] or ["--help"]
    if word in COMMANDS:
        start(word, words)
    run_and_exit(lambda: _answer(word))


def _answer(word: str) -> int:
    """Print what a word that is no command asks for; raise InputError if that is nothing."""
    if word == "--version":
        print(f"kdtune {__version__}")
    elif word in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
        print(_OVERVIEW.format(commands="\n".join(lines)))
    else:
        hint = did_you_mean(word, COMMANDS) or "; kdtune --help lists them"
        raise InputError(f"COMMAND must be a command of kdtune, but got {word}{hint}")
    return 0


def console() -> NoReturn:
    """Run `main` as the console script `kdtune`.

    The first folder in which modules are searched is the current one, as with `python -m`, in place
    of the script's: models and data may be `module:factory` of a file there.
    """
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()
    main()


if __name__ == "__main__":
    main()
