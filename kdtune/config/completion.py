"""Completion of commands, flags and their choices in a shell: the script that tyro writes.

Words that are neither are completed as file names: experiments, folders of studies, images.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, make_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from kdtune.config.commands import COMMANDS, command_flags
from kdtune.config.fields import ALL_COMMANDS, docstring
from kdtune.config.flags import Flag, flags_of, parse_flags

Shell = Literal["bash", "zsh", "fish"]

PROGRAM = "kdtune"
FILE_NAMES: dict[Shell, str] = {
    # tyro answers with one empty word where it knows none, which would erase the word typed
    "bash": """
_kdtune() {
  _tyro_kdtune
  [[ -n "${COMPREPLY[*]}" ]] || COMPREPLY=()
}
complete -o bashdefault -o default -F _kdtune kdtune
""",
    # the file is sourced, or the body of a function of this name in a folder of fpath
    "zsh": """
_kdtune() {
  _tyro_kdtune "$@" || _files
}
if [[ "$funcstack[1]" == _kdtune ]]; then
  _kdtune "$@"
else
  compdef _kdtune kdtune
fi
""",
    "fish": """
function _kdtune
    set -l start (commandline -ct)
    set -l found (_tyro_kdtune | string match -er -- '^'(string escape --style=regex -- "$start"))
    if test -n "$found"
        printf '%s\\n' $found
    else
        __fish_complete_path $start
    end
end
complete --erase --command kdtune
complete --no-files --command kdtune --arguments "(_kdtune)"
""",
}
"""What replaces tyro's registration, so that other words are completed as file names."""


@dataclass(frozen=True)
class CompletionFlags:
    """Print the script that completes commands, flags and their choices in a shell.

    It is for the console script `kdtune`. docs/commands.md says where each shell reads it from.
    """

    shell: Shell
    """The shell."""


def flags(command: str) -> Iterator[Flag]:
    """Return the flags of "completion"."""
    return flags_of(CompletionFlags)


def parse(command: str, arguments: list[str]) -> CompletionFlags:
    """Return what the command line of "completion" asks for; see `parse_flags`."""
    about = docstring(CompletionFlags)
    return CompletionFlags(**parse_flags(command, about, tuple(flags(command)), arguments))


def script(shell: Shell) -> str:
    """Return the script that completes the commands of `COMMANDS` in a shell."""
    import tyro

    kinds = [Annotated[_flags_type(name), tyro.conf.subcommand(name)] for name in COMMANDS]
    whole: Any = Union[tuple(kinds)]  # noqa: UP007 (they are not known in advance)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(whole, prog=PROGRAM, args=["--tyro-write-completion", shell, "-"])
    text = output.getvalue().strip().removesuffix(f'_tyro_{PROGRAM} "$@"')
    for name, command in COMMANDS.items():  # tyro describes a subcommand by its name
        text = text.replace(
            f"{name!r}: {{'description': {name!r},",
            f"{name!r}: {{'description': {command.summary!r},",
        )
    return text.rstrip() + "\n" + FILE_NAMES[shell]


def _flags_type(command: str) -> type:
    """Return a dataclass of a command's flags, from which tyro makes their completion."""
    import tyro

    fields: list[Any] = []
    for flag in command_flags(command):
        if flag.default is MISSING:
            continue  # tyro completes no positional arguments
        kind, default = _completed_type(flag)
        about = flag.help.partition(". ")[0].rstrip(".")
        metavar = None if _words(flag) else "VALUE"
        marks: list[Any] = [
            tyro.conf.arg(name=flag.given_name, help=about, metavar=metavar, help_behavior_hint="")
        ]
        if command not in ALL_COMMANDS:
            marks.append(tyro.conf.FlagCreatePairsOff)
        fields.append((flag.name, Annotated[kind, *marks], default))
    return make_dataclass(command, fields)


def _completed_type(flag: Flag) -> tuple[Any, Any]:
    """Return the type by which tyro completes a flag, and a value of that type.

    tyro completes the words of a Literal, and nothing for a number. Text it would complete as file
    names, but without a slash after folders; so text is a number here.
    """
    if flag.kind is bool:
        return bool, False
    kind: Any = int
    default: Any = 0
    if words := _words(flag):
        kind, default = Literal[tuple(words)], words[0]
    return (tuple[kind, ...], ()) if get_origin(flag.kind) is tuple else (kind, default)


def _words(flag: Flag) -> list[str]:
    """Return the words that a flag may have, without the placeholders module:function and A+B."""
    return [word for word in flag.choices or _literals(flag.kind) if not {":", "+"} & {*word}]


def _literals(kind: Any) -> tuple[str, ...]:
    """Return the words of all Literals in a type."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in _literals(part))
