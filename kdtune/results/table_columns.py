"""Columns of a table of results: their roles, and what their names and values tell.

The rules are simple and stand in the output: a metric is better if it is lower where its name has a
word such as loss or error; it is a share where it is named like an accuracy and lies in [0, 1].
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pandas as pd

from kdtune.config.errors import InputError

_LOWER = """
loss losses error err nll ce kl ece mse rmse mae mape bce xent perplexity ppl brier entropy
crossentropy divergence diff distance regret time latency runtime seconds cost wer cer fid
"""
LOWER_IS_BETTER = frozenset(_LOWER.split())
"""Words in the names of metrics of which lower values are better."""
_SHARES = """
acc accuracy acc1 acc5 top1 top5 f1 auc auroc auprc agreement precision recall sensitivity
specificity iou miou dice error err ece correct
"""
SHARES = frozenset(_SHARES.split())
"""Words in the names of metrics that are shares."""
MAX_DIGITS = 4
"""Numbers with more significant digits than these were measured, not set."""


@dataclass(frozen=True)
class Columns:
    """Columns of a table of results, and what each is."""

    by: tuple[str, ...]
    """Hyperparameters: their values are the configuration."""
    repeat: str
    """Random seed or number of the run."""
    metric: str
    """The number that is compared."""
    epoch: str | None = None
    example: str | None = None
    """Image or example, if there is one row per run and example."""
    others: tuple[str, ...] = ()
    """Other metrics of the summary."""

    @property
    def metrics(self) -> list[str]:
        """The compared metric and the others, each once."""
        return list(dict.fromkeys([self.metric, *self.others]))

    @property
    def keys(self) -> list[str]:
        """Columns that tell the rows of a configuration apart."""
        return [c for c in (self.repeat, self.epoch, self.example) if c is not None]


def check_columns(frame: pd.DataFrame, columns: Columns) -> None:
    """Raise InputError unless the table has rows and the columns, each with one role."""
    known = [str(c) for c in frame.columns]
    asked = [("by", c) for c in columns.by]
    asked += [("repeat", columns.repeat), ("metric", columns.metric)]
    asked += [("epoch", columns.epoch)] if columns.epoch is not None else []
    asked += [("example", columns.example)] if columns.example is not None else []
    if not columns.by:
        raise InputError(
            f"by must name at least one column, the hyperparameters that were varied; the columns "
            f"are {', '.join(known)}"
        )
    for role, name in [*asked, *(("columns", c) for c in columns.others)]:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            if set(name.split(",")) <= set(known):
                hint = f"; separate names by spaces ({name.replace(',', ' ')})"
            raise InputError(
                f"--{role} must be a column of the table ({', '.join(known)}), but got {name}{hint}"
            )
    seen: dict[str, str] = {}
    for role, name in asked:
        if name in seen:
            raise InputError(
                f"each column must have one role, but {name} is given for {seen[name]} and {role}"
            )
        seen[name] = role
    if not len(frame):
        raise InputError("the table must have rows, but it holds column names only")


def numbers(values: pd.Series, name: str, role: str) -> pd.Series:
    """Return a column as numbers; raise InputError for text."""
    found = pd.to_numeric(values, errors="coerce")
    wrong = values[found.isna() & values.notna()]
    if len(wrong):
        what = f"{role} {name}".strip()
        raise InputError(
            f"{what} must be a column of numbers, but row {int(wrong.index[0]) + 1} holds "
            f"{wrong.iloc[0]!r} ({len(wrong)} of {len(values)} rows are no numbers)"
        )
    return found.astype(float)


def words_of(name: str) -> set[str]:
    """Return the words of a column's name, e.g. {"val", "top1"} for "val/top-1"."""
    joined = re.sub(r"(?i)top[-_ ]?(\d)", r"top\1", name)
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", joined)
    return {word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word}


def is_higher_better(name: str) -> bool:
    """Return whether higher values of a metric are better, by its name."""
    words = words_of(name)
    return not words & LOWER_IS_BETTER and not any(w.endswith(("loss", "error")) for w in words)


def scale_of(name: str, values: pd.Series, points: bool) -> tuple[int, bool]:
    """Return the factor for display of a metric's differences, and whether they are points.

    Args:
        name: of the metric.
        values: all its values.
        points: whether the user says that it is a share.
    """
    if not (points or words_of(name) & SHARES) or values.min() < 0:
        return 1, False
    if values.max() <= 1:
        return 100, True
    return 1, bool(values.max() <= 100)


def differing_columns(
    frame: pd.DataFrame, by: Sequence[str], keys: Sequence[str], metrics: Sequence[str], config: str
) -> Iterator[str]:
    """Yield warnings of columns that look like hyperparameters and differ within a configuration.

    A column looks like one if it is constant in each run, has half as many values as there are
    runs or fewer, and these are texts or numbers of few digits, as people set them. One that
    follows from the repeat, such as the fold of a seed, is none.

    Args:
        frame: rows of the table.
        by: hyperparameters; the column `config` numbers their combinations.
        keys: repeat, epoch and example, as far as there are; the repeat first.
        metrics: metrics that are used.
        config: see `by`.
    """
    repeat = keys[0]
    runs = frame.groupby([config, repeat])
    n = runs.ngroups
    for name in frame.columns.difference([*by, *keys, *metrics, config], sort=False):
        column = frame[name]
        if column.dtype == object and column.map(_is_nested).any():
            continue
        number = column.nunique(dropna=False)
        if not 2 <= number <= n / 2 or not _was_set(column):
            continue
        if runs[name].nunique(dropna=False).max() > 1:
            continue
        if frame.groupby(repeat)[name].nunique(dropna=False).max() == 1:
            continue
        if (within := frame.groupby(config)[name].nunique(dropna=False)).max() > 1:
            values = column[frame[config] == within.idxmax()].unique()
            shown = ", ".join(str(v) for v in values[:4])
            yield (
                f"column {name} differs between repeats of one configuration ({shown}); if it is a "
                f"hyperparameter, add it to --by"
            )


def constant_in_configs(frame: pd.DataFrame, columns: Columns, config: str) -> list[str]:
    """Return the other columns that look set, and differ between configurations but not within.

    An effect of one of them cannot be told from that of the hyperparameters.
    """
    used = [*columns.by, *columns.keys, *columns.metrics, config]
    others = frame.columns.difference(used, sort=False)
    configs = frame.groupby(config)
    return [
        name
        for name in others
        if not (frame[name].dtype == object and frame[name].map(_is_nested).any())
        and frame[name].nunique(dropna=False) > 1
        and configs[name].nunique(dropna=False).max() == 1
        and _was_set(frame[name])
    ]


def _is_nested(value: object) -> bool:
    return isinstance(value, list | dict)


def _was_set(column: pd.Series) -> bool:
    """Return whether the values are texts, truth values or numbers of few digits."""
    known = column.dropna()
    if not pd.api.types.is_float_dtype(known):
        return True
    return all(float(f"{v:.{MAX_DIGITS}g}") == v for v in known.unique())
