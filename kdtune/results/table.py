"""Comparison of configurations in a table of results that was made elsewhere.

The numbers are those of a study: summary over repeats, differences from a baseline, conclusion. The
names of hyperparameters and metrics are the table's own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.results.table_columns import Columns, is_higher_better
from kdtune.results.table_comparison import TableComparison
from kdtune.results.table_optuna import DIRECTIONS
from kdtune.results.table_runs import Runs, equals, read_runs
from kdtune.results.table_sources import read_table


def compare(
    frame: pd.DataFrame | str | Path,
    by: str | Sequence[str],
    repeat: str,
    metric: str,
    *,
    epoch: str | None = None,
    example: str | None = None,
    columns: Sequence[str] = (),
    baseline: Mapping[str, Value] | None = None,
    higher_is_better: bool | None = None,
    points: bool = False,
    pooled: bool = False,
    unpaired: bool = False,
    keep_incomplete: bool = False,
) -> TableComparison:
    """Compare configurations in a table of results with a baseline.

        >>> rows = {"alpha": [0.5] * 4 + [1] * 4, "seed": [0, 1, 2, 3] * 2}
        >>> frame = pd.DataFrame(rows | {"acc": [80, 82, 81, 79, 78, 80, 78, 78]})  # or a csv file
        >>> result = kdtune.compare(frame, by="alpha", repeat="seed", metric="acc")
        >>> print(result)
        Mean ± SD (ddof = 1) over n runs (seed)
        <BLANKLINE>
        | alpha |  n |        acc |
        | ----: | -: | ---------: |
        |   0.5 |  4 | 80.5 ± 1.3 |
        |     1 |  4 | 78.5 ± 1.0 |
        ...
        alpha = 0.5 improved acc by 2.0 percentage points compared with alpha = 1 (95% CI +0.7 to
        +3.3, p = 0.016, n = 4). ...
        >>> result.comparisons[["label", "diff", "low", "high", "p_holm"]].round(3)
                 label  diff    low   high  p_holm
        0  alpha = 0.5   2.0  0.701  3.299   0.016

    Configurations with the same repeats are paired (paired t test); others are independent samples
    (Welch's t test).

    Args:
        frame: One row per run, or per run and epoch, or per run and example; or a file, see
            `table_sources.read_table`.
        by: Columns of the hyperparameters.
        repeat: Column of the random seed or of the number of the run.
        metric: Column that is compared.
        epoch: Column of the epoch; the last epoch of each run counts.
        example: Column of the example, where `metric` is a value per example such as correctness.
            Then differences hold for new repeats and new examples.
        columns: Other metrics of the summary.
        baseline: The best configuration with these values is the baseline. None: alpha = 1 if
            there is such a configuration, else nothing is compared.
        higher_is_better: None: the direction of an Optuna study; otherwise False if the metric's
            name has a word such as loss or error.
        points: Whether the metric is a share, so that differences are percentage points, even if it
            is not named like an accuracy.
        pooled: Whether the summary is over all epochs of all runs.
        unpaired: Whether the same repeat does not mean the same random seed.
        keep_incomplete: Whether runs with fewer epochs than the others count.

    Raises:
        InputError: A column does not exist, rows contradict each other, runs share no example,
            or there is no such baseline.
    """
    notes: list[str] = []
    if not isinstance(frame, pd.DataFrame):
        frame, notes = read_table(str(frame), epoch=epoch)
    names = Columns(
        (by,) if isinstance(by, str) else tuple(by), repeat, metric, epoch, example, tuple(columns)
    )
    if pooled and epoch is None:
        raise InputError("pooled must be used with epoch, the column of the epochs to pool over")
    runs = read_runs(frame, names, keep_incomplete)
    runs.warnings[:0] = notes
    if higher_is_better is None:
        higher_is_better = frame.attrs.get(DIRECTIONS, {}).get(metric)
    given = higher_is_better is not None
    higher = is_higher_better(metric) if higher_is_better is None else higher_is_better
    return TableComparison(runs, _baseline(runs, baseline), higher, given, points, pooled, unpaired)


def _baseline(runs: Runs, baseline: Mapping[str, Value] | None) -> dict[str, Value]:
    """Return the values of the baseline; {} for none.

    Raises InputError if there is no such configuration.
    """
    if baseline is None:
        has_plain = "alpha" in runs.columns.by and equals(runs.configs["alpha"], 1).any()
        return {"alpha": 1} if has_plain else {}
    matches = pd.Series(True, index=runs.configs.index)
    for name, value in baseline.items():
        if name not in runs.columns.by:
            raise InputError(
                f"baseline must name columns of --by ({', '.join(runs.columns.by)}), but got {name}"
            )
        matches &= equals(runs.configs[name], value)
    if not matches.any():
        known = "; ".join(
            f"{name}: {', '.join(dict.fromkeys(f'{v}' for v in runs.configs[name]))}"
            for name in baseline
        )
        got = ",".join(f"{name}={value}" for name, value in baseline.items())
        raise InputError(f"baseline must be a configuration of the table ({known}), but got {got}")
    return dict(baseline)
