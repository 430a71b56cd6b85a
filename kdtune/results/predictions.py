"""Predictions of a study's trials on val and test, one row per example."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdtune.config.files import PREDICTIONS
from kdtune.config.metrics import Metric

NUMBERS = ["trial_id", "split", "example", "label", "predicted", "p_label", "teacher", "correct"]
NUMBERS += ["kl", "logit_diff"]
"""Columns that metrics per example are computed from. Files of older versions lack some."""


def read_predictions(
    folder: Path, trial_ids: Sequence[str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the predictions of trials at their last epoch, in the order of the trials.

    Columns: trial_id, split, example (index in the split), file (relative to the data's folder),
    label, predicted, p_predicted, p_label, teacher (the teacher's class), kl, logit_diff, correct.
    Studies of version 0.1 have trial_id, split, example and correct only; those of schema 2 and 3
    lack kl and logit_diff.

    A trial's predictions come from its own folder. The study's predictions.parquet is used for
    trials whose file was deleted or is damaged. A trial that neither file holds has no rows.

    Args:
        folder: of the study.
        trial_ids: trials to read.
        columns: columns to read; None for all.
    """
    try:
        import pyarrow as pa
    except ImportError:  # pandas works without pyarrow, but cannot read parquet
        return pd.DataFrame()
    names = None if columns is None else ["trial_id", *columns]
    tables = list(_tables(folder, trial_ids, names).values())
    if not tables:
        return pd.DataFrame()
    # permissive: trials recorded by version 0.1 lack columns
    return pa.concat_tables(tables, promote_options="permissive").to_pandas()


def of_trials(folder: Path, trials: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the predictions of the completed trials on a split, with their configurations.

    Args:
        folder: of the study.
        trials: rows of `Frames.trials`.
        split: "val" or "test".

    Returns:
        trial_id, config_id, configuration (its readable label), repeat, then the columns of
        `read_predictions`. Empty if no predictions were kept.
    """
    done = trials[trials.status == "completed"]
    frame = read_predictions(folder, list(done.trial_id))
    if not len(frame):
        return frame
    own = done[["trial_id", "config_id", "label", "repeat"]]
    own = own.rename(columns={"label": "configuration"})
    return own.merge(frame[frame.split == split], on="trial_id").reset_index(drop=True)


def read_examples(
    folder: Path, trial_ids: Sequence[str], metric: Metric, split: str
) -> dict[str, NDArray[np.float64]]:
    """Return a metric of each example of a split at the last epoch, (N,), by trial.

    A trial whose predictions are missing, or do not give the metric, is left out; see
    `config.metrics.Metric.of_example`.
    """
    of_example = metric.of_example
    if of_example is None:
        return {}
    with suppress(ImportError):
        found = {}
        for trial, table in _tables(folder, trial_ids, [*NUMBERS, metric.name]).items():
            # predictions of an older version lack columns, those without a teacher values
            with suppress(KeyError, TypeError, ValueError):
                frame = table.to_pandas()
                own = of_example(np, frame[frame.split == split].sort_values("example"))
                found[trial] = np.asarray(own, dtype=float)
        known = {t: own for t, own in found.items() if len(own) and np.isfinite(own).all()}
        # trials of a training function may be of other examples: they are not paired
        return known if len({len(own) for own in known.values()}) < 2 else {}
    return {}


def _tables(
    folder: Path, trial_ids: Sequence[str], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the predictions of trials as pyarrow tables, in the order of the trials."""
    found: dict[str, Any] = {}
    for trial in trial_ids:
        with suppress(OSError, ValueError):
            found[trial] = _read(folder / "trials" / trial / PREDICTIONS, names)
    if missing := [trial for trial in trial_ids if trial not in found]:
        with suppress(OSError, ValueError):
            found |= _split(_read(folder / PREDICTIONS, names), missing)
    return {trial: found[trial] for trial in trial_ids if trial in found}


def _read(file: Path, columns: Sequence[str] | None) -> Any:
    """Return a parquet file as a pyarrow table."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as source:
        return source.read(columns)


def _split(table: Any, trial_ids: Sequence[str]) -> dict[str, Any]:
    """Return the rows of each trial that the table holds."""
    codes = table["trial_id"].combine_chunks().dictionary_encode()
    indices, wanted = codes.indices.to_numpy(), set(trial_ids)
    if (np.diff(indices) < 0).any():  # a user may have sorted the file otherwise
        order = np.argsort(indices, kind="stable")
        table, indices = table.take(order), indices[order]
    starts = np.flatnonzero(np.diff(indices, prepend=-1))
    found = {}
    for start, end in zip(starts, [*starts[1:], len(indices)], strict=True):
        if (trial := codes.dictionary[int(indices[start])].as_py()) in wanted:
            found[trial] = table.slice(start, end - start)
    return found


def trials_with_predictions(folder: Path) -> set[str]:
    """Return the trials that the study's predictions.parquet holds; empty if it cannot be read."""
    with suppress(ImportError, OSError, ValueError):
        from pyarrow import compute

        table = _read(folder / PREDICTIONS, ["trial_id"])
        return set(compute.unique(table["trial_id"]).to_pylist())
    return set()
