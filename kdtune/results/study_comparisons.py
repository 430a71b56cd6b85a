"""Comparisons of a study's configurations, and what explains and qualifies them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import pandas as pd

from kdtune.results import finals, selection, sensitivity
from kdtune.results.comparison import Criterion, baseline_of, by_repeat, compare
from kdtune.results.costs import frontier
from kdtune.results.study_data import StudyData
from kdtune.statistics.resampling import TeacherShare


@dataclass(frozen=True, repr=False)
class StudyComparisons(StudyData):
    """A study and the comparisons of its configurations."""

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
        return self._compared(criterion or self.default_criterion).copy()

    @cached_property
    def _compared(self) -> Callable[[Criterion], pd.DataFrame]:
        """`compare` with a cache: a report needs the same comparison a dozen times."""

        def compared(criterion: Criterion) -> pd.DataFrame:
            level, read = self.anytime_level(criterion), self.examples(criterion)
            return compare(self.trials_for(criterion), criterion, level, read, self.design)

        return cache(compared)

    def compared_students(self, criterion: Criterion | None = None) -> list[str]:
        """Return the students that have a comparison of their own, the best first."""
        criterion = criterion or self.default_criterion
        table = self.compare(criterion)
        if not len(table) or self.task.group in criterion.fixed:
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
        return frontier(self.search_trials, self.costs, criterion, self.by)

    def selection(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return chosen configuration, baseline and recipe's default on val and test.

            >>> results.selection()[["label", "val/mean", "test/mean"]].round(3)
                                       label  val/mean  test/mean
            0                    alpha = 0.1     0.757      0.657
            1                      alpha = 1     0.697      0.597
            2    alpha = 0.1 minus alpha = 1     0.060      0.060
            3                    alpha = 0.5     0.730      0.630
            4  alpha = 0.1 minus alpha = 0.5     0.027      0.027

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
        """Return means and ranks by epoch selection; see `sensitivity.sensitivity`.

        >>> results.sensitivity()[["label", "last/rank", "best/rank"]]
                 label  last/rank  best/rank
        0  alpha = 0.1        1.0        1.0
        1  alpha = 0.5        2.0        2.0
        2    alpha = 1        3.0        3.0
        """
        return sensitivity.sensitivity(self.search_trials, self.criterion(metric))

    def spread(self, criterion: Criterion | None = None) -> pd.DataFrame:
        """Return shares of variance; see `sensitivity.spread`.

        >>> results.spread()[["epochs", "configuration", "repeat", "epoch", "residual"]].round(3)
          epochs  configuration  repeat  epoch  residual
        0   last          0.919   0.070    NaN     0.012
        1    all          0.007   0.001  0.991     0.001
        """
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
        """Return the variance that each hyperparameter explains; see `sensitivity.importances`.

        >>> results.importance().columns.to_list()
        ['hyperparameter', 'share', 'null', 'n']
        """
        criterion = criterion or self.default_criterion
        return sensitivity.importances(self.search_trials, criterion, self.by)
