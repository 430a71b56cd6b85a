"""Convert another tool's weights to kdtune's alpha and temperature.

python -m kdtune.convert --from repdistiller gamma=0.1 alpha=0.9 kd_T=4
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from kdtune.config.cli import parse_own_flags, start
from kdtune.config.conventions import CONVENTIONS, Conversion, convert, converted_training
from kdtune.config.fields import NotNegative, Optimizer, Positive, Setting, check_fields
from kdtune.config.text import InputError

_TRAINING = ("lr", "weight_decay", "clip_norm")
"""Flags whose values depend on the size of the loss."""


@dataclass(frozen=True)
class ConvertFlags:
    """Convert another tool's weights to kdtune's alpha and temperature, with equal gradients.

    kdtune's loss is alpha * CE + (1 - alpha) * T² * KL. The parameters have the tool's own names:
    python -m kdtune.convert --from repdistiller gamma=0.1 alpha=0.9 kd_T=4. Those that are left out
    have the tool's defaults. docs/conventions.md has each tool's loss.
    """

    parameters: Annotated[tuple[str, ...], Setting(metavar="NAME=VALUE")]
    """The tool's parameters."""
    from_: Annotated[str, Setting(metavar="TOOL")] = ""
    """The tool."""
    lr: Positive | None = None
    """The tool's learning rate, to be converted, too."""
    weight_decay: NotNegative | None = None
    """The tool's weight decay, to be converted, too."""
    clip_norm: NotNegative | None = None
    """The tool's largest norm of the gradient, to be converted, too."""
    optimizer: Optimizer = "sgd"
    """Optimizer, which decides how the learning rate is converted."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def values(self) -> dict[str, str]:
        """The tool's parameters by name. Raises InputError for a word that is not NAME=VALUE."""
        values: dict[str, str] = {}
        for word in self.parameters:
            name, equals, value = word.partition("=")
            # as on the tool's command line: --task-loss-weight=1
            name = name.lstrip("-").replace("-", "_")
            if not (name and equals and value) or name in values:
                raise InputError(
                    f"parameters of the tool must be NAME=VALUE, each name once, but got {word}; "
                    f"for example --from repdistiller gamma=0.1 alpha=0.9"
                )
            values[name] = value
        return values


FLAGS = (ConvertFlags,)


def parse(words: Sequence[str]) -> ConvertFlags:
    """Return what a command line asks for."""
    tools = "\n\n".join(f"{name}: {tool.signature}" for name, tool in CONVENTIONS.items())
    about = f"\n\nTools and their parameters:\n\n{tools}"
    return parse_own_flags(ConvertFlags, "convert", words, about)


def main(flags: ConvertFlags) -> int:
    """Print kdtune's flags on the first line, then what else changes; return the exit code."""
    conversion = convert(flags.from_, flags.values)
    theirs = {n: getattr(flags, n) for n in _TRAINING if getattr(flags, n) is not None}
    training = converted_training(conversion.scale, flags.optimizer, theirs)
    values = dict(conversion.hyperparameters) | training
    words = {n: v if isinstance(v, str) else f"{v:.12g}" for n, v in values.items()}
    print(" ".join(f"--{name.replace('_', '-')} {word}" for name, word in words.items()))
    print()
    print(_describe_training(conversion, flags))
    if conversion.note:
        print(conversion.note)
    return 0


def _describe_training(conversion: Conversion, flags: ConvertFlags) -> str:
    """Return a sentence on the learning rate and what else depends on the size of the loss."""
    if math.isclose(conversion.scale, 1, rel_tol=1e-9):
        return "The losses are equal: the learning rate and the weight decay stay as they are."
    factor = f"{conversion.scale:.6g}"
    is_converted = flags.lr is not None and flags.weight_decay is not None
    hint = "" if is_converted else " (--lr LR --weight-decay X converts them)"
    return (
        f"The loss of {flags.from_} is {factor} times this one: with SGD, the learning rate is "
        f"multiplied by {factor}, and the weight decay and a limit on the gradient's norm are "
        f"divided by it{hint}; with AdamW, whose steps do not depend on it, the first two stay."
    )


if __name__ == "__main__":
    start("convert")  # does not return
