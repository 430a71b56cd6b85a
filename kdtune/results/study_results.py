"""The results of a study: tables, comparisons, the verdict."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.files import describe_missing
from kdtune.config.flags import TABLE_METRICS
from kdtune.config.hyperparameters import HYPERPARAMETERS
from kdtune.config.study import Scope, Study
from kdtune.results import selection, sensitivity, summaries
from kdtune.results.comparison import (
    DEFAULT,
    Criterion,
    best_of,
    by_repeat,
    check_names,
    compare,
    completed,
    name_of,
)
from kdtune.results.diagnostics import faults, state
from kdtune.results.frames import METRICS, Frames, read_frames
from kdtune.results.summaries import best_rows
from kdtune.results.tables import format_table, markdown
from kdtune.results.terms import ComparisonContext
from kdtune.results.wording import best_sentence, comparison_rows, verdict
from kdtune.storage.records import read_study

MOST_ROWS = 30
"""Configurations that are printed; of more, the best."""


def load(folder: str | Path) -> "Results":
    """Read a study's folder or its place on a store (s3://...), finished or not.

    Raises InputError where it is none.
    """
    if "://" in str(folder):
        from kdtune.storage.fetch import fetch

        path, is_running = fetch(str(folder))
        return Results(path, read_study(path), read_frames(path, is_running))
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"a study must be a folder, but {describe_missing(path)}")
    return Results(path, read_study(path), read_frames(path))


@dataclass(frozen=True)
class Results:
    """A study and what was recorded of it; works with neither torch nor Ray installed."""

    folder: Path
    study: Study
    frames: Frames = field(repr=False)

    @property
    def epochs(self) -> pd.DataFrame:
        """One row per trial, epoch, split (see `results.Frames`)."""
        return self.frames.epochs

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial (see `results.Frames`)."""
        return self.frames.trials

    @cached_property
    def of_search(self) -> pd.DataFrame:
        """The trials of the phase "search": repeats that every configuration may have."""
        return self.trials[self.trials.phase == "search"]

    @cached_property
    def of_final(self) -> pd.DataFrame:
        """The trials of the phase "final": the finalists on repeats that did not choose them."""
        return self.trials[self.trials.phase == "final"]

    @property
    def of_which(self) -> str:
        """What a table of the search says of its repeats where there are others."""
        return " of the search" * bool(len(self.of_final))

    def is_fresh(self, criterion: Criterion) -> bool:
        """Whether a criterion is judged by fresh repeats, which did not choose what they compare.

        Only against plain training, since the finalists are its best and that of distilling, and
        only where a final repeat of both has completed.
        """
        sides = (completed(self.of_final)["config/alpha"] == 1).nunique()
        return criterion.is_plain and sides == 2

    def trials_of(self, criterion: Criterion) -> pd.DataFrame:
        """The trials that a criterion is judged by: fresh repeats where there are such, or the search's.

        The one home of that choice: comparison, best, selection and their words must be of the
        same trials.
        """
        return self.of_final if self.is_fresh(criterion) else self.of_search

    @cached_property
    def configs(self) -> pd.DataFrame:
        """One row per configuration, the best mean first; see `summaries.configs`."""
        return summaries.configs(self.of_search, self.planned)

    @property
    def by(self) -> list[str]:
        """What tells the configurations apart, e.g. ["alpha", "temperature"]."""
        varied = [
            n for n in HYPERPARAMETERS if self.trials[f"config/{n}"].nunique(dropna=False) > 1
        ]
        return [n for n in self.study.searched if n in varied] or varied or ["alpha"]

    @cached_property
    def warnings(self) -> list[str]:
        """What is missing or cannot be right, in words; empty for a whole study."""
        return faults(self.study, self.frames, self.by)

    @property
    def state(self) -> str:
        """How far the study is, e.g. "complete: 40 runs"."""
        return state(self.study, self.frames)

    def summary(
        self,
        by: Sequence[str] = (),
        metrics: Sequence[str] = TABLE_METRICS,
        scope: Scope = "last",
        pooled: bool = False,
    ) -> pd.DataFrame:
        """Mean, sd and n over repeats of the completed trials, on val.

        Args:
            by: hyperparameters that tell the rows apart; those searched if none is given. One with
                more than eight values is cut into ranges.
            metrics: columns of `trials`, or gap (teacher_acc - acc).
            scope: which epoch counts.
            pooled: over all epochs of all repeats: the starting repository's table.

        Returns:
            One row per group: by..., n_planned (repeats), then val/<metric>/mean, /std, /n and,
            unless pooled, /low and /high of the 95 % t interval.
        """
        keys = list(by) or self.by
        check_names("by", keys, HYPERPARAMETERS)
        check_names("a column of the table", metrics, [*METRICS, "gap"])
        if pooled:
            return summaries.pooled(self.epochs, self.of_search, keys, metrics)
        cut = bool(by)  # each configuration has its own row, unless it is asked otherwise
        return summaries.summary(self.of_search, keys, metrics, scope, self.planned, cut)

    def compare(self, criterion: Criterion = DEFAULT) -> pd.DataFrame:
        """Every other configuration against plain training, paired by repeat.

        Plain training is the alpha = 1 configuration with the best mean, by the same criterion and
        repeats. For the columns see `comparison.compare`.
        """
        return self._compared(criterion).copy()

    @cached_property
    def _compared(self) -> Callable[[Criterion], pd.DataFrame]:
        """Once a criterion: a page asks for the same comparison a dozen times."""

        def compared(criterion: Criterion) -> pd.DataFrame:
            return compare(self.trials_of(criterion), criterion, self._anytime(criterion))

        return cache(compared)

    def _anytime(self, criterion: Criterion) -> float | None:
        """Level of a comparison that decided how many repeats it has."""
        return self.study.level if self.study.until_decided and self.is_fresh(criterion) else None

    def context(self, criterion: Criterion = DEFAULT) -> ComparisonContext:
        """What `compare` is of, and the words for it."""
        fresh, anytime = self.is_fresh(criterion), self._anytime(criterion)
        # a race's final repeats are fixed, those of "auto" are not
        planned = self.planned if not fresh else math.nan if anytime else self.study.repeats
        return ComparisonContext(self.baseline(criterion), planned, fresh, anytime)

    @property
    def planned(self) -> float:
        """Repeats that every configuration is to have; NaN where that hangs on what they say."""
        adapts = self.study.policy == "race" or self.study.stop_early
        return math.nan if adapts else self.study.repeats

    def sensitivity(self, metric: str = "acc") -> pd.DataFrame:
        """Mean and rank of each configuration by each scope; see `sensitivity.sensitivity`."""
        return sensitivity.sensitivity(self.of_search, Criterion(metric))

    def marginal(
        self, columns: Sequence[str] = TABLE_METRICS, scope: Scope = "last"
    ) -> pd.DataFrame:
        """The summary by each searched hyperparameter alone: hyperparameter, value, then as there.

        A value's number is the mean over all configurations that have it, within a repeat.
        """
        check_names("a column of the table", columns, [*METRICS, "gap"])
        return summaries.marginal(self.of_search, self.by, columns, scope, self.planned)

    def spread(self, criterion: Criterion = DEFAULT) -> pd.DataFrame:
        """Shares of configuration, repeat, epoch, residual; see `sensitivity.spread`."""
        return sensitivity.spread(self.frames, criterion)

    def importance(self, criterion: Criterion = DEFAULT) -> pd.DataFrame:
        """What each hyperparameter explains by itself; see `sensitivity.importances`."""
        return sensitivity.importances(self.of_search, criterion, self.by)

    def selection(self, criterion: Criterion = DEFAULT) -> pd.DataFrame:
        """The best configuration and the baseline on val, corrected, and on test."""
        trials, table = self.trials_of(criterion), self.compare(criterion)
        return selection.selection(self.folder, trials, criterion, table, self._anytime(criterion))

    def verdict(self, criterion: Criterion = DEFAULT) -> str:
        """Does distilling beat plain training, in words that the numbers carry."""
        return verdict(self.compare(criterion), criterion, self.by, self.context(criterion))

    def name(self, config_id: str) -> str:
        """A configuration in words, e.g. "alpha = 0.5, T = 4"."""
        return name_of(self.trials[self.trials.config_id == config_id].iloc[0], self.by)

    def best(self, criterion: Criterion = DEFAULT) -> str | None:
        """The config_id of the best mean; None before a run has completed."""
        values = by_repeat(self.trials_of(criterion), criterion.metric, criterion.scope)
        return best_of(values, criterion.sign) if values.notna().any(axis=None) else None

    def baseline(self, criterion: Criterion = DEFAULT) -> str:
        """The baseline in words; what is searched besides alpha is named."""
        table = self.compare(criterion)
        row = pd.Series({f"config/{name}": value for name, value in criterion.baseline.items()})
        given = "plain training" if criterion.is_plain else name_of(row, list(criterion.baseline))
        if not len(table):
            return given
        chosen = self.trials[self.trials.config_id == table.baseline[0]].iloc[0]
        others = [
            n for n in self.by if n not in criterion.baseline and not pd.isna(chosen[f"config/{n}"])
        ]
        return f"{given} ({name_of(chosen, others)})" if others else given

    def edges(self, criterion: Criterion = DEFAULT) -> str:
        """Whether the best lies at the edge of what was searched, in words; else nothing."""
        best = self.best(criterion)
        words = sensitivity.edges(self.trials, best, self.by) if best else []
        text = "The best lies at the edge of what was searched, look beyond it: "
        return f"{text}{', '.join(words)}." if words else ""

    def text(
        self,
        by: Sequence[str] = (),
        columns: Sequence[str] = TABLE_METRICS,
        criterion: Criterion = DEFAULT,
    ) -> str:
        """What a reader sees first: the table, the comparison with plain training, the verdict."""
        optimistic = ", optimistic: chosen by what it reports" if criterion.scope == "best" else ""
        parts = [
            format_table(
                best_rows(self.summary(by, columns, criterion.scope), criterion, MOST_ROWS)
            ),
            f"mean ± sd over n repeats{self.of_which}, scope {criterion.scope}{optimistic}",
        ]
        table, context = self.compare(criterion), self.context(criterion)
        if len(table):
            head, rows = comparison_rows(table, self.by, criterion)
            parts += [
                f"Against {context.other}, val {criterion.metric}{context.repeats}:",
                markdown(head, rows[:MOST_ROWS]),
                context.method,
            ]
        if best := self.best(criterion):
            parts.append(
                best_sentence(self.selection(criterion), criterion, self.name(best), context)
            )
            if edges := self.edges(criterion):
                parts.append(edges)
        return "\n\n".join([*parts, self.verdict(criterion)])
