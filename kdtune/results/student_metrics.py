"""Metrics of the best configuration and of its students, as students.json records them."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdtune.config.metrics import COMPARABLE
from kdtune.results.comparison import DEFAULT
from kdtune.results.study_results import Results

SPLITS = ("val", "test")


def configuration_record(results: Results) -> dict[str, Any]:
    """Return what the study says of its best configuration.

    Returns:
        config_id; label; hyperparameters that tell the configurations apart; accuracy, by split
        (val and, if the data have one, test): mean over repeats, low and high of its interval, n
        (repeats), interval (its kind), holds_for (what the interval generalises to) and on val
        `bias`; difference, the same for the mean paired difference from the baseline, and on val p
        (empty if the configuration is the baseline or there is none); baseline in words; verdict.
        Shares, not percent; None where there is no such number. {} before a run has completed.
    """
    best, table = results.best(), results.selection()
    if best is None or not len(table):
        return {}
    rows = table.set_index("row")
    trial = results.trials[results.trials.config_id == best].iloc[0]
    own = results.context(student=results.student(best))
    splits = [split for split in SPLITS if rows.loc["best", f"{split}/n"] > 0]
    accuracy = {split: _numbers(results, rows.loc["best"], split) for split in splits}
    if "val" in accuracy:
        accuracy["val"]["bias"] = own.bias_of_best
    return {
        "config_id": best,
        "label": results.label(best),
        "hyperparameters": {name: _plain(trial[f"config/{name}"]) for name in results.by},
        "accuracy": accuracy,
        "difference": _differences(results, best, rows, splits),
        "baseline": own.baseline,
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


def _differences(
    results: Results, best: str, rows: pd.DataFrame, splits: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the difference from the baseline by split, with the intervals of the conclusion.

    Args:
        results: Of the study.
        best: The configuration.
        rows: `Results.selection` by row.
        splits: Splits of the data.
    """
    compared = results.compare()
    own = compared[compared.config_id == best] if len(compared) else compared
    if not len(own) or "difference" not in rows.index:
        return {}
    row, about = own.iloc[0], results.context(student=results.student(best))
    numbers = {"mean": "diff", "low": "low", "high": "high", "p": "p_holm"}
    on_val = {name: _plain(row[column]) for name, column in numbers.items()}
    on_val |= {"n": int(row.n), "interval": about.interval, "holds_for": about.holds_for}
    others = [split for split in splits if split != "val"]
    return {"val": on_val} | {s: _numbers(results, rows.loc["difference"], s) for s in others}


def _numbers(results: Results, row: pd.Series, split: str) -> dict[str, Any]:
    """Return the numbers of a row of `Results.selection` on a split."""
    level = results.anytime_level(DEFAULT)
    kind = "95% CI" if level is None else f"always-valid {100 * (1 - level):g}% CI"
    about = results.design.holds_for(split, not math.isnan(row[f"{split}/n_images"]))
    numbers = {name: _plain(row[f"{split}/{name}"]) for name in ("mean", "low", "high")}
    return numbers | {"n": int(row[f"{split}/n"]), "interval": kind, "holds_for": about}


def _plain(value: Any) -> Any:
    """Return a value of a dataframe as JSON has it; None for NaN and infinity."""
    if pd.isna(value) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
