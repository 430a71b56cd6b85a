"""The report of a study or of several: report.html and figures/."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune import __version__
from kdtune.config.files import FIGURES, STUDY, atomic_write, check_links
from kdtune.config.text import InputError
from kdtune.reporting import sections as answer
from kdtune.reporting import sections as background
from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    CaptionedFigure,
    InlineFigure,
    NotedTable,
    Table,
    environment,
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
    all_figures,
    cost_table,
    curve_data,
    forest_plot,
    frontier_table,
    shown_configs,
)
from kdtune.reporting.sections import (
    by_class,
    choices,
    examples,
    histories,
    identity,
    study_facts,
    teachers,
)
from kdtune.results import several as words
from kdtune.results.comparison import Criterion, comparison_rows, completed
from kdtune.results.examples import Arms, read_arms
from kdtune.results.results import Results, data_name
from kdtune.results.several import SideBySide
from kdtune.results.warnings import find_caveats

# Glossary of the report: its terms in plain words.


OF_DISTILLATION = (
    *("alpha", "temperature", "repeat", "agreement", "for these images", "BBC-CV"),
    *("calibration error (ECE)", "NLL", "macro F1"),
)
"""Terms that only a study of distillation uses, or in this sense."""
GLOSSARY = {
    "alpha": (
        "Weight of the cross-entropy with the labels, from 0 to 1. The distillation loss has the "
        "weight 1 - alpha. With alpha = 1 the student learns from the labels alone: that is the "
        "baseline. Some papers use alpha the other way round."
    ),
    "temperature": (
        "The teacher's and the student's logits are divided by it before the softmax. A higher "
        "temperature makes the probabilities more equal, so that the student also learns how "
        "likely the teacher finds the wrong classes."
    ),
    "repeat": (
        "One random seed. It sets the initial weights, the order of the data, the augmentation and "
        "dropout. All configurations use the same repeats, so that each difference is taken "
        "between two students that differ in the configuration alone."
    ),
    "agreement": (
        "Share of images for which student and teacher predict the same class, right or wrong."
    ),
    "95% CI": (
        "Confidence interval. If the whole study were repeated many times, 95% of such intervals "
        "would contain the true value. A simultaneous interval is wider: in 95% of the studies "
        "all intervals of a table contain their true values together."
    ),
    "two-way interval": (
        "An interval for new repeats and new images. Both the seeds and the images of val are "
        "samples; other seeds and other images would give other numbers, and the interval counts "
        "both. It describes what to expect from the method on data like these."
    ),
    "for these images": (
        "An interval over repeats alone. It says what new seeds would give on exactly these "
        "images, and is too narrow for statements about other images."
    ),
    "p": (
        "Probability of a difference at least as large as the observed one if there were no "
        "difference at all. It is not the probability that there is no difference."
    ),
    "p (Holm)": (
        "The p value, raised for the number of comparisons in the table. With twenty comparisons "
        "one is below 0.05 by chance; Holm's method keeps the probability of any such error in the "
        "whole table below 5%."
    ),
    "p (max-T)": (
        "The same correction by another way: the signs of the differences of each repeat are "
        "flipped, and p is the share of all flips whose largest difference in the table reaches "
        "the observed one. It needs no normal distribution, but at least six repeats, and holds "
        "for these images."
    ),
    "win rate, P(better)": (
        "Share of the repeats in which the configuration is better than its baseline; ties count "
        "half. 0.5 means no difference. It says how often, not by how much."
    ),
    "BBC-CV": (
        "Bootstrap bias-corrected estimate. The best of many configurations looks better on val "
        "than it is, because val selected it. The correction selects on images drawn at random "
        "with replacement, and evaluates on the images that were not drawn."
    ),
    "held-out repeats": (
        "New seeds that are run after the finalists are fixed. No decision depended on them, so "
        "luck with seeds does not favour the winner."
    ),
    "always-valid": (
        "Holds however often the results were looked at, and whenever the study stopped. A usual "
        "p value holds only if the number of repeats was fixed beforehand."
    ),
    "minimum detectable difference": (
        "The true difference that a study of this size would find significant in 80% of the cases."
    ),
    "calibration error (ECE)": (
        "How far the confidence of a student is from its accuracy, on average. A student that is "
        "90% sure should be right in 90% of these cases."
    ),
    "NLL": (
        "Negative log-likelihood, in nats: the mean of -log of the probability of the label. Lower "
        "is better; confident errors cost most."
    ),
    "macro F1": (
        "Mean over classes of F1, which combines how many images of the class are found and how "
        "many of those found are right. Rare classes count as much as frequent ones."
    ),
}
"""Terms and what they mean."""


def glossary(results: Results) -> dict[str, str]:
    """Return the terms that the report of a study uses."""
    if results.task.is_distillation:
        return GLOSSARY
    return {term: text for term, text in GLOSSARY.items() if term not in OF_DISTILLATION}


# The report of a study: report.html and figures/.


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


# A study as a cell of a notebook shows it: conclusion, comparison and figure.


MAX_ROWS = 10
"""Comparisons that are shown, the best ones."""


def study_html(results: Results) -> str:
    """Return what a notebook shows of a study: HTML without scripts, every text escaped.

    Images are inlined as PNG, since notebooks that are not trusted drop SVG and style sheets.
    """
    template = environment().get_template("notebook.html")
    return template.render(
        name=results.study.name,
        folder=str(results.folder),
        status=results.status,
        verdict=results.verdict().splitlines(),
        warnings=results.warnings,
        comparison=_comparison(results),
        figure=_figure(results),
    )


def _comparison(results: Results) -> NotedTable | None:
    table, context, criterion = results.compare(), results.context(), results.default_criterion
    if not len(table):
        return None
    head, rows = comparison_rows(table, results.by, criterion, context.anytime_level)
    note = f"Difference in {criterion.label} from {context.baseline}{context.repeats_phrase}"
    if len(rows) > MAX_ROWS:
        note += f", the best {MAX_ROWS} of {len(rows)} (results.compare() has all)"
    return NotedTable(f"{note}:", Table(head, rows[:MAX_ROWS]))


def _figure(results: Results) -> str:
    """Return the figure of the differences as HTML; "" if there is none."""
    with figure_style():
        drawn = forest_plot(results, results.default_criterion)
    if drawn is None:
        return ""
    drawn.figure.caption = drawn.caption
    return drawn.figure._repr_html_()


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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(side_by_side_html(side), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report cannot be written to {file} ({error})") from None
    return file


def side_by_side_html(side: SideBySide) -> str:
    """Return the page."""
    with figure_style():
        figures = [inline(means_plot(side))] if len(side.best) else []
        differences = [inline(f) for f in (differences_plot(side),) if f]
    return render(
        "comparison.html",
        version=__version__,
        title=f"{', '.join(side.studies)}: studies of knowledge distillation side by side",
        conclusions=list(words.conclusions(side)),
        problems=[f"{n}: {w}" for n, results in side.studies.items() for w in results.warnings],
        caveats=[side.doubt] if side.doubt else [],
        studies={name: results.status for name, results in side.studies.items()},
        best=Table(*words.best_rows(side)),
        best_note=words.best_note(side),
        best_figures=figures,
        differences=Table(*words.difference_rows(side)) if len(side.comparisons) else None,
        differences_note=words.method(side) if len(side.comparisons) else "",
        difference_figures=differences,
        settings=Table(*words.setting_rows(side)),
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
    caption = (
        f"Mean of the best configurations with its 95% t interval "
        f"{' or '.join(side.single_intervals)}. Means on val are "
        f"optimistic, since val selected the configurations."
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
