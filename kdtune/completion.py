"""Print the script that completes kdtune's commands and flags in a shell.

python -m kdtune.completion bash
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kdtune.config.cli import completion_script, parse_own_flags, start


@dataclass(frozen=True)
class CompletionFlags:
    """Print the script that completes commands, flags and their choices in a shell.

    It is for the console script `kdtune`. docs/commands.md says where each shell reads it from.
    """

    shell: Literal["bash", "zsh", "fish"]
    """The shell."""


FLAGS = (CompletionFlags,)


def parse(words: Sequence[str]) -> CompletionFlags:
    """Return what a command line asks for."""
    return parse_own_flags(CompletionFlags, "completion", words)


def main(flags: CompletionFlags) -> int:
    """Print the script and return the exit code."""
    print(completion_script(flags.shell))
    return 0


if __name__ == "__main__":
    start("completion")  # does not return
