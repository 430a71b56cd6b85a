"""The recipe's default configuration beside the chosen one, in words."""

import math

import pandas as pd

from kdtune.results.comparison import Criterion
from kdtune.results.context import ComparisonContext
from kdtune.results.tables import amount, interval_words


def default_text(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """Return how the chosen configuration compares with the default, and a warning if it is worse.

    Args:
        selection: table of `selection.selection`.
        criterion: of the table.
        name: the default in words.
        context: repeats and intervals of the table.

    Returns:
        Sentences about test, or about val if the study has no test; "" if the default has no
        completed run.
    """
    rows = selection.set_index("row") if len(selection) else selection
    if "default" not in rows.index:
        return ""
    if "chosen - default" not in rows.index:
        return "The chosen configuration is the recipe's default."
    split = "test" if math.isfinite(rows.loc["chosen - default", "test/mean"]) else "val"
    own = rows.loc["chosen - default"].rename({f"{split}/low": "low", f"{split}/high": "high"})
    own = own.rename({f"{split}/mean": "diff"})
    if math.isnan(own["diff"]):
        return ""
    metric = criterion.declared.label
    form = ".1f" if criterion.in_points else ".4g"
    subject = f"Test {metric}" if split == "test" else f"Validation {metric} ({_bias(context)})"
    of_default = criterion.scale * rows.loc["default", f"{split}/mean"]
    kind = "95% CI" if context.anytime_level is None else context.interval
    ends = interval_words(own.low, own.high, criterion.scale)
    interval = f" ({kind} {ends})" if ends else ""
    value = amount(own, criterion.scale, criterion.unit, signed=True)
    percent = "%" * criterion.in_points
    text = (
        f"{subject} of the recipe's default ({name}): {of_default:{form}}{percent}; the chosen "
        f"configuration differs by {value}{interval}."
    )
    return text + _warning(criterion.sign * own["diff"], bool(own.low * own.high > 0))


def _bias(context: ComparisonContext) -> str:
    if context.held_out and context.names_recorded_best:
        return (
            f"held-out repeats, but the {context.examples} that selected the chosen configuration"
        )
    return "optimistic, since it selected the chosen configuration"


def _warning(gain: float, excludes_0: bool) -> str:
    """Return that the search has not found a better configuration than the default; else ""."""
    if gain >= 0:
        return ""
    if not excludes_0:
        return " So the search did not improve on the default."
    return " Warning: the chosen configuration is significantly worse than the recipe's default."
