"""Advice in words: what a study could have detected, and whether repeats or images would help."""

import math

import pandas as pd

from kdtune.results.comparison import SIGNIFICANCE_LEVEL, Criterion
from kdtune.results.context import ComparisonContext, count_comparisons
from kdtune.results.tables import decimals
from kdtune.statistics.crossed import Components, t_quantile
from kdtune.statistics.intervals import ROUNDING
from kdtune.statistics.power import detectable_difference, detectable_effect, repeats_needed, shrunk

MAX_SUGGESTED_REPEATS = 200
"""The verdict does not suggest more repeats than these."""
LARGE_DIFFERENCE = 0.05
"""A difference of 5 points, which distillation rarely makes: a study that detects no smaller one
is called too small."""
SMALL_DIFFERENCE = 0.01
"""A difference of 1 point, which many studies of distillation hope to show."""


def with_unit(value: float, criterion: Criterion) -> str:
    """Return a difference as text, e.g. "1.3 percentage points"."""
    number = f"{value:.2g}"
    if criterion.in_points:
        number = f"{100 * value:.1f}" if 100 * value >= 0.095 else f"{100 * value:.1g}"
    return f"{number} {criterion.unit}".rstrip()


def design(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return the design of a comparison, e.g. "8 repeats, 500 val images and 4 comparisons"."""
    parts = [f"{row.n:.0f} repeats"]
    if not math.isnan(row.n_images):
        parts.append(val_examples(row.n_images, criterion))
    return f"{', '.join(parts)} and {count_comparisons(m)}"


def val_examples(count: float, criterion: Criterion) -> str:
    """Return a number of examples as text, e.g. "500 val images"."""
    return f"{count:,.0f} val {criterion.task.examples}"


def describe_detectable(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return the minimum detectable difference of a comparison with its condition; "" if none.

    Args:
        row: of the table of `comparison.compare`.
        m: number of comparisons.
        criterion: by which the table was made.
    """
    found = detectable(row, m)
    if not found < (1 if criterion.in_points else math.inf):
        return ""
    return f"at 80% power with {design(row, m, criterion)}: {with_unit(found, criterion)}"


def detectable(row: pd.Series, m: int) -> float:
    """Return the minimum detectable difference at 80 % power of one of m comparisons.

    A significant result takes both t tests of a two-way estimate, see `crossed.Estimate`.
    """
    level = SIGNIFICANCE_LEVEL / m
    found = float(row.error) * detectable_effect(row.df, level)
    here = components_of(row).error_here(row.n, row.n_images)
    return max(found, here * detectable_effect(row.n - 1, level)) if here > 0 else found


def too_small(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return that a study detects only differences that distillation rarely makes; else ""."""
    able = detectable(row, m) if criterion.in_points else math.nan
    if not able > LARGE_DIFFERENCE:
        return ""
    return "The study is too small to decide whether there is a difference. "


def components_of(row: pd.Series) -> Components:
    """Return the variance components of a row of `comparison.compare`."""
    return Components(row.var_repeat, row.var_image, row.var_rest)


def _has_independent_repeats(row: pd.Series) -> bool:
    """Return False if the error is larger than that of independent repeats, or has fewer df.

    That is so with folds and with several teachers, where more repeats help less.
    """
    if row.get("n_units", row.n) < row.n:
        return False
    as_crossed = components_of(row).error(row.n, row.n_images)
    return bool(row.df >= row.n - 1 and row.error <= 1.001 * as_crossed)


def power_text(table: pd.DataFrame, m: int, criterion: Criterion) -> str:
    """Return what a study without a significant difference could detect, and what would help.

    It is about the first row of the table, which the verdict names.

    Args:
        table: of `comparison.compare`, one student's.
        m: number of comparisons.
        criterion: by which the table was made.
    """
    row = table.iloc[0]
    if row.sd <= ROUNDING * abs(row["diff"]) and not row.error > 0:
        return _equal_differences(row, m)
    able = describe_detectable(row, m, criterion)
    text = f"; minimum detectable difference {able}."
    if not able:
        return f"; {row.n:.0f} repeats are too few for 80% power at any difference."
    if criterion.sign * row["diff"] <= ROUNDING:
        text += " The estimate is not an improvement, so more repeats are unlikely to show one."
    elif _has_independent_repeats(row):
        text += _repeats(table, m, criterion)
    limit = _sentence(limit_of_images(row, m, criterion))
    return f"{text}{_sentence(what_would_help(row, m, criterion))}{limit}"


def _equal_differences(row: pd.Series, m: int) -> str:
    """Return what can be said where all differences are equal, but for rounding."""
    if row["diff"] == 0:
        return f"; all {row.n:.0f} differences are 0."
    least = math.floor(2 - math.log2(SIGNIFICANCE_LEVEL / m))  # with 2 / 2^n < level
    return (
        f"; all {row.n:.0f} differences are equal, so p is that of a sign-flip test: {least} "
        f"repeats would be significant with the same difference in each (--repeats {least})."
    )


def _repeats(table: pd.DataFrame, m: int, criterion: Criterion) -> str:
    """Return the repeats that 80 % power needs if the shrunk estimate is the true difference."""
    row, level = table.iloc[0], SIGNIFICANCE_LEVEL / m
    parts, images = components_of(row), row.n_images
    known = table[table.error > 0]
    gain = shrunk((criterion.sign * known["diff"]).tolist(), known.error.tolist(), 0)
    why = f"because it is the largest of {len(known)}" if len(known) > 1 else "by its uncertainty"
    assumed = (
        f" If the true difference is {with_unit(gain, criterion)} (the estimate, shrunk {why})"
    )
    needed = repeats_needed(gain, parts, images, level, most=MAX_SUGGESTED_REPEATS)
    if needed:
        return (
            f"{assumed}, {needed} repeats give 80% power (--repeats {needed}). p values do not "
            f"account for repeats that are added because of this result; those of --repeats auto "
            f"do."
        )
    limit = detectable_difference(parts, math.inf, images, level)
    if parts.has_images and limit > gain:
        given = val_examples(images, criterion)
        return (
            f"{assumed}, no number of repeats gives 80% power: with {given} it takes a difference "
            f"of {with_unit(limit, criterion)}."
        )
    return f"{assumed}, more than {MAX_SUGGESTED_REPEATS} repeats are needed for 80% power."


def what_would_help(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return where the variance of a difference is from, and what would narrow its interval.

    Args:
        row: of the table of `comparison.compare`.
        m: number of comparisons.
        criterion: by which the table was made.

    Returns:
        Sentences; "" without variance components of repeats and images.
    """
    parts, n, images = components_of(row), row.n, row.n_images
    half = (row.high - row.low) / 2
    if not parts.has_images or not math.isfinite(half) or not _has_independent_repeats(row):
        return ""
    repeat, image, rest = (f"{100 * share:.0f}%" for share in parts.shares(n, images))
    of_images = f"{image} from {criterion.task.examples}"
    text = f"Of the variance, {repeat} is from repeats, {of_images}, {rest} from both."
    # relative to the present design: components that are cut at 0 add up to a little more
    scale = criterion.scale * half / half_width(parts, n, images, m)
    now, more_repeats, more_images = (
        _plus_minus(scale * half_width(parts, repeats, count, m))
        for repeats, count in ((n, images), (2 * n, images), (n, 2 * images))
    )
    more = f"{images:,.0f} more val {criterion.task.examples}"
    steps = {f"{n:.0f} more repeats": more_repeats, more: more_images}
    parts_ = [
        f"{step} would {f'narrow it to {end}' if end != now else 'hardly narrow it'}"
        for step, end in steps.items()
    ]
    return f"{text} The interval is {now}: {'; '.join(parts_)}."


def limit_of_images(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return that the images are too few to show 1 point with any number of repeats; else ""."""
    parts, images = components_of(row), row.n_images
    if not (criterion.in_points and parts.has_images and _has_independent_repeats(row)):
        return ""
    limit = detectable_difference(parts, math.inf, images, SIGNIFICANCE_LEVEL / m)
    if not limit > SMALL_DIFFERENCE:
        return ""
    given = val_examples(images, criterion)
    return f"No number of repeats gives 80% power for 1 point with {given}."


def _plus_minus(half: float) -> str:
    """Return a half width with two significant digits, e.g. "±2.0"."""
    return f"±{half:.{decimals(half, 0)}f}"


def half_width(parts: Components, repeats: float, images: float, m: int) -> float:
    """Return the half width of the simultaneous interval of a design with m comparisons."""
    level = 1 - SIGNIFICANCE_LEVEL / m
    half = t_quantile(parts.df(repeats, images), level) * parts.error(repeats, images)
    return max(half, t_quantile(repeats - 1, level) * parts.error_here(repeats, images))


def undecided_text(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """Return whether a study that adds repeats until p <= level would add more.

    It is about the first row of the table, which the verdict names.
    """
    row = table.iloc[0]
    text = f"; undecided after {row.n:.0f} repeats"
    task = criterion.task
    if not criterion.decides_the_search:
        label = task.metrics[task.score].label
        return f"{text} (repeats are added for {label} at the last epoch only)."
    if row.undecidable:
        return f"{text}. {undecidable_sentence(row.n_images, row.least_decidable, criterion)}"
    more = " (a larger --budget adds repeats)" * bool((table.p > context.level).all())
    return f"{text}{more}."


def undecidable_sentence(images: float, least: float, criterion: Criterion) -> str:
    """Return that more repeats of the same images cannot decide a difference.

    Args:
        images: number of val images.
        least: `AnytimeTest.least_decidable`.
        criterion: that decides the search.
    """
    examples = criterion.task.examples
    return (
        f"More repeats cannot decide it with {val_examples(images, criterion)}: on these, a "
        f"difference below {with_unit(least, criterion)} may be due to the choice of {examples}. "
        f"More val {examples} can."
    )


def _sentence(text: str) -> str:
    return f" {text}" if text else ""
