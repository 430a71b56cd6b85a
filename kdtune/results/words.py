"""Results in words: findings, advice, selection and tuning effort, no stronger than the numbers."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kdtune.config.study import Study
from kdtune.config.task import Task
from kdtune.results.comparison import (
    SIGNIFICANCE_LEVEL,
    Criterion,
    Finding,
    amount,
    count_of_planned,
    decimals,
    difference_and_interval,
    find,
    have_enough_repeats,
    interval_words,
    n_text,
    plus_minus,
)
from kdtune.results.design import (
    ONE_TEACHER,
    Design,
    exact_test,
    in_every_repeat,
    p_text,
    since_interval,
)
from kdtune.results.frames import config_label
from kdtune.statistics.intervals import MIN_REPEATS, ROUNDING, Components, t_quantile
from kdtune.statistics.tests import detectable_difference, detectable_effect, repeats_needed, shrunk

# The sentences. Studies, studies side by side and tables made elsewhere have the same ones.


_SENTENCES: dict[str, str] = tomllib.loads(
    Path(__file__).with_name("sentences.toml").read_text("utf-8")
)
"""Templates by what they say; slots are numbers, or texts of the functions below."""


def sentence(key: str, /, **slots: object) -> str:
    """Return a sentence of the table, with texts and numbers in its slots."""
    return _SENTENCES[key].format(**slots)


def count_of(number: float, noun: str) -> str:
    """Return e.g. "1 comparison" or "4 comparisons"."""
    return f"{number:.0f} {noun}{'s' * (number != 1)}"


# What a comparison is based on.


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
    split: str = "val"
    """Whose images these are; "" for a table made elsewhere, which has no splits."""
    repeat: str = "repeat"
    """Name of a repeat: the column of a table made elsewhere."""
    is_one_study: bool = True
    """Whether the runs are of one study, whose flags the advice may name."""

    @property
    def examples(self) -> str:
        """What the splits consist of, in words: "images"."""
        return self.design.examples

    @property
    def _variants(self) -> dict[str, bool]:
        """Which variants of a sentence apply, the one that goes first in front."""
        return {
            "any time": self.anytime_level is not None,
            "not recorded": self.held_out and not self.is_recorded,
            "held out": self.held_out,
            "not fixed": math.isnan(self.planned),
            "folds": self.design.folds is not None,
            "these": self.images is None,
        }

    def sentence(self, key: str, /, **slots: object) -> str:
        """Return a sentence of the table, in the first variant ("KEY, VARIANT") that applies.

        Args:
            key: of the sentence; its template may name attributes of this context, as {c.examples}.
            slots: other texts and numbers in it.
        """
        variants = [f"{key}, {name}" for name, applies in self._variants.items() if applies]
        name = next((variant for variant in variants if variant in _SENTENCES), key)
        return sentence(name, c=self, **slots)

    @property
    def level(self) -> float:
        """Family-wise error rate of the comparison."""
        return SIGNIFICANCE_LEVEL if self.anytime_level is None else self.anytime_level

    @property
    def rule(self) -> tuple[float, bool]:
        """The level, and whether p = level is significant: adaptive studies stop at p <= level."""
        return self.level, self.anytime_level is not None

    @property
    def interval(self) -> str:
        """Kind of the interval, e.g. "simultaneous 95% CI"."""
        return self.sentence("interval", percent=100 * (1 - self.level))

    @property
    def single_interval(self) -> str:
        """Kind of the interval where there is one comparison."""
        return "95% CI" if self.anytime_level is None else self.interval

    @property
    def repeats_phrase(self) -> str:
        """Which repeats are used, after a comma; "" if they are those of the search."""
        added = ", added until the comparison is decided" * (self.anytime_level is not None)
        return self.sentence("finalists", added=added) if self.held_out else ""

    @property
    def kind_of_repeats(self) -> str:
        """Kind of the repeats: "held-out" if nothing has been selected on them, else "final"."""
        return "held-out" if self.is_recorded else "final"

    @property
    def bias_of_best(self) -> str:
        """What biases the best configuration's metric on val, as a note in parentheses."""
        if self.held_out and not (self.is_recorded and self.names_recorded_best):
            return self.sentence("bias of the better finalist")
        return self.sentence("bias")

    @property
    def holds_for(self) -> str:
        """What conclusions are about."""
        text = self.design.holds_for(self.split, new_images=self.images is not None)
        needs_reason = self.images is None and self.design.folds is None and self.why_these_images
        return f"{text} ({self.why_these_images})" if needs_reason else text

    @property
    def paired_by(self) -> str:
        """What the comparison is paired by."""
        return self.repeat if self.images is None else f"{self.repeat} and {self.examples[:-1]}"

    @property
    def image_count(self) -> str:
        """The number of images in words, e.g. "500 val images"."""
        return " ".join(filter(None, (f"{self.images:,}", self.split, self.examples)))

    @property
    def sizes(self) -> str:
        """Over what t intervals and t tests are computed."""
        units = self.design.units_phrase
        return units if self.images is None else f"{units} and {self.image_count}"

    @property
    def rows(self) -> str:
        """Rows of the table of comparisons that are adjusted for."""
        return "rows" if self.is_one_study or not self.split else "rows of the split"

    @property
    def baseline_note(self) -> str:
        """How the baseline was selected, and whether the p values account for that."""
        images = "those" if self.design.folds is None else "of the pool"
        return self.sentence("baseline", images=images, not_recorded=sentence("not recorded"))

    def method(self, why_unpaired: str = "") -> list[str]:
        """Return the sentences of the note below the comparison's table."""
        how = "unpaired" if why_unpaired else "method"
        sentences = [
            self.sentence(how, why=why_unpaired),
            self.sentence("adaptive"),
            self.sentence("about"),
        ]
        return [text for text in sentences if text]


# Findings in words.


def verdict(
    table: pd.DataFrame,
    criterion: Criterion,
    by: Sequence[str] | None,
    context: ComparisonContext,
    m: int | None = None,
) -> str:
    """Return the conclusion of a comparison, see `comparison.find`.

    It names the best configuration that is significantly better; if there is none, the best of all,
    with the minimum detectable difference and the repeats that 80 % power needs.

    Args:
        table: of `comparison.compare`.
        criterion: by which the table was made.
        by: hyperparameters that tell the configurations apart. None: the column label does.
        context: baseline and repeats of the comparison.
        m: number of comparisons that p values and intervals account for; those of the table if it
            has them all.
    """
    finding = find(table, criterion.sign, *context.rule, m)
    if finding.kind == "no comparison":
        is_distillation = criterion.has_plain_baseline and criterion.task.is_distillation
        key = "no arms" if is_distillation else "no runs"
        return sentence(key if criterion.fixed else "no baseline", baseline=context.baseline)
    if finding.kind == "no test":
        return _no_test(finding.tested, context)
    row, metric = finding.row, criterion.label
    label = str(row.label) if by is None else config_label(row, by)
    is_against_plain = context.is_one_study and criterion.has_plain_baseline
    distilled = criterion.task.subject if is_against_plain else ""
    is_open = finding.kind == "not significant"
    significant = ""
    if count := finding.significant:
        significant = sentence("significant", significant=count, tested=len(finding.tested))
    implied = bool(distilled) and context.baseline == criterion.task.baseline_words
    against = "" if implied else f" compared with {context.baseline}"
    return sentence(
        finding.kind,
        subject=f"{distilled} ({label})" if distilled else label,
        every=f"{distilled} in every" if distilled else "Every other",
        label=label,
        metric=metric,
        baseline=context.baseline,
        effect=f"{amount(row, criterion.scale, criterion.unit)}{against}",
        signed=amount(row, criterion.scale, criterion.unit, signed=True),
        evidence=_evidence(row, criterion, context, finding.m),
        here=_for_these_images(row, criterion, context),
        help=_help(finding, criterion, context),
        others=_others(finding),
        since=since_interval(row.p_holm, row.low, row.high, *context.rule),
        every_repeat=in_every_repeat(row),
        too_small=_too_small(finding, criterion, context) if is_open else "",
        advice=_advice(finding, criterion, context) if is_open else "",
        significant=significant,
    )


def short_verdict(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """Return the conclusion of `verdict` in a few words, e.g. "better: +3.1 points, p = 0.002"."""
    finding = find(table, criterion.sign, *context.rule)
    if not len(finding.row):
        return "no comparison"
    kind = "worse" if finding.kind == "all worse" else finding.kind
    unit = " points" if criterion.in_points else ""
    value = difference_and_interval(finding.row, criterion.scale)[0]
    return f"{kind}: {value}{unit}, {p_text(finding.row.p_holm)}"


def _evidence(row: pd.Series, criterion: Criterion, context: ComparisonContext, m: int) -> str:
    """Return interval, p value and n of a comparison."""
    kind = f" {context.kind_of_repeats}" * context.held_out
    n = f"n = {n_text(row, context.planned)}{kind} repeats"
    if row.get("n_units", row.n) < row.n:
        n += f" of {row.n_units:.0f} teachers"
    if not math.isnan(row.n_images):
        n += f" × {row.n_images:,.0f} {context.examples}"
    paired = bool(row.get("paired", True))
    n += ", unpaired" * (not paired)
    interval = interval_words(row.low, row.high, criterion.scale)
    parts = [f"{context.single_interval if m == 1 else context.interval} {interval}"]
    if context.anytime_level is not None:
        p = f"always-valid {p_text(row.p_holm)}"
    else:
        p = p_text(row.p_holm) + exact_test(row.low, paired)
        if m > 1:
            p = f"Holm-adjusted {p} over {count_of(m, 'comparison')}"
    return ", ".join([*(parts if interval else []), p, n])


def _for_these_images(row: pd.Series, criterion: Criterion, context: ComparisonContext) -> str:
    """Return a sentence with the interval over repeats alone; "" where it is the only one."""
    if context.images is None or "low_here" not in row:
        return ""
    ends = interval_words(row.low_here, row.high_here, criterion.scale)
    return sentence("here", examples=context.image_count, ends=ends) if ends else ""


def _others(finding: Finding) -> str:
    """Return what there is to say about the other configurations where the best one is worse."""
    if finding.untested:
        have = "configuration has" if finding.untested == 1 else "configurations have"
        return sentence("untested", untested=finding.untested, have=have)
    return sentence("no better") * (len(finding.tested) > 1)


def _no_test(table: pd.DataFrame, context: ComparisonContext) -> str:
    """Return that no comparison has a p value, and why."""
    n, units, repeats, about = 0, 0, "no common repeats", ""
    if len(table):
        counts = table.reindex(columns=["n", "n_baseline"]).min(axis=1)
        row = table.loc[counts.idxmax()]
        n, units = int(counts.max()), int(table.get("n_units", table.n).fillna(table.n).max())
        is_paired = row.get("paired", True)
        repeats = count_of(n, "common repeat") if is_paired else f"{n_text(row)} repeats"
        if len(table) == 1 and not context.is_one_study:
            about = f" on {row.label} against {context.baseline}"
    if n < MIN_REPEATS:
        is_planned = context.is_one_study and context.anytime_level is None
        hint = "; four are rarely enough, use --repeats 8" * is_planned
        why = sentence("few repeats", repeats=repeats, least=MIN_REPEATS, hint=hint)
    elif units < MIN_REPEATS:
        why = sentence("few teachers", units=count_of(units, "teacher"), least=MIN_REPEATS)
    else:
        unpaired = not table.get("paired", pd.Series(True)).all()
        no_folds = unpaired and context.design.folds is not None
        why = sentence("no folds" if no_folds else "equal", n=n)
    return sentence("no test", about=about, why=why)


# Advice: what a study could have detected, and whether repeats or images would help.


MAX_SUGGESTED_REPEATS = 200
"""The verdict does not suggest more repeats than these."""
LARGE_DIFFERENCE = 0.05
"""A difference of 5 points, which distillation rarely makes: a study that detects no smaller one
is called too small."""
SMALL_DIFFERENCE = 0.01
"""A difference of 1 point, which many studies of distillation hope to show."""


def _help(finding: Finding, criterion: Criterion, context: ComparisonContext) -> str:
    """Return what would narrow the interval of a difference that is significantly better."""
    is_fixed = context.anytime_level is None
    if finding.kind != "better" or not is_fixed or not _has_components(finding.row):
        return ""
    return _next(what_would_help(finding.row, finding.m, criterion))


def _too_small(finding: Finding, criterion: Criterion, context: ComparisonContext) -> str:
    """Return that a study detects only differences that distillation rarely makes; else ""."""
    is_planned = context.is_one_study and context.anytime_level is None
    if not is_planned or not criterion.in_points:
        return ""
    is_large = detectable(finding.row, finding.m) > LARGE_DIFFERENCE
    return sentence("too small") * is_large


def _advice(finding: Finding, criterion: Criterion, context: ComparisonContext) -> str:
    """Return what ends the sentence on a difference that is not significant."""
    if context.anytime_level is not None:
        return undecided_text(finding.tested, criterion, context)
    if not finding.row.get("paired", True):
        return sentence("equal runs") if math.isnan(finding.row.low) else "."
    if not _has_components(finding.row):
        return "."
    return power_text(finding.tested, finding.m, criterion, context.is_one_study)


def _has_components(row: pd.Series) -> bool:
    """Return whether a comparison has an error and variance components; unpaired ones have none."""
    return bool(row.get("paired", True)) and "var_repeat" in row


def with_unit(value: float, criterion: Criterion) -> str:
    """Return a difference as text, e.g. "1.3 percentage points"."""
    number = f"{value:.2g}"
    if criterion.in_points:
        points = criterion.scale * value
        number = f"{points:.1f}" if points >= 0.095 else f"{points:.1g}"
    return f"{number} {criterion.unit}".rstrip()


def describe_detectable(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return the minimum detectable difference of a comparison with its condition; "" if none.

    Args:
        row: of the table of `comparison.compare`.
        m: number of comparisons.
        criterion: by which the table was made.
    """
    least = detectable(row, m)
    if not least < criterion.largest_difference:
        return ""
    parts = [f"{row.n:.0f} repeats"]
    if not math.isnan(row.n_images):
        parts.append(_examples(row.n_images, criterion))
    design = f"{', '.join(parts)} and {count_of(m, 'comparison')}"
    return sentence("able", design=design, least=with_unit(least, criterion))


def _examples(count: float, criterion: Criterion) -> str:
    """Return a number of examples as text, e.g. "500 val images"."""
    return f"{count:,.0f} {criterion.examples}"


def detectable(row: pd.Series, m: int) -> float:
    """Return the minimum detectable difference at 80 % power of one of m comparisons.

    A significant result takes both t tests of a two-way estimate, see `intervals.Estimate`.
    """
    level = SIGNIFICANCE_LEVEL / m
    least = float(row.error) * detectable_effect(row.df, level)
    here = _components(row).error_here(row.n, row.n_images)
    return max(least, here * detectable_effect(row.n - 1, level)) if here > 0 else least


def _components(row: pd.Series) -> Components:
    return Components(row.var_repeat, row.var_image, row.var_rest)


def _has_independent_repeats(row: pd.Series) -> bool:
    """Return False if the error is larger than that of independent repeats, or has fewer df.

    That is so with folds and with several teachers, where more repeats help less.
    """
    if row.get("n_units", row.n) < row.n:
        return False
    as_crossed = _components(row).error(row.n, row.n_images)
    return bool(row.df >= row.n - 1 and row.error <= 1.001 * as_crossed)


def power_text(table: pd.DataFrame, m: int, criterion: Criterion, is_one_study: bool = True) -> str:
    """Return what a study without a significant difference could detect, and what would help.

    It is about the first row of the table, which the verdict names.

    Args:
        table: of `comparison.compare`, one student's.
        m: number of comparisons.
        criterion: by which the table was made.
        is_one_study: whether the sentences may name flags of the study.
    """
    row = table.iloc[0]
    if row.sd <= ROUNDING * abs(row["diff"]) and not row.error > 0:
        if row["diff"] == 0:
            return sentence("all 0", n=row.n)
        least = math.floor(2 - math.log2(SIGNIFICANCE_LEVEL / m))  # with 2 / 2^n < level
        flag = f" (--repeats {least})" * is_one_study
        return sentence("all equal", n=row.n, least=least, flag=flag)
    able = describe_detectable(row, m, criterion)
    if not able:
        return sentence("no power", n=row.n)
    text = sentence("detectable", able=able)
    if criterion.sign * row["diff"] <= ROUNDING:
        text += sentence("no improvement")
    elif _has_independent_repeats(row):
        text += _repeats(table, m, criterion, is_one_study)
    limit = _next(limit_of_images(row, m, criterion))
    return f"{text}{_next(what_would_help(row, m, criterion))}{limit}"


def _repeats(table: pd.DataFrame, m: int, criterion: Criterion, is_one_study: bool) -> str:
    """Return the repeats that 80 % power needs if the shrunk estimate is the true difference."""
    row, level = table.iloc[0], SIGNIFICANCE_LEVEL / m
    parts, images = _components(row), row.n_images
    with_error = table[table.error > 0]
    signed = (criterion.sign * with_error["diff"]).tolist()
    gain = shrunk(signed, with_error.error.tolist(), 0)
    n = len(with_error)
    why = f"because it is the largest of {n}" if n > 1 else "by its uncertainty"
    text = sentence("assumed", gain=with_unit(gain, criterion), why=why)
    needed = repeats_needed(gain, parts, images, level, most=MAX_SUGGESTED_REPEATS)
    if needed:
        flag = f" (--repeats {needed})" * is_one_study
        auto = "; those of --repeats auto do" * is_one_study
        return text + sentence("repeats", needed=needed, flag=flag, auto=auto)
    limit = detectable_difference(parts, math.inf, images, level)
    if parts.has_images and limit > gain:
        examples = _examples(images, criterion)
        return text + sentence("never", examples=examples, limit=with_unit(limit, criterion))
    return text + sentence("many", most=MAX_SUGGESTED_REPEATS)


def what_would_help(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return where the variance of a difference is from, and what would narrow its interval.

    Args:
        row: of the table of `comparison.compare`.
        m: number of comparisons.
        criterion: by which the table was made.

    Returns:
        Sentences; "" without variance components of repeats and images.
    """
    parts, n, images = _components(row), row.n, row.n_images
    half = (row.high - row.low) / 2
    if not parts.has_images or not math.isfinite(half) or not _has_independent_repeats(row):
        return ""
    repeat, image, rest = (f"{100 * share:.0f}%" for share in parts.shares(n, images))
    # relative to the present design: components that are cut at 0 add up to a little more
    scale = criterion.scale * half / half_width(parts, n, images, m)
    now, more_repeats, more_images = (
        f"±{width:.{decimals(width, 0)}f}"
        for width in (
            scale * half_width(parts, repeats, count, m)
            for repeats, count in ((n, images), (2 * n, images), (n, 2 * images))
        )
    )

    def step(more: str, end: str) -> str:
        return f"{more} would {f'narrow it to {end}' if end != now else 'hardly narrow it'}"

    text = sentence(
        "variance", repeat=repeat, image=image, examples=criterion.task.examples, rest=rest
    )
    return text + sentence(
        "narrower",
        now=now,
        more_repeats=step(f"{n:.0f} more repeats", more_repeats),
        more_images=step(f"{images:,.0f} more {criterion.examples}", more_images),
    )


def limit_of_images(row: pd.Series, m: int, criterion: Criterion) -> str:
    """Return that the images are too few to show 1 point with any number of repeats; else ""."""
    parts, images = _components(row), row.n_images
    if not (criterion.in_points and parts.has_images and _has_independent_repeats(row)):
        return ""
    limit = detectable_difference(parts, math.inf, images, SIGNIFICANCE_LEVEL / m)
    if not limit > SMALL_DIFFERENCE * 100 / criterion.scale:
        return ""
    return sentence("images", examples=_examples(images, criterion))


def half_width(parts: Components, repeats: float, images: float, m: int) -> float:
    """Return the half width of the simultaneous interval of a design with m comparisons."""
    level = 1 - SIGNIFICANCE_LEVEL / m
    half = t_quantile(parts.df(repeats, images), level) * parts.error(repeats, images)
    return max(half, t_quantile(repeats - 1, level) * parts.error_here(repeats, images))


def undecided_text(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """Return whether a study that adds repeats until p <= level would add more.

    It is about the first row of the table, which the verdict names.
    """
    row, task = table.iloc[0], criterion.task
    text = sentence("undecided", n=row.n)
    if not criterion.decides_the_search:
        return text + sentence("other metric", label=task.metrics[task.score].label)
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
    return sentence(
        "undecidable",
        count=_examples(images, criterion),
        least=with_unit(least, criterion),
        examples=criterion.task.examples,
    )


def _next(text: str) -> str:
    """Return a sentence, if there is one, as it follows another."""
    return f" {text}" if text else ""


# The chosen configuration on val and test, beside its baseline and the recipe's default.


def best_sentence(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """Return the performance of the best configuration, from a table of `comparison.selection`."""
    if not len(selection):
        return ""
    form = ".1f" if criterion.in_points else ".4g"
    rows = selection.set_index("row")
    best, metric = rows.loc["best"], criterion.declared.label
    names = {"val": "validation", "corrected": "corrected for selection", "test": "test"}
    means = [
        f"{kind} {criterion.scale * best[f'{column}/mean']:{form}}"
        for column, kind in names.items()
        if not math.isnan(best[f"{column}/mean"])
    ]
    means[0] += f" ({context.bias_of_best})"
    if criterion.has_predictions and not context.held_out and math.isnan(best["corrected/mean"]):
        means.insert(1, sentence("uncorrected"))
    percent = " (%)" if criterion.in_points else ""
    text = sentence("best", name=name, metric=metric, percent=percent, means=", ".join(means))
    if "difference" not in rows.index or math.isnan(rows.loc["difference", "test/low"]):
        return text
    row = _on_split(rows.loc["difference"], "test")
    return text + sentence(
        "best on test",
        metric=metric,
        baseline=context.baseline,
        signed=amount(row, criterion.scale, criterion.unit, signed=True),
        kind=context.single_interval,
        ends=interval_words(row.low, row.high, criterion.scale),
    )


def _on_split(row: pd.Series, split: str) -> pd.Series:
    """Return a row of `comparison.selection` on a split as one of `comparison.compare`."""
    names = {"mean": "diff", "low": "low", "high": "high"}
    return pd.Series({name: row[f"{split}/{column}"] for column, name in names.items()})


def default_text(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """Return how the chosen configuration compares with the default, and a warning if it is worse.

    Args:
        selection: table of `comparison.selection`.
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
        return sentence("is default")
    split = "test" if math.isfinite(rows.loc["chosen - default", "test/mean"]) else "val"
    row = _on_split(rows.loc["chosen - default"], split)
    if math.isnan(row["diff"]):
        return ""
    bias = "optimistic, since it selected the chosen configuration"
    if context.held_out and context.names_recorded_best:
        bias = (
            f"held-out repeats, but the {context.examples} that selected the chosen configuration"
        )
    metric, form = criterion.declared.label, ".1f" if criterion.in_points else ".4g"
    ends = interval_words(row.low, row.high, criterion.scale)
    warning = ""
    if criterion.sign * row["diff"] < 0:
        warning = sentence("loss" if row.low * row.high > 0 else "no gain")
    return sentence(
        "default",
        subject=f"Test {metric}" if split == "test" else f"Validation {metric} ({bias})",
        name=name,
        value=f"{criterion.scale * rows.loc['default', f'{split}/mean']:{form}}",
        percent="%" * criterion.in_points,
        signed=amount(row, criterion.scale, criterion.unit, signed=True),
        interval=f" ({context.single_interval} {ends})" if ends else "",
        warning=warning,
    )


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
        arm = f"{count_of(row.configs, 'configuration')} ({count_of(row.runs, 'run')})"
        other = f"{row.baseline_configs} ({count_of(row.baseline_runs, 'run')})"
        of_group = f"{row.group}: " * (len(both) > 1)
        if task.is_distillation:
            parts.append(f"{of_group}{arm} with distillation, {other} without")
        else:
            parts.append(f"{of_group}{arm}, and {other} of the baseline")
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
        arm = task.baseline_words or "the baseline"
        if few != row.baseline_configs:
            arm = task.subject.lower() or "the other arm"
        return sentence(
            "one-sided",
            arm=arm,
            of_group=f" of {row.group}" * bool(row.group and len(effort) > 1),
            few=count_of(few, "configuration"),
            many=many,
            remedy=_remedy(study),
        )
    return ""


def _remedy(study: Study) -> str:
    """Return what would give both arms the same number of configurations."""
    if study.search != "grid" and study.plain_share < HALF:
        return sentence("plain share", half=HALF)
    flags = " (--lr 0.001..0.1:log, --label-smoothing 0..0.2)" * study.task.is_distillation
    name = "ranges" if study.search == "grid" else "no ranges"
    return sentence(name, common=f"what both sides have{flags}")


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
    return sentence("longer", times=with_extra.max() / others.max())


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
        table: of `summaries.summary` or `summaries.pooled_over_epochs`.
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
    pairs = zip(counts, planned, strict=True)
    columns.append([count_of_planned(n, of) if n < of else n for n, of in pairs])
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
