"""Readable labels of configurations, e.g. "alpha = 0.5, T = 4"."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdtune.config.hyperparameters import HYPERPARAMETERS, OF_STUDY

CONFIG_COLUMNS = ["config_id", "label", *(f"config/{name}" for name in HYPERPARAMETERS)]
"""Columns of dataframes that describe a configuration."""


def distinguishing(trials: pd.DataFrame, searched: Sequence[str]) -> list[str]:
    """Return the hyperparameters that tell the configurations apart.

    They are those of `searched` that differ between trials, in that order; otherwise all that
    differ; ["alpha"] if none does.
    """
    # a teacher is inactive without distillation, which does not make it a second one
    varied = [
        name
        for name in HYPERPARAMETERS
        if trials[f"config/{name}"].nunique(dropna=name in OF_STUDY) > 1
    ]
    return [n for n in searched if n in varied] or varied or ["alpha"]


def config_label(row: Mapping[str, Any], by: Sequence[str], prefix: str = "config/") -> str:
    """Return a configuration as text; inactive hyperparameters are left out.

    Args:
        row: with a value per hyperparameter.
        by: hyperparameters to show; numbers have four significant digits.
        prefix: of the hyperparameters' names in the row.
    """
    parts = []
    for name in by:
        value = row[f"{prefix}{name}"]
        if not pd.isna(value):
            shown = f"{value:.4g}" if isinstance(value, int | float) else value
            parts.append(f"{'T' if name == 'temperature' else name} = {shown}")
    return ", ".join(parts) or "the configuration"


def label_by_config(trials: pd.DataFrame, by: Sequence[str]) -> dict[str, str]:
    """Return the label of each config_id of the trials."""
    configs = trials.drop_duplicates("config_id")
    names = ["config_id", *(f"config/{name}" for name in by)]
    return {row["config_id"]: config_label(row, by) for row in configs[names].to_dict("records")}
