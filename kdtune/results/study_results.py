"""Results of a study: dataframes, tables, comparisons and the conclusion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kdtune.config.cost import read_costs
from kdtune.config.errors import InputError
from kdtune.config.files import describe_missing
from kdtune.config.study import Scope
from kdtune.config.task import check_names
from kdtune.results import conclusion, summaries
from kdtune.results.comparison import Criterion
from kdtune.results.context import ComparisonContext
from kdtune.results.cost_limits import best_within
from kdtune.results.costs import cost_frame, with_student_costs
from kdtune.results.frames import read_frames
from kdtune.results.short_forms import one_line, short_metrics, short_summary
from kdtune.results.study_comparisons import StudyComparisons
from kdtune.results.teachers import weak_teachers_text
from kdtune.storage.records import read_study

if TYPE_CHECKING:
    from kdtune.reporting.plots import Plots


def load(folder: str | Path) -> "Results":
    """Read a study, finished or not, from a folder or an object store (s3://BUCKET/PREFIX/NAME).

        >>> kdtune.load("runs/small").best()
        'cffe5327'

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


@dataclass(frozen=True, repr=False)
class Results(StudyComparisons):
    """A study, its records and what follows from them. Needs neither torch nor Ray.

        >>> results = kdtune.load("runs/small")
        >>> results.status
        'complete: 12 runs'
        >>> results.trials[["label", "repeat", "val/acc@last"]].head(2)
                 label  repeat  val/acc@last
        0  alpha = 0.5       0      0.728292
        1  alpha = 0.5       1      0.719765

    A notebook shows conclusion, comparison and figure of a study whose name is the last line of a
    cell. `by`, `metrics` and `columns` are names of hyperparameters and of metrics; methods raise
    InputError for unknown ones. An empty dataframe means that too few runs have completed.
    """

    def __repr__(self) -> str:
        return one_line(self)

    def _repr_html_(self) -> str:
        from kdtune.reporting.notebook import study_html

        return study_html(self)

    @property
    def plot(self) -> "Plots":
        """Matplotlib figures: `plot.curves()`, `.differences()`, `.repeats()`, `.frontier()`.

        >>> results.plot.curves().savefig("curves.svg")
        """
        from kdtune.reporting.plots import Plots

        return Plots(self)

    @cached_property
    def configs(self) -> pd.DataFrame:
        """One row per configuration, best mean first; see `summaries.configs`.

        >>> results.configs[["label", "val/acc/mean", "n"]].round(3).head(1)
                 label  val/acc/mean  n
        0  alpha = 0.1         0.757  4
        """
        table = summaries.configs(self.search_trials, self.planned_repeats, self.default_criterion)
        return with_student_costs(table, self.costs)

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
            One row per group. For reading, see `short_forms.short_summary`. Full: by..., n_planned
            (repeats; not if pooled), val/<metric>/mean, /std and /n, unless pooled /low and /high
            of the 95 % t interval, and label.
        """
        keys = list(by) or self.by
        metrics = metrics or (self.task.table_metrics if full else short_metrics(self.task))
        check_names("by", keys, self.task.names)
        check_names("a column of the table", metrics, self.task.metrics)
        trials, planned = self.search_trials, self.planned_repeats
        if pooled:
            table = summaries.pooled(self.epochs, trials, keys, metrics, self.task)
        else:
            table = summaries.summary(trials, keys, metrics, scope, planned, cut=bool(by))
        return table if full else short_summary(table, keys, metrics, self.task)

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
        """Return baseline and repeats of a comparison; see `conclusion.context`."""
        return conclusion.context(self, criterion or self.default_criterion, student)

    def verdict(self, criterion: Criterion | None = None) -> str:
        """Return the conclusion in words, a line for each student; see `wording.verdict`.

            >>> print(results.verdict())
            Distillation (alpha = 0.1) improved validation accuracy by 6.0 percentage points
            (simultaneous 95% CI +2.9 to +9.1, Holm-adjusted p < 0.001 over 2 comparisons, n = 4
            repeats × 500 images). ...

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
        """Return summary, comparison and conclusion as Markdown.

        >>> print(results.text(columns=["acc"]))
        | alpha |  n |             acc |
        | ----: | -: | --------------: |
        |   0.1 |  4 |   0.757 ± 0.010 |
        |   0.5 |  4 | 0.7299 ± 0.0081 |
        |     1 |  4 | 0.6969 ± 0.0069 |
        ...
        """
        columns = columns or self.task.table_metrics
        return conclusion.text(self, by, columns, criterion or self.default_criterion)
