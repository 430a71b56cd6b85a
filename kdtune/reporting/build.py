"""The report of a study: report.html and figures/."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.files import FIGURES, atomic_write, check_links
from kdtune.reporting import answer, background
from kdtune.reporting.choices import choices
from kdtune.reporting.class_figures import CLASS_FIGURES
from kdtune.reporting.classes import by_class
from kdtune.reporting.examples import examples
from kdtune.reporting.facts import study_facts
from kdtune.reporting.figures import FIGURE_NAMES, all_figures, shown_configs
from kdtune.reporting.frontier import FRONTIERS, cost_table, frontier_table
from kdtune.reporting.glossary import glossary
from kdtune.reporting.identity import identity
from kdtune.reporting.learning_curves import LAST_EPOCHS, curve_data
from kdtune.reporting.page import InlineFigure, inline, render
from kdtune.reporting.teacher_history import histories, teachers
from kdtune.results.arms import Arms, read_arms
from kdtune.results.comparison import Criterion, completed
from kdtune.results.diagnostics import find_caveats
from kdtune.results.studies import data_name
from kdtune.results.study_results import Results

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


def write(results: Results, criterion: Criterion, folder: Path) -> Path:
    """Write report.html and figures/*.svg, *.png into a folder; return the path of the page.

    The same records give the same bytes.

    Raises:
        InputError: If the folder cannot be written, or a folder in it is a symbolic link.
    """
    check_links(folder)
    files = folder / FIGURES
    try:
        files.mkdir(parents=True, exist_ok=True)
        for old in files.iterdir():  # figures of an earlier report, but no other files
            if old.stem in FIGURE_NAMES and old.suffix in (".svg", ".png"):
                old.unlink()
        figures = {}
        arms = read_arms(results, criterion)
        for figure in all_figures(results, criterion, arms):
            with atomic_write(files / f"{figure.name}.svg") as part:
                part.write_text(figure.svg(), encoding="utf-8")
            with atomic_write(files / f"{figure.name}.png") as part:
                part.write_bytes(figure.png())
            figures[figure.name] = inline(figure)
        page = folder / "report.html"
        with atomic_write(page) as part:
            part.write_text(html(results, criterion, figures, arms), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder} ({error})") from None
    return page


def html(
    results: Results,
    criterion: Criterion,
    figures: Mapping[str, InlineFigure],
    arms: Mapping[str, Arms] | None = None,
) -> str:
    """Return the page.

    Args:
        results: the study.
        criterion: the evaluation criterion.
        figures: figures by name.
        arms: predictions of the best distilled configuration and of its baseline; None: read them.
    """
    arms = read_arms(results, criterion) if arms is None else arms
    elsewhere = {name for names in FIGURES_OF_SECTIONS.values() for name in names}
    placed = {
        section: [figures[name] for name in names if name in figures]
        for section, names in FIGURES_OF_SECTIONS.items()
    }
    return render(
        version=__version__,
        title=f"{results.study.name}: {_kind(results)}",
        verdict=results.verdict(criterion),
        identity=identity(results),
        study=study_facts(results, criterion),
        teachers=teachers(results),
        histories=histories(results),
        problems=results.warnings,
        summary=answer.summary(results, criterion),
        caveats=find_caveats(results.frames, answer.SUMMARY_METRICS),
        curves=[figure for name, figure in figures.items() if name not in elsewhere],
        curves_note=_curves_note(results, criterion),
        comparisons=choices(results, criterion),
        costs=cost_table(results),
        frontier=frontier_table(results, criterion),
        epoch_selection=background.epoch_selection(results, criterion),
        variance=background.variance(results, criterion),
        best=answer.best(results, criterion),
        edges=results.edges(criterion),
        classes=by_class(results, arms),
        examples=examples(results, arms),
        glossary=glossary(results),
        methods=background.methods(results, criterion),
        provenance=background.provenance(results),
        data=data(results),
        **placed,
    )


def _kind(results: Results) -> str:
    """Return what kind of study it is."""
    if results.task.is_distillation:
        return "a study of knowledge distillation"
    return f"a study of {data_name(results.study)}"


def _curves_note(results: Results, criterion: Criterion) -> str:
    if not len(completed(results.trials)):
        return ""
    shown = shown_configs(results, criterion)
    whole, end = (curve_data(results, shown, last) for last in (None, LAST_EPOCHS))
    return answer.curves_note(results, whole, end)


def data(results: Results) -> dict[str, Any]:
    """Return the tidy data of the page as columns: study, trials, and as many epochs as fit.

    Metrics that no trial has recorded are left out.

    `epochs.trial` is the row of the trial. `epochs.every` = k means that every k-th epoch is kept,
    counted back from the last one; 0 means that none is.
    """
    trials = results.trials
    known = results.epochs
    metrics = [m for m in results.task.recorded if m in known and known[m].notna().any()]
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
