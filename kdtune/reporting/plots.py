"""Figures for notebooks and scripts: what `Results.plot` is."""

from dataclasses import dataclass, replace

from kdtune.config.errors import InputError
from kdtune.config.task import Task, check_names
from kdtune.reporting.canvas import CaptionedFigure, StudyFigure, figure_style
from kdtune.reporting.figures import forest_plot, repeats_plot, shown_configs
from kdtune.reporting.frontier import FRONTIERS, frontier_plot
from kdtune.reporting.learning_curves import CurveData, curve_data, learning_curve
from kdtune.results.comparison import Criterion, completed
from kdtune.results.costs import COST_AXES
from kdtune.results.frames import add_derived
from kdtune.results.study_results import Results


@dataclass(frozen=True)
class Plots:
    """Figures of a study as matplotlib figures, neither shown nor saved.

    A notebook shows the figure that is the last line of a cell, with its caption. pyplot does not
    know these figures: nothing has to be closed, and any backend will do. `figure.savefig(FILE)`
    writes one, `figure.axes[0]` changes it, and `figure.caption` is its caption. The report
    (`python -m kdtune.report`) has the same figures and more.

        >>> results.plot.curves().savefig("curves.svg")
        >>> results.plot.differences().axes[0].get_xlabel()
        'difference in accuracy (pp)'

    Raises:
        InputError: There is nothing to draw, or no such metric.
    """

    _results: Results

    def curves(self, metric: str = "", last: int | None = None) -> StudyFigure:
        """Return learning curves of a metric on val: mean ± SD over repeats, and each repeat.

        The best configurations and the baseline are drawn.

            >>> figure = results.plot.curves("ce", last=2)
            >>> figure.axes[0].get_ylabel()
            'validation cross-entropy'

        Args:
            metric: Name of a metric. Empty: the one that decides the search, accuracy.
            last: Number of last epochs that are drawn. None: all.
        """
        task = self._results.task
        metric = metric or task.score
        check_names("metric", [metric], task.metrics)
        if not len(completed(self._results.search_trials)):
            raise self._nothing("learning curves", "a completed run")
        if last is not None and last < 1:
            raise InputError(f"last must be a number of epochs, at least 1, but got {last}")
        shown = shown_configs(self._results, self._results.default_criterion)
        data = _with_derived(curve_data(self._results, shown, last), task)
        with figure_style():
            drawn = learning_curve(self._results, metric, data)
        return self._figure(drawn, "learning curves", f"recorded values of {metric}")

    def differences(self, criterion: Criterion | None = None) -> StudyFigure:
        """Return the differences of `Results.compare` with their intervals, best first.

        >>> figure = results.plot.differences(results.criterion("ce"))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['alpha = 0.1', 'alpha = 0.5']
        """
        with figure_style():
            drawn = forest_plot(self._results, self._criterion(criterion))
        return self._figure(
            drawn, "differences", "a baseline and another configuration with two repeats in common"
        )

    def repeats(self, criterion: Criterion | None = None) -> StudyFigure:
        """Return every repeat of every configuration, with mean and 95 % t interval.

        >>> results.plot.repeats().axes[0].get_xlabel()
        'validation accuracy (%)'
        """
        if not len(completed(self._results.search_trials)):
            raise self._nothing("repeats", "a completed run")
        with figure_style():
            return self._figure(
                repeats_plot(self._results, self._criterion(criterion)), "repeats", ""
            )

    def frontier(self, cost: str = "latency_ms", criterion: Criterion | None = None) -> StudyFigure:
        """Return each student's best configurations against what the student costs.

            >>> results.plot.frontier("params").axes[0].get_xlabel()
            'parameters'

        Args:
            cost: "latency_ms" (at batch size 1) or "params".
            criterion: Selects the best configurations.
        """
        check_names("cost", [cost], list(COST_AXES))
        name = next(name for name, axis in FRONTIERS.items() if axis == cost)
        with figure_style():
            drawn = frontier_plot(self._results, self._criterion(criterion), name)
        return self._figure(drawn, "the frontier", "a completed run of a student with known costs")

    def _criterion(self, criterion: Criterion | None) -> Criterion:
        return criterion or self._results.default_criterion

    def _figure(self, drawn: CaptionedFigure | None, what: str, needed: str) -> StudyFigure:
        if drawn is None:
            raise self._nothing(what, needed)
        drawn.figure.caption = drawn.caption
        return drawn.figure

    def _nothing(self, what: str, needed: str) -> InputError:
        return InputError(
            f"a figure of {what} must have {needed}, but {self._results.study.name} has none "
            f"({self._results.status})"
        )


def _with_derived(data: CurveData, task: Task) -> CurveData:
    """Return the data of curves with the metrics that are not recorded but derived."""
    trials = {config: [add_derived(t, task) for t in own] for config, own in data.trials.items()}
    return replace(data, trials=trials, epochs=add_derived(data.epochs, task))
