"""List the commands, or run one of them.

python -m kdtune [COMMAND] [--flags]
kdtune [COMMAND] [--flags]
"""

import os
import sys
from typing import NoReturn

from kdtune import __version__
from kdtune.config.cli import COMMANDS, overview, run_and_exit, start, unknown_command


def main() -> NoReturn:
    """Run the command that the command line names, and end the process with its exit code."""
    word, *words = sys.argv[1:] or ["--help"]
    if word in COMMANDS:
        start(word, words)
    run_and_exit(lambda: _answer(word))


def _answer(word: str) -> int:
    """Print what a word that is no command asks for; raise InputError if it is none either."""
    if word not in ("-h", "--help", "--version"):
        raise unknown_command(word)
    print(f"kdtune {__version__}" if word == "--version" else overview())
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
