"""Results in words: conclusion, advice, summary; no stronger than the numbers allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from kdtune.config.study import Study
from kdtune.config.task import Task
from kdtune.results import summaries as sensitivity
from kdtune.results.comparison import (
    SIGNIFICANCE_LEVEL,
    Criterion,
    amount,
    comparison_rows,
    count_of_planned,
    decimals,
    difference_and_interval,
    format_table,
    have_enough_repeats,
    interval_words,
    markdown,
    plus_minus,
)
from kdtune.results.costs import cost_text, teacher_files
from kdtune.results.design import (
    ONE_TEACHER,
    Design,
    Outcome,
    exact_test,
    find_outcome,
    in_every_repeat,
    p_text,
    since_interval,
)
from kdtune.results.frames import config_label, join_words, regularisers
from kdtune.results.summaries import best_rows
from kdtune.statistics.intervals import MIN_REPEATS, ROUNDING, Components, t_quantile
from kdtune.statistics.tests import detectable_difference, detectable_effect, repeats_needed, shrunk

if TYPE_CHECKING:
    from kdtune.results.results import Results


# Wording of what a comparison is based on, shared by the text, the report and the figures.


NOT_ADJUSTED = "p values are not adjusted for the adaptive number of repeats."

NOT_RECORDED = (
    "An earlier version of kdtune ran this study and did not record the finalists before their "
    "final repeats, and the best configuration is the better finalist on these repeats. The p "
    "values are not adjusted for that."
)


@dataclass(frozen=True)
class ComparisonContext:
    """Baseline and repeats of a comparison, and the sentences that follow from them."""

    baseline: str
    """In words, e.g. "training without distillation (lr = 0.01)"."""
    planned: float
    """Planned repeats of each configuration; NaN if their number was not fixed in advance."""
    held_out: bool = False
    """Whether the comparison uses the final repeats, which did not select the finalists."""
    anytime_level: float | None = None
    """Level of a study that added repeats until it was decided. None: their number was fixed."""
    images: int | None = None
    """Val images that the comparison generalises from. None: it holds for these images only."""
    why_these_images: str = ""
    """Why it holds for these images only."""
    design: Design = ONE_TEACHER
    """What the repeats vary."""
    is_recorded: bool = True
    """Whether the finalists were recorded before the first of their final repeats."""
    names_recorded_best: bool = True
    """Whether the best configuration is the finalist that was recorded as the best; else it is the
    better one on the final repeats."""

    @property
    def examples(self) -> str:
        """What the splits consist of, in words: "images"."""
        return self.design.examples

    @property
    def is_fixed(self) -> bool:
        """Whether the number of repeats was fixed in advance."""
        return not math.isnan(self.planned)

    @property
    def level(self) -> float:
        """Family-wise error rate of the comparison."""
        return SIGNIFICANCE_LEVEL if self.anytime_level is None else self.anytime_level

    @property
    def interval(self) -> str:
        """Kind of the interval, e.g. "simultaneous 95% CI"."""
        kind = "simultaneous" if self.anytime_level is None else "always-valid"
        return f"{kind} {100 * (1 - self.level):g}% CI"

    @property
    def repeats_phrase(self) -> str:
        """Which repeats are used, after a comma; "" if they are those of the search."""
        if not self.held_out:
            return ""
        added = ", added until the comparison is decided" * (self.anytime_level is not None)
        return f", finalists on {self.kind_of_repeats} repeats{added}"

    @property
    def kind_of_repeats(self) -> str:
        """Kind of the repeats: "held-out" if nothing has been selected on them, else "final"."""
        return "held-out" if self.is_recorded else "final"

    @property
    def bias_of_best(self) -> str:
        """What biases the best configuration's metric on val, as a note in parentheses."""
        if not self.held_out:
            return "optimistic: used for the selection"
        if self.is_recorded and self.names_recorded_best:
            return f"held-out repeats, but the {self.examples} that selected it"
        return f"{self.kind_of_repeats} repeats; optimistic: they chose between the finalists"

    @property
    def holds_for(self) -> str:
        """What conclusions are about."""
        text = self.design.holds_for("val", new_images=self.images is not None)
        needs_reason = self.images is None and self.design.folds is None and self.why_these_images
        return f"{text} ({self.why_these_images})" if needs_reason else text

    @property
    def paired_by(self) -> str:
        """What the comparison is paired by."""
        return "repeat" if self.images is None else f"repeat and {self.examples[:-1]}"

    @property
    def sizes(self) -> str:
        """Over what t intervals and t tests are computed."""
        units = self.design.units_phrase
        return units if self.images is None else f"{units} and {self.images:,} val {self.examples}"

    @property
    def method(self) -> str:
        """Note below the comparison's table."""
        if self.anytime_level is not None:
            text = f"Paired by {self.paired_by}. Interval and p value are always-valid: they hold "
            text += "whenever the study stops."
        else:
            text = (
                f"Paired by {self.paired_by}. CI: t intervals over {self.sizes}, "
                f"Bonferroni-adjusted for all rows"
            )
            beside = f"; for these {self.examples}: the same over repeats alone"
            text += beside * (self.images is not None)
            text += ". p (Holm): t tests, adjusted for all rows."
            text += f" {NOT_ADJUSTED}" * (not self.is_fixed)
        return f"{text} Conclusions are about {self.holds_for}."

    def method_in_full(self, m: int) -> str:
        """Return the method of m comparisons, for a report."""
        if self.anytime_level is not None:
            return (
                f"mean difference, {self.interval} and always-valid p value, which hold whenever "
                f"the study stops (Gönen et al., 2005; Ville, 1939)"
            )
        text = (
            f"mean difference and {self.interval} (t interval over {self.sizes}, "
            f"Bonferroni-adjusted); p values adjusted for {count_comparisons(m)}: t tests by "
            f"Holm's method"
        )
        if self.design.folds is None:
            text += ", and sign-flip tests over repeats by max-T (from 6 repeats on)"
        return text if self.is_fixed else f"{text}. {NOT_ADJUSTED[:-1]}"

    @property
    def interval_legend(self) -> str:
        """What the lines in the figure of differences show."""
        if self.anytime_level is not None:
            return f"lines show the {self.interval}, which holds whenever the study stops"
        if self.design.folds is not None:
            return f"lines show the {self.interval} for new train/val splits"
        if self.images is None:
            return f"lines show the {self.interval} for these {self.examples}"
        return (
            f"lines show the {self.interval} for new repeats and new {self.examples}, thick lines "
            f"the one for these {self.examples}"
        )

    @property
    def baseline_note(self) -> str:
        """How the baseline was selected, and whether the p values account for that."""
        if self.held_out and not self.is_recorded:
            return f"The baseline is {self.baseline}. {NOT_RECORDED}"
        if self.held_out:
            images = "those" if self.design.folds is None else "of the pool"
            return (
                f"The baseline is {self.baseline}. The finalists were recorded before the first of "
                f"these repeats, which selected neither of them. The val {self.examples} are "
                f"{images} that selected them, and the p values are not adjusted for that."
            )
        return (
            f"The baseline is {self.baseline}, the best one by the criterion that also selects the "
            f"best configuration. The p values are not adjusted for the selection of the baseline."
        )

    def significance_rule(self, metric: str) -> str:
        """Return the sentences that define a significant difference in a metric."""
        if self.anytime_level is not None:
            return (
                f"A difference in {metric} is significant if p is at most {self.level:g}. The "
                f"number of repeats depended on the results, so p and interval are always-valid: p "
                f"is the inverse Bayes factor of all repeats."
            )
        return (
            f"A difference is significant if the Holm-adjusted p value is below {self.level:g} "
            f"over all comparisons with the baseline in {metric}, and the {self.interval} (level "
            f"1 - {self.level:g}/m for m comparisons) excludes 0. Other metrics are exploratory."
        )


def count_comparisons(m: int) -> str:
    """Return e.g. "1 comparison" or "4 comparisons"."""
    return f"{m} comparison{'s' * (m != 1)}"


# Advice in words: what a study could have detected, and whether repeats or images would help.


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


# Conclusions of a study in words, no stronger than its numbers allow.


def verdict(
    table: pd.DataFrame,
    criterion: Criterion,
    by: Sequence[str],
    context: ComparisonContext,
    m: int | None = None,
) -> str:
    """Return the conclusion of a study about one student.

    A difference is significant if its Holm-adjusted p value is below the level and its simultaneous
    interval excludes 0. Holm's p value alone does not suffice: after a first rejection it can be
    below the level while the interval of the named configuration, one of several, holds 0. The
    conclusion names the best configuration that is significantly better; if there is none, the best
    of all, with the minimum detectable difference and the repeats that 80 % power needs.

    Args:
        table: of `comparison.compare`.
        criterion: by which the table was made.
        by: hyperparameters that tell the configurations apart.
        context: baseline and repeats of the comparison.
        m: number of comparisons that p values and intervals account for; those of the table if it
            has them all.
    """
    if not len(table):
        return _no_comparison(criterion, context.baseline)
    m = int(table.p_holm.notna().sum()) if m is None else m
    table = table[have_enough_repeats(table.n)]
    if m == 0 or table.n.max() < MIN_REPEATS or not table.p_holm.notna().any():
        return _no_test(table, context)
    untested = int(table.p_holm.isna().sum())
    table = table[table.p_holm.notna()]
    found = find_outcome(table, criterion.sign, *_rule(context))
    if found.kind == "better":
        return _improved(found.row, criterion, by, context, m)
    if found.kind == "worse":
        return _worsened(found, len(table), untested, criterion, by, context, m)
    text = _not_significant(found.row, criterion, by, context, m)
    if context.anytime_level is None:
        text = f"{too_small(found.row, m, criterion)}{text}{power_text(table, m, criterion)}"
    else:
        text += undecided_text(table, criterion, context)
    if found.significant:
        text += f" {found.significant} of {len(table)} configurations were significantly worse."
    return text


def short_verdict(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """Return the conclusion of `verdict` in a few words, e.g. "better: +3.1 points, p = 0.002"."""
    known = table[table.p_holm.notna()] if len(table) else table
    if not len(known):
        return "no comparison"
    found = find_outcome(known[have_enough_repeats(known.n)], criterion.sign, *_rule(context))
    unit = " points" if criterion.in_points else ""
    value = difference_and_interval(found.row, criterion.scale)[0]
    return f"{found.kind}: {value}{unit}, {p_text(found.row.p_holm)}"


def _rule(context: ComparisonContext) -> tuple[float, bool]:
    """Return the level, and whether p = level is significant: such a study stops at p <= level."""
    return context.level, context.anytime_level is not None


def _improved(
    row: pd.Series, criterion: Criterion, by: Sequence[str], context: ComparisonContext, m: int
) -> str:
    by_how_much = _effect(row, criterion, context, m)
    text = f"{_subject(row, criterion, by)} improved {criterion.label} by {by_how_much}"
    help_ = "" if context.anytime_level is not None else what_would_help(row, m, criterion)
    return f"{text} {help_}".rstrip()


def _worsened(
    found: Outcome,
    configs: int,
    untested: int,
    criterion: Criterion,
    by: Sequence[str],
    context: ComparisonContext,
    m: int,
) -> str:
    row = found.row
    by_how_much = _effect(row, criterion, context, m)
    if found.significant < configs or configs == 1 or untested:
        text = f"{_subject(row, criterion, by)} worsened {criterion.label} by {by_how_much}"
        rest = " No other configuration has a better mean." * (configs > 1)
        if untested:
            have = "configuration has" if untested == 1 else "configurations have"
            rest = f" {untested} other {have} too few common repeats for a test."
        return f"{text}{rest}"
    subject = _task_subject(criterion)
    every = f"{subject} in every" if subject else "Every other"
    best = f"the best one ({config_label(row, by)})"
    return f"{every} configuration worsened {criterion.label}, {best} by {by_how_much}"


def _subject(row: pd.Series, criterion: Criterion, by: Sequence[str]) -> str:
    who = config_label(row, by)
    subject = _task_subject(criterion)
    return f"{subject} ({who})" if subject else who


def _task_subject(criterion: Criterion) -> str:
    """Return "Distillation" if all configurations but the baseline are distilled, else ""."""
    return criterion.task.subject if criterion.has_plain_baseline else ""


def _effect(row: pd.Series, criterion: Criterion, context: ComparisonContext, m: int) -> str:
    """Return the size of a significant difference, baseline and evidence; ends the sentence."""
    evidence = _evidence(row, criterion, context, m)
    here = _for_these_images(row, criterion, context)
    value = amount(row, criterion.scale, criterion.unit)
    return f"{value}{_compared_with(criterion, context)} ({evidence}).{here}"


def _for_these_images(row: pd.Series, criterion: Criterion, context: ComparisonContext) -> str:
    """Return a sentence with the interval over repeats alone; "" where it is the only one."""
    ends = interval_words(row.low_here, row.high_here, criterion.scale)
    if context.images is None or not ends:
        return ""
    count = f"{context.images:,} val {context.examples}"
    return f" For these {count} alone the interval is {ends}."


def _not_significant(
    row: pd.Series, criterion: Criterion, by: Sequence[str], context: ComparisonContext, m: int
) -> str:
    """Return the estimate that is not significant; a sentence without its end."""
    text = (
        f"No significant difference in {criterion.label}: {config_label(row, by)} against "
        f"{context.baseline}: {amount(row, criterion.scale, criterion.unit, signed=True)} "
        f"({_evidence(row, criterion, context, m)})"
    )
    text += since_interval(row.p_holm, row.low, row.high, *_rule(context))
    return text + in_every_repeat(row)


def _compared_with(criterion: Criterion, context: ComparisonContext) -> str:
    """Return the baseline unless "distillation" implies it."""
    implied = bool(_task_subject(criterion)) and context.baseline == criterion.task.baseline_words
    return "" if implied else f" compared with {context.baseline}"


def _no_test(table: pd.DataFrame, context: ComparisonContext) -> str:
    """Return why no comparison has a p value."""
    n = int(table.n.max()) if len(table) else 0
    units = int(table.n_units.max()) if len(table) else 0
    if n >= MIN_REPEATS and units < MIN_REPEATS:
        return (
            f"No conclusion: the common repeats have {units} teacher{'s' * (units != 1)}, but a "
            f"comparison over teachers needs at least {MIN_REPEATS}."
        )
    if n >= MIN_REPEATS:
        return f"No conclusion: all {n} differences of a configuration are equal."
    repeats = f"{n or 'no'} common repeat{'s' * (n != 1)}"
    text = f"No conclusion: {repeats}, but a comparison needs at least {MIN_REPEATS}"
    hint = "; four are rarely enough, use --repeats 8" * (context.anytime_level is None)
    return f"{text}{hint}."


def _no_comparison(criterion: Criterion, baseline: str) -> str:
    if not criterion.fixed:
        return "No conclusion: the study has no baseline (baseline={...}) to compare with."
    if criterion.has_plain_baseline and criterion.task.is_distillation:
        return (
            "No conclusion: the study needs completed runs both with alpha = 1 (no distillation) "
            "and with alpha < 1."
        )
    return f"No conclusion: completed runs of {baseline} and of other configurations are needed."


def _evidence(row: pd.Series, criterion: Criterion, context: ComparisonContext, m: int) -> str:
    """Return interval, p value and n of a comparison."""
    kind = f" {context.kind_of_repeats}" * context.held_out
    n = f"n = {count_of_planned(row.n, context.planned)}{kind} repeats"
    if row.n_units < row.n:
        n += f" of {row.n_units:.0f} teachers"
    if not math.isnan(row.n_images):
        n += f" × {row.n_images:,.0f} {context.examples}"
    interval = interval_words(row.low, row.high, criterion.scale)
    kind = "95% CI" if m == 1 and context.anytime_level is None else context.interval
    parts = [f"{kind} {interval}"] if interval else []
    if context.anytime_level is not None:
        parts.append(f"always-valid {p_text(row.p_holm)}")
    elif m == 1:
        parts.append(p_text(row.p_holm) + exact_test(row.low))
    else:
        parts.append(
            f"Holm-adjusted {p_text(row.p_holm)}{exact_test(row.low)} over {count_comparisons(m)}"
        )
    return ", ".join([*parts, n])


def best_sentence(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """Return the performance of the best configuration, from the table of `selection.selection`."""
    if not len(selection):
        return ""
    form = ".1f" if criterion.in_points else ".4g"
    rows = selection.set_index("row")
    best = rows.loc["best"]
    names = {"val": "validation", "corrected": "corrected for selection", "test": "test"}
    parts = [
        f"{what} {criterion.scale * best[f'{column}/mean']:{form}}"
        for column, what in names.items()
        if not math.isnan(best[f"{column}/mean"])
    ]
    parts[0] += f" ({context.bias_of_best})"
    if criterion.has_predictions and not context.held_out and math.isnan(best["corrected/mean"]):
        parts.insert(1, "not corrected for selection, since predictions of a run are missing")
    percent = " (%)" if criterion.in_points else ""
    metric = criterion.declared.label
    text = f"Best configuration: {name}. Mean {metric}{percent}: {', '.join(parts)}."
    if "difference" in rows.index and not math.isnan(rows.loc["difference", "test/low"]):
        row = rows.loc["difference"].rename(index={f"test/{s}": s for s in ("low", "high")})
        row = pd.Series({"diff": row["test/mean"], "low": row.low, "high": row.high})
        kind = "95% CI" if context.anytime_level is None else context.interval
        text += (
            f" Test {metric}, not used for the selection, differs from {context.baseline} by "
            f"{amount(row, criterion.scale, criterion.unit, signed=True)} ({kind} "
            f"{interval_words(row.low, row.high, criterion.scale)})."
        )
    return text


# The recipe's default configuration beside the chosen one, in words.


def default_text(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """Return how the chosen configuration compares with the default, and a warning if it is worse.

    Args:
        selection: table of `selection.selection`.
        criterion: of the table.
        name: the default in words.
        context: repeats and intervals of the table.

    Returns:
        Sentences about test, or about val if the study has no test; "" if the default has no
        completed run.
    """
    rows = selection.set_index("row") if len(selection) else selection
    if "default" not in rows.index:
        return ""
    if "chosen - default" not in rows.index:
        return "The chosen configuration is the recipe's default."
    split = "test" if math.isfinite(rows.loc["chosen - default", "test/mean"]) else "val"
    own = rows.loc["chosen - default"].rename({f"{split}/low": "low", f"{split}/high": "high"})
    own = own.rename({f"{split}/mean": "diff"})
    if math.isnan(own["diff"]):
        return ""
    metric = criterion.declared.label
    form = ".1f" if criterion.in_points else ".4g"
    subject = f"Test {metric}" if split == "test" else f"Validation {metric} ({_bias(context)})"
    of_default = criterion.scale * rows.loc["default", f"{split}/mean"]
    kind = "95% CI" if context.anytime_level is None else context.interval
    ends = interval_words(own.low, own.high, criterion.scale)
    interval = f" ({kind} {ends})" if ends else ""
    value = amount(own, criterion.scale, criterion.unit, signed=True)
    percent = "%" * criterion.in_points
    text = (
        f"{subject} of the recipe's default ({name}): {of_default:{form}}{percent}; the chosen "
        f"configuration differs by {value}{interval}."
    )
    return text + _warning(criterion.sign * own["diff"], bool(own.low * own.high > 0))


def _bias(context: ComparisonContext) -> str:
    if context.held_out and context.names_recorded_best:
        return (
            f"held-out repeats, but the {context.examples} that selected the chosen configuration"
        )
    return "optimistic, since it selected the chosen configuration"


def _warning(gain: float, excludes_0: bool) -> str:
    """Return that the search has not found a better configuration than the default; else ""."""
    if gain >= 0:
        return ""
    if not excludes_0:
        return " So the search did not improve on the default."
    return " Warning: the chosen configuration is significantly worse than the recipe's default."


# Tuning effort of each arm of a study: its configurations, runs and steps, with a warning.


HALF = 0.5
"""Share of configurations without distillation with which both arms are tuned alike."""
MAX_RATIO = 4
"""Configurations of one arm per configuration of the other above which the report warns: the best
of four equal configurations looks 1.03 standard deviations better than it is, the best of one not
at all."""
MAX_STEPS = 1.2
"""Steps of the longest training with images of --extra, as a multiple of the longest without, above
which the report warns."""


def tuning_effort(trials: pd.DataFrame, criterion: Criterion) -> pd.DataFrame:
    """Return configurations and runs of each arm, by group.

    Args:
        trials: all trials of a study.
        criterion: names the baseline, and which configurations have one of their own.

    Returns:
        One row per group: group (a student, or ""), configs and runs (of all but the baseline),
        baseline_configs and baseline_runs. Empty without a baseline and without trials.
    """
    if not criterion.fixed or not len(trials):
        return pd.DataFrame()
    is_baseline = criterion.is_baseline(trials)
    rows = []
    for name, own in trials.groupby(criterion.groups(trials), sort=False):
        inside = is_baseline[own.index]
        rows.append(
            {
                "group": str(name),
                "configs": own[~inside].config_id.nunique(),
                "runs": int((~inside).sum()),
                "baseline_configs": own[inside].config_id.nunique(),
                "baseline_runs": int(inside.sum()),
            }
        )
    return pd.DataFrame(rows)


def effort_text(effort: pd.DataFrame, task: Task) -> str:
    """Return how many configurations and runs each arm had, as one sentence; "" without arms.

    Args:
        effort: of `tuning_effort`.
        task: whose words name the arms.
    """
    both = effort[(effort.configs > 0) & (effort.baseline_configs > 0)] if len(effort) else effort
    if not len(both):
        return ""
    parts = []
    for _, row in both.iterrows():
        own = f"{_amount(row.configs, 'configuration')} ({_amount(row.runs, 'run')})"
        other = f"{row.baseline_configs} ({_amount(row.baseline_runs, 'run')})"
        of_group = f"{row.group}: " * (len(both) > 1)
        if task.is_distillation:
            parts.append(f"{of_group}{own} with distillation, {other} without")
        else:
            parts.append(f"{of_group}{own}, and {other} of the baseline")
    return f"Tuning: {'; '.join(parts)}."


def effort_warning(effort: pd.DataFrame, study: Study) -> str:
    """Return a sentence if one arm had many more configurations than the other, else "".

    Args:
        effort: of `tuning_effort`.
        study: whose search and words the sentence follows.
    """
    task = study.task
    for _, row in effort.iterrows():
        few, many = sorted((row.configs, row.baseline_configs))
        if not few or many <= MAX_RATIO * few:
            continue
        words = task.baseline_words or "the baseline"
        if few != row.baseline_configs:
            words = task.subject.lower() or "the other arm"
        of_group = f" of {row.group}" * bool(row.group and len(effort) > 1)
        return (
            f"{words}{of_group} was tuned over {_amount(few, 'configuration')}, the other side "
            f"over {many}: the comparison favours the side with more; {_remedy(study)}"
        )
    return ""


def steps_warning(trials: pd.DataFrame, task: Task) -> str:
    """Return a sentence if images without labels give a configuration more steps, else "".

    An epoch is a pass over the labelled images, of which a batch with images of --extra has fewer.

    Args:
        trials: completed trials of a study.
        task: of the study.
    """
    if not task.is_distillation or "config/extra_share" not in trials or not len(trials):
        return ""
    share = trials["config/extra_share"].fillna(0).astype(float)
    steps = trials["config/epochs"] / trials["config/batch_size"] / (1 - share)
    with_extra, others = steps[share > 0], steps[share == 0]
    if not len(with_extra) or not len(others) or with_extra.max() <= MAX_STEPS * others.max():
        return ""
    times = with_extra.max() / others.max()
    return (
        f"configurations with images of --extra take up to {times:.2g} times as many steps as "
        f"those without, since an epoch is a pass over the labelled images: part of a difference "
        f"may be longer training; search --epochs, too, so that the others can train as long"
    )


def _remedy(study: Study) -> str:
    """Return what would give both arms the same number of configurations."""
    if study.search != "grid" and study.plain_share < HALF:
        return f"--plain-share {HALF:g} gives both the same number"
    common = "what both sides have"
    if study.task.is_distillation:
        common = "what both sides have (--lr 0.001..0.1:log, --label-smoothing 0..0.2)"
    if study.search == "grid":
        return f"a random search over ranges of {common} gives both the same number"
    return f"one side has no more configurations in this space: search ranges of {common}"


def _amount(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


# Conclusions of a study as text: the baseline in words, the verdict, the whole summary.


MAX_PRINTED_ROWS = 30
"""Configurations in a printed table; if there are more, the best ones."""


def context(results: Results, criterion: Criterion, student: str | None) -> ComparisonContext:
    """Return baseline and repeats of a comparison, with the sentences about them.

    Args:
        results: of the study.
        criterion: of the comparison.
        student: whose baseline is meant; None: that of each student, if there are several.
    """
    held_out, level = results.uses_held_out_repeats(criterion), results.anytime_level(criterion)
    planned = results.planned_repeats
    if held_out:  # the number is fixed in a race, but not with --repeats auto
        planned = results.study.repeats if level is None else math.nan
    images, why = _images(results, criterion)
    own = baseline(results, criterion, student)
    recorded = (results.finalists_are_recorded, results.names_recorded_best(criterion))
    return ComparisonContext(own, planned, held_out, level, images, why, results.design, *recorded)


def _images(results: Results, criterion: Criterion) -> tuple[int | None, str]:
    """Return the number of images that a comparison generalises from, or why it does not."""
    if results.design.folds is not None:
        return None, f"each repeat has other {criterion.task.examples} in val"
    metric = criterion.declared
    if metric.of_example is None:
        return None, f"{metric.label} has no value per {criterion.task.examples[:-1]}"
    if criterion.scope != "last":
        return None, "predictions of the last epoch only are kept"
    table = results.compare(criterion)
    known = table[table.n >= MIN_REPEATS] if len(table) else table
    if len(known) and known.n_images.notna().all():
        return int(known.n_images.max()), ""
    missing = "predictions of runs are missing"
    if not criterion.task.is_distillation:
        missing = "runs have no values for the same examples"
    return None, missing if len(known) else ""


def baseline(results: Results, criterion: Criterion, student: str | None) -> str:
    """Return the baseline in words, with the other hyperparameters that are searched.

    Args:
        results: of the study.
        criterion: names the baseline.
        student: whose baseline is meant; None: that of each student, if there are several.
    """
    table = results.compare(criterion)
    task = criterion.task
    values = {f"config/{name}": value for name, value in criterion.fixed.items()}
    given = config_label(values, list(criterion.fixed))
    given = task.baseline_words if criterion.has_plain_baseline else given
    if not len(table):
        return given
    if student is None and len(results.compared_students(criterion)) > 1:
        return f"{given} of the same {task.group}"
    own = table if student is None else table[criterion.groups(table) == student]
    if not len(own):
        return given
    chosen = results.trials[results.trials.config_id == own.baseline.iloc[0]].iloc[0]
    known = {*criterion.fixed} if student is None else {*criterion.fixed, task.group}
    others = [n for n in results.by if n not in known and not pd.isna(chosen[f"config/{n}"])]
    aids = regularisers(task, {name: chosen[f"config/{name}"] for name in others})
    if aids:
        but = " but" * criterion.has_plain_baseline
        given += f"{but} with {join_words(aids.values())}"
    rest = [name for name in others if name not in aids]
    return f"{given} ({config_label(chosen, rest)})" if rest else given


def verdict_by_student(results: Results, criterion: Criterion) -> str:
    """Return the conclusion in words, a line for each student if there are several."""
    table, students = results.compare(criterion), results.compared_students(criterion)
    if len(students) < 2:
        return verdict(table, criterion, results.by, results.context(criterion))
    m = int(table.p_holm.notna().sum())
    by = [name for name in results.by if name != results.task.group]
    lines = []
    for student in students:
        own = table[criterion.groups(table) == student]
        words = verdict(own, criterion, by, results.context(criterion, student), m)
        lines.append(f"{student}: {words}")
    return "\n".join(lines)


def edges(results: Results, criterion: Criterion) -> str:
    """Return whether the best configuration is at the edge of the search space; else ""."""
    best = results.best(criterion)
    words = sensitivity.edges(results.search_trials, best, results.by, criterion) if best else []
    text = "The best configuration is at the edge of the search space"
    return f"{text}: {', '.join(words)}. Consider extending the range." if words else ""


def default_sentences(results: Results, criterion: Criterion) -> str:
    """Return how the chosen configuration compares with the recipe's default, see `default_text`.

    Returns "" if one of them has no completed run.
    """
    best, table = results.best(criterion), results.selection(criterion)
    if best is None or "default" not in set(table.row):
        return ""
    own = results.context(criterion, results.student(best))
    return default_text(table, criterion, results.label(results.default), own)


def text(results: Results, by: Sequence[str], columns: Sequence[str], criterion: Criterion) -> str:
    """Return summary, comparison and conclusion as Markdown."""
    whole = results.summary(by, columns, criterion.scope, full=True)
    table = best_rows(whole, criterion, MAX_PRINTED_ROWS)
    optimistic = " (optimistic: selected by the reported accuracy)" * (criterion.scope == "best")
    note = f"mean ± SD over n repeats{results.repeats_phrase}, val, scope {criterion.scope}"
    parts = [
        *(
            [format_table(table), f"{note}{optimistic}"]
            if len(table)
            else ["No run has completed."]
        ),
        *_comparison_text(results, criterion),
        *cost_text(results.costs, teacher_files(results.study)),
    ]
    if best := results.best(criterion):
        own = results.context(criterion, results.student(best))
        table = results.selection(criterion)
        parts.append(best_sentence(table, criterion, results.label(best), own))
        parts.append(default_sentences(results, criterion))
        parts.append(results.edges(criterion))
    return "\n\n".join(part for part in [*parts, _as_list(results.verdict(criterion))] if part)


def _as_list(verdicts: str) -> str:
    """Return several verdicts as a Markdown list, one as it is."""
    lines = verdicts.split("\n")
    return verdicts if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)


def _comparison_text(results: Results, criterion: Criterion) -> list[str]:
    """Return heading, table and method of the comparison; [] if there is none."""
    table, own = results.compare(criterion), results.context(criterion)
    if not len(table):
        return []
    head, rows = comparison_rows(table, results.by, criterion, own.anytime_level)
    heading = f"Difference in {criterion.label} from {own.baseline}{own.repeats_phrase}:"
    effort = effort_text(results.effort, results.task)
    return [heading, markdown(head, rows[:MAX_PRINTED_ROWS]), f"{own.method} {effort}".rstrip()]


# A study in short: the summary for reading, and the line that stands for the results.


SHORT_METRICS = ("acc", "ce", "agreement")
"""Metrics of the summary of distillation for reading."""


def short_metrics(task: Task) -> tuple[str, ...]:
    """Return the metrics of the summary for reading; those without a value are left out."""
    return SHORT_METRICS if task.is_distillation else task.table_metrics


def short_summary(
    table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str], task: Task
) -> pd.DataFrame:
    """Return the table of `summaries.summary` for reading, the best row first.

    Rows with at most half of the most repeats come last.

    Args:
        table: of `summaries.summary` or `summaries.pooled`.
        by: hyperparameters that tell the rows apart.
        metrics: those of the table. The task's score sorts the rows, or else the first of them of
            which lower or higher values are better.
        task: what the trials train.

    Returns:
        Columns: label, by... ("-" where one is inactive), n (such as "3 of 4" where repeats are
        missing), then "mean ± SD" of each metric that has a value, as text, under its name in
        words.
    """
    if not len(table):
        return pd.DataFrame()
    table = _best_first(table, metrics, task)
    names, columns = ["label", *by, "n"], [list(table.label)]
    columns += [[_rounded(value) for value in table[name]] for name in by]
    counts = table[[f"val/{metric}/n" for metric in metrics]].max(axis=1).astype(int)
    planned = table.get("n_planned", counts)
    columns.append([_count(n, of) for n, of in zip(counts, planned, strict=True)])
    for metric in metrics:
        mean, sd = (table[f"val/{metric}/{statistic}"] for statistic in ("mean", "std"))
        if mean.notna().any():
            names.append(task.metrics[metric].label)
            columns.append([plus_minus(m, s) for m, s in zip(mean, sd, strict=True)])
    # a training function may have a hyperparameter and a metric of one name
    short = pd.DataFrame(dict(enumerate(columns)))
    short.columns = pd.Index(names, name="mean ± SD")
    return short


def _best_first(table: pd.DataFrame, metrics: Sequence[str], task: Task) -> pd.DataFrame:
    ranked = [metric for metric in metrics if task.metrics[metric].better is not None]
    if not ranked:
        return table
    first = task.score if task.score in ranked else ranked[0]
    key, sign = f"val/{first}", 1 if task.metrics[first].better == "higher" else -1
    order = pd.DataFrame(
        {"few": ~have_enough_repeats(table[f"{key}/n"]), "mean": -sign * table[f"{key}/mean"]}
    )
    return table.loc[order.sort_values(["few", "mean"], kind="stable").index]


def _rounded(value: object) -> object:
    """Return a hyperparameter's value as tables show it; a number stays one.

    So `table[table.alpha == 0.5]` works.
    """
    if value is None or value != value:
        return "-"
    if not isinstance(value, int | float):
        return value
    short = float(f"{value:g}")
    return int(short) if short.is_integer() else short


def _count(n: int, planned: float) -> object:
    return count_of_planned(n, planned) if n < planned else n


def one_line(results: Results) -> str:
    """Return name, folder, status and the beginning of the conclusion."""
    sentence, dot, _ = results.verdict().partition("\n")[0].partition(". ")
    head = f"{results.study.name} ({results.folder}), {results.status}"
    return f"<kdtune.Results of {head}. {sentence}{dot.strip()}>"
