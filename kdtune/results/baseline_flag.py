"""The flag --baseline: configurations that are the baseline of a comparison."""

from collections.abc import Collection

from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.config.hyperparameters import HYPERPARAMETERS, Range
from kdtune.config.study import Study
from kdtune.results.comparison import Criterion


def check_baseline(criterion: Criterion, study: Study) -> None:
    """Raise InputError if no configuration of the study can be the baseline.

    The default, training without distillation, is not checked: a study may do without it.
    """
    for name, value in {} if criterion.has_plain_baseline else criterion.baseline.items():
        values = study.values(name)
        if isinstance(values, Range):
            known = not isinstance(value, str) and values.low <= value <= values.high
        else:
            known = value in values
        # samplers add alpha = 1 even if the list or range of alphas does not hold it
        known = known or (name == "alpha" and value == 1 and study.has_plain)
        if not known:
            shown = values if isinstance(values, Range) else ", ".join(map(str, values))
            raise InputError(
                f"--baseline must be a configuration of the study ({name}: {shown}), but got "
                f"{name}={value}"
            )


def parse_baseline(text: str, names: Collection[str] = HYPERPARAMETERS) -> dict[str, Value]:
    """Return {"alpha": 1.0} for "alpha=1"; raise InputError for other text.

    Args:
        text: value of the flag.
        names: known hyperparameters; by default those of a study.
    """
    hint = "For training without distillation use alpha=1."
    if names is not HYPERPARAMETERS:
        hint = f"They are the columns of --by ({', '.join(names)})."
    values: dict[str, Value] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in names or not value:
            raise InputError(
                f"--baseline must be NAME=VALUE[,NAME=VALUE...] with names of hyperparameters, but "
                f"got {text}. {hint}"
            )
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = value
    return values
