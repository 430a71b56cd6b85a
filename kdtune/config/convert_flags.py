"""Flags of `kdtune.convert`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from kdtune.config.bounds import MAX_COUNT
from kdtune.config.conventions import CONVENTIONS
from kdtune.config.errors import InputError
from kdtune.config.fields import Setting, check_fields, docstring
from kdtune.config.flags import Flag, flags_of, parse_flags
from kdtune.config.run_training import Optimizer


@dataclass(frozen=True)
class ConvertFlags:
    """Convert another tool's weights to kdtune's alpha and temperature, with equal gradients.

    kdtune's loss is alpha * CE + (1 - alpha) * T² * KL. The parameters have the tool's own names:
    python -m kdtune.convert --from repdistiller gamma=0.1 alpha=0.9 kd_T=4. Those that are left out
    have the tool's defaults. docs/conventions.md has each tool's loss.
    """

    parameters: tuple[str, ...]
    """The tool's parameters."""
    from_: Annotated[str, Setting(choices=lambda: tuple(CONVENTIONS))] = ""
    """The tool."""
    lr: Annotated[float | None, Setting(above=0, high=MAX_COUNT)] = None
    """The tool's learning rate, to be converted, too."""
    weight_decay: Annotated[float | None, Setting(low=0, high=MAX_COUNT)] = None
    """The tool's weight decay, to be converted, too."""
    clip_norm: Annotated[float | None, Setting(low=0, high=MAX_COUNT)] = None
    """The tool's largest norm of the gradient, to be converted, too."""
    optimizer: Optimizer = "sgd"
    """Optimizer, which decides how the learning rate is converted."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def values(self) -> dict[str, str]:
        """The tool's parameters by name. Raises InputError for a word that is not NAME=VALUE."""
        found: dict[str, str] = {}
        for word in self.parameters:
            name, equals, value = word.partition("=")
            # as on the tool's command line: --task-loss-weight=1
            name = name.lstrip("-").replace("-", "_")
            if not (name and equals and value):
                raise InputError(
                    f"a parameter of the tool must be NAME=VALUE, but got {word}; for example "
                    f"--from repdistiller gamma=0.1 alpha=0.9"
                )
            if name in found:
                raise InputError(f"{name} must be given once, but got {name}={found[name]}, {word}")
            found[name] = value
        return found


def convert_flags(command: str) -> Iterator[Flag]:
    """Yield the flags of "convert"."""
    for flag in flags_of(ConvertFlags):
        metavars = {"parameters": "NAME=VALUE", "from_": "TOOL"}
        yield replace(flag, metavar=metavars.get(flag.name, flag.metavar))


def parse_convert(command: str, arguments: Sequence[str]) -> ConvertFlags:
    """Return what the command line of "convert" asks for; see `flags.parse_flags`."""
    tools = "\n\n".join(f"{name}: {tool.signature}" for name, tool in CONVENTIONS.items())
    about = f"{docstring(ConvertFlags)}\n\nTools and their parameters:\n\n{tools}"
    return ConvertFlags(**parse_flags(command, about, tuple(convert_flags(command)), arguments))
