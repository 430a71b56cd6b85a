"""Metrics of the best configuration and of its students, as students.json records them."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from kdtune.config.metrics import COMPARABLE
from kdtune.results.comparison import DEFAULT
from kdtune.results.study_results import Results

SPLITS = ("val", "test")


def configuration_record(results: Results) -> dict[str, Any]:
    """Return what the study says of its best configuration.

    Returns:
        config_id; label; hyperparameters that tell the configurations apart; accuracy, of val and
        test: mean over repeats, low and high of its interval, n (repeats), holds_for (what the
        interval generalises to) and on val `bias`; difference, the same for the mean paired
        difference from the baseline (empty if the configuration is the baseline or there is none);
        baseline in words; interval (its kind); verdict. Shares, not percent; None where there is no
        such number. {} before a run has completed.
    """
    best, table = results.best(), results.selection()
    if best is None or not len(table):
        return {}
    rows = table.set_index("row")
    trial = results.trials[results.trials.config_id == best].iloc[0]
    own = results.context(student=results.student(best))
    accuracy = {split: _numbers(results, rows.loc["best"], split) for split in SPLITS}
    accuracy["val"]["bias"] = own.bias_of_best
    difference = (
        {split: _numbers(results, rows.loc["difference"], split) for split in SPLITS}
        if "difference" in rows.index
        else {}
    )
    level = results.anytime_level(DEFAULT)
    kind = "t" if level is None else "always-valid"
    return {
        "config_id": best,
        "label": results.label(best),
        "hyperparameters": {name: _plain(trial[f"config/{name}"]) for name in results.by},
        "accuracy": accuracy,
        "difference": difference,
        "baseline": own.baseline,
        "interval": f"{100 * (1 - (level or 0.05)):g}% CI ({kind})",
        "verdict": results.verdict(),
    }


def trial_metrics(trial: pd.Series) -> dict[str, dict[str, float]]:
    """Return the metrics of one trial at its last epoch, by split and name.

    Args:
        trial: A row of `Frames.trials`.
    """
    found = {
        split: {
            name: float(value)
            for name in COMPARABLE
            if not pd.isna(value := trial.get(f"{split}/{name}@last"))
        }
        for split in SPLITS
    }
    return {split: values for split, values in found.items() if values}


def _numbers(results: Results, row: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the numbers of a row of `Results.selection` on a split."""
    numbers = {name: _plain(row[f"{split}/{name}"]) for name in ("mean", "low", "high")}
    n, images = row[f"{split}/n"], row[f"{split}/n_images"]
    counts = {"n": 0 if math.isnan(n) else int(n)}
    return numbers | counts | {"holds_for": results.design.holds_for(split, not math.isnan(images))}


def _plain(value: Any) -> Any:
    """Return a value of a dataframe as JSON has it; None for NaN."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
