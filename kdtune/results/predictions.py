"""Predictions of a study's trials on val and test, one row per example."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune.config.files import PREDICTIONS


def read_predictions(
    folder: Path, trial_ids: Sequence[str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the predictions of trials at their last epoch, in the order of the trials.

    Columns: trial_id, split, example (index in the split), file (relative to the data's folder),
    label, predicted, p_predicted, p_label, teacher (the teacher's class), correct. Studies of
    version 0.1 have trial_id, split, example and correct only.

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
    found: dict[str, Any] = {}
    for trial in trial_ids:
        with suppress(OSError, ValueError):
            found[trial] = _read(folder / "trials" / trial / PREDICTIONS, names)
    if missing := [trial for trial in trial_ids if trial not in found]:
        with suppress(OSError, ValueError):
            found |= _split(_read(folder / PREDICTIONS, names), missing)
    tables = [found[trial] for trial in trial_ids if trial in found]
    if not tables:
        return pd.DataFrame()
    # permissive: trials recorded by version 0.1 lack columns
    return pa.concat_tables(tables, promote_options="permissive").to_pandas()


def _read(file: Path, columns: Sequence[str] | None) -> Any:
    """Return a parquet file as a pyarrow table."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as source:
        return source.read(columns)


def _split(table: Any, trial_ids: Sequence[str]) -> dict[str, Any]:
    """Return the rows of each trial that the table holds."""
    from pyarrow import compute

    held = set(compute.unique(table["trial_id"]).to_pylist())
    return {t: table.filter(compute.equal(table["trial_id"], t)) for t in trial_ids if t in held}


def trials_with_predictions(folder: Path) -> set[str]:
    """Return the trials that the study's predictions.parquet holds; empty if it cannot be read."""
    with suppress(ImportError, OSError, ValueError):
        from pyarrow import compute

        table = _read(folder / PREDICTIONS, ["trial_id"])
        return set(compute.unique(table["trial_id"]).to_pylist())
    return set()
