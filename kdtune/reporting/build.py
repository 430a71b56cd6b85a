"""The report of a study or of several, and what a notebook shows of a study."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune import __version__
from kdtune.config.files import FIGURES, STUDY, atomic_write, write_text, writing
from kdtune.config.task import Task, check_names
from kdtune.config.text import InputError
from kdtune.reporting import canvas, sections
from kdtune.reporting import figures as plots
from kdtune.reporting.canvas import CaptionedFigure, InlineFigure, PageTable, StudyFigure
from kdtune.reporting.figures import CurveData
from kdtune.results import several
from kdtune.results.comparison import Criterion, completed
from kdtune.results.costs import COST_AXES, cost_note, cost_rows, teacher_files
from kdtune.results.examples import BothArms, read_arms
from kdtune.results.formatting import comparison_rows
from kdtune.results.frames import add_derived
from kdtune.results.replacement import recorded_sentences
from kdtune.results.results import Results, data_name
from kdtune.results.several import SideBySide
from kdtune.results.warnings import find_caveats
from kdtune.results.words import effort_text

MAX_NUMBERS = 40_000
"""Numbers of epochs in the data of the page; of more, only every k-th epoch is kept."""
FIGURES_OF_SECTIONS = {
    "first_figures": ("differences",),
    "summary_figures": ("repeats", "heat-map"),
    "comparison_figures": ("fidelity",),
    "label_figures": ("labels",),
    "cost_figures": tuple(plots.FRONTIERS),
    "sensitivity_figures": ("importance",),
    "class_figures": plots.CLASS_FIGURES,
}
"""Names in the template, and the figures there; all others are learning curves."""
ADVICE = "give another --out"
"""What would do where a page cannot be written."""
MAX_NOTEBOOK_ROWS = 10
"""Comparisons that a notebook shows, the best ones."""


def write(results: Results, criterion: Criterion, folder: Path) -> Path:
    """Write report.html and figures/*.svg, *.png into a folder; return the path of the page.

    The same records give the same bytes.

    Raises:
        InputError: If the folder cannot be written.
    """
    files, figures = folder / FIGURES, {}
    arms = read_arms(results, criterion)
    with writing(folder, ADVICE):
        files.mkdir(parents=True, exist_ok=True)
        for old in files.iterdir():  # figures of an earlier report, but no other files
            if old.stem in plots.FIGURE_NAMES and old.suffix in (".svg", ".png"):
                old.unlink()
        for figure in plots.all_figures(results, criterion, arms):
            write_text(files / f"{figure.name}.svg", figure.svg)
            with atomic_write(files / f"{figure.name}.png") as part:
                part.write_bytes(figure.png())
            figures[figure.name] = canvas.inline(figure)
        write_text(folder / "report.html", html(results, criterion, figures, arms))
    return folder / "report.html"


def html(
    results: Results,
    criterion: Criterion,
    figures: Mapping[str, InlineFigure],
    arms: Mapping[str, BothArms] | None = None,
) -> str:
    """Return the page. Its template asks `sections` for numbers and tables.

    Args:
        results: the study.
        criterion: the evaluation criterion.
        figures: figures by name.
        arms: predictions of the best distilled configuration and of its baseline; None: read them.
    """
    is_distillation, costs = results.task.is_distillation, results.costs
    kind = "knowledge distillation" if is_distillation else data_name(results.study)
    placed = {name for names in FIGURES_OF_SECTIONS.values() for name in names}
    drawn = {
        section: [figures[name] for name in names if name in figures]
        for section, names in FIGURES_OF_SECTIONS.items()
    }
    return canvas.render(
        "report.html",
        results=results,
        criterion=criterion,
        arms=read_arms(results, criterion) if arms is None else arms,
        sections=sections,
        title=f"{results.study.name}: a study of {kind}",
        caveats=find_caveats(results.frames, sections.SUMMARY_METRICS),
        curves=[figure for name, figure in figures.items() if name not in placed],
        max_configs=plots.MAX_CONFIGS,
        effort=effort_text(results.effort, results.task),
        costs=PageTable(*cost_rows(costs, teacher_files(results.study))) if len(costs) else None,
        cost_note=cost_note(costs) if len(costs) else "",
        glossary=glossary(results.task),
        replacement=recorded_sentences(results),
        data=data(results),
        **drawn,
    )


def glossary(task: Task) -> dict[str, str]:
    """Return the terms of a study's page with their meaning, from docs/glossary.md.

    The wheel has that file beside the templates. It is read in two sections: the terms of all
    studies, and those that only a study of distillation uses, or in this sense.
    """
    inside, outside = Path(__file__).with_name("glossary.md"), Path("docs", "glossary.md")
    file = inside if inside.is_file() else Path(__file__).parents[2] / outside
    text = file.read_text("utf-8") if file.is_file() else ""
    if task.examples != "images":
        text = re.sub(r"\bimage(?=s?\b)", task.examples[:-1], text)
    terms = {}
    for title in ("Distillation", "Statistics") if task.is_distillation else ("Statistics",):
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        for paragraph in section.split("\n\n"):
            if entry := re.match(r"\*\*(.+?)\*\*: ([^*]+)", " ".join(paragraph.split())):
                terms[entry[1]] = entry[2][:1].upper() + entry[2][1:].strip()
    return terms


def data(results: Results) -> dict[str, Any]:
    """Return the tidy data of the page as columns: study, trials, and as many epochs as fit.

    Metrics that no trial has recorded are left out.

    `epochs.trial` is the row of the trial. `epochs.every` = k means that every k-th epoch is there,
    counted back from the last one.
    """
    trials = results.trials
    recorded = results.epochs
    metrics = [m for m in results.task.recorded if m in recorded and recorded[m].notna().any()]
    scopes = [f"{split}/{m}@last" for split in ("val", "test") for m in metrics]
    varied = [f"config/{name}" for name in results.by]
    columns = ["trial_id", "config_id", *varied, "repeat", "status", "n_epochs", *scopes]
    val = results.epochs[results.epochs.split == "val"]
    last = val.groupby("trial_id").epoch.transform("max")
    stride = max(1, -(-len(val) * len(metrics) // MAX_NUMBERS))
    val = val[(last - val.epoch) % stride == 0]
    index = pd.Index(trials.trial_id).get_indexer(pd.Index(val.trial_id))
    epochs = {"every": stride, "split": "val", "trial": index.tolist(), "epoch": val.epoch.tolist()}
    return {
        "kdtune": __version__,
        "study": results.study.name,
        "trials": {name: _json_column(trials[name]) for name in columns},
        "epochs": epochs | {name: _json_column(val[name]) for name in metrics},
    }


def _json_column(column: pd.Series) -> list[Any]:
    """Return a column for JSON: floats with five significant digits, None for missing values."""
    if pd.api.types.is_float_dtype(column):
        return [None if value != value else float(f"{value:.5g}") for value in column]
    return [None if pd.isna(value) else value for value in column.tolist()]


def study_html(results: Results) -> str:
    """Return what a notebook shows of a study: HTML without scripts, every text escaped.

    Images are inlined as PNG, since notebooks that are not trusted drop SVG and style sheets.
    """
    table, context, criterion = results.compare(), results.context(), results.default_criterion
    comparison = None
    if len(table):
        rows = comparison_rows(table, results.by, criterion, context.anytime_level)
        comparison = PageTable(*rows)
    with canvas.figure_style():
        drawn = plots.forest_plot(results, criterion)
        figure = "" if drawn is None else drawn.figure._repr_html_()
    return canvas.render(
        "notebook.html",
        results=results,
        metric=criterion.label,
        context=context,
        comparison=comparison,
        max_rows=MAX_NOTEBOOK_ROWS,
        figure=figure,
        best=results.best_text(),
    )


# One page that compares several studies.


def output_file(out: str) -> Path:
    """Return the file of the page; raise InputError for a folder or a study's own report."""
    file = Path(out).expanduser()
    is_report = (file.parent / STUDY).exists() and file.name == "report.html"
    if file.suffix != ".html" or file.is_dir() or is_report:
        raise InputError(
            f"--out must be a file that ends in .html for several studies, other than the report "
            f"of one study, but got {out}; give --out comparison.html"
        )
    return file


def write_comparison(side: SideBySide, file: Path) -> Path:
    """Write the page that compares studies; return its path.

    Raises:
        InputError: If the file cannot be written.
    """
    with canvas.figure_style():
        figures = [canvas.inline(plots.means_plot(side))] if len(side.best) else []
        differences = [canvas.inline(f) for f in (plots.differences_plot(side),) if f]
    page = canvas.render(
        "comparison.html",
        title=f"{', '.join(side.studies)}: studies side by side",
        conclusions=list(map(several.split_conclusion, several.conclusions(side))),
        problems=[f"{n}: {w}" for n, results in side.studies.items() for w in results.warnings],
        caveats=[side.doubt] if side.doubt else [],
        studies={name: results.status for name, results in side.studies.items()},
        best=PageTable(*several.best_rows(side)),
        best_note=several.best_note(side),
        best_figures=figures,
        differences=PageTable(*several.difference_rows(side)) if len(side.comparisons) else None,
        differences_note=several.method(side) if len(side.comparisons) else "",
        difference_figures=differences,
        settings=PageTable(*several.setting_rows(side)),
        verdicts={n: r.verdict(side.criterion_of(r)) for n, r in side.studies.items()},
    )
    with writing(file, ADVICE):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, page)
    return file


# Figures for notebooks and scripts: what `kdtune.Results.plot` is.


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
        if last is not None and last < 1:
            raise InputError(f"last must be a number of epochs, at least 1, but got {last}")

        def draw(results: Results) -> CaptionedFigure | None:
            shown = plots.shown_configs(results, results.default_criterion)
            return plots.learning_curve(results, metric, _with_derived(results, shown, last))

        return self._figure("learning curves", f"recorded values of {metric}", draw)

    def differences(self, criterion: Criterion | None = None) -> StudyFigure:
        """Return the differences of `Results.compare` with their intervals, best first.

        >>> figure = results.plot.differences(results.criterion("ce"))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['alpha = 0.1', 'alpha = 0.5']
        """
        needed = "a baseline and another configuration with two repeats in common"
        return self._figure("differences", needed, plots.forest_plot, self._criterion(criterion))

    def repeats(self, criterion: Criterion | None = None) -> StudyFigure:
        """Return every repeat of every configuration, with mean and 95 % t interval.

        >>> results.plot.repeats().axes[0].get_xlabel()
        'validation accuracy (%)'
        """
        criterion = self._criterion(criterion)
        return self._figure("repeats", "a completed run", plots.repeats_plot, criterion)

    def frontier(self, cost: str = "latency_ms", criterion: Criterion | None = None) -> StudyFigure:
        """Return each student's best configurations against what the student costs.

            >>> results.plot.frontier("params").axes[0].get_xlabel()
            'parameters'

        Args:
            cost: "latency_ms" (at batch size 1) or "params".
            criterion: Selects the best configurations.
        """
        check_names("cost", [cost], list(COST_AXES))
        name = next(name for name, axis in plots.FRONTIERS.items() if axis == cost)
        needed = "a completed run of a student with known costs"
        criterion = self._criterion(criterion)
        return self._figure("the frontier", needed, plots.frontier_plot, criterion, name)

    def _criterion(self, criterion: Criterion | None) -> Criterion:
        return criterion or self._results.default_criterion

    def _figure(
        self, subject: str, needed: str, draw: Callable[..., CaptionedFigure | None], *options: Any
    ) -> StudyFigure:
        """Return what `draw` makes of the results; raise InputError if that is nothing."""
        with canvas.figure_style():
            has_runs = len(completed(self._results.search_trials))
            drawn = draw(self._results, *options) if has_runs else None
        if drawn is None:
            raise InputError(
                f"a figure of {subject} must have {needed}, but {self._results.study.name} has "
                f"none ({self._results.status})"
            )
        return drawn.figure


def _with_derived(results: Results, shown: Sequence[str], last: int | None) -> CurveData:
    """Return the data of curves with the metrics that are not recorded but derived."""
    data, task = plots.curve_data(results, shown, last), results.task
    trials = {c: [add_derived(trial, task) for trial in data.trials[c]] for c in data.trials}
    return replace(data, trials=trials, epochs=add_derived(data.epochs, task))
