"""Comparison of configurations with the baseline, paired by repeat and image.

`trials` is the dataframe `Frames.trials` or rows of it. Only completed trials count.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from kdtune.config.cost import NO_LIMITS, Limits
from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.config.metrics import Metric
from kdtune.config.study import Scope
from kdtune.config.task import DISTILLATION, Task, check_names
from kdtune.results.design import ONE_TEACHER, Design
from kdtune.results.labels import config_columns
from kdtune.results.pairs import ExampleReader, Pair, make_pairs, max_t_over_repeats, no_examples
from kdtune.statistics.intervals import MIN_REPEATS
from kdtune.statistics.multiplicity import holm
from kdtune.statistics.sequential import AnytimeTest

SIGNIFICANCE_LEVEL = 0.05
"""Family-wise error rate: probability of a significant difference in a study that has none."""


@dataclass(frozen=True)
class Criterion:
    """Evaluation criterion of a study: metric, epoch selection, baseline and limits on cost.

    `Results.criterion` makes those of a study. Raises InputError for a metric that is not
    comparable across configurations, and for names that are not hyperparameters.
    """

    metric: str = ""
    """Metric on val, one of `Task.comparable`. Empty: the one that decides the search."""
    scope: Scope = "last"
    """Epoch selection."""
    baseline: Mapping[str, Value] | None = field(default=None, hash=False)
    """The best configuration with these values is the baseline. None: that of the task."""
    limits: Limits = NO_LIMITS
    """Limits on the cost of a student; the conclusion names the best one within them."""
    task: Task = field(default=DISTILLATION, repr=False)
    """What the trials of the study train."""

    def __post_init__(self) -> None:
        task, name = self.task, self.metric.removeprefix("val/") or self.task.score
        object.__setattr__(self, "metric", name)
        if name not in task.comparable:
            known = task.metrics.get(name)
            why = ""
            if known and not known.comparable:
                why = " (its meaning depends on alpha)"
            elif known:
                why = " (whether higher or lower is better is not known)"
            raise InputError(
                f"metric must be one of {', '.join(task.comparable)}, on val, but got {name}{why}"
            )
        if self.baseline is None:
            object.__setattr__(self, "baseline", task.baseline)
        check_names("baseline", self.fixed, task.names)

    @property
    def fixed(self) -> Mapping[str, Value]:
        """The values of the baseline."""
        return self.baseline or {}

    @property
    def declared(self) -> Metric:
        """The metric's entry in the table of metrics."""
        return self.task.metrics[self.metric]

    @property
    def sign(self) -> int:
        """1 if higher values are better, else -1."""
        return 1 if self.declared.better == "higher" else -1

    @property
    def label(self) -> str:
        """The metric in words, e.g. "validation accuracy"."""
        return f"validation {self.declared.label}"

    @property
    def in_points(self) -> bool:
        """Whether the metric is a share, shown in percent; differences are percentage points."""
        return self.declared.unit == "points"

    @property
    def unit(self) -> str:
        """The unit of differences in words: "percentage points", "nats" or ""."""
        unit = self.declared.unit
        return "percentage points" if unit == "points" else unit

    @property
    def scale(self) -> int:
        """Factor for display: 100 for shares, else 1."""
        return 100 if self.in_points else 1

    @property
    def largest_difference(self) -> float:
        """The largest possible difference: 1 for shares, else infinity."""
        return 1.0 if self.in_points else math.inf

    @property
    def has_predictions(self) -> bool:
        """Whether predictions say which examples are correct: accuracy at the last epoch."""
        return self.task.is_distillation and self.metric == "acc" and self.scope == "last"

    @property
    def has_examples(self) -> bool:
        """Whether predictions give a value per example: not for epochs before the last one."""
        return self.scope == "last" and self.declared.of_example is not None

    @property
    def has_plain_baseline(self) -> bool:
        """Whether the baseline is that of the task: training without distillation."""
        return self.baseline == self.task.baseline

    @property
    def decides_the_search(self) -> bool:
        """Whether the search selects by it: accuracy, last epoch, with and without distillation."""
        own = self.metric == self.task.score and self.scope == "last"
        return own and self.has_plain_baseline

    def groups(self, configs: pd.DataFrame) -> pd.Series:
        """Return for each row of a frame with config/* which configurations it is compared with.

        Comparisons are within a student, unless the baseline names a student.
        """
        group = self.task.group
        if group is None or group in self.fixed:
            return pd.Series("", index=configs.index)
        return configs[f"config/{group}"]

    def is_baseline(self, configs: pd.DataFrame) -> pd.Series:
        """Return for each row of a frame with config/* whether it can be the baseline."""
        matches = pd.Series(bool(self.fixed), index=configs.index)
        for name, value in self.fixed.items():
            matches &= configs[f"config/{name}"] == value
        return matches


DEFAULT = Criterion()
"""Validation accuracy at the last epoch, against training without distillation."""


def metric_values(trials: pd.DataFrame, metric: str, scope: str, split: str = "val") -> pd.Series:
    """Return a metric of each trial, recorded or derived."""
    if (column := f"{split}/{metric}@{scope}") in trials:
        return trials[column]
    derived = DISTILLATION.metrics[metric].derived
    assert derived is not None  # noqa: S101 - a recorded metric has a column
    columns = {f"{split}/{name}@{scope}": name for name in DISTILLATION.recorded}
    return derived(trials.rename(columns=columns))


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials."""
    return trials[trials.status == "completed"]


def by_repeat(trials: pd.DataFrame, metric: str, scope: str, split: str = "val") -> pd.DataFrame:
    """Return a metric of the completed trials: a row per repeat, a column per config_id.

    NaN where a configuration lacks the repeat or the metric.
    """
    done = completed(trials)
    done = done[["repeat", "config_id"]].assign(value=metric_values(done, metric, scope, split))
    return done.pivot(index="repeat", columns="config_id", values="value")


def completed_configs(trials: pd.DataFrame) -> pd.DataFrame:
    """Return config/* of the configurations with a completed trial, indexed by config_id."""
    done = completed(trials).drop_duplicates("config_id")
    return done[config_columns(done)].set_index("config_id")


def have_enough_repeats(counts: pd.Series) -> pd.Series:
    """Return which counts exceed half of the largest: one lucky repeat must not win."""
    return counts > counts.max() / 2


def students_of(trials: pd.DataFrame) -> pd.Series:
    """Return the student of each configuration, indexed by config_id; "" without students."""
    configs = trials.drop_duplicates("config_id").set_index("config_id")
    if "config/student" not in configs:
        return pd.Series("", index=configs.index)
    return configs["config/student"]


def with_enough_repeats(
    values: pd.DataFrame, students: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return the columns of `by_repeat` with more than half of the most repeats of their student.

    A student whose comparison is decided gets no more repeats, while another still does.

    Args:
        values: see `by_repeat`.
        students: by configuration, see `students_of`. None: all have the same.
    """
    counts = values.count()
    groups = counts.index.map(lambda config: "" if students is None else students[config])
    enough = counts.groupby(groups.to_numpy()).transform(have_enough_repeats).astype(bool)
    return values[counts.index[enough]]


def complete_block(values: pd.DataFrame) -> pd.DataFrame:
    """Return a part of `by_repeat` without NaN: columns with at least the median of repeats."""
    counts = values.count()
    kept = values[counts.index[counts >= counts.median()]]
    return kept.dropna()


def best_config(values: pd.DataFrame, sign: int, students: Mapping[str, str] | None = None) -> str:
    """Return the config_id with the best mean among those with enough repeats of their student.

    The arguments are those of `with_enough_repeats`; sign is -1 if lower values are better.
    """
    return str((sign * with_enough_repeats(values, students).mean()).idxmax())


def compare(
    trials: pd.DataFrame,
    criterion: Criterion,
    anytime_level: float | None = None,
    read: ExampleReader = no_examples,
    design: Design = ONE_TEACHER,
) -> pd.DataFrame:
    """Compare every other configuration with the baseline of its student, paired by repeat.

    Where the metric has a value per example and predictions are there, the comparison is paired by
    image, too, and holds for new repeats and new images (`statistics.crossed`). Otherwise it holds
    for new repeats on the same images.

    Args:
        trials: see the module.
        criterion: metric, epoch selection and baseline.
        anytime_level: level of a study that added repeats until the comparison was decided. Then
            p, p_holm, low and high are always-valid (`statistics.sequential`), p_max_t, low_here
            and high_here are NaN, and there are columns undecidable and least_decidable, see
            `sequential.AnytimeTest`. None: the number of repeats was fixed.
        read: returns values per example on val, see `pairs.make_pairs`.
        design: what the repeats vary. With several teachers these are the sample (the repeats of
            each are averaged), with folds the standard error is corrected for overlapping train
            sets, there is no interval for these images and p_max_t is NaN.

    Returns:
        One row per configuration, best first: config_id, label, config/*, diff (mean difference
        from the baseline), sd (of the differences over repeats), error (standard error of diff),
        df, low, high (ends of the simultaneous 95 % t interval: Bonferroni over all rows),
        low_here, high_here (the same over repeats alone, for these images), n (common repeats),
        n_units (teachers if they are the sample, else repeats), n_images (NaN: only repeats vary),
        var_repeat, var_image, var_rest (variance components of the differences), correlation (over
        repeats), p (t test), wins, ties, losses, p_better (win rate), baseline (its config_id),
        p_holm, p_max_t (sign-flip test over repeats; NaN for n < 6). A statistic is NaN where n is
        too small for it. Empty if there is no baseline, or nothing to compare with it.
    """
    values = by_repeat(trials, criterion.metric, criterion.scope).dropna(axis=1, how="all")
    configs = completed_configs(trials)
    can_be = criterion.is_baseline(configs)
    groups = criterion.groups(configs)
    plain = {g: [c for c in values if can_be[c] and groups[c] == g] for g in groups.unique()}
    best = {g: best_config(values[found], criterion.sign) for g, found in plain.items() if found}
    baselines = {c: best[groups[c]] for c in values if not can_be[c] and groups[c] in best}
    if not baselines:
        return pd.DataFrame()
    pairs = make_pairs(completed(trials), values, baselines, read, design)
    m = max(1, sum(pair.n_units >= MIN_REPEATS for pair in pairs))  # as many as have a p value
    level, most = 1 - SIGNIFICANCE_LEVEL / m, criterion.largest_difference
    rows = [pair.statistics(criterion.sign, level, most) for pair in pairs]
    table = pd.DataFrame(rows).assign(config_id=list(baselines), baseline=list(baselines.values()))
    table["p_holm"] = over_known(table.p)
    table["p_max_t"] = max_t_over_repeats(values, baselines, design)
    if anytime_level is not None:
        table = _at_any_time(table, pairs, anytime_level)
    table = configs.reset_index().merge(table, on="config_id")
    order = (criterion.sign * table["diff"]).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _at_any_time(table: pd.DataFrame, pairs: list[Pair], level: float) -> pd.DataFrame:
    """Return the table with always-valid p values and intervals."""
    tests = [AnytimeTest.of(pair.differences.tolist(), pair.table) for pair in pairs]
    each = level / len(pairs)
    ends = [test.interval(each) for test in tests]
    p = pd.Series([test.p for test in tests], index=table.index)
    table = table.assign(p=p, p_holm=over_known(p), p_max_t=math.nan)
    table["undecidable"] = [test.is_undecidable(each) for test in tests]
    table["least_decidable"] = [test.least_decidable(each) for test in tests]
    table = table.assign(low_here=math.nan, high_here=math.nan)
    return table.assign(low=[low for low, _ in ends], high=[high for _, high in ends])


def over_known(p_values: pd.Series) -> pd.Series:
    """Return p values adjusted by Holm's method; NaN stays NaN and does not count."""
    known = p_values.dropna()
    return pd.Series(holm(list(known)), index=known.index, dtype=float).reindex(p_values.index)


def baseline_of(table: pd.DataFrame, config_id: str) -> str | None:
    """Return the baseline with which `compare` compares a configuration, or that it is itself."""
    if not len(table):
        return None
    rows = table[(table.config_id == config_id) | (table.baseline == config_id)]
    return str(rows.baseline.iloc[0]) if len(rows) else None
