"""Tables and numbers as text: Markdown, LaTeX, CSV and JSON, differences and their intervals."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdtune.config.study import Format
from kdtune.config.text import TABLE_DIGITS, in_spreadsheet, short
from kdtune.results.comparison import Criterion
from kdtune.results.design import p_value
from kdtune.results.frames import short_model


def format_table(table: pd.DataFrame, format: Format = "md") -> str:
    """Return the summary as text.

    "md" and "latex" show mean ± SD of each metric and the number of repeats; "csv" and "json" have
    all columns in full precision.
    """
    if format == "csv":
        return csv_text(table)
    if format == "json":
        return as_json(table)
    means = [c.removesuffix("/mean") for c in table if c.endswith("/mean")]
    keys = [c for c in table if "/" not in c and c != "label"]
    if "n_planned" in table:
        keys = list(table)[: list(table).index("n_planned")]
    rows = [[cell(row[key]) for key in keys] for _, row in table.iterrows()]
    for cells, (_, row) in zip(rows, table.iterrows(), strict=True):
        n = int(max(row[f"{name}/n"] for name in means))
        cells.append(count_of_planned(n, row.get("n_planned", n)))
        cells += [plus_minus(row[f"{name}/mean"], row[f"{name}/std"]) for name in means]
    head = [*keys, "n", *(name.removeprefix("val/") for name in means)]
    return {"md": markdown, "latex": _latex}[format](head, rows)


def as_json(value: object) -> str:
    """Return a value as JSON; a dataframe is a list of rows, with null for what is missing."""

    def rows(table: pd.DataFrame) -> Any:
        return table.astype(object).where(table.notna(), None).to_dict("records")

    return json.dumps(value, indent=2, default=rows)


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as csv in full precision, without texts that a spreadsheet evaluates."""

    def cell(value: object) -> object:
        return in_spreadsheet(value) if isinstance(value, str) else value

    shown = table.copy()
    for name in shown.select_dtypes(["object", "string", "category"]):
        shown[name] = shown[name].map(cell)
    return str(shown.rename(columns=cell).to_csv(index=False))


def comparison_rows(
    table: pd.DataFrame,
    by: Sequence[str] | Mapping[str, str],
    criterion: Criterion,
    anytime_level: float | None = None,
    full: bool = False,
    brief: bool = False,
) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of comparisons as text.

    The interval is the one that conclusion and figures show as well: simultaneous, or always-valid
    at the level `anytime_level` (see `compare`).

    Args:
        table: of `compare`. Independent samples have a column paired, and n_baseline and why.
        by: hyperparameters that tell the configurations apart; or columns of the table, and their
            heads.
        criterion: by which the table was made.
        anytime_level: see `compare`.
        full: whether there are columns for max-T, win rate and correlation.
        brief: whether there are only difference, interval, n and p, and models have short names.
    """
    columns = by if isinstance(by, Mapping) else {f"config/{name}": name for name in by}
    unit = "points" if criterion.in_points else criterion.metric
    interval, p = "95% CI (simultaneous)", "p (Holm)"
    if anytime_level is not None:
        interval, p = f"{100 * (1 - anytime_level):g}% CI (always-valid)", "p (always-valid)"
    if brief:  # the caption says which
        interval, p = (name.partition(" (")[0] for name in (interval, p))
    has_here = "low_here" in table and anytime_level is None and table.n_images.notna().any()
    has_wins = "wins" in table and table.wins.notna().any()
    is_paired = table.get("paired", pd.Series(True, table.index))
    rows = []
    for (_, row), paired in zip(table.iterrows(), is_paired, strict=True):
        cells = [(head, cell(row[name])) for name, head in columns.items()]
        if brief:
            cells = [(n, short_model(v) if n in ("student", "teacher") else v) for n, v in cells]
        cells.append((f"difference ({unit})", difference_text(row, criterion.scale)))
        cells.append((interval, interval_text(row.low, row.high, criterion.scale)))
        if has_here and not brief:
            here = interval_text(row.low_here, row.high_here, criterion.scale)
            cells.append((f"for these {criterion.task.examples}", here))
        cells += [("n", n_text(row)), (p, p_value(row.p_holm))]
        if full:
            cells.append(("p (max-T)", p_value(row.p_max_t)))
        if has_wins and not brief:
            wins = f"{row.wins:.0f}/{row.ties:.0f}/{row.losses:.0f}"
            cells.append(("wins/ties/losses", wins if paired else "-"))
        if full:
            cells.append(("win rate", _two_decimals(row.p_better)))
            cells.append(("correlation", _two_decimals(row.correlation)))
        if not (has_wins or brief) or not is_paired.all():
            cells.append(("repeats", "paired" if paired else f"unpaired: {row.why}"))
        rows.append(cells)
    heads = [head for head, _ in rows[0]]
    return heads, [[text for _, text in cells] for cells in rows]


def labels(count: float, smallest: int, largest: int) -> str:
    """Return a number of labels with two significant digits, e.g. "640", "1,000 or more".

    Args:
        count: of `comparison.label_curve`: 0 is below the smallest, infinity beyond the largest.
        smallest: least number of labels measured.
        largest: largest number measured.
    """
    if not 0 < count < math.inf:
        return f"{largest:,} or more" if count else f"less than {smallest:,}"
    return f"{float(f'{count:.2g}'):,.0f}"


def labels_interval(row: Mapping[str, Any], smallest: int, largest: int) -> str:
    """Return the interval of an equivalent number of labels, e.g. "450 to 900"; see `labels`."""
    ends = (row["equivalent_low"], row["equivalent_high"])
    return " to ".join(labels(end, smallest, largest) for end in ends)


def label_curve_rows(
    table: pd.DataFrame, criterion: Criterion
) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of `comparison.label_curve` as text."""
    percent, scale = " (%)" * criterion.in_points, criterion.scale
    form, ends = ".1f" if criterion.in_points else ".4g", (table.n.min(), table.n.max())
    has_students, rows = table.student.nunique() > 1, []
    arms = [table[table.arm == arm].to_dict("records") for arm in ("plain", "distilled")]
    for pair in zip(*arms, strict=True):
        of_arms = [[f"{scale * row[k]:{form}}" for k in ("mean", "low", "high")] for row in pair]
        means = [f"{m} [{low}, {high}]" if low != "nan" else m for m, low, high in of_arms]
        row = pair[1]
        equal = [labels(row["equivalent"], *ends), labels_interval(row, *ends)]
        cells = [f"{row['n']:,}", *means, *equal, p_value(row["p_holm"])]
        rows.append([str(row["student"])] * has_students + cells)
    head = ["labels", f"without{percent}", f"distilled{percent}", "equals without", "95% CI"]
    return ["student"] * has_students + [*head, "p of the gain (Holm)"], rows


def n_text(row: pd.Series, planned: float = math.nan) -> str:
    """Return the number of repeats of a comparison: "8", "7 of 8", "6 and 5" if not paired."""
    if row.get("paired", True):
        return count_of_planned(row.n, planned)
    return f"{row.n:.0f} and {row.n_baseline:.0f}"


def difference_text(row: pd.Series, scale: float) -> str:
    """Return the signed difference of a comparison, e.g. "+3.1"; "-" if there is none.

    It has as many decimals as the half width of its interval needs for two significant digits.

    Args:
        row: of the table of `comparison.compare`, at least diff, low and high.
        scale: 100 for percentage points, else 1.
    """
    value, half = scale * row["diff"], scale * (row.high - row.low) / 2
    if math.isnan(value):
        return "-"
    if math.isfinite(half):
        return f"{value:+z.{decimals(half, value)}f}"
    return f"{value:+z.2f}" if scale == 100 else f"{value:+z.4g}"


def interval_text(low: float, high: float, scale: float = 1) -> str:
    """Return an interval, e.g. "[+1.1, +5.1]", with two significant digits of its half width.

    "-" stands for an interval that does not exist or is infinite.
    """
    low, high = scale * low, scale * high
    if not math.isfinite(high - low):
        return "-"
    digits = decimals((high - low) / 2, (high + low) / 2)
    return f"[{low:+z.{digits}f}, {high:+z.{digits}f}]"


def interval_words(low: float, high: float, scale: float) -> str:
    """Return the ends of an interval, e.g. "+1.1 to +5.1"; "" if it is infinite or does not exist.

    The digits and the arguments are those of `interval_text`.
    """
    text = interval_text(low, high, scale)
    return "" if text == "-" else text.strip("[]").replace(", ", " to ")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose columns are also aligned as plain text."""
    widths = [max(2, *(len(r[i]) for r in [head, *rows])) for i in range(len(head))]
    lines = [[c.rjust(w) for c, w in zip(r, widths, strict=True)] for r in [head, *rows]]
    lines.insert(1, ["-" * (w - 1) + ":" for w in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def without_empty(head: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return head and rows of a table without the columns that hold nothing but "-"."""
    shown = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    return [head[i] for i in shown], [[row[i] for i in shown] for row in rows]


def _latex(head: list[str], rows: list[list[str]]) -> str:
    style = pd.DataFrame(rows, columns=head).style.hide(axis="index")
    style = style.format(escape="latex").format_index(escape="latex", axis="columns")
    text = str(style.to_latex(column_format="r" * len(head)))
    return text.rstrip("\n").replace("±", r"$\pm$")


def plus_minus(mean: float, sd: float) -> str:
    """Return mean ± SD with two significant digits of the SD; "-" if there is no mean.

    Of equal numbers, whose SD is 0 or a rounding error, the mean alone has digits.
    """
    if math.isnan(mean):
        return "-"
    if not math.isfinite(sd):
        return f"{mean:z.4g}"
    if sd <= 1e-12 * abs(mean):
        return f"{mean:z.4g} ± 0"
    digits = decimals(sd, mean)
    return f"{mean:z.{digits}f} ± {sd:.{digits}f}"  # z: no -0


def decimals(spread: float, value: float) -> int:
    """Return how many decimals show two significant digits of the spread of a value.

    Four if the spread is 0, or no more than the rounding error of equal numbers.
    """
    if spread <= 1e-12 * abs(value):
        return 4
    exponent = int(f"{spread:.1e}".partition("e")[2])  # of the rounded number: 0.00996 is 0.010
    return max(0, 1 - exponent)


def count_of_planned(n: int, planned: float) -> str:
    """Return a count as text, "3 of 4" if it falls short of the planned one (NaN: no plan)."""
    return f"{n:.0f} of {planned:.0f}" if n < planned else f"{n:.0f}"


def cell(value: object) -> str:
    """Return a hyperparameter's value as text; "-" if it is inactive."""
    if value is None or value != value:
        return "-"
    return short(value, TABLE_DIGITS) if isinstance(value, int | float) else str(value)


def _two_decimals(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
