"""The report of a study or of several: report.html and figures/."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune import __version__
from kdtune.config.files import FIGURES, STUDY, atomic_write, check_links
from kdtune.config.task import METRICS
from kdtune.config.text import InputError
from kdtune.reporting import sections
from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    CaptionedFigure,
    InlineFigure,
    PageTable,
    figure_style,
    inline,
    label_rows,
    new_axes,
    render,
)
from kdtune.reporting.figures import (
    CLASS_FIGURES,
    FIGURE_NAMES,
    FRONTIERS,
    LAST_EPOCHS,
    MAX_CONFIGS,
    all_figures,
    curve_data,
    forest_plot,
    shown_configs,
)
from kdtune.results import several
from kdtune.results.comparison import Criterion, comparison_rows
from kdtune.results.costs import cost_note, cost_rows, teacher_files
from kdtune.results.examples import BothArms, read_arms
from kdtune.results.results import Results, data_name
from kdtune.results.several import SideBySide
from kdtune.results.warnings import find_caveats
from kdtune.results.words import effort_text

MAX_NUMBERS = 40_000
"""Numbers of epochs in the data of the page; of more, only every k-th epoch is kept."""
FIGURES_OF_SECTIONS = {
    "summary_figures": ("repeats", "heat-map"),
    "comparison_figures": ("differences", "fidelity"),
    "cost_figures": tuple(FRONTIERS),
    "sensitivity_figures": ("importance",),
    "class_figures": CLASS_FIGURES,
}
"""Names in the template, and the figures there; all others are learning curves."""
MAX_NOTEBOOK_ROWS = 10
"""Comparisons that a notebook shows, the best ones."""


def write(results: Results, criterion: Criterion, folder: Path) -> Path:
    """Write report.html and figures/*.svg, *.png into a folder; return the path of the page.

    The same records give the same bytes.

    Raises:
        InputError: If the folder cannot be written, or a folder in it is a symbolic link.
    """
    check_links(folder)
    files, figures = folder / FIGURES, {}
    arms = read_arms(results, criterion)
    with _writing(folder):
        files.mkdir(parents=True, exist_ok=True)
        for old in files.iterdir():  # figures of an earlier report, but no other files
            if old.stem in FIGURE_NAMES and old.suffix in (".svg", ".png"):
                old.unlink()
        for figure in all_figures(results, criterion, arms):
            with atomic_write(files / f"{figure.name}.svg") as part:
                part.write_text(figure.svg, encoding="utf-8")
            with atomic_write(files / f"{figure.name}.png") as part:
                part.write_bytes(figure.png())
            figures[figure.name] = inline(figure)
        with atomic_write(folder / "report.html") as part:
            part.write_text(html(results, criterion, figures, arms), encoding="utf-8")
    return folder / "report.html"


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Raise InputError where the report cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"the report cannot be written to {place} ({error})") from None


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
    return render(
        "report.html",
        results=results,
        criterion=criterion,
        arms=read_arms(results, criterion) if arms is None else arms,
        sections=sections,
        title=f"{results.study.name}: a study of {kind}",
        caveats=find_caveats(results.frames, sections.SUMMARY_METRICS),
        curves=[figure for name, figure in figures.items() if name not in placed],
        curve_limits=_curve_limits(results, criterion),
        effort=effort_text(results.effort, results.task),
        costs=PageTable(*cost_rows(costs, teacher_files(results.study))) if len(costs) else None,
        cost_note=cost_note(costs) if len(costs) else "",
        metrics=METRICS,
        glossary=glossary(is_distillation),
        data=data(results),
        **drawn,
    )


def glossary(is_distillation: bool) -> dict[str, str]:
    """Return the terms of the page with their meaning, from docs/glossary.md.

    The wheel has that file beside the templates. It is read in two sections: the terms of all
    studies, and those that only a study of distillation uses, or in this sense.
    """
    inside, outside = Path(__file__).with_name("glossary.md"), Path("docs", "glossary.md")
    file = inside if inside.is_file() else Path(__file__).parents[2] / outside
    text = file.read_text("utf-8") if file.is_file() else ""
    terms = {}
    for title in ("Distillation", "Statistics") if is_distillation else ("Statistics",):
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        for paragraph in section.split("\n\n"):
            if entry := re.match(r"\*\*(.+?)\*\*: ([^*]+)", " ".join(paragraph.split())):
                terms[entry[1]] = entry[2][:1].upper() + entry[2][1:].strip()
    return terms


def _curve_limits(results: Results, criterion: Criterion) -> dict[str, int]:
    """Return which configurations and epochs the learning curves leave out."""
    shown = shown_configs(results, criterion)
    whole, end = (curve_data(results, shown, last) for last in (None, LAST_EPOCHS))
    return {
        "configs": results.trials.config_id.nunique(),
        "max_configs": MAX_CONFIGS,
        "stride": whole.stride,
        "last_epochs": LAST_EPOCHS,
        "end_stride": end.stride,
    }


def data(results: Results) -> dict[str, Any]:
    """Return the tidy data of the page as columns: study, trials, and as many epochs as fit.

    Metrics that no trial has recorded are left out.

    `epochs.trial` is the row of the trial. `epochs.every` = k means that every k-th epoch is kept,
    counted back from the last one; 0 means that none is.
    """
    trials = results.trials
    recorded = results.epochs
    metrics = [m for m in results.task.recorded if m in recorded and recorded[m].notna().any()]
    scopes = [f"{split}/{m}@last" for split in ("val", "test") for m in metrics]
    varied = [f"config/{name}" for name in results.by]
    kept = trials[["trial_id", "config_id", *varied, "repeat", "status", "n_epochs", *scopes]]
    val = results.epochs[results.epochs.split == "val"]
    last = val.groupby("trial_id").epoch.transform("max")
    every = max(1, -(-len(val) * len(metrics) // MAX_NUMBERS))
    val = val[(last - val.epoch) % every == 0]
    if len(val) * len(metrics) > 2 * MAX_NUMBERS:
        every, val = 0, val[:0]  # the last epochs alone are too many; the trials have them
    index = pd.Index(trials.trial_id).get_indexer(pd.Index(val.trial_id))
    epochs = {"every": every, "split": "val", "trial": index.tolist(), "epoch": val.epoch.tolist()}
    return {
        "kdtune": __version__,
        "study": results.study.name,
        "trials": {name: _json_column(kept[name]) for name in kept},
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
    with figure_style():
        drawn = forest_plot(results, criterion)
        figure = "" if drawn is None else drawn.figure._repr_html_()
    return render(
        "notebook.html",
        results=results,
        metric=criterion.label,
        context=context,
        comparison=comparison,
        max_rows=MAX_NOTEBOOK_ROWS,
        figure=figure,
    )


# One page that compares several studies, with its figures.


def output_file(out: str) -> Path:
    """Return the file of the page; raise InputError for a folder or a study's own report."""
    file = Path(out).expanduser()
    if file.suffix != ".html" or file.is_dir():
        raise InputError(
            f"--out must be a file that ends in .html for several studies, but got {out}; give "
            f"--out comparison.html"
        )
    if (file.parent / STUDY).exists() and file.name == "report.html":
        raise InputError(
            f"--out must not be the report of one study, but got {out}; give another file"
        )
    return file


def write_comparison(side: SideBySide, file: Path) -> Path:
    """Write the page that compares studies; return its path.

    Raises:
        InputError: If the file cannot be written.
    """
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(side_by_side_html(side), encoding="utf-8")
    return file


def side_by_side_html(side: SideBySide) -> str:
    """Return the page."""
    with figure_style():
        figures = [inline(means_plot(side))] if len(side.best) else []
        differences = [inline(f) for f in (differences_plot(side),) if f]
    return render(
        "comparison.html",
        title=f"{', '.join(side.studies)}: studies of knowledge distillation side by side",
        conclusions=list(several.conclusions(side)),
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
        verdicts={name: r.verdict(side.criterion) for name, r in side.studies.items()},
    )


def means_plot(side: SideBySide) -> CaptionedFigure:
    """Return the figure of each study's best configurations: means with intervals by split."""
    rows, scale = side.best, side.criterion.scale
    figure, axes = new_axes(rows=2 * len(rows))
    for i, split in enumerate(side.splits):
        for y, (_, row) in enumerate(rows.iterrows()):
            place = y + 0.15 * (2 * i - len(side.splits) + 1)
            ends = [scale * row[f"{split}/low"], scale * row[f"{split}/high"]]
            axes.plot(ends, [place, place], color=COLOURS[i], lw=1.5)
            name = split if y == 0 else None
            mean = scale * row[f"{split}/mean"]
            axes.plot(mean, place, "Do"[i], color=COLOURS[i], ms=5, label=name)
    label_rows(axes, [f"{row.study}, {row.kind}: {row.label}" for _, row in rows.iterrows()])
    metric = side.criterion.declared.label
    axes.set_xlabel(f"{metric}{' (%)' * side.criterion.in_points}")
    if len(side.splits) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    intervals = dict.fromkeys(r.design.single_interval for r in side.studies.values())
    caption = (
        f"Mean of the best configurations with its 95% t interval {' or '.join(intervals)}. "
        f"Means on val are optimistic, since val selected the configurations."
    )
    return CaptionedFigure("best-of-studies", caption, figure)


def differences_plot(side: SideBySide) -> CaptionedFigure | None:
    """Return the figure of the differences from the first study; None if there are none."""
    table, scale = side.comparisons, side.criterion.scale
    table = table[table.p.notna()] if len(table) else table
    if not len(table):
        return None
    figure, axes = new_axes(rows=len(table))
    for y, (_, row) in enumerate(table.iterrows()):
        colour = COLOURS[side.splits.index(row.split)]
        axes.plot([scale * row.low, scale * row.high], [y, y], color=colour, lw=2)
        axes.plot(scale * row["diff"], y, "D", color=INK, ms=5)
    axes.axvline(0, color=INK, lw=1)
    label_rows(axes, [f"{row.study}, {row.pair}, {row.split}" for _, row in table.iterrows()])
    unit = " (pp)" * side.criterion.in_points
    axes.set_xlabel(f"difference in {side.criterion.declared.label}{unit}")
    is_single = (side.comparisons.split == side.splits[-1]).sum() == 1
    interval = "95% CI" if is_single else "simultaneous 95% CI"
    caption = f"Difference from {side.reference}: lines show the {interval}."
    return CaptionedFigure("differences-of-studies", caption, figure)
