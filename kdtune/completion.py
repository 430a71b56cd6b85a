"""Print the script that completes kdtune's commands and flags in a shell.

python -m kdtune.completion bash
"""

import contextlib
import io
from dataclasses import MISSING, dataclass, make_dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, Union

from kdtune.config.cli import COMMANDS, flags_of, start, study_flags
from kdtune.config.fields import ALL_COMMANDS
from kdtune.config.study import fashion

_END_OF_BASH = """
_kdtune() {
  _tyro_kdtune
  [[ -n "${COMPREPLY[*]}" ]] || COMPREPLY=()
}
complete -o bashdefault -o default -F _kdtune kdtune
"""
"""Registers file names for words that tyro does not know: it answers with an empty word, which
would erase what is typed."""


@dataclass(frozen=True)
class CompletionFlags:
    """Print the script that completes commands, flags and their choices in a shell.

    It is for the console script `kdtune`. docs/commands.md says where each shell reads it from.
    """

    shell: Literal["bash", "zsh", "fish"]
    """The shell."""


FLAGS = (CompletionFlags,)


def main(flags: CompletionFlags) -> int:
    """Print the script and return the exit code."""
    print(completion_script(flags.shell))
    return 0


def completion_script(shell: str) -> str:
    """Return the script that completes the commands of `COMMANDS` in a shell."""
    import tyro

    kinds: list[Any] = []
    for name in COMMANDS:
        if name in ALL_COMMANDS:
            flags = list(study_flags(name, fashion()))
        else:
            owners = import_module(f"kdtune.{name}").FLAGS
            flags = [flag for owner in owners for flag in flags_of(owner)]
        unique = {flag.name: flag for flag in reversed(flags) if flag.default is not MISSING}
        fields = make_dataclass(name, unique.values())
        kind: Any = Annotated[fields, tyro.conf.subcommand(name)]
        pairs: Any = kind if name in ALL_COMMANDS else tyro.conf.FlagCreatePairsOff[kind]  # type: ignore[misc]
        kinds.append(pairs)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        commands: Any = Union[tuple(kinds)]  # noqa: UP007 - they are not known in advance
        tyro.cli(commands, prog="kdtune", args=["--tyro-write-completion", shell, "-"])
    return output.getvalue() + (_END_OF_BASH if shell == "bash" else "")


if __name__ == "__main__":
    start("completion")  # does not return
