"""How good the selected configuration is beyond the data that selected it."""

import math
from contextlib import suppress
from pathlib import Path

import pandas as pd

from kdtune.config.files import PREDICTIONS
from kdtune.results.comparison import (
    Criterion,
    best_config,
    by_repeat,
    completed,
    with_enough_repeats,
)
from kdtune.results.predictions import read_predictions
from kdtune.statistics.intervals import mean_interval
from kdtune.statistics.selection_bias import bootstrap_corrected
from kdtune.statistics.sequential import anytime_interval


def selection(
    folder: Path,
    trials: pd.DataFrame,
    criterion: Criterion,
    comparison: pd.DataFrame,
    anytime_level: float | None = None,
) -> pd.DataFrame:
    """How good is the configuration that the study would choose, beyond what chose it?

    Rows: "best" (config_id), "baseline", and "difference" between them, paired by repeat. Columns:
    val/mean, /low, /high of the criterion's metric, selected and so optimistic; corrected, /low, /high
    (best only, accuracy only: `stats.bootstrap_corrected` over the examples of val); test/mean,
    /low, /high, which nothing was selected by. NaN where there is no such number. With `anytime_level`,
    a level, the intervals are such as hold at any time, since the number of repeats was not fixed.
    """
    val = by_repeat(trials, criterion.metric, criterion.scope)
    if not val.notna().any(axis=None):
        return pd.DataFrame()
    test = by_repeat(trials, criterion.metric, "last", split="test")
    chosen = {"best": best_config(val, criterion.sign)}
    if len(comparison):
        chosen["baseline"] = str(comparison.baseline[0])
    rows: list[dict[str, str | float]] = [
        {"row": row, "config_id": c}
        | _interval("val", val[c], anytime_level)
        | _interval("test", test[c], anytime_level)
        for row, c in chosen.items()
    ]
    if len(set(chosen.values())) == 2:
        a, b = chosen.values()
        rows.append({"row": "difference", "config_id": ""})
        rows[-1] |= _interval("val", val[a] - val[b], anytime_level)
        rows[-1] |= _interval("test", test[a] - test[b], anytime_level)
    is_search = (trials.phase == "search").all()  # finalists were chosen by other repeats
    if criterion.has_predictions and is_search:
        rows[0] |= _corrected(folder, trials, list(with_enough_repeats(val)))
    columns = [f"{k}/{s}" for k in ("val", "corrected", "test") for s in ("mean", "low", "high")]
    return pd.DataFrame(rows, columns=["row", "config_id", *columns])


def _interval(name: str, sample: pd.Series, anytime_level: float | None) -> dict[str, str | float]:
    i = mean_interval(sample.dropna())
    low, high = i.low, i.high
    if anytime_level is not None:
        low, high = anytime_interval(list(sample.dropna()), anytime_level)
        low, high = (low, high) if math.isfinite(high - low) else (math.nan, math.nan)
    return {f"{name}/mean": i.mean, f"{name}/low": low, f"{name}/high": high}


def _corrected(folder: Path, trials: pd.DataFrame, configs: list[str]) -> dict[str, str | float]:
    """The best accuracy corrected for selection; nothing where a run's predictions are missing."""
    done = completed(trials)
    done = done[done.config_id.isin(configs)]
    frame = _predictions(folder, done)
    if frame is None:
        return {}
    val = frame[frame.split == "val"].merge(done[["trial_id", "config_id"]], on="trial_id")
    correct = val.astype({"correct": float}).pivot_table(
        index="config_id", columns="example", values="correct"
    )
    c = bootstrap_corrected(correct.loc[configs].to_numpy())
    return {"corrected/mean": c.corrected, "corrected/low": c.low, "corrected/high": c.high}


def _predictions(folder: Path, trials: pd.DataFrame) -> pd.DataFrame | None:
    """The predictions of all of the trials: those of the study, else the runs' own files.

    None where one's are missing: the study's are written at its end, the user may have tidied up,
    a file may be damaged, and a laptop may have no pyarrow.
    """
    for read in (
        lambda: pd.read_parquet(folder / PREDICTIONS),
        lambda: read_predictions(folder, trials),
    ):
        with suppress(ImportError, OSError, ValueError):
            frame = read()
            if len(frame) and set(trials.trial_id) <= set(frame.trial_id):
                return frame
    return None
