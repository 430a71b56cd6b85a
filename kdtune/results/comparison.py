"""Comparison of configurations with the baseline, and what it has found."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from kdtune.config.fields import Value
from kdtune.config.records import NO_LIMITS, Limits
from kdtune.config.run import DISTILLATION
from kdtune.config.study import Scope
from kdtune.config.task import Metric, Task, check_names, group_text
from kdtune.config.text import InputError
from kdtune.results import design as designs
from kdtune.results.design import Design, FloatArray, Pair, Sample, block_of
from kdtune.results.frames import GROUP, config_columns, read_predictions
from kdtune.statistics import intervals
from kdtune.statistics.intervals import MIN_REPEATS
from kdtune.statistics.selection import Means, bootstrap_corrected, may_be_best, probability_best
from kdtune.statistics.tests import AnytimeTest, holm
from kdtune.storage.records import Round

# Comparison of configurations with the baseline, paired by repeat and image.
#
# `trials` is the dataframe `Frames.trials` or rows of it. Only completed trials count.


SIZE = "train_images"
"""The hyperparameter with a comparison, and a point of the label curve, for each of its values."""
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
    split: str = field(default="val", repr=False)
    """Whose images decide: "val"; "test", where studies side by side have it; "" for a table made
    elsewhere, which has no splits."""
    equal: float = 0.0
    """Margin of practical equality in the unit of the metric, see `selection.may_be_best`."""

    def __post_init__(self) -> None:
        task, name = self.task, self.metric.removeprefix("val/") or self.task.score
        object.__setattr__(self, "metric", name)
        if name not in task.comparable:
            raise InputError(
                f"metric must be one of {', '.join(task.comparable)}, on val, which are better in "
                f"one direction whatever alpha is, but got {name}"
            )
        if self.equal != 0:
            self.check_margin("equal", self.equal)
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
        split = "validation" if self.split == "val" else self.split
        return f"{split} {self.declared.label}".strip()

    @property
    def examples(self) -> str:
        """What val is a sample of, in words: "val images", or "val groups"."""
        return f"{self.split} {self.task.sampled}".strip()

    @property
    def in_points(self) -> bool:
        """Whether the metric is a share, shown in percent; differences are percentage points."""
        return self.declared.unit in ("points", "percent")

    @property
    def unit(self) -> str:
        """The unit of differences in words: "percentage points", "nats" or ""."""
        return "percentage points" if self.in_points else self.declared.unit

    @property
    def scale(self) -> int:
        """Factor for display: 100 for shares in [0, 1], else 1."""
        return 100 if self.declared.unit == "points" else 1

    @property
    def largest_difference(self) -> float:
        """The largest possible difference: that of shares, else infinity."""
        return 100 / self.scale if self.in_points else math.inf

    def check_margin(self, name: str, margin: float) -> None:
        """Raise InputError unless a difference is positive and below the largest possible one."""
        if not 0 < margin < self.largest_difference:
            most = " and below 100 percentage points" * self.in_points
            raise InputError(f"{name} must be above 0{most}, but got {self.scale * margin:g}")

    @property
    def has_predictions(self) -> bool:
        """Whether predictions say which examples are correct: accuracy at the last epoch."""
        return self.task.is_distillation and self.metric == "acc" and self.scope == "last"

    @property
    def has_task_baseline(self) -> bool:
        """Whether the baseline is that of the task: training without distillation."""
        return self.baseline == self.task.baseline

    @property
    def decides_the_search(self) -> bool:
        """Whether the search selects by it: accuracy, last epoch, with and without distillation."""
        is_score = self.metric == self.task.score and self.scope == "last"
        return is_score and self.has_task_baseline

    @property
    def group_names(self) -> tuple[str, ...]:
        """Hyperparameters whose values are compared apart: those that the baseline leaves open."""
        return tuple(name for name in self.task.groups if name not in self.fixed)

    def groups(self, configs: pd.DataFrame) -> pd.Series:
        """Return for each row of a frame with config/* which configurations it is compared with.

        Comparisons are within a student and a number of training images, unless the baseline names
        one.
        """
        columns = [configs[f"config/{name}"] for name in self.group_names]
        if not columns:
            return pd.Series("", index=configs.index)
        if self.group_names == ("student",):
            return columns[0]
        return pd.Series(list(map(group_text, zip(*columns, strict=True))), configs.index, object)

    def is_baseline(self, configs: pd.DataFrame) -> pd.Series:
        """Return for each row of a frame with config/* whether it can be the baseline."""
        matches = pd.Series(bool(self.fixed), index=configs.index)
        for name, value in self.fixed.items():
            matches &= configs[f"config/{name}"] == value
        return matches

    def by_repeat(self, trials: pd.DataFrame, split: str = "val") -> pd.DataFrame:
        """Return the metric of the completed trials, see `by_repeat`; on test at the last epoch."""
        return by_repeat(trials, self.metric, self.scope if split == "val" else "last", split)


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
    trials = completed(trials)
    values = metric_values(trials, metric, scope, split)
    table = trials[["repeat", "config_id"]].assign(value=values)
    return table.pivot(index="repeat", columns="config_id", values="value")


def completed_configs(trials: pd.DataFrame) -> pd.DataFrame:
    """Return config/* of the configurations with a completed trial, indexed by config_id."""
    configs = completed(trials).drop_duplicates("config_id")
    return configs[config_columns(configs)].set_index("config_id")


def have_enough_repeats(counts: pd.Series) -> pd.Series:
    """Return which counts exceed half of the largest: one lucky repeat must not win."""
    return counts > counts.max() / 2


TIE_DIGITS = 12
"""Decimals to which means are compared: equal accuracies that are added up in another order differ
in the 17th, and a table and the best configuration would name different ones."""


def best_to_worst(means: pd.Series, sign: int) -> pd.Index:
    """Return the index of means, the best first; equal ones keep their order, NaN come last.

    The sign is -1 if lower values are better.
    """
    return (-sign * means.round(TIE_DIGITS)).sort_values(kind="stable").index


def by_mean(table: pd.DataFrame, name: str, sign: int) -> pd.DataFrame:
    """Return the rows of a summary by <name>/mean, the best first; those with few repeats last.

    Few are at most half of the most, see <name>/n. The sign is -1 if lower values are better.
    """
    table = table.loc[best_to_worst(table[f"{name}/mean"], sign)]
    has_few = ~have_enough_repeats(table[f"{name}/n"])
    return table.loc[has_few.sort_values(kind="stable").index]


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


def mean_columns(name: str, values: pd.Series) -> dict[str, float]:
    """Return mean, SD (ddof = 1), number and 95 % t interval of values, without NaN.

    Keys: <name>/mean, /std, /n, /low and /high.
    """
    i = intervals.mean_interval(values.dropna())
    numbers = {"mean": i.mean, "std": i.sd, "n": i.n, "low": i.low, "high": i.high}
    return {f"{name}/{key}": value for key, value in numbers.items()}


def complete_block(values: pd.DataFrame) -> pd.DataFrame:
    """Return a part of `by_repeat` without NaN: columns with at least the median of repeats."""
    counts = values.count()
    return values[counts.index[counts >= counts.median()]].dropna()


def best_config(values: pd.DataFrame, sign: int, students: Mapping[str, str] | None = None) -> str:
    """Return the config_id with the best mean among those with enough repeats of their student.

    The arguments are those of `with_enough_repeats`; sign is -1 if lower values are better.
    """
    return str(best_to_worst(with_enough_repeats(values, students).mean(), sign)[0])


@dataclass(frozen=True)
class Judged:
    """Trials that a criterion is judged by, and what comparing them needs."""

    trials: pd.DataFrame
    """`Frames.trials` or rows of it; completed ones count."""
    criterion: Criterion
    """Metric, epoch selection and baseline."""
    read: designs.ExampleReader = lambda trial_ids, split: {}
    """Values per example; nothing: comparisons are over repeats alone."""
    design: Design = designs.ONE_TEACHER
    """What the repeats vary. With several teachers these are the sample (the repeats of each are
    averaged); with folds the standard error is corrected for overlapping train sets, and each
    repeat has other images, so that none are paired."""
    anytime_level: float | None = None
    """Level of a study that added repeats until the comparison was decided: p values and intervals
    are always-valid (`tests.AnytimeTest`). None: the number of repeats was fixed."""

    def samples(
        self, split: str = "val", configs: Collection[str | None] | None = None
    ) -> dict[str, Sample]:
        """Return the samples of configurations, of all by default, by config_id."""
        trials = completed(self.trials)
        trials = trials if configs is None else trials[trials.config_id.isin(configs)]
        values = self.criterion.by_repeat(trials, split)
        by_trial = self.read(list(trials.trial_id), split) if self.design.folds is None else {}
        examples = {config: dict[int, FloatArray]() for config in values}
        for trial, config, repeat in trials[["trial_id", "config_id", "repeat"]].to_numpy():
            if trial in by_trial:
                examples[config][repeat] = by_trial[trial]
        return {c: Sample(values[c].dropna(), rows) for c, rows in examples.items()}


def compare(judged: Judged) -> pd.DataFrame:
    """Compare every other configuration with the baseline of its student, paired by repeat.

    Where the metric has a value per example and predictions are there, the comparison is paired by
    image, too, and holds for new repeats and new images (`intervals.crossed`). Otherwise it holds
    for new repeats on the same images. With always-valid p values p_max_t, low_here and high_here
    are NaN, and there are columns undecidable and least_decidable, see `tests.AnytimeTest`.

    Returns:
        One row per configuration, best first; empty if there is no baseline, or nothing to compare
        with it. A statistic is NaN where n is too small for it. The columns:

        - config_id, label, config/*: the configuration
        - baseline: config_id of its baseline
        - diff, sd, error: mean difference from the baseline, SD of the differences over repeats,
          standard error of diff
        - low, high, df: simultaneous 95 % t interval (Bonferroni over all rows)
        - low_here, high_here: the same over repeats alone, for these images
        - n, n_units, n_images: common repeats; teachers if they are the sample, else repeats;
          images, or groups of data that have them (NaN: only repeats vary)
        - var_repeat, var_image, var_rest: variance components of the differences
        - correlation: of configuration and baseline over repeats
        - p, p_holm, p_max_t: t test; adjusted by Holm; sign-flip test over repeats (NaN for n < 6)
        - wins, ties, losses, p_better: numbers of repeats; win rate
    """
    criterion, configs = judged.criterion, completed_configs(judged.trials)
    values = criterion.by_repeat(judged.trials).dropna(axis=1, how="all")
    baselines = _find_baselines(values, configs, criterion)
    if not baselines:
        return pd.DataFrame()
    samples = judged.samples(configs={*baselines, *baselines.values()})
    pairs = [samples[c].minus(samples[b], judged.design) for c, b in baselines.items()]
    # without the predictions of one, the tables would hold for different images
    has_all = all(pair.table is not None for pair in pairs if pair.n >= MIN_REPEATS)
    pairs = [p if has_all and p.n >= MIN_REPEATS else replace(p, table=None) for p in pairs]
    table = compare_pairs(pairs, criterion).assign(
        config_id=list(baselines), baseline=list(baselines.values())
    )
    table["p_holm"] = holm_without_nan(table.p)
    table["p_max_t"] = designs.max_t_over_repeats(values, baselines, judged.design)
    if judged.anytime_level is not None:
        table = _at_any_time(table, pairs, judged.anytime_level)
    return best_first(configs.reset_index().merge(table, on="config_id"), criterion.sign)


def _find_baselines(
    values: pd.DataFrame, configs: pd.DataFrame, criterion: Criterion
) -> dict[str, str]:
    """Return the baseline of each configuration to compare: the best one of its group.

    A group without a baseline, see `Criterion.groups`, is left out.
    """
    is_baseline, groups = criterion.is_baseline(configs), criterion.groups(configs)
    best = {}
    for group in groups.unique():
        candidates = [c for c in values if is_baseline[c] and groups[c] == group]
        if candidates:
            best[group] = best_config(values[candidates], criterion.sign)
    return {c: best[groups[c]] for c in values if not is_baseline[c] and groups[c] in best}


def compare_pairs(
    pairs: Sequence[Pair], criterion: Criterion, m: int | None = None
) -> pd.DataFrame:
    """Return the statistics of pairs of configurations, a row each, see `compare`.

    Args:
        pairs: of a study, of several, or of a table that was made elsewhere.
        criterion: of the values.
        m: number of comparisons that the intervals are simultaneous for. None: as many as have a p
            value.
    """
    if m is None:
        m = sum(pair.n_units >= MIN_REPEATS for pair in pairs)
    level, most = 1 - SIGNIFICANCE_LEVEL / max(1, m), criterion.largest_difference
    return pd.DataFrame([pair.statistics(criterion.sign, level, most) for pair in pairs])


def compare_family(pairs: Sequence[Pair], criterion: Criterion) -> pd.DataFrame:
    """Return the statistics of pairs, all of which Bonferroni's and Holm's corrections count."""
    table = compare_pairs(pairs, criterion, len(pairs))
    return table.assign(p_holm=holm_without_nan(table.p))


def compare_samples(
    pairs: Sequence[Pair], criterion: Criterion, m: int | None = None
) -> pd.DataFrame:
    """Return the table of `compare_pairs` for pairs some of which are independent samples.

    The first columns are paired, why (if it is not) and n_baseline.
    """
    why = [pair.why_unpaired for pair in pairs]
    table = pd.DataFrame({"paired": [not reason for reason in why], "why": why})
    table["n_baseline"] = [pair.n_baseline for pair in pairs]
    return table.join(compare_pairs(pairs, criterion, m))


def best_first(table: pd.DataFrame, sign: int) -> pd.DataFrame:
    """Return comparisons by their difference, the best first."""
    return table.loc[best_to_worst(table["diff"], sign)].reset_index(drop=True)


Kind = Literal["better", "worse", "all worse", "not significant", "no test", "no comparison"]


class Finding(NamedTuple):
    """What a comparison of configurations with a baseline has found."""

    kind: Kind
    """Of `row`; "all worse" if there are several configurations, all significantly worse."""
    m: int = 0
    """Number of comparisons that p values and intervals account for."""
    tested: pd.DataFrame = pd.DataFrame()
    """Comparisons with a p value and enough repeats, best first; without a test all with enough."""
    untested: int = 0
    """Number of the other comparisons with enough repeats."""
    significant: int = 0
    """Number of significant differences, in either direction."""
    row: pd.Series = pd.Series(dtype=object)
    """Effect, interval, p and n of the best configuration that is significantly better; else of the
    one with the best mean."""


def find(
    table: pd.DataFrame, sign: int, level: float, or_equal: bool = False, m: int | None = None
) -> Finding:
    """Return what a comparison has found.

    A difference is significant if its Holm-adjusted p value is below the level and its simultaneous
    interval excludes 0, see `design.is_significant`. The finding is about the best configuration
    that is significantly better; if there is none, about the best of all.

    Args:
        table: rows of `compare`, best first.
        sign: 1 if higher values are better, else -1.
        level: see `design.is_significant`.
        or_equal: see `design.is_significant`.
        m: number of comparisons that p values and intervals account for; those of the table if it
            has them all.
    """
    if not len(table):
        return Finding("no comparison")
    m = int(table.p_holm.notna().sum()) if m is None else m
    table = table[have_enough_repeats(table.n)]
    has_p = table.p_holm.notna()
    if m == 0 or table.n.max() < MIN_REPEATS or not has_p.any():
        return Finding("no test", m, table)
    table, untested = table[has_p], int((~has_p).sum())
    clear = designs.is_significant(table.p_holm, table.low, table.high, level, or_equal)
    counts = (m, table, untested, int(clear.sum()))
    better = table[clear & (sign * table["diff"] > 0)]
    if len(better):
        return Finding("better", *counts, better.iloc[0])
    kind: Kind = "worse" if clear.iloc[0] else "not significant"
    if clear.all() and len(table) > 1 and not untested:
        kind = "all worse"
    return Finding(kind, *counts, table.iloc[0])


def _at_any_time(table: pd.DataFrame, pairs: list[Pair], level: float) -> pd.DataFrame:
    """Return the table with always-valid p values and intervals."""
    tests = [AnytimeTest.of(pair.differences.tolist(), pair.table) for pair in pairs]
    each = level / len(pairs)
    ends = [test.interval(each) for test in tests]
    p = pd.Series([test.p for test in tests], index=table.index)
    table = table.assign(p=p, p_holm=holm_without_nan(p), p_max_t=math.nan)
    table["undecidable"] = [test.is_undecidable(each) for test in tests]
    table["least_decidable"] = [test.least_decidable(each) for test in tests]
    table = table.assign(low_here=math.nan, high_here=math.nan)
    return table.assign(low=[low for low, _ in ends], high=[high for _, high in ends])


def holm_without_nan(p_values: pd.Series) -> pd.Series:
    """Return p values adjusted by Holm's method; NaN stays NaN and does not count."""
    finite = p_values.dropna()
    return pd.Series(holm(list(finite)), index=finite.index, dtype=float).reindex(p_values.index)


def baseline_of(table: pd.DataFrame, config_id: str) -> str | None:
    """Return the baseline with which `compare` compares a configuration, or that it is itself."""
    if not len(table):
        return None
    rows = table[(table.config_id == config_id) | (table.baseline == config_id)]
    return str(rows.baseline.iloc[0]) if len(rows) else None


def tuning_effort(trials: pd.DataFrame, criterion: Criterion) -> pd.DataFrame:
    """Return configurations and runs of each arm, by group; runs without an epoch do not count.

    Args:
        trials: all trials of a study.
        criterion: names the baseline, and which configurations have one of their own.

    Returns:
        One row per group: group (a student, or ""), configs and runs (of all but the baseline),
        baseline_configs and baseline_runs. Empty without a baseline and without trials.
    """
    if not criterion.fixed or not len(trials):
        return pd.DataFrame()
    sizes = [name for name in [f"config/{SIZE}"] if name in trials]
    trials = trials[trials.n_epochs > 0].sort_values(sizes, kind="stable")  # others have only begun
    is_baseline = criterion.is_baseline(trials)
    rows = []
    for name, group in trials.groupby(criterion.groups(trials), sort=False):
        row: dict[str, str | int] = {"group": str(name)}
        for arm, of_arm in (("", ~is_baseline), ("baseline_", is_baseline)):
            of_group = group[of_arm[group.index]]
            row |= {f"{arm}configs": of_group.config_id.nunique(), f"{arm}runs": len(of_group)}
        rows.append(row)
    return pd.DataFrame(rows)


# Performance of the selected configuration on val, which selected it, and on test.


Row = dict[str, str | float]


class Chosen(NamedTuple):
    """Configurations whose performance is reported, by config_id."""

    best: str
    """The chosen configuration."""
    baseline: str | None
    """The baseline of its student, perhaps itself; None if there is none."""
    default: str
    """The recipe's default, perhaps itself or without any completed run."""


def selection(folder: Path, judged: Judged, chosen: Chosen) -> pd.DataFrame:
    """Return the criterion's metric of the chosen configurations, on val and test.

    About one search in ten chooses a configuration that is worse on new data than the recipe's
    default (overtuning, arXiv:2506.19540), so the two are compared.

    Args:
        folder: of the study, with the predictions.
        judged: trials by which the criterion is judged, and those of the default on the same
            repeats.
        chosen: the configurations.

    Returns:
        Rows, differences paired by repeat: "best", "baseline", "difference" (best - baseline),
        "default" and "chosen - default" (best - default; not if they are the same). Columns: row,
        config_id, label (of a difference both labels) and means with the ends of their intervals:
        val/mean, /low, /high (optimistic where val selected the best), corrected/mean, /low, /high
        (best row, accuracy at the last epoch: BBC-CV, see `selection.bootstrap_corrected`) and
        test/mean, /low, /high (test selects nothing); val/n, val/n_images, test/n, test/n_images:
        the repeats and images that an interval generalises from; without a number of images it
        holds for these images. NaN where there is no such number.
    """
    trials, most = judged.trials, judged.criterion.largest_difference
    labels = trials.drop_duplicates("config_id").set_index("config_id").label
    samples = {split: judged.samples(split, {*chosen}) for split in ("val", "test")}
    rows = []
    for name, config, of in _rows(chosen, samples["val"]):
        label = " minus ".join(labels[c] for c in of)
        row: Row = {"row": name, "config_id": config, "label": label}
        least = 0.0 if len(of) == 1 and math.isfinite(most) else -most
        for split, of_split in samples.items():
            first, *others = (of_split[c] for c in of)
            pair = first.minus(others[0] if others else None, judged.design)
            row |= _mean_of(pair, split, judged.anytime_level, least, most)
        rows.append(row)
    # other repeats have selected the finalists of the final phase: nothing to correct there
    if judged.criterion.has_predictions and (trials.phase == "search").all():
        enough = with_enough_repeats(judged.criterion.by_repeat(trials), students_of(trials))
        rows[0] |= _corrected(folder, trials, list(enough), judged.design)
    columns = [f"{k}/{s}" for k in ("val", "corrected", "test") for s in ("mean", "low", "high")]
    columns += [f"{k}/{s}" for k in ("val", "test") for s in ("n", "n_images")]
    return pd.DataFrame(rows, columns=["row", "config_id", "label", *columns])


def _rows(chosen: Chosen, measured: Collection[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name and config_id of each row of `selection`, and whose mean or difference it is."""
    yield "best", chosen.best, (chosen.best,)
    for row, difference, other in (
        ("baseline", "difference", chosen.baseline),
        ("default", "chosen - default", chosen.default),
    ):
        if other is not None and other in measured:
            yield row, other, (other,)
            if other != chosen.best:
                yield difference, "", (chosen.best, other)


def _mean_of(pair: Pair, split: str, anytime_level: float | None, least: float, most: float) -> Row:
    """Return the mean of a pair's differences and its interval, cut at least and most.

    It is for new repeats and new images where all values per example are known, else for new
    repeats. NaN for infinite ends.
    """
    mean = low = high = math.nan
    if anytime_level is not None:
        mean = float(pair.differences.mean()) if pair.n else math.nan
        test = AnytimeTest.of(pair.differences.tolist(), pair.table)
        low, high = test.interval(anytime_level)
    elif pair.n:
        mean, (low, high) = pair.estimate.mean, pair.estimate.interval()
    if not math.isfinite(high - low):
        low = high = math.nan
    numbers: Row = {"mean": mean, "low": max(low, least), "high": min(high, most)}
    numbers |= {"n": float(pair.n), "n_images": float(pair.n_images)}
    return {f"{split}/{name}": number for name, number in numbers.items()}


def _corrected(folder: Path, trials: pd.DataFrame, configs: list[str], design: Design) -> Row:
    """Return the bias-corrected accuracy of the best; {} if predictions of a trial are missing."""
    trials = completed(trials)
    trials = trials[trials.config_id.isin(configs)]
    columns = ["split", "example", "correct", *[GROUP] * design.has_groups]
    frame = read_predictions(folder, list(trials.trial_id), columns)
    if not set(columns) <= set(frame) or not set(trials.trial_id) <= set(frame.trial_id.unique()):
        return {}
    val = frame[frame.split == "val"].merge(trials[["trial_id", "config_id"]], on="trial_id")
    correct = val.astype({"correct": float}).pivot_table(
        index="config_id", columns="example", values="correct"
    )
    correct = correct.dropna(axis=1)  # with folds a failed run may have had an example alone
    values = correct.loc[configs].to_numpy()
    if design.has_groups:  # which are drawn in place of images
        values = intervals.by_group(values, val.groupby("example")[GROUP].first()[correct.columns])
    c = bootstrap_corrected(values)
    return {"corrected/mean": c.corrected, "corrected/low": c.low, "corrected/high": c.high}


# Which configuration to take: those that may be the best, and the cheapest of them.


def contenders(judged: Judged, is_raced: bool = False) -> pd.DataFrame:
    """Return all configurations of all students: which may be the best, P(best) and the cost.

    Those with enough repeats are compared with each other over their common repeats and, where
    predictions are there, images. A configuration that the study itself has stopped, by its race
    or its pruning, is out by that test; it still counts among the comparisons, since chance decided
    whether it is one. Another one with too few repeats cannot be excluded.

    Args:
        judged: trials of the search, with the cost of the students.
        is_raced: whether a race has ended: of each student's configurations with and without
            distillation, which it races apart, those with fewer repeats than others are out.

    Returns:
        Compared ones first, the best mean first; empty without a common repeat. Columns: config_id,
        label, config/*, n (completed repeats), n_units and n_images (that the comparison
        generalises from; NaN: only repeats vary), mean, may_be_best (see `selection.may_be_best`),
        p_best (see `selection.probability_best`; NaN: not compared), params, latency_ms,
        needs_teacher, epochs, seconds (of a run, mean) and cheapest: True for one of those that may
        be the best. It has the student of the lowest latency (parameters, if a latency is missing);
        of one student, training that needs no teacher is cheaper, then that of fewer epochs, then
        the best mean decides. The measured seconds do not, since they depend on what else the
        machine did.
    """
    trials, criterion, design = judged.trials, judged.criterion, judged.design
    values = criterion.by_repeat(trials)
    configs = trials.drop_duplicates("config_id").set_index("config_id", drop=False)
    counts = values.count().reindex(configs.index, fill_value=0)
    race = Criterion(task=criterion.task)
    arms = counts.groupby([race.groups(configs), race.is_baseline(configs)])
    stopped = configs.index.isin(trials.config_id[trials.status == "pruned"])
    stopped |= is_raced & (counts < arms.transform("max")).to_numpy()
    compared = values[counts.index[have_enough_repeats(counts) & ~stopped]].dropna()
    if not compared.size:
        return pd.DataFrame()
    repeats, names = [int(repeat) for repeat in compared.index], list(compared)
    samples = judged.samples(configs=names)
    scores, images = block_of([samples[c] for c in names], compared)
    units = np.stack([design.unit_means(table, repeats) for table in scores])
    means = Means.of(criterion.sign * units, 0 if design.folds is None else 1 / (design.folds - 1))
    is_open = configs.index.isin(trials.config_id[~trials.status.isin(["completed", "pruned"])])
    in_set = pd.Series(is_open | ~stopped, index=configs.index)
    in_set[names] = may_be_best(means, criterion.equal, len(configs) - 1)
    frame = configs[config_columns(configs)].assign(
        n=counts,
        n_units=units.shape[1],
        n_images=images,
        mean=compared.mean().combine_first(values.mean()),
        may_be_best=in_set,
        p_best=pd.Series(probability_best(means), index=names),
        params=configs.get("student/params", math.nan),
        latency_ms=configs.get("student/latency_ms", math.nan),
        needs_teacher=criterion.task.is_distillation and configs["config/alpha"] != 1,
        epochs=trials.groupby("config_id").n_epochs_planned.max(),
        seconds=completed(trials).groupby("config_id").seconds.mean(),
    )
    frame = frame.loc[best_to_worst(frame["mean"], criterion.sign)]
    frame = frame.loc[frame.p_best.isna().sort_values(kind="stable").index]
    cost = "latency_ms" if frame.latency_ms.notna().all() else "params"
    by_cost = frame.sort_values([cost, "needs_teacher", "epochs"], kind="stable")
    cheapest = by_cost.index[by_cost.may_be_best & by_cost.p_best.notna()][:1]
    return frame.assign(cheapest=frame.index.isin(cheapest)).reset_index(drop=True)


# The label curve: what students learn from so many labelled images, with a teacher and without.


def label_curve(judged: Judged) -> pd.DataFrame:
    """Return what the best configurations of each number of training images reach, by arm.

    Val selects the best configuration of each student, number and arm, and test, where there is
    one, measures it. All are compared in the repeats that they have in common.

    Returns:
        A row per student, arm and number: student, n (labelled images), arm ("distilled" or
        "plain"), config_id, label, mean, low and high (95 % interval), split, repeats and images
        (NaN: for these images). Of distilled rows also equivalent, equivalent_low and
        equivalent_high: the labels that plain training needs for the same (0: below the smallest
        number, infinity: beyond the largest; see `intervals.equivalent_size`), and gain and p_holm
        of the improvement at the same number (positive: better), adjusted for all numbers of the
        student, and for the distilled configurations of this number, of which val chose the best in
        the same repeats.
        Where the gain is significant, the equivalent number and its interval are at least the
        number itself, as p says. Empty with fewer than two numbers that have both arms, or too few
        repeats.
    """
    criterion, design, measured = judged.criterion, judged.design, completed(judged.trials)
    values = {split: criterion.by_repeat(measured, split) for split in ("val", "test")}
    split = "test" if values["test"].notna().any(axis=None) else "val"
    configs = completed_configs(measured).loc[list(values["val"].dropna(axis=1, how="all"))]
    arms = [configs["config/student"], configs[f"config/{SIZE}"], criterion.is_baseline(configs)]
    groups = configs.groupby(arms).groups
    best = {
        key: best_config(values["val"][list(members)], criterion.sign)
        for key, members in groups.items()
    }
    samples, tables = judged.samples(split, best.values()), []
    for student in dict.fromkeys(name for name, *_ in best):
        both = [n for name, n, plain in best if name == student and plain]
        sizes = [n for n in sorted(both) if (student, n, False) in best]
        ids = [best[student, n, plain] for plain in (True, False) for n in sizes]
        common = values[split][ids].dropna()
        if len(sizes) < 2 or len(common) < MIN_REPEATS:
            continue
        repeats = [int(repeat) for repeat in common.index]
        table, images = block_of([samples[c] for c in ids], common)

        def estimate(cells: FloatArray, repeats: list[int] = repeats) -> intervals.Estimate:
            return design.estimate(cells.mean(1), cells if cells.shape[1] > 1 else None, repeats)

        frame = configs.loc[ids, ["label"]].reset_index()
        frame = frame.assign(student=student, n=sizes * 2, split=split)
        frame = frame.assign(repeats=len(repeats), images=float(images))
        frame["arm"] = ["plain"] * len(sizes) + ["distilled"] * len(sizes)
        means = [estimate(cells) for cells in table]
        frame["mean"] = [each.mean for each in means]
        least = 0 if criterion.in_points else -math.inf
        ends = np.array([each.interval() for each in means])
        frame[["low", "high"]] = ends.clip(least, criterion.largest_difference)
        plain, distilled = np.split(criterion.sign * table, 2)
        sizes_of = [intervals.equivalent_size(sizes, plain, cells, estimate) for cells in distilled]
        gains = [estimate(a - b) for a, b in zip(distilled, plain, strict=True)]
        gain = pd.Series([each.mean for each in gains])
        tried = np.array([len(groups[student, n, False]) for n in sizes])
        p = holm_without_nan(pd.Series(tried * [each.p for each in gains]).clip(upper=1))
        of_distilled = pd.DataFrame(sizes_of).set_axis(_EQUIVALENT, axis=1)
        is_clear = (p < SIGNIFICANCE_LEVEL) & (gain > 0)
        of_distilled = of_distilled.clip(lower=pd.Series(sizes).where(is_clear, 0), axis=0)
        of_distilled = of_distilled.assign(gain=gain, p_holm=p)
        of_distilled.index += len(sizes)
        tables.append(frame.join(of_distilled))
    columns = ["student", "n", "arm", "config_id", "label", "mean", "low", "high", *_EQUIVALENT]
    columns += ["gain", "p_holm", "split", "repeats", "images"]
    return pd.concat(tables)[columns].reset_index(drop=True) if tables else pd.DataFrame()


_EQUIVALENT = ["equivalent", "equivalent_low", "equivalent_high"]


# Trials of the last round of final repeats, and the finalist that was the best before it.
#
# `trials` is the dataframe `Frames.trials`. The round is None if the finalists were not recorded
# before their final repeats (studies of schema 3 and older).


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
