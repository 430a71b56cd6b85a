"""Configurations against one another and against plain training: from trials to tables.

`trials` is everywhere the dataframe of `results.Frames`. Only completed trials count, and a number
is compared with numbers of the same repeats.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.config.hyperparameters import HYPERPARAMETERS, Range
from kdtune.config.study import Scope, Study
from kdtune.results.tables import is_number
from kdtune.statistics.intervals import Difference, mean_interval, paired_difference
from kdtune.statistics.multiplicity import holm, max_t
from kdtune.statistics.sequential import anytime_interval, anytime_p

LEVEL = 0.05
"""Chance of finding a difference anywhere in a study that has none."""
HIGHER_IS_BETTER = ("acc", "agreement")
COMPARED = ("acc", "ce", "gap", "agreement", "kl", "logit_diff")
"""Metrics that mean the same at every alpha; loss and distill do not."""
FEW = 6
"""Repeats below which flipping signs cannot tell: its least p is 2 / 2^n."""
KEYS = ["config_id", *(f"config/{name}" for name in HYPERPARAMETERS)]
PLAIN: Mapping[str, Value] = {"alpha": 1}


def check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError for a name that is not among the known."""
    for name in names:
        if name not in known:
            raise InputError(f"{what} must be one of {', '.join(known)}, but got {name}")


@dataclass(frozen=True)
class Criterion:
    """How a study is judged."""

    metric: str = "acc"
    """One of COMPARED, on val."""
    scope: Scope = "last"
    baseline: Mapping[str, Value] = field(default_factory=lambda: PLAIN, hash=False)
    """The best configuration with these values is the baseline."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", self.metric.removeprefix("val/"))
        if self.metric not in COMPARED:
            why = " (they change their meaning with alpha)" * (self.metric in ("loss", "distill"))
            raise InputError(
                f"metric must be one of {', '.join(COMPARED)}, on val, but got {self.metric}{why}"
            )
        check_names("baseline", list(self.baseline), HYPERPARAMETERS)

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.metric in HIGHER_IS_BETTER else -1

    @property
    def in_points(self) -> bool:
        """Whether the metric is a share, shown in points (percent)."""
        return self.metric in ("acc", "agreement", "gap")

    @property
    def scale(self) -> int:
        """What the metric is shown in: 100 for points, else 1."""
        return 100 if self.in_points else 1

    @property
    def has_predictions(self) -> bool:
        """Whether runs keep which images gave the number: accuracy at the last epoch."""
        return self.metric == "acc" and self.scope == "last"

    @property
    def is_plain(self) -> bool:
        """Whether the baseline is plain training."""
        return self.baseline == PLAIN

    def is_baseline(self, configs: pd.DataFrame) -> pd.Series:
        """Which rows of a frame with config/* can be the baseline."""
        matches = pd.Series(True, index=configs.index)
        for name, value in self.baseline.items():
            matches &= configs[f"config/{name}"] == value
        return matches


DEFAULT = Criterion()
"""Val accuracy at the last epoch, against the best plain training."""


def numbers(trials: pd.DataFrame, metric: str, scope: str, split: str = "val") -> pd.Series:
    """One number a trial; gap is teacher_acc - acc."""
    if metric == "gap":
        return trials[f"{split}/teacher_acc@{scope}"] - trials[f"{split}/acc@{scope}"]
    return trials[f"{split}/{metric}@{scope}"]


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that ran to their end."""
    return trials[trials.status == "completed"]


def by_repeat(trials: pd.DataFrame, metric: str, scope: str, split: str = "val") -> pd.DataFrame:
    """The completed trials' numbers: a row a repeat, a column a config_id, NaN where missing."""
    done = completed(trials)
    done = done.assign(value=numbers(done, metric, scope, split))
    return done.pivot(index="repeat", columns="config_id", values="value")


def configs_of(trials: pd.DataFrame) -> pd.DataFrame:
    """The configurations with a completed trial, by config_id: config/*."""
    return completed(trials).drop_duplicates("config_id")[KEYS].set_index("config_id")


def has_run_well(counts: pd.Series) -> pd.Series:
    """Which have more than half of the most repeats: one lucky repeat is no winner."""
    return counts > counts.max() / 2


def well_run(values: pd.DataFrame) -> pd.DataFrame:
    """The columns that have run well."""
    counts = values.count()
    return values[counts.index[has_run_well(counts)]]


def block(values: pd.DataFrame) -> pd.DataFrame:
    """A part of `by_repeat` without gaps: columns with at least the median number of repeats."""
    counts = values.count()
    kept = values[counts.index[counts >= counts.median()]]
    return kept.dropna()


def best_of(values: pd.DataFrame, sign: int) -> str:
    """The config_id of the best mean among the well-run ones of at least one."""
    return str((sign * well_run(values).mean()).idxmax())


def compare(
    trials: pd.DataFrame, criterion: Criterion, anytime: float | None = None
) -> pd.DataFrame:
    """Every other configuration against the baseline, paired by repeat; the best first.

    With `anytime`, a level, repeats were added until the two told apart, so p, p_holm and the
    interval are such as hold at any time (`race.anytime_p`), and p_max_t, low and high are NaN.

    Returns one row per configuration: config_id, config/*, baseline (its config_id), diff (mean of
    its numbers minus the baseline's), sd, low, high (95 % t interval), low_all, high_all (at the
    level that holds for all comparisons together, Bonferroni's), n (common repeats), correlation,
    p, p_holm, p_max_t (NaN for n < 6), wins, ties, losses, p_better. Empty where a side is missing.
    """
    values = by_repeat(trials, criterion.metric, criterion.scope).dropna(axis=1, how="all")
    configs = configs_of(trials)
    can_be = criterion.is_baseline(configs)
    plain = [c for c in values if can_be[c]]
    others = [c for c in values if not can_be[c]]
    if not plain or not others:
        return pd.DataFrame()
    baseline = best_of(values[plain], criterion.sign)
    pairs = {c: values[[c, baseline]].dropna().to_numpy().T for c in others}
    m = sum(pair.shape[1] > 1 for pair in pairs.values())  # as many as have a p value
    rows = [_row(pair, criterion.sign, max(1, m)) for pair in pairs.values()]
    table = pd.DataFrame(rows).assign(config_id=list(pairs), baseline=baseline)
    table["p_holm"] = _over_known(table.p)
    table["p_max_t"] = _max_t(values, list(pairs), baseline)
    if anytime is not None:
        table = _at_any_time(table, list(pairs.values()), anytime)
    table = configs.reset_index().merge(table, on="config_id")
    order = (criterion.sign * table["diff"]).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _row(pair: np.ndarray, sign: int, m: int) -> dict[str, float]:
    d: Difference = paired_difference(*pair)
    together = mean_interval(pair[0] - pair[1], 1 - LEVEL / m)
    wins, losses = (d.wins, d.losses) if sign > 0 else (d.losses, d.wins)
    better = d.p_greater if sign > 0 else 1 - d.p_greater
    return {
        **{"diff": d.interval.mean, "sd": d.interval.sd},
        **{"low": d.interval.low, "high": d.interval.high},
        **{"low_all": together.low, "high_all": together.high},
        **{"n": d.interval.n, "correlation": d.correlation, "p": d.p},
        **{"wins": wins, "ties": d.ties, "losses": losses, "p_better": better},
    }


def _at_any_time(table: pd.DataFrame, pairs: list[np.ndarray], level: float) -> pd.DataFrame:
    """The same comparisons where how many repeats there are hung on what they said."""
    differences = [(pair[0] - pair[1]).tolist() for pair in pairs]
    ends = [anytime_interval(d, level / len(pairs)) for d in differences]
    p = pd.Series([anytime_p(d) for d in differences], index=table.index)
    table = table.assign(p=p, p_holm=_over_known(p), p_max_t=math.nan, low=math.nan, high=math.nan)
    return table.assign(low_all=[low for low, _ in ends], high_all=[high for _, high in ends])


def _over_known(p_values: pd.Series) -> pd.Series:
    """Holm over the comparisons that have a p value."""
    known = p_values.dropna()
    return pd.Series(holm(list(known)), index=known.index, dtype=float).reindex(p_values.index)


def _max_t(values: pd.DataFrame, others: Sequence[str], baseline: str) -> list[float]:
    """Max-T over the comparisons that have all of the most common repeats."""
    differences = values[list(others)].sub(values[baseline], axis=0)
    counts = differences.count()
    full = differences[counts.index[counts == counts.max()]].dropna()
    if len(full) < FEW:
        return [np.nan] * len(others)
    adjusted = dict(zip(full.columns, max_t(full.to_numpy()), strict=True))
    return [adjusted.get(c, np.nan) for c in others]


def name_of(row: pd.Series, by: Sequence[str]) -> str:
    """A configuration in words, e.g. "alpha = 0.5, T = 4"."""
    parts = []
    for name in by:
        value = row[f"config/{name}"]
        if not pd.isna(value):
            shown = f"{value:.4g}" if is_number(value) else value
            parts.append(f"{'T' if name == 'temperature' else name} = {shown}")
    return ", ".join(parts) or "the configuration"


def check_baseline(criterion: Criterion, study: Study) -> None:
    """Raises InputError where the study can have no such baseline, but for plain training."""
    for name, value in {} if criterion.is_plain else criterion.baseline.items():
        values = study.values(name)
        if isinstance(values, Range):
            known = not isinstance(value, str) and values.low <= value <= values.high
        else:
            known = value in values
        # plain training is in the study also where its list or range of alphas does not hold 1
        known = known or (name == "alpha" and value == 1 and study.has_plain)
        if not known:
            shown = values if isinstance(values, Range) else ", ".join(map(str, values))
            raise InputError(
                f"baseline must be of the study ({name}: {shown}), but got {name}={value}"
            )


def parse_baseline(text: str) -> dict[str, Value]:
    """{"alpha": 1.0} of "alpha=1"; raises InputError."""
    values: dict[str, Value] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in HYPERPARAMETERS or not value:
            raise InputError(
                f"baseline must be NAME=VALUE[,NAME=VALUE...], a hyperparameter's, such as "
                f"alpha=1, but got {text}"
            )
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = value
    return values
