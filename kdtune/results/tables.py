"""Tables of means as text, and the values in them."""

import json
import math
from collections.abc import Sequence

import pandas as pd

from kdtune.config.study import Format


def format_table(table: pd.DataFrame, format: Format = "md") -> str:
    """The summary as text: md for reading (mean ± sd, n), else all columns."""
    if format == "csv":
        return str(table.to_csv(index=False))
    if format == "json":
        records = table.astype(object).where(table.notna(), None).to_dict("records")
        return json.dumps(records, indent=2)
    means = [c.removesuffix("/mean") for c in table if c.endswith("/mean")]
    keys = [c for c in table if "/" not in c and c != "n_planned"]
    rows = [[cell(row[key]) for key in keys] for _, row in table.iterrows()]
    for cells, (_, row) in zip(rows, table.iterrows(), strict=True):
        n = int(max(row[f"{name}/n"] for name in means))
        cells.append(count_of_planned(n, row.get("n_planned", n)))
        cells += [plus_minus(row[f"{name}/mean"], row[f"{name}/std"]) for name in means]
    head = [*keys, "n", *(name.removeprefix("val/") for name in means)]
    return _latex(head, rows) if format == "latex" else markdown(head, rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown that is aligned as plain text, too."""
    widths = [max(2, *(len(r[i]) for r in [head, *rows])) for i in range(len(head))]
    lines = [[c.rjust(w) for c, w in zip(r, widths, strict=True)] for r in [head, *rows]]
    lines.insert(1, ["-" * (w - 1) + ":" for w in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex(head: list[str], rows: list[list[str]]) -> str:
    lines = [" & ".join(cells) for cells in [head, *rows]]
    body = " \\\\\n".join(lines).replace("±", r"$\pm$").replace("_", r"\_")
    return f"\\begin{{tabular}}{{{'r' * len(head)}}}\n{body} \\\\\n\\end{{tabular}}"


def levels(values: pd.Series) -> pd.Series:
    """A hyperparameter's values as groups: themselves, or four ranges if there are more than 8."""
    numeric = pd.to_numeric(values, errors="coerce")
    if values.nunique() <= 8 or numeric.isna().sum() > values.isna().sum():
        return values
    cut = pd.qcut(numeric, 4, labels=False, duplicates="drop")
    ends = numeric.groupby(cut).agg(["min", "max"])
    names = dict(zip(ends.index, _range_names(ends.to_numpy().tolist()), strict=True))
    return cut.map(names).astype(pd.CategoricalDtype(list(names.values()), ordered=True))


def _range_names(ends: Sequence[Sequence[float]]) -> list[str]:
    """Ranges as text, with as many digits as it takes to tell all their ends apart, at least 3."""
    values = {end for pair in ends for end in pair}
    enough = (d for d in range(3, 17) if len({f"{v:.{d}g}" for v in values}) == len(values))
    digits = next(enough, 17)  # 17 tell any two apart
    return [f"{low:.{digits}g} … {high:.{digits}g}" for low, high in ends]


def plus_minus(mean: float, sd: float) -> str:
    """Mean ± sd with two significant digits of the sd; "-" where there is no mean."""
    if math.isnan(mean):
        return "-"
    if not math.isfinite(sd):
        return f"{mean:z.4g}"
    exponent = int(f"{sd:.1e}".partition("e")[2])  # of the rounded sd: 0.00996 is 0.010
    digits = 4 if sd == 0 else max(0, 1 - exponent)
    return f"{mean:z.{digits}f} ± {sd:.{digits}f}"  # z: no -0


def count_of_planned(n: int, planned: float) -> str:
    """A count, with that planned where it falls short; NaN: nothing was planned."""
    return f"{n:.0f} of {planned:.0f}" if n < planned else f"{n:.0f}"


def cell(value: object) -> str:
    """A hyperparameter's value as text; "-" where it has no effect."""
    if value is None or value != value:
        return "-"
    return f"{value:g}" if is_number(value) else str(value)


def is_number(value: object) -> bool:
    """Whether it is printed with :g."""
    return isinstance(value, int | float)
