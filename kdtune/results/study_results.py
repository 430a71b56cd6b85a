"""Results of a study: dataframes, tables, comparisons and the conclusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import pandas as pd

from kdtune.config.cost import read_costs
from kdtune.config.errors import InputError
from kdtune.config.files import describe_missing
from kdtune.config.study import Scope
from kdtune.config.task import check_names
from kdtune.results import conclusion, finals, selection, sensitivity, summaries
from kdtune.results.comparison import (
    Criterion,
    baseline_of,
    by_repeat,
    compare,
)
from kdtune.results.context import ComparisonContext
from kdtune.results.cost_limits import best_within
from kdtune.results.costs import cost_frame, frontier, with_student_costs
from kdtune.results.diagnostics import describe_status, find_problems, model_warnings
from kdtune.results.files_kept import find_missing_files
from kdtune.results.frames import read_frames
from kdtune.results.study_data import StudyData
from kdtune.results.teachers import teacher_warnings, weak_teachers_text
from kdtune.statistics.resampling import TeacherShare
from kdtune.storage.records import read_study


def load(folder: str | Path) -> "Results":
    """Read a study, finished or not, from a folder or an object store (s3://BUCKET/PREFIX/NAME).

    Raises:
        InputError: if there is no study.
    """
    if "://" in str(folder):
        from kdtune.storage.fetch import fetch

        path, is_running = fetch(str(folder))
        return _read(path, is_running)
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(f"a study must be a folder, but {describe_missing(path)}")
    return _read(path)


def _read(folder: Path, running: bool | None = None) -> "Results":
    study = read_study(folder)
    frames = read_frames(folder, running, study)
    costs = cost_frame(read_costs(folder))
    return Results(
        folder, study, replace(frames, trials=with_student_costs(frames.trials, costs)), costs
    )


@dataclass(frozen=True)
class Results(StudyData):
    """A study, its records and what follows from them. Needs neither torch nor Ray.

    `by`, `metrics` and `columns` are names of hyperparameters and of metrics; methods raise
    InputError for unknown ones. An empty dataframe means that too few runs have completed.
    """

    @cached_property
    def configs(self) -> pd.DataFrame:
        """One row per configuration, best mean first; see `summaries.configs`."""
        table = summaries.configs(self.search_trials, self.planned_repeats, self.default_criterion)
        return with_student_costs(table, self.costs)

    @cached_property
    def warnings(self) -> list[str]:
        """What is wrong with the models, and missing or wrong in the records; most serious first.

        Empty for a complete study.
        """
        models = [*self._teacher_warnings, *model_warnings(self.folder)]
        problems = find_problems(self.study, self.frames, self.by, self.task)
        missing = find_missing_files(self.folder, self.study, self.frames, self.best())
        return [*models, *problems, *missing]

    @property
    def _teacher_warnings(self) -> list[str]:
        if not self.task.is_distillation:
            return []
        return teacher_warnings(self.folder, self.search_trials)

    @property
    def status(self) -> str:
        """The progress of the study, e.g. "complete: 40 runs"."""
        return describe_status(self.study, self.frames)

    def summary(
        self,
        by: Sequence[str] = (),
        metrics: Sequence[str] = (),
        scope: Scope = "last",
        pooled: bool = False,
    ) -> pd.DataFrame:
        """Return mean, SD and n over repeats of the completed search trials, on val.

        Args:
            by: hyperparameters that tell the rows apart; values of one with more than eight are
                cut into ranges. Default: `Results.by`, a row per configuration.
            metrics: names of metrics. Default: `Task.table_metrics`.
            scope: epoch selection.
            pooled: whether mean and SD are over all epochs of all repeats, as in some papers.

        Returns:
            One row per group: by..., n_planned (repeats; not if pooled), val/<metric>/mean, /std
            and /n, unless pooled /low and /high of the 95 % t interval, and label.
        """
        keys, metrics = list(by) or self.by, metrics or self.task.table_metrics
        check_names("by", keys, self.task.names)
        check_names("a column of the table", metrics, self.task.metrics)
        if pooled:
            return summaries.pooled(self.epochs, self.search_trials, keys, metrics, self.task)
        trials, planned = self.search_trials, self.planned_repeats
        return summaries.summary(trials, keys, metrics, scope, planned, cut=bool(by))

    def marginal(self, columns: Sequence[str] = (), scope: Scope = "last") -> pd.DataFrame:
        """Return the summary by each hyperparameter of `Results.by` alone.

        Columns: value, hyperparameter, then those of `summary`. A value's metric is the mean over
        all configurations with that value, within each repeat.
        """
        columns = columns or self.task.table_metrics
        check_names("a column of the table", columns, self.task.metrics)
        trials, planned = self.search_trials, self.planned_repeats
        return summaries.marginal(trials, self.by, columns, scope, planned)

    def compare(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Compare every other configuration with the baseline of its student.

        It is paired by repeat and by image. The baseline is the best configuration by the same
        criterion and trials that has the values `criterion.baseline`, by default alpha = 1, and the
        same student. For the columns see `comparison.compare`.
        """
        return self._compared(criterion or self.default_criterion).copy()

    @cached_property
    def _compared(self) -> Callable[[Criterion], pd.DataFrame]:
        """`compare` with a cache: a report needs the same comparison a dozen times."""

        def compared(criterion: Criterion) -> pd.DataFrame:
            level, read = self.anytime_level(criterion), self.examples(criterion)
            return compare(self.trials_for(criterion), criterion, level, read, self.design)

        return cache(compared)

    def context(
        self, criterion: Criterion | None = None, student: str | None = None
    ) -> ComparisonContext:
        """Return baseline and repeats of a comparison; see `conclusion.context`."""
        return conclusion.context(self, criterion or self.default_criterion, student)

    def verdict(self, criterion: Criterion | None = None) -> str:
        """Return the conclusion in words, a line for each student; see `wording.verdict`.

        With limits on the cost of a student, of the criterion or of the study, the first line names
        the best student within them. Teachers that are less accurate than a student trained
        without them come last.
        """
        criterion = criterion or self.default_criterion
        text = conclusion.verdict_by_student(self, criterion)
        weak = ""
        if self.task.is_distillation:
            weak = weak_teachers_text(self.folder, self.search_trials)
        return f"{self.best_within_limits(criterion)}\n{text}\n{weak}".strip()

    def best_within_limits(self, criterion: Criterion | None = None) -> str:
        """Return the best student within the limits in words; "" without limits."""
        criterion = criterion or self.default_criterion
        if not (limits := criterion.limits.or_else(self.study.limits)):
            return ""
        phases = (self.trials_for(criterion), self.search_trials)
        round_ = self.frames.round if self.names_recorded_best(criterion) else None
        return best_within(phases, self.costs, criterion, limits, self.by, round_)

    def frontier(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return each student's best distilled and plain configuration; see `costs.frontier`."""
        criterion = criterion or self.default_criterion
        return frontier(self.search_trials, self.costs, criterion, self.by)

    def compared_students(self, criterion: Criterion | None = None) -> list[str]:
        """Return the students that have a comparison of their own, the best first."""
        criterion = criterion or self.default_criterion
        table = self.compare(criterion)
        if not len(table) or self.task.group in criterion.fixed:
            return []
        return [str(group) for group in criterion.groups(table).unique()]

    def selection(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return chosen configuration, baseline and recipe's default on val and test.

        See `selection.selection`.
        """
        criterion = criterion or self.default_criterion
        best = self.best(criterion)
        if best is None:
            return pd.DataFrame()
        trials = self.trials_for(criterion)
        chosen = selection.Chosen(best, baseline_of(self.compare(criterion), best), self.default)
        if self.uses_held_out_repeats(criterion):  # the default runs them, too
            default = finals.of_default(self.trials, self.frames.round, self.default)
            trials = pd.concat([trials, default])
        level = self.anytime_level(criterion)
        read = partial(self.examples, criterion)
        return selection.selection(self.folder, trials, criterion, chosen, level, read, self.design)

    def sensitivity(self, metric: str = "") -> pd.DataFrame:
        """Return means and ranks by epoch selection; see `sensitivity.sensitivity`."""
        return sensitivity.sensitivity(self.search_trials, self.criterion(metric))

    def spread(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return shares of variance; see `sensitivity.spread`."""
        return sensitivity.spread(self.frames, criterion or self.default_criterion)

    def teacher_share(self, criterion: Criterion | None = None) -> TeacherShare | None:
        """Return how much the teachers matter for the first difference of `compare`.

        None without several teachers, or with too few repeats.
        """
        criterion = criterion or self.default_criterion
        table = self.compare(criterion)
        if not len(table):
            return None
        values = by_repeat(self.trials_for(criterion), criterion.metric, criterion.scope)
        first = table.iloc[0]
        sample = (values[first.config_id] - values[first.baseline]).dropna()
        return self.design.teacher_share(sample.to_numpy(), list(sample.index))

    def importance(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return the variance that each hyperparameter explains; see `sensitivity.importances`."""
        criterion = criterion or self.default_criterion
        return sensitivity.importances(self.search_trials, criterion, self.by)

    def baseline(self, criterion: Criterion | None = None, student: str | None = None) -> str:
        """Return the baseline in words; see `conclusion.baseline`."""
        return conclusion.baseline(self, criterion or self.default_criterion, student)

    def edges(self, criterion: Criterion | None = None) -> str:
        """Return whether the best configuration is at the edge of the search space; else ""."""
        return conclusion.edges(self, criterion or self.default_criterion)

    def text(
        self,
        by: Sequence[str] = (),
        columns: Sequence[str] = (),
        criterion: Criterion | None = None,
    ) -> str:
        """Return summary, comparison and conclusion as Markdown."""
        columns = columns or self.task.table_metrics
        return conclusion.text(self, by, columns, criterion or self.default_criterion)
