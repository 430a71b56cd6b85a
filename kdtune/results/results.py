"""Results of a study: dataframes, tables, comparisons and the conclusion."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd

from kdtune.config.cli import ComparisonFlags, parse_baseline
from kdtune.config.fields import Value
from kdtune.config.files import describe_missing
from kdtune.config.records import NO_LIMITS, Limits, read_costs, read_teacher_accuracy
from kdtune.config.run import DISTILLATION
from kdtune.config.study import Scope, Study
from kdtune.config.task import Range, Task, check_names, covers, find_metric, group_text, name_of
from kdtune.config.text import InputError
from kdtune.results import comparison, costs, formatting, frames, summaries, warnings, words
from kdtune.results.comparison import SIZE, Criterion, Judged
from kdtune.results.design import Design, FloatArray
from kdtune.results.frames import PREFIX, Frames, config_label
from kdtune.results.words import ComparisonContext
from kdtune.statistics.intervals import MIN_REPEATS, TeacherShare
from kdtune.storage.records import Round, read_provenance, read_study

Computed = TypeVar("Computed")
MAX_PRINTED_ROWS, MAX_BRIEF_ROWS = 30, 10
"""Configurations in a printed table, and in a brief one; if there are more, the best ones."""


def load(folder: str | Path) -> "Results":
    """Read a study, finished or not; see `kdtune.load`.

    Raises:
        InputError: if there is no study.
    """
    path, is_running = Path(folder).expanduser(), None
    if "://" in str(folder):
        from kdtune.storage.mirror import fetch  # obstore takes long to import

        path, is_running = fetch(str(folder))
    elif not path.is_dir():
        raise InputError(f"a study must be a folder, but {describe_missing(path)}")
    study, of_models = read_study(path), costs.cost_frame(read_costs(path))
    records = frames.read_frames(path, is_running, study)
    trials = warnings.mark_contradictions(path, records, study.task)
    trials = costs.with_student_costs(trials, of_models)
    return Results(path, study, replace(records, trials=trials), of_models)


@dataclass(frozen=True)
class Conclusion:
    """What a comparison has found, in words, and the sentences that change it."""

    student: str | None
    """See `Results.group_name`; None if there is one student, or none."""
    finding: Callable[..., str]
    """Returns it in words, with `brief` in one or two sentences; see `words.verdict`."""
    doubts: Mapping[str, str]
    """See `warnings.find_doubts`."""

    def text(self, brief: bool = False) -> str:
        """Return finding and doubts, the finding perhaps in one or two sentences."""
        texts = [] if self.learned_nothing else [self.finding(brief=brief)]
        return self._of_student(" ".join([*texts, *map(words.capitalised, self.doubts.values())]))

    @property
    def learned_nothing(self) -> bool:
        """Whether both configurations are no better than chance."""
        return warnings.NOTHING_LEARNED in self.doubts

    @property
    def warnings(self) -> list[str]:
        """The doubts that are warnings."""
        return [self._of_student(t) for key, t in self.doubts.items() if key in warnings.WARNED]

    def _of_student(self, text: str) -> str:
        return text if self.student is None else f"{self.student}: {text}"


@dataclass(frozen=True, repr=False)
class Results:
    """A study, its records and what follows from them; `kdtune.Results` adds figures.

    `by`, `metrics` and `columns` are names of hyperparameters and of metrics; methods raise
    InputError for unknown ones. An empty dataframe means that too few runs have completed.
    """

    folder: Path
    study: Study
    frames: Frames = field(repr=False)
    costs: pd.DataFrame = field(repr=False)
    """One row per student and teacher: role, model, params, bytes, flops (of one example),
    latency_ms (batch size 1), latency_ms_iqr, latency32_ms, latency32_ms_iqr, threads, device,
    hardware, precision, torch; see `config.cost.Cost`. Empty for a study of an older version."""

    def __repr__(self) -> str:
        conclusion, dot, _ = self.verdict().partition("\n")[0].partition(". ")
        head = f"{self.study.name} ({self.folder}), {self.status}"
        return f"<kdtune.Results of {head}. {conclusion}{dot.strip()}>"

    @property
    def epochs(self) -> pd.DataFrame:
        """One row per trial, epoch and split; see `frames.Frames`.

        >>> val = results.epochs[results.epochs.split == "val"]
        >>> val.groupby(["label", "epoch"]).acc.mean().unstack().round(3)
        epoch            0      1      2
        label
        alpha = 0.1  0.252  0.505  0.757
        alpha = 0.5  0.243  0.487  0.730
        alpha = 1    0.232  0.465  0.697
        """
        return self.frames.epochs

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial; see `frames.Frames`.

        >>> results.trials.groupby("label")["val/acc@last"].agg(["mean", "std"]).round(3)
                      mean    std
        label
        alpha = 0.1  0.757  0.010
        alpha = 0.5  0.730  0.008
        alpha = 1    0.697  0.007
        """
        return self.frames.trials

    @cached_property
    def search_trials(self) -> pd.DataFrame:
        """The trials of the phase "search"."""
        return self.trials[self.trials.phase == "search"]

    @cached_property
    def final_trials(self) -> pd.DataFrame:
        """The finalists' trials in the last round of final repeats, see `comparison.of_round`."""
        return comparison.of_round(self.trials, self.frames.round)

    @cached_property
    def task(self) -> Task:
        """What the trials train, with all metrics that they report."""
        columns = [n for n in self.frames.metrics if f"val/{n}@last" in self.frames.trials]
        on_val = [n for n in columns if self.frames.trials[f"val/{n}@last"].notna().any()]
        return task_of(self.study, self.folder).with_metrics(self.frames.metrics, on_val)

    @cached_property
    def default_criterion(self) -> Criterion:
        """The criterion by which the study decides: for distillation accuracy, last epoch."""
        return self.criterion()

    def criterion(
        self,
        metric: str = "",
        scope: Scope = "last",
        baseline: Mapping[str, Value] | None = None,
        limits: Limits = NO_LIMITS,
        equal: float = 0.0,
    ) -> Criterion:
        """Return an evaluation criterion of this study; see `comparison.Criterion`.

            >>> results.verdict(results.criterion("ce")).partition(" by ")[0]
            'Distillation (alpha = 0.1) improved validation cross-entropy'

        Args:
            metric: on val. Empty: the one that decides the search.
            scope: epoch selection.
            baseline: values of the baseline. None: that of the study.
            limits: on the cost of a student.
            equal: margin of practical equality of `contenders`, >= 0, in the unit of the metric;
                0.005 is half a percentage point of accuracy.
        """
        return Criterion(metric, scope, baseline, limits, self.task, equal=equal)

    @property
    def repeats_phrase(self) -> str:
        """For captions: " of the search" if the study also has final repeats, else nothing."""
        return " of the search" * bool(len(self.final_trials))

    def uses_held_out_repeats(self, criterion: Criterion) -> bool:
        """Return whether a criterion is judged by the final repeats.

        That needs a completed one of each finalist of a student, and training without distillation
        as the baseline, since the finalists are the best with and without distillation. A study
        without one of the two has one finalist.
        """
        return criterion.has_task_baseline and self._has_all_arms

    @cached_property
    def _has_all_arms(self) -> bool:
        """Whether a student has completed final trials of all arms that it has.

        These are with and without distillation, or one of them in a study without the other.
        """
        criterion = self.default_criterion

        def arms(trials: pd.DataFrame) -> pd.Series:
            some = comparison.completed(trials)
            return criterion.is_baseline(some).groupby(criterion.groups(some)).nunique()

        in_final = arms(self.final_trials)
        return bool((in_final == arms(self.trials).reindex(in_final.index)).any())

    def _once(self, criterion: Criterion, compute: Callable[[Judged], Computed]) -> Computed:
        """Compute once what follows from a criterion: a report needs the same a dozen times."""
        key = compute.__name__, criterion
        if key not in self._computed:
            self._computed[key] = compute(self.judged(criterion))
        return cast(Computed, self._computed[key])

    @cached_property
    def _computed(self) -> dict[tuple[str, Criterion], Any]:
        return {}

    def trials_for(self, criterion: Criterion) -> pd.DataFrame:
        """Return the trials that a criterion is judged by: final ones if it uses held-out repeats.

        Comparison, best configuration, selection and their words all use these trials.
        """
        held_out = self.uses_held_out_repeats(criterion)
        return self.final_trials if held_out else self.search_trials

    @property
    def status(self) -> str:
        """The progress of the study, e.g. "complete: 40 runs"."""
        return warnings.describe_status(self.study, self.frames)

    @cached_property
    def warnings(self) -> list[str]:
        """What is wrong with the models, and missing or wrong in the records; most serious first.

        Empty for a sound and complete study.
        """
        texts: list[str] = []
        if self.task.is_distillation:
            teachers = read_teacher_accuracy(self.folder)
            texts += warnings.find_teacher_faults(teachers)
            texts += [seen.fault for seen in warnings.find_wrong_views(teachers, self.epochs)]
            texts += warnings.find_weak_teachers(self.folder, self.search_trials)
        provenance = read_provenance(self.folder, texts)
        texts += provenance.get("warnings", [])
        for conclusion in self.conclusions():
            texts += conclusion.warnings
        texts += [
            words.effort_warning(self.effort, self.study),
            words.steps_warning(comparison.completed(self.trials), self.task),
            *warnings.find_problems(self.study, self.frames, self.by, self.task),
            warnings.missing_students(self.folder, self.study, self.frames, self.best()),
        ]
        return [text for text in texts if text]

    @cached_property
    def effort(self) -> pd.DataFrame:
        """Configurations and runs with and without the baseline; see `comparison.tuning_effort`.

        >>> results.effort[["configs", "baseline_configs"]]
           configs  baseline_configs
        0        2                 1
        """
        effort = comparison.tuning_effort(self.trials, self.default_criterion)
        return effort if effort.empty else effort.assign(group=effort.group.map(self.group_name))

    @cached_property
    def by(self) -> list[str]:
        """The hyperparameters that tell the configurations apart, e.g. ["alpha", "temperature"]."""
        return frames.distinguishing(self.trials, self.study.searched)

    @property
    def planned_repeats(self) -> float:
        """Repeats that every configuration is to have; NaN if their number depends on results."""
        adapts = self.study.policy == "race" or self.study.stop_early
        return math.nan if adapts else self.study.repeats

    @property
    def design(self) -> Design:
        """What the repeats vary, and so what intervals hold for."""
        return Design.of(self.study, self.task)

    def predictions(self, split: str = "val") -> pd.DataFrame:
        """Return the predictions of the completed trials at their last epoch.

            >>> results.predictions().groupby("configuration").correct.mean().round(3)
            configuration
            alpha = 0.1    0.757
            alpha = 0.5    0.730
            alpha = 1      0.697
            Name: correct, dtype: float64

        One row per trial and example: trial_id, config_id, configuration (its readable label: the
        column `label` is the class of the example), repeat, split, example (index in the split),
        file, label, predicted, p_predicted, p_label, teacher (its class), kl, logit_diff, correct;
        group (name), if the data have groups. A training function has the columns that it reports.

        Args:
            split: "val" or "test".
        """
        check_names("split", [split], ("val", "test"))
        return frames.of_trials(self.folder, self.trials, split)

    def judged(self, criterion: Criterion) -> Judged:
        """Return what a criterion is judged by, see `trials_for`."""
        read, level = partial(self._examples, criterion), self.anytime_level(criterion)
        return Judged(self.trials_for(criterion), criterion, read, self.design, level)

    def _examples(
        self, criterion: Criterion, trial_ids: Sequence[str], split: str
    ) -> Mapping[str, FloatArray]:
        """Return the criterion's metric of each example; {} unless it is of the last epoch."""
        if criterion.scope != "last":
            return {}
        metric, has_groups = criterion.declared, self.task.has_groups
        return frames.read_examples(self.folder, trial_ids, metric, split, has_groups)

    def anytime_level(self, criterion: Criterion) -> float | None:
        """Return the level of a comparison that decided its number of repeats; else None."""
        sequential = self.study.until_decided and self.uses_held_out_repeats(criterion)
        return self.study.level if sequential else None

    def best(self, criterion: Criterion | None = None) -> str | None:
        """Return the config_id of the best configuration; None before a run has completed.

        It is the one with the best mean. But if final repeats judge the criterion by which the
        study decides (accuracy at the last epoch), it is the finalist that was the best before
        them, whatever they say: the better of two means would be optimistic. With several numbers
        of training images it is one with the most of them.
        """
        return self.best_among(list(self.of_largest(self.trials).config_id.unique()), criterion)

    def of_largest(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Return the trials with the most training images, of which one configuration is chosen."""
        largest = self.study.run.largest_train_images
        return trials if largest is None else trials[trials[f"{PREFIX}{SIZE}"] == largest]

    def best_among(self, configs: Sequence[str], criterion: Criterion | None = None) -> str | None:
        """Return the best of these configurations as `best` does; None without a completed run."""
        criterion = criterion or self.default_criterion
        trials = self.trials_for(criterion)
        trials = trials[trials.config_id.isin(configs)]
        if (round_ := self.deciding_round(criterion)) is not None:
            return round_.best(set(comparison.completed(trials).config_id))
        values = criterion.by_repeat(trials)
        if not values.notna().any(axis=None):
            return None
        return comparison.best_config(values, criterion.sign, comparison.students_of(self.trials))

    def deciding_round(self, criterion: Criterion) -> Round | None:
        """Return the round whose recorded best finalist `best` is; None if `best` has its mean."""
        decides = criterion.decides_the_search and self.uses_held_out_repeats(criterion)
        return self.frames.round if decides else None

    @property
    def default(self) -> str:
        """The config_id of the recipe's default, see `Study.default`; it may have no trial.

        "" for a training function, and where the search space does not allow the default.
        """
        default = self.study.default
        if default is None or not self.study.has_default:
            return ""
        recorded = None if self.frames.round is None else self.frames.round.default
        return recorded or default.config_id

    def label(self, config_id: str) -> str:
        """Return a configuration in words, e.g. "alpha = 0.5, T = 4".

        >>> results.label(results.best())
        'alpha = 0.1'
        """
        return str(self.trials.label[self.trials.config_id == config_id].iloc[0])

    def student(self, config_id: str) -> str:
        """Return the group of a configuration, see `Task.groups`; "" for a training function."""
        row = self.trials[self.trials.config_id == config_id].iloc[0]
        return group_text(row[f"{PREFIX}{name}"] for name in self.task.groups)

    def compare(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Compare every other configuration with the baseline of its student.

            >>> results.compare()[["label", "diff", "low", "high", "p_holm"]].round(3)
                     label   diff    low   high  p_holm
            0  alpha = 0.1  0.060  0.029  0.091   0.000
            1  alpha = 0.5  0.033  0.000  0.066   0.025
            >>> criterion = results.criterion("ce", baseline={"alpha": 0.5})
            >>> results.compare(criterion).label.to_list()
            ['alpha = 0.1', 'alpha = 1']

        It is paired by repeat and by image. The baseline is the best configuration by the same
        criterion and trials that has the values `criterion.baseline`, by default alpha = 1, and the
        same student. For the columns see `comparison.compare`.
        """
        return self._once(criterion or self.default_criterion, comparison.compare).copy()

    def compared_students(self, criterion: Criterion | None = None) -> list[str]:
        """Return the groups that have a comparison of their own, the best first: the students."""
        criterion = criterion or self.default_criterion
        table = self.compare(criterion)
        if not len(table) or (self.task.groups and not criterion.group_names):
            return []
        return [str(group) for group in criterion.groups(table).unique()]

    def frontier(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return each student's best distilled and plain configuration; see `costs.frontier`.

        >>> results.frontier()[["student", "arm", "label", "mean", "params"]].round(3)
            student        arm        label   mean  params
        0  resnet18  distilled  alpha = 0.1  0.757    3724
        1  resnet18      plain    alpha = 1  0.697    3724
        """
        criterion = criterion or self.default_criterion
        return costs.frontier(self.of_largest(self.search_trials), self.costs, criterion, self.by)

    def label_curve(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return how many labels distilling is worth; see `comparison.label_curve`.

        Empty without several numbers of training images (--train-images 100 300 1000).
        """
        criterion = criterion or self.default_criterion
        if self.study.run.largest_train_images is None or not criterion.has_task_baseline:
            return pd.DataFrame()
        return self._once(criterion, comparison.label_curve).copy()

    def label_curve_text(self, criterion: Criterion | None = None, brief: bool = False) -> str:
        """Return how many labels distilling is worth, in words; "" without a label curve.

        In brief what its intervals are about is left out.
        """
        criterion = criterion or self.default_criterion
        table, run = self.label_curve(criterion), self.study.run
        if not len(table):
            return ""
        images = run.teacher_train_images
        labels = images if isinstance(images, int) else self.task.train_examples or 0
        return words.label_curve_text(table, run, labels, self.design, brief)

    def contenders(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return which configurations may be the best, and which of them is the cheapest.

            >>> results.contenders()[["label", "may_be_best", "p_best", "cheapest"]].round(2)
                     label  may_be_best  p_best  cheapest
            0  alpha = 0.1         True     1.0      True
            1  alpha = 0.5        False     0.0     False
            2    alpha = 1        False     0.0     False

        All configurations of the students within the limits on the cost are compared in the repeats
        of the search; see `comparison.contenders`. The truly best one is among those that may be
        the best with at least 95 %. This is for choosing; whether distillation helps, `compare`
        tells.
        """
        criterion = criterion or self.default_criterion
        trials, limits = self.search_trials, criterion.limits.or_else(self.study.limits)
        trials = self.of_largest(trials)
        for name, most in {"latency_ms": limits.max_ms, "params": limits.max_params}.items():
            if most is not None and f"student/{name}" in trials:
                trials = trials[trials[f"student/{name}"] <= most]
        is_raced = self.study.policy == "race" and len(self.final_trials) > 0
        return comparison.contenders(replace(self.judged(criterion), trials=trials), is_raced)

    def selection(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return chosen configuration, baseline and recipe's default on val and test.

            >>> results.selection()[["label", "val/mean", "test/mean"]].round(3)
                                       label  val/mean  test/mean
            0                    alpha = 0.1     0.757      0.657
            1                      alpha = 1     0.697      0.597
            2    alpha = 0.1 minus alpha = 1     0.060      0.060
            3                    alpha = 0.5     0.730      0.630
            4  alpha = 0.1 minus alpha = 0.5     0.027      0.027

        See `comparison.selection`.
        """
        return self._once(criterion or self.default_criterion, self._selection).copy()

    def _selection(self, judged: Judged) -> pd.DataFrame:
        criterion = judged.criterion
        if (best := self.best(criterion)) is None:
            return pd.DataFrame()
        trials = self.of_largest(judged.trials)
        chosen = comparison.Chosen(
            best, comparison.baseline_of(self.compare(criterion), best), self.default
        )
        if self.uses_held_out_repeats(criterion):  # the default runs them, too
            default = comparison.of_default(self.trials, self.frames.round, self.default)
            trials = pd.concat([trials, default])
        return comparison.selection(self.folder, replace(judged, trials=trials), chosen)

    def sensitivity(self, metric: str = "") -> pd.DataFrame:
        """Return means and ranks by epoch selection; see `summaries.sensitivity`.

        >>> results.sensitivity()[["label", "last/rank", "best/rank"]]
                 label  last/rank  best/rank
        0  alpha = 0.1        1.0        1.0
        1  alpha = 0.5        2.0        2.0
        2    alpha = 1        3.0        3.0
        """
        return summaries.sensitivity(self.search_trials, self.criterion(metric))

    def spread(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return shares of variance; see `summaries.spread`.

        >>> results.spread()[["epochs", "configuration", "repeat", "epoch", "residual"]].round(3)
          epochs  configuration  repeat  epoch  residual
        0   last          0.919   0.070    NaN     0.012
        1    all          0.007   0.001  0.991     0.001
        """
        return summaries.spread(self.frames, criterion or self.default_criterion)

    def teacher_share(self, criterion: Criterion | None = None) -> TeacherShare | None:
        """Return how much the teachers matter for the first difference of `compare`.

        None without several teachers, or with too few repeats.
        """
        criterion = criterion or self.default_criterion
        table = self.compare(criterion)
        if not len(table):
            return None
        values = criterion.by_repeat(self.trials_for(criterion))
        first = table.iloc[0]
        sample = (values[first.config_id] - values[first.baseline]).dropna()
        return self.design.teacher_share(sample.to_numpy(), list(sample.index))

    def importance(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return the variance that each hyperparameter explains; see `summaries.importances`.

        >>> results.importance().columns.to_list()
        ['hyperparameter', 'share', 'null', 'n']
        """
        criterion = criterion or self.default_criterion
        return summaries.importances(self.search_trials, criterion, self.by)

    @cached_property
    def configs(self) -> pd.DataFrame:
        """One row per configuration, best mean first; see `summaries.configs`.

        >>> results.configs[["label", "val/acc/mean", "n"]].round(3).head(1)
                 label  val/acc/mean  n
        0  alpha = 0.1         0.757  4
        """
        table = summaries.configs(self.search_trials, self.planned_repeats, self.default_criterion)
        return costs.with_student_costs(table, self.costs)

    def summary(
        self,
        by: Sequence[str] = (),
        metrics: Sequence[str] = (),
        scope: Scope = "last",
        pooled: bool = False,
        *,
        full: bool = False,
    ) -> pd.DataFrame:
        """Return mean ± SD over repeats of the completed search trials, on val, best first.

            >>> results.summary(metrics=["acc", "ce"])
            mean ± SD        label  alpha  n         accuracy    cross-entropy
            0          alpha = 0.1    0.1  4    0.757 ± 0.010    0.743 ± 0.010
            1          alpha = 0.5    0.5  4  0.7299 ± 0.0081  0.7701 ± 0.0081
            2            alpha = 1    1.0  4  0.6969 ± 0.0069  0.8031 ± 0.0069

        Args:
            by: hyperparameters that tell the rows apart; values of one with more than eight are
                cut into ranges. Default: `Results.by`, a row per configuration.
            metrics: names of metrics. Default: `Task.table_metrics`, of which the table for reading
                has the most important ones.
            scope: epoch selection.
            pooled: whether mean and SD are over all epochs of all repeats, as in some papers.
            full: whether there are all numbers, for computing, instead of a table for reading.

        Returns:
            One row per group. For reading, see `words.short_summary`. Full: by..., n_planned
            (repeats; not if pooled), val/<metric>/mean, /std and /n, unless pooled /low and /high
            of the 95 % t interval, and label.
        """
        keys = list(by) or self.by
        is_short = self.task.is_distillation and not full
        in_short = dict.fromkeys((self.task.score, *words.SHORT_METRICS))
        metrics = metrics or tuple(in_short if is_short else self.task.table_metrics)
        check_names("by", keys, self.task.names)
        check_names("a column of the table", metrics, self.task.metrics)
        trials, planned = self.search_trials, self.planned_repeats
        if pooled:
            table = summaries.pooled_over_epochs(self.epochs, trials, keys, metrics, self.task)
        else:
            table = summaries.summary(trials, keys, metrics, scope, planned, cut=bool(by))
        return table if full else words.short_summary(table, keys, metrics, self.task)

    def marginal(self, columns: Sequence[str] = (), scope: Scope = "last") -> pd.DataFrame:
        """Return the summary by each hyperparameter of `Results.by` alone, for computing.

            >>> results.marginal(["acc"])[["hyperparameter", "value", "val/acc/mean"]].round(3)
              hyperparameter value  val/acc/mean
            0          alpha   0.1         0.757
            1          alpha   0.5         0.730
            2          alpha   1.0         0.697

        Columns: value, hyperparameter, then those of `summary`. A value's metric is the mean over
        all configurations with that value, within each repeat.
        """
        columns = columns or self.task.table_metrics
        check_names("a column of the table", columns, self.task.metrics)
        trials, planned = self.search_trials, self.planned_repeats
        return summaries.marginal(trials, self.by, columns, scope, planned)

    def context(
        self, criterion: Criterion | None = None, student: str | None = None
    ) -> ComparisonContext:
        """Return baseline and repeats of a comparison, with the sentences about them.

        Args:
            criterion: of the comparison.
            student: whose baseline is meant; None: that of each student, if there are several.
        """
        criterion = criterion or self.default_criterion
        held_out, level = self.uses_held_out_repeats(criterion), self.anytime_level(criterion)
        planned = self.planned_repeats
        if held_out:  # the number is fixed in a race, but not with --repeats auto
            planned = self.study.repeats if level is None else math.nan
        table, images, why = self.compare(criterion), None, ""
        tested = table[table.n >= MIN_REPEATS] if len(table) else table
        if len(tested) and tested.n_images.notna().all():
            images = int(tested.n_images.max())
        else:
            has_tests = len(tested) > 0
            why = words.sentence("these images", r=self, criterion=criterion, has_tests=has_tests)
        return ComparisonContext(
            baseline=self.baseline(criterion, student),
            planned=planned,
            held_out=held_out,
            anytime_level=level,
            images=images,
            why_these_images=why,
            design=self.design,
            is_recorded=self.frames.round is not None,
            names_recorded_best=self.deciding_round(criterion) is not None,
        )

    def verdict(self, criterion: Criterion | None = None, brief: bool = False) -> str:
        """Return the conclusion in words, a line for each student; see `words.verdict`.

            >>> print(results.verdict())
            Distillation (alpha = 0.1) improved validation accuracy by 6.0 percentage points
            (simultaneous 95% CI +2.9 to +9.1, Holm-adjusted p < 0.001 over 2 comparisons, n = 4
            repeats × 500 images). ...

        With limits on the cost of a student, of the criterion or of the study, the first line names
        the best student within them. Teachers that are less accurate than a student trained
        without them come last. In brief these are left out, the conclusions are one or two
        sentences, and that of a label curve is how many labels distilling is worth.
        """
        criterion = criterion or self.default_criterion
        lines, labels = [self.best_within_limits(criterion)], ""
        if brief:
            lines.append(labels := self.label_curve_text(criterion, brief))
        if not labels:
            lines += [conclusion.text(brief) for conclusion in self.conclusions(criterion)]
        if self.task.is_distillation and not brief:
            weak = warnings.find_weak_teachers(self.folder, self.search_trials)
            lines += map(words.capitalised, weak)
        return "\n".join(line for line in lines if line)

    def conclusions(self, criterion: Criterion | None = None) -> list["Conclusion"]:
        """Return the conclusion on each student, on all together if there is one student."""
        return [*self._once(criterion or self.default_criterion, self._conclude)]

    def _conclude(self, judged: Judged) -> list["Conclusion"]:
        conclusions = []
        criterion = judged.criterion
        table, students = self.compare(criterion), self.compared_students(criterion)
        is_one = len(students) < 2
        m = int(table.p_holm.notna().sum()) if len(table) else 0
        by = [name for name in self.by if is_one or name not in self.task.groups]
        for student in [None] if is_one else students:
            rows = table if student is None else table[criterion.groups(table) == student]
            context = self.context(criterion, student)
            found = comparison.find(rows, criterion.sign, context.level, context.any_time, m)
            doubts = dict[str, str]()
            if len(found.tested):
                row = found.row if len(found.row) else found.tested.iloc[0]
                labels = config_label(row, by), context.baseline
                tables = judged.trials, self.search_trials, self.epochs
                teachers = read_teacher_accuracy(self.folder)
                named = warnings.Named(row, found.kind, labels, by, criterion, *tables, teachers)
                doubts = warnings.find_doubts(named)
            finding = partial(words.verdict, rows, criterion, by, context, m)
            name = None if student is None else self.group_name(student)
            conclusions.append(Conclusion(name, finding, doubts))
        return conclusions

    def group_name(self, group: str) -> str:
        """Return one of `compared_students` in words, without the student if the study has one."""
        return group if "student" in self.study.searched else group.rpartition(", ")[2]

    def best_within_limits(self, criterion: Criterion) -> str:
        """Return the best student within the limits in words; "" without limits."""
        if not (limits := criterion.limits.or_else(self.study.limits)):
            return ""
        phases = tuple(map(self.of_largest, (self.trials_for(criterion), self.search_trials)))
        round_ = self.deciding_round(criterion)
        return costs.best_within(phases, self.costs, criterion, limits, self.by, round_)

    def baseline(self, criterion: Criterion, student: str | None = None) -> str:
        """Return the baseline in words, with the other hyperparameters that are searched.

        Args:
            criterion: names the baseline.
            student: whose baseline is meant; None: that of each student, if there are several.
        """
        table, task = self.compare(criterion), criterion.task
        text = task.baseline_words
        if not criterion.has_task_baseline:
            text = config_label(criterion.fixed, list(criterion.fixed), prefix="")
        if student is None and len(self.compared_students(criterion)) > 1:
            words_of = {"student": "student", SIZE: "number of training images"}
            several = [words_of[name] for name in task.groups if name in self.study.searched]
            return f"{text} of the same {' and '.join(several)}"
        if student is not None and len(table):
            table = table[criterion.groups(table) == student]
        if not len(table):
            return text
        chosen = self.trials[self.trials.config_id == table.baseline.iloc[0]].iloc[0]
        fixed = {*criterion.fixed} if student is None else {*criterion.fixed, *task.groups}
        others = [n for n in self.by if n not in fixed and not pd.isna(chosen[f"config/{n}"])]
        aids = frames.regularisers(task, {name: chosen[f"config/{name}"] for name in others})
        rest = config_label(chosen, [name for name in others if name not in aids])
        return words.sentence(
            "tuned baseline",
            baseline=text,
            is_plain=criterion.has_task_baseline,
            aids=list(aids.values()),
            rest=rest if len(others) > len(aids) else "",
        )

    def edges(self, criterion: Criterion | None = None, unless_concluded: bool = False) -> str:
        """Return whether the best configuration is at the edge of the search space.

        "" if it is not, or, unless concluded, if a conclusion says so.
        """
        criterion = criterion or self.default_criterion
        doubts = [doubt for each in self.conclusions(criterion) for doubt in each.doubts]
        if unless_concluded and warnings.AT_THE_END in doubts:
            return ""
        by = [name for name in self.by if name != SIZE]  # the largest is the best
        ends = summaries.edges(self.search_trials, self.best(criterion), by, criterion)
        return words.sentence("edge", ends=ends) if ends else ""

    def default_text(self, criterion: Criterion | None = None) -> str:
        """Return how the chosen configuration compares with the recipe's default.

        See `words.default_text`. "" if one of them has no completed run.
        """
        best, table = self.best(criterion), self.selection(criterion)
        if best is None or "default" not in set(table.row):
            return ""
        context, default = self.context(criterion, self.student(best)), self.label(self.default)
        return words.default_text(table, criterion or self.default_criterion, default, context)

    def best_text(self, criterion: Criterion | None = None) -> str:
        """Return the best configuration and its means on val and test in words; "" without runs."""
        criterion = criterion or self.default_criterion
        if (best := self.best(criterion)) is None:
            return ""
        table, context = self.selection(criterion), self.context(criterion, self.student(best))
        return words.best_sentence(table, criterion, self.label(best), context)

    def text(
        self,
        by: Sequence[str] = (),
        columns: Sequence[str] = (),
        criterion: Criterion | None = None,
        *,
        brief: bool = False,
    ) -> str:
        """Return conclusion, differences, best configuration, summary and costs as Markdown.

            >>> print(results.text(columns=["acc"]))
            Distillation (alpha = 0.1) improved validation accuracy by 6.0 percentage points
            ...
            | alpha |  n |             acc |
            | ----: | -: | --------------: |
            |   0.1 |  4 |   0.757 ± 0.010 |
            |   0.5 |  4 | 0.7299 ± 0.0081 |
            |     1 |  4 | 0.6969 ± 0.0069 |
            ...

        Args:
            by: hyperparameters that tell the rows of the summary apart.
            columns: metrics of the summary.
            criterion: of the comparison.
            brief: whether all but the first three are left out, and these are short.
        """
        criterion = criterion or self.default_criterion
        columns = columns or self.task.table_metrics
        facts = {"r": self, "criterion": criterion, "brief": brief}
        if not brief:
            summary = self.summary(by, columns, criterion.scope, full=True)
            facts["summary"] = summaries.best_rows(summary, criterion, MAX_PRINTED_ROWS)
        modules = {"formatting": formatting, "words": words, "costs": costs}
        most = MAX_BRIEF_ROWS if brief else MAX_PRINTED_ROWS
        text = words.sentence(
            "results", table=self.compare(criterion), most=most, **facts, **modules
        )
        return re.sub("\n{3,}", "\n\n", text).strip()


def criterion_of(flags: ComparisonFlags, results: Results | None = None) -> Criterion:
    """Return the criterion that flags ask for.

    Args:
        flags: of the command.
        results: of the study. None: of several studies of distillation, see `load_several`.

    Raises:
        InputError: The study has no such metric or baseline.
    """
    task = DISTILLATION if results is None else results.task
    name = (flags.metric or task.score).removeprefix("val/")
    if results is None and name not in task.comparable:
        task = task.deciding_by(find_metric(name))
    limits, baseline = Limits(flags.max_ms, flags.max_params), parse_baseline(flags.baseline)
    criterion = Criterion(flags.metric or "", flags.scope, baseline, limits, task)
    criterion = replace(criterion, equal=flags.equal / criterion.scale)
    if results is not None:
        check_baseline(criterion, results.study)
    return criterion


def task_of(study: Study, folder: Path) -> Task:
    """Return the task of a study, which knows its data: kind, groups and size.

    Args:
        study: The study.
        folder: Of the study, with its provenance.json.
    """
    provenance = read_provenance(folder)
    data = provenance.get("data_set", {})
    train = data.get("examples", {}).get("train", {})
    task = study.task
    if task.is_distillation and (classes := provenance.get("classes")):
        task = task.deciding_by(find_metric(task.score, list(classes), study.mode))
    task = replace(task, train_examples=sum(train.values()) or None)
    task = replace(task, examples="examples") if data.get("kind") == "tensors" else task
    return replace(task, has_groups=True) if data.get("groups") else task


def check_baseline(criterion: Criterion, study: Study) -> None:
    """Raise InputError if no configuration of the study can be the baseline.

    The default, training without distillation, is not checked: a study may do without it.
    """
    if criterion.has_task_baseline:
        return
    check_names("baseline", criterion.fixed, study.task.names)
    for name, value in criterion.fixed.items():
        values = study.values(name)
        # samplers add alpha = 1 even if the list or range of alphas does not hold it
        is_added = study.has_plain and study.task.baseline.get(name) == value
        if not is_added and not covers(values, (value,)):
            shown = values if isinstance(values, Range) else ", ".join(map(str, values))
            raise InputError(
                f"--baseline must be a configuration of the study ({name}: {shown}), but got "
                f"{name}={value}"
            )


def data_name(study: Study) -> str:
    """Return the name of a study's data, or of its training function."""
    if study.train is not None:
        return name_of(study.train)
    return str(study.run.data).rstrip("/").rpartition("/")[2]
