"""One page that compares several studies, with its figures."""

from pathlib import Path

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.files import STUDY, atomic_write
from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    CaptionedFigure,
    figure_style,
    label_rows,
    new_axes,
)
from kdtune.reporting.page import Table, inline, render
from kdtune.results import side_by_side_text as words
from kdtune.results.side_by_side import SideBySide


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
            part.write_text(html(side), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report cannot be written to {file} ({error})") from None
    return file


def html(side: SideBySide) -> str:
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
        caveats=words.caveats(side),
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
    interval = "simultaneous 95% CI" if words.count(side) > 1 else "95% CI"
    caption = f"Difference from {side.reference}: lines show the {interval}."
    return CaptionedFigure("differences-of-studies", caption, figure)
