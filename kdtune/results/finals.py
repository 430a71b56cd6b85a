"""Trials of the last round of final repeats, and the finalist that was the best before it.

`trials` is the dataframe `Frames.trials`. The round is None if the finalists were not recorded
before their final repeats (studies of schema 3 and older).
"""

import pandas as pd

from kdtune.results.comparison import Criterion, completed
from kdtune.storage.rounds import Round


def of_round(trials: pd.DataFrame, round_: Round | None) -> pd.DataFrame:
    """Return the final trials of the finalists, without those of earlier rounds."""
    final = trials[trials.phase == "final"]
    if round_ is None:
        return final
    return final[final["repeat"].ge(round_.first_repeat) & final.config_id.isin(round_.finalists)]


def of_default(trials: pd.DataFrame, round_: Round | None, default: str) -> pd.DataFrame:
    """Return the final trials of the recipe's default; none if it is one of the finalists."""
    final = trials[(trials.phase == "final") & (trials.config_id == default)]
    if round_ is None or default in round_.finalists:
        return final.head(0)
    return final[final["repeat"] >= round_.first_repeat]


def has_all_arms(final: pd.DataFrame, trials: pd.DataFrame, criterion: Criterion) -> bool:
    """Return whether a student has completed final trials of all arms that it has.

    These are with and without distillation, or one of them in a study without the other.

    Args:
        final: see `of_round`.
        trials: all trials of the study.
        criterion: names baseline and groups.
    """

    def arms(some: pd.DataFrame) -> pd.Series:
        done = completed(some)
        return criterion.is_baseline(done).groupby(criterion.groups(done)).nunique()

    found = arms(final)
    return bool((found == arms(trials).reindex(found.index)).any())


def recorded_best(final: pd.DataFrame, round_: Round | None) -> str | None:
    """Return the best of the finalists, by search and confirmation, that has a completed trial."""
    return None if round_ is None else round_.best(set(completed(final).config_id))
