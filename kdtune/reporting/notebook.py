"""A study as a cell of a notebook shows it: conclusion, comparison and figure."""

from kdtune.reporting.canvas import figure_style
from kdtune.reporting.figures import forest_plot
from kdtune.reporting.page import NotedTable, Table, environment
from kdtune.results.study_results import Results
from kdtune.results.tables import comparison_rows

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
