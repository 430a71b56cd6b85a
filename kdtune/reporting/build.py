"""The report of a study: report.html and figures/."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.metrics import RECORDED
from kdtune.reporting import answer as sections
from kdtune.reporting import background, page
from kdtune.reporting import figures as plots
from kdtune.results.comparison import Criterion
from kdtune.results.study_results import Results

MOST_NUMBERS = 40_000
"""Numbers of epochs that the page carries; of more, epochs are left out at even distances."""


FIGURES = {  # of each section; all others are curves
    "Summary": ("repeats", "heat-map"),
    "Comparisons": ("differences", "fidelity"),
    "Sensitivity": ("importance",),
}


def write(results: Results, criterion: Criterion, folder: Path) -> Path:
    """Write report.html and figures/*.svg, *.png into a folder; returns the page's path.

    The same records make the same bytes. Raises InputError where the folder cannot be written.
    """
    figures = folder / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for old in figures.iterdir():
            if old.stem in plots.FIGURES and old.suffix in (".svg", ".png"):  # not the user's own
                old.unlink()
        drawn = {}
        for picture in plots.pictures(results, criterion):
            (figures / f"{picture.name}.svg").write_text(picture.svg(), encoding="utf-8")
            (figures / f"{picture.name}.png").write_bytes(picture.png())
            drawn[picture.name] = page.figure(picture)
        file = folder / "report.html"
        file.write_text(html(results, criterion, drawn), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder} ({error})") from None
    return file


def html(results: Results, criterion: Criterion, drawn: Mapping[str, str]) -> str:
    """The page.

    Args:
        results: of the study.
        criterion: how it is judged.
        drawn: the figures by name, as HTML.
    """
    apart = {name for names in FIGURES.values() for name in names}
    curves = [name for name in drawn if name not in apart]
    parts = {
        "The study": [sections.facts(results, criterion)],
        "Warnings": sections.warnings(results),
        "Summary": sections.summary(results, criterion),
        "Curves": [sections.curves(results, criterion)] if curves else [],
        "Comparisons": sections.comparisons(results, criterion),
        "Sensitivity": background.sensitivity(results, criterion),
        "Best configuration": sections.best(results, criterion),
        "Methods": background.methods(results, criterion),
        "Provenance": background.provenance(results),
    }
    for title, inner in parts.items():
        names = curves if title == "Curves" else FIGURES.get(title, ())
        inner.append(page.figures([drawn[name] for name in names if name in drawn]))
    template = resources.files("kdtune").joinpath("assets/report.html").read_text("utf-8")
    return Template(template).substitute(
        version=__version__,
        title=page.markup(f"{results.study.name}: a study of knowledge distillation"),
        verdict=page.markup(results.verdict(criterion)),
        sections="\n".join(page.section(title, *inner) for title, inner in parts.items()),
        data=page.data(data(results)),
    )


def data(results: Results) -> dict[str, Any]:
    """The tidy data as columns: the study, its trials, and as many epochs as fit the page.

    `epochs.trial` is the row of the trial; `epochs.every` says that each so many epochs is kept,
    counted back from the last; 0, that none is.
    """
    trials = results.trials
    scopes = [f"val/{m}@last" for m in RECORDED] + [f"test/{m}@last" for m in RECORDED]
    varied = [f"config/{name}" for name in results.by]
    kept = trials[["trial_id", "config_id", *varied, "repeat", "status", "n_epochs", *scopes]]
    val = results.epochs[results.epochs.split == "val"]
    last = val.groupby("trial_id").epoch.transform("max")
    every = max(1, -(-len(val) * len(RECORDED) // MOST_NUMBERS))
    val = val[(last - val.epoch) % every == 0]
    if len(val) * len(RECORDED) > 2 * MOST_NUMBERS:  # the last alone are too many; trials has them
        every, val = 0, val[:0]
    index = pd.Index(trials.trial_id).get_indexer(pd.Index(val.trial_id))
    epochs = {"every": every, "split": "val", "trial": index.tolist(), "epoch": val.epoch.tolist()}
    return {
        "kdtune": __version__,
        "study": results.study.name,
        "trials": {name: _plain(kept[name]) for name in kept},
        "epochs": epochs | {name: _plain(val[name]) for name in RECORDED},
    }


def _plain(column: pd.Series) -> list[Any]:
    """A column for JSON: five significant digits, None where there is no number."""
    if pd.api.types.is_float_dtype(column):
        return [None if value != value else float(f"{value:.5g}") for value in column]
    return [None if pd.isna(value) else value for value in column.tolist()]
