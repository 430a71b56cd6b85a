"""Wording and tables of studies side by side, shared by the terminal and the report."""

import json
import math
from collections.abc import Iterator

import pandas as pd

from kdtune.config.study import Format
from kdtune.results.comparison import SIGNIFICANCE_LEVEL
from kdtune.results.context import NOT_ADJUSTED
from kdtune.results.design import Design
from kdtune.results.side_by_side import SideBySide
from kdtune.results.significance import exact_test, is_significant, p_text, p_value, since_interval
from kdtune.results.tables import difference_and_interval, format_table, markdown, plus_minus
from kdtune.statistics.intervals import MIN_REPEATS

Rows = tuple[list[str], list[list[str]]]
NO_TEST = (
    "There is no test of unpaired folds, since their train sets overlap and the correction for "
    "that is one for paired differences."
)
SPLIT_NAMES = {"val": "validation", "test": "test"}


def text(side: SideBySide, format: Format = "md") -> str:
    """Return the comparison as text.

    "json" is the three tables alone, "csv" the one of the best configurations.
    """
    if format == "json":
        tables = {"best": side.best, "comparisons": side.comparisons, "settings": side.settings}
        parsed = {name: json.loads(format_table(t, "json")) for name, t in tables.items()}
        return json.dumps({"studies": list(side.studies), **parsed}, indent=2)
    if format == "csv":
        return format_table(side.best, "csv")
    parts = [markdown(*best_rows(side)), best_note(side)]
    if len(side.comparisons):
        parts += [f"Difference from {side.reference}:", markdown(*difference_rows(side))]
        parts.append(method(side))
    parts += ["Settings that differ:", markdown(*setting_rows(side))]
    return "\n\n".join(part for part in [*parts, *caveats(side), *conclusions(side)] if part)


def best_rows(side: SideBySide) -> Rows:
    """Return head and rows of the table of the best configurations."""
    scale, percent = side.criterion.scale, " (%)" * side.criterion.in_points
    head = ["study", "", "configuration", "n"]
    head += [f"{split} {side.criterion.metric}{percent}" for split in side.splits]
    rows = []
    for _, row in side.best.iterrows():
        cells = [
            row.study,
            f"{row.kind}{' (best)' * row.is_best}",
            row.label,
            f"{row['val/n']:.0f}",
        ]
        for split in side.splits:
            cells.append(plus_minus(scale * row[f"{split}/mean"], scale * row[f"{split}/std"]))
        rows.append(cells)
    return head, rows


def best_note(side: SideBySide) -> str:
    """Return what the numbers of the best configurations are."""
    scope = "" if side.criterion.scope == "last" else f", scope {side.criterion.scope} on val"
    note = (
        f"mean ± SD over n repeats{scope}. val selected the configurations, so their means on val "
    )
    note += "are optimistic, the more so the more configurations a study has"
    return f"{note}; test selected nothing." if "test" in side.splits else f"{note}."


def difference_rows(side: SideBySide) -> Rows:
    """Return head and rows of the table of differences from the first study."""
    unit = "points" if side.criterion.in_points else side.criterion.metric
    head = ["study", "configuration", f"against {side.reference}'s", "split"]
    head += [f"difference ({unit})", _interval(side), "n", "p (Holm)", "repeats"]
    rows = []
    for _, row in side.comparisons.iterrows():
        kind = "" if row.pair == "best" else f"{row.pair}: "
        n = f"{row.n:.0f}" if row.paired else f"{row.n:.0f} and {row.n_reference:.0f}"
        how = "paired" if row.paired else f"unpaired: {row.why}"
        cells = [row.study, f"{kind}{row.label}", row.against, row.split]
        rows.append(
            [
                *cells,
                *difference_and_interval(row, side.criterion.scale),
                n,
                p_value(row.p_holm),
                how,
            ]
        )
    return head, rows


def setting_rows(side: SideBySide) -> Rows:
    """Return head and rows of the table of settings that differ."""
    table = side.settings
    return list(table.columns), [list(row) for row in table.itertuples(index=False)]


def method(side: SideBySide) -> str:
    """Return how the differences were computed."""
    table = side.comparisons
    by_image = bool(table.n_images[table.paired].notna().all())
    rows = table[["study", "paired"]].drop_duplicates().itertuples()
    sentences = (
        _paired(side.design_against(row.study), by_image, side.splits)
        if row.paired
        else _unpaired(side.designs_of(row.study))
        for row in rows
    )
    parts = list(dict.fromkeys(sentences))
    if count(side) > 1:
        adjusted = f"for the {count(side)} comparisons of a split"
        parts.append(f"CI Bonferroni-adjusted and p Holm-adjusted {adjusted}.")
    return " ".join([*parts, NOT_ADJUSTED] if side.is_adaptive else parts)


def _paired(design: Design, by_image: bool, splits: list[str]) -> str:
    """Return how paired comparisons of a design were tested, and what they are about."""
    test, about = f"t test over {design.units_phrase}", f"about {design.new_units}"
    if design.folds is not None:
        on_test = ", on test for these test images" * ("test" in splits)
        return f"Paired by repeat: {test}, {about}{on_test}."
    if by_image:
        return f"Paired by repeat and image: {test} and images, {about} and new images."
    return f"Paired by repeat: {test}, {about} on these images."


def _unpaired(designs: tuple[Design, Design]) -> str:
    """Return how unpaired comparisons of two designs were tested, and what they are about."""
    if any(design.folds is not None for design in designs):
        return NO_TEST
    units = " and over ".join(dict.fromkeys(design.units_phrase for design in designs))
    about = " and ".join(dict.fromkeys(design.new_units for design in designs))
    return (
        f"Unpaired repeats are independent samples: Welch's t test over {units}, about {about} on "
        f"these images."
    )


def caveats(side: SideBySide) -> list[str]:
    """Return what limits the comparison."""
    return [side.doubt] if side.doubt else []


def conclusions(side: SideBySide) -> Iterator[str]:
    """Yield a sentence for each other study on its best configuration, on test if there is one."""
    table = side.comparisons
    if not len(table):
        yield "No comparison: each study needs completed runs."
        return
    split = side.splits[-1]
    for _, row in table[(table.split == split) & (table.pair == "best")].iterrows():
        yield _conclusion(row, side, f"{SPLIT_NAMES[split]} {side.criterion.declared.label}")


def _conclusion(row: pd.Series, side: SideBySide, metric: str) -> str:
    subject = f"{row.study} ({row.label})"
    other = f"{side.reference} ({row.against})"
    if math.isnan(row.p):
        design = side.design_against(row.study)
        teachers = f", with {MIN_REPEATS} teachers" * design.by_teacher
        why = f"a comparison needs at least {MIN_REPEATS} repeats of each{teachers}"
        if design.folds is not None and not row.paired:
            why = "there is no test of unpaired folds"
        return f"No conclusion on {subject} against {other}: {why}."
    amount, ends = difference_and_interval(row, side.criterion.scale)
    interval = "" if ends == "-" else f"{_ci(side)} {ends}, "
    n = f"n = {row.n:.0f}" if row.paired else f"n = {row.n:.0f} and {row.n_reference:.0f}, unpaired"
    adjusted = f"{'Holm-adjusted ' * (count(side) > 1)}{p_text(row.p_holm)}"
    adjusted += exact_test(row.low, row.paired)
    evidence = f"{interval}{adjusted}, {n}"
    unit = f" {side.criterion.unit}".rstrip()
    if not is_significant(row.p_holm, row.low, row.high, SIGNIFICANCE_LEVEL):
        why = since_interval(row.p_holm, row.low, row.high, SIGNIFICANCE_LEVEL)
        return (
            f"No significant difference in {metric}: {subject} against {other}: {amount}{unit} "
            f"({evidence}){why}."
        )
    word = "better" if side.criterion.sign * row["diff"] > 0 else "worse"
    return f"{subject} has a {word} {metric} than {other}: {amount}{unit} ({evidence})."


def count(side: SideBySide) -> int:
    """Return the number of comparisons of a split."""
    return int((side.comparisons.split == side.splits[-1]).sum())


def _ci(side: SideBySide) -> str:
    return "simultaneous 95% CI" if count(side) > 1 else "95% CI"


def _interval(side: SideBySide) -> str:
    return "95% CI (simultaneous)" if count(side) > 1 else "95% CI"
