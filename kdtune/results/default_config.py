"""The recipe's default configuration beside the chosen one, in words."""

import math

import pandas as pd

from kdtune.config.metrics import METRICS
from kdtune.results.comparison import Criterion
from kdtune.results.context import ComparisonContext
from kdtune.results.tables import decimals


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
    mean, low, high = (
        criterion.scale * rows.loc["chosen - default", f"{split}/{s}"]
        for s in ("mean", "low", "high")
    )
    if math.isnan(mean):
        return ""
    metric, unit = METRICS[criterion.metric].label, METRICS[criterion.metric].unit
    words = f" {unit.replace('points', 'percentage points')}" if unit else ""
    form = ".1f" if criterion.in_points else ".4g"
    subject = f"Test {metric}" if split == "test" else f"Validation {metric} ({_bias(context)})"
    of_default = criterion.scale * rows.loc["default", f"{split}/mean"]
    amount, interval = f"{mean:+z.2f}", ""
    if math.isfinite(high - low) and high > low:
        digits = decimals((high - low) / 2, mean)
        kind = "95% CI" if context.anytime_level is None else context.interval
        amount = f"{mean:+z.{digits}f}"
        interval = f" ({kind} {low:+z.{digits}f} to {high:+z.{digits}f})"
    percent = "%" * criterion.in_points
    text = (
        f"{subject} of the recipe's default ({name}): {of_default:{form}}{percent}; the chosen "
        f"configuration differs by {amount}{words}{interval}."
    )
    return text + _warning(criterion.sign * mean, bool(interval and low * high > 0))


def _bias(context: ComparisonContext) -> str:
    if context.held_out and context.names_recorded_best:
        return "held-out repeats, but the images that selected the chosen configuration"
    return "optimistic, since it selected the chosen configuration"


def _warning(gain: float, excludes_0: bool) -> str:
    """Return a warning if the chosen configuration is worse than the default; else ""."""
    if gain >= 0:
        return ""
    kind = "significant" if excludes_0 else "not significant"
    return f" Warning: the chosen configuration was worse than the recipe's default ({kind})."
