"""Predictions of a study's trials on val and test."""

from contextlib import suppress
from pathlib import Path

import pandas as pd

from kdtune.config.files import PREDICTIONS


def read_predictions(folder: Path, trials: pd.DataFrame) -> pd.DataFrame:
    """Which images the trials got right at their last epoch: trial_id, split, example, correct.

    From the trials' own files, and of those whose file is gone, since the user has tidied up, or is
    damaged, from the study's. Without rows and columns where there are none.
    """
    found: dict[str, pd.DataFrame] = {}
    for trial in trials.trial_id:
        with suppress(OSError, ValueError):
            found[trial] = pd.read_parquet(folder / "trials" / trial / PREDICTIONS)
    if rest := set(trials.trial_id) - set(found):
        with suppress(OSError, ValueError):
            earlier = pd.read_parquet(folder / PREDICTIONS).groupby("trial_id")
            found |= {str(trial): own for trial, own in earlier if trial in rest}
    kept = [found[trial] for trial in trials.trial_id if trial in found]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()
