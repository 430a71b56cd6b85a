"""Convert another tool's weights to kdtune's alpha and temperature.

python -m kdtune.convert --from repdistiller gamma=0.1 alpha=0.9 kd_T=4
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("convert")  # does not return

import math

from kdtune.config.cli import ConvertFlags
from kdtune.config.conventions import Conversion, convert, converted_training

TRAINING = ("lr", "weight_decay", "clip_norm")
"""Flags whose values depend on the size of the loss."""


def main(flags: ConvertFlags) -> int:
    """Print kdtune's flags on the first line, then what else changes; return the exit code."""
    found = convert(flags.from_, flags.values)
    given = {n: v for n in TRAINING if (v := getattr(flags, n)) is not None}
    training = converted_training(found.scale, flags.optimizer, given)
    print(as_flags({**found.hyperparameters, **training}))
    print()
    print(describe_training(found, flags))
    if found.note:
        print(found.note)
    return 0


def as_flags(values: dict[str, float | str]) -> str:
    """Return hyperparameters as flags: "--alpha 0.1 --temperature 4"."""
    words = ((name.replace("_", "-"), value) for name, value in values.items())
    return " ".join(f"--{n} {v if isinstance(v, str) else f'{v:.12g}'}" for n, v in words)


def describe_training(found: Conversion, flags: ConvertFlags) -> str:
    """Return a sentence on the learning rate and what else depends on the size of the loss."""
    if math.isclose(found.scale, 1, rel_tol=1e-9):
        return "The losses are equal: the learning rate and the weight decay stay as they are."
    factor = f"{found.scale:.6g}"
    begin = f"The loss of {flags.from_} is {factor} times this one"
    if flags.optimizer == "adamw":
        return (
            f"{begin}, on which AdamW's steps do not depend (but for its eps): the learning rate "
            f"and the weight decay stay as they are; a limit on the gradient's norm is divided by "
            f"{factor}."
        )
    is_done = all(getattr(flags, name) is not None for name in ("lr", "weight_decay"))
    return (
        f"{begin}: with SGD, the learning rate is multiplied by {factor}, and the weight decay and "
        f"a limit on the gradient's norm are divided by it"
        f"{'' if is_done else ' (--lr LR --weight-decay X converts them)'}; with AdamW the first "
        f"two stay."
    )
