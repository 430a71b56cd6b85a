"""Data of a study: its dataframes, and which trials a criterion is judged by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from kdtune.config.cost import NO_LIMITS, Limits
from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.config.study import Scope, Study
from kdtune.config.task import Task
from kdtune.results import finals
from kdtune.results.comparison import (
    Criterion,
    best_config,
    by_repeat,
    completed,
    students_of,
)
from kdtune.results.design import Design
from kdtune.results.diagnostics import describe_status, find_problems, recorded_warnings
from kdtune.results.effort import effort_warning, steps_warning, tuning_effort
from kdtune.results.files_kept import find_missing_files
from kdtune.results.frames import Frames
from kdtune.results.labels import PREFIX, distinguishing
from kdtune.results.pairs import ExampleReader, no_examples
from kdtune.results.predictions import of_trials, read_examples
from kdtune.results.teachers import teacher_warnings


@dataclass(frozen=True)
class StudyData:
    """A study, its records as dataframes, and the trials that each criterion is judged by."""

    folder: Path
    study: Study
    frames: Frames = field(repr=False)
    costs: pd.DataFrame = field(repr=False)
    """One row per student and teacher: role, model, params, bytes, flops (of one example),
    latency_ms (batch size 1), latency_ms_iqr, latency32_ms, latency32_ms_iqr, threads, device,
    hardware, precision, torch; see `config.cost.Cost`. Empty for a study of an older version."""

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
        """The finalists' trials in the last round of final repeats, see `finals.of_round`."""
        return finals.of_round(self.trials, self.frames.round)

    @cached_property
    def task(self) -> Task:
        """What the trials train, with all metrics that they report."""
        known = [n for n in self.frames.metrics if f"val/{n}@last" in self.frames.trials]
        on_val = [n for n in known if self.frames.trials[f"val/{n}@last"].notna().any()]
        return self.study.task.with_metrics(self.frames.metrics, on_val)

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
    ) -> Criterion:
        """Return an evaluation criterion of this study; see `comparison.Criterion`.

            >>> results.verdict(results.criterion("ce")).partition(" by ")[0]
            'Distillation (alpha = 0.1) improved validation cross-entropy'

        Args:
            metric: on val. Empty: the one that decides the search.
            scope: epoch selection.
            baseline: values of the baseline. None: that of the study.
            limits: on the cost of a student.
        """
        return Criterion(metric, scope, baseline, limits, self.task)

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
        own = criterion.has_plain_baseline
        return own and finals.has_all_arms(self.final_trials, self.trials, self.default_criterion)

    @property
    def finalists_are_recorded(self) -> bool:
        """Return whether the finalists were recorded before the first of their final repeats."""
        return self.frames.round is not None

    def trials_for(self, criterion: Criterion) -> pd.DataFrame:
        """Return the trials that a criterion is judged by: final ones if it uses held-out repeats.

        Comparison, best configuration, selection and their words all use these trials.
        """
        held_out = self.uses_held_out_repeats(criterion)
        return self.final_trials if held_out else self.search_trials

    @property
    def status(self) -> str:
        """The progress of the study, e.g. "complete: 40 runs"."""
        return describe_status(self.study, self.frames)

    @cached_property
    def warnings(self) -> list[str]:
        """What is wrong with the models, and missing or wrong in the records; most serious first.

        Empty for a complete study.
        """
        models = [*self._teacher_warnings, *recorded_warnings(self.folder)]
        if unequal := effort_warning(self.effort, self.study):
            models.append(unequal)
        if longer := steps_warning(completed(self.trials), self.task):
            models.append(longer)
        problems = find_problems(self.study, self.frames, self.by, self.task)
        missing = find_missing_files(self.folder, self.study, self.frames, self.best())
        return [*models, *problems, *missing]

    @cached_property
    def effort(self) -> pd.DataFrame:
        """Configurations and runs with and without the baseline; see `effort.tuning_effort`.

        >>> results.effort[["configs", "baseline_configs"]]
           configs  baseline_configs
        0        2                 1
        """
        return tuning_effort(self.trials, self.default_criterion)

    @property
    def _teacher_warnings(self) -> list[str]:
        if not self.task.is_distillation:
            return []
        return teacher_warnings(self.folder, self.search_trials)

    @cached_property
    def by(self) -> list[str]:
        """The hyperparameters that tell the configurations apart, e.g. ["alpha", "temperature"]."""
        return distinguishing(self.trials, self.study.searched)

    @property
    def planned_repeats(self) -> float:
        """Repeats that every configuration is to have; NaN if their number depends on results."""
        adapts = self.study.policy == "race" or self.study.stop_early
        return math.nan if adapts else self.study.repeats

    @property
    def design(self) -> Design:
        """What the repeats vary, and so what intervals hold for."""
        return Design.of(self.study)

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
        file, label, predicted, p_predicted, p_label, teacher (its class), kl, logit_diff, correct.
        A training function has the columns that it reports.

        Args:
            split: "val" or "test".
        """
        if split not in ("val", "test"):
            raise InputError(f"split must be val or test, but got {split}")
        return of_trials(self.folder, self.trials, split)

    def examples(self, criterion: Criterion, split: str = "val") -> ExampleReader:
        """Return the reader of the criterion's metric per example of a split."""
        if not criterion.has_examples:
            return no_examples
        return partial(read_examples, self.folder, metric=criterion.declared, split=split)

    def anytime_level(self, criterion: Criterion) -> float | None:
        """Return the level of a comparison that decided its number of repeats; else None."""
        sequential = self.study.until_decided and self.uses_held_out_repeats(criterion)
        return self.study.level if sequential else None

    def best(self, criterion: Criterion | None = None) -> str | None:
        """Return the config_id of the best configuration; None before a run has completed.

        It is the one with the best mean. But if final repeats judge the criterion by which the
        study decides (accuracy at the last epoch), it is the finalist that was the best before
        them, whatever they say: the better of two means would be optimistic.
        """
        return self.best_among(list(self.trials.config_id.unique()), criterion)

    def best_among(self, configs: Sequence[str], criterion: Criterion | None = None) -> str | None:
        """Return the best of these configurations as `best` does; None without a completed run."""
        criterion = criterion or self.default_criterion
        trials = self.trials_for(criterion)
        trials = trials[trials.config_id.isin(configs)]
        if self.names_recorded_best(criterion):
            return finals.recorded_best(trials, self.frames.round)
        values = by_repeat(trials, criterion.metric, criterion.scope)
        if not values.notna().any(axis=None):
            return None
        return best_config(values, criterion.sign, students_of(self.trials))

    def names_recorded_best(self, criterion: Criterion) -> bool:
        """Return whether `best` is the finalist that was recorded as the best."""
        recorded = self.frames.round is not None and self.uses_held_out_repeats(criterion)
        return recorded and criterion.decides_the_search

    @property
    def default(self) -> str:
        """The config_id of the recipe's default, see `Study.default`; it may have no trial.

        "" for a training function.
        """
        recorded = None if self.frames.round is None else self.frames.round.default
        default = self.study.default
        return recorded or ("" if default is None else default.config_id)

    def label(self, config_id: str) -> str:
        """Return a configuration in words, e.g. "alpha = 0.5, T = 4".

        >>> results.label(results.best())
        'alpha = 0.1'
        """
        return str(self.trials.label[self.trials.config_id == config_id].iloc[0])

    def student(self, config_id: str) -> str:
        """Return the student of a configuration; "" for a training function."""
        if self.task.group is None:
            return ""
        own = self.trials[f"{PREFIX}{self.task.group}"]
        return str(own[self.trials.config_id == config_id].iloc[0])
