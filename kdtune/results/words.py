"""Results in words: findings, advice, selection and tuning effort, no stronger than the numbers.

The sentences are templates in sentences.toml. The functions here choose one and give it numbers.
"""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import DictLoader, Environment, StrictUndefined

from kdtune.config.fields import is_output_file
from kdtune.config.records import RecipeRow, read_teacher_accuracy
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Task
from kdtune.config.text import wrap_lines
from kdtune.results import formatting
from kdtune.results.comparison import SIGNIFICANCE_LEVEL, Criterion, Finding, by_mean, find
from kdtune.results.design import ONE_TEACHER, Design, p_text, p_value
from kdtune.results.frames import config_label
from kdtune.statistics.intervals import MIN_REPEATS, ROUNDING, Components, t_quantile
from kdtune.statistics.tests import detectable_difference, detectable_effect, repeats_needed, shrunk


def count_of(number: float, noun: str) -> str:
    """Return e.g. "1 comparison" or "4 comparisons"."""
    return f"{number:.0f} {noun}{'s' * (number != 1)}"


def capitalised(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]


def score(row: pd.Series, split: str, criterion: Criterion) -> str:
    """Return a mean of `comparison.selection` as text; "" if there is none."""
    mean = criterion.scale * row[f"{split}/mean"]
    return "" if math.isnan(mean) else f"{mean:{'.1f' if criterion.in_points else '.4g'}}"


_TEMPLATES = Environment(  # noqa: S701 - plain text; the page of the report escapes it
    loader=DictLoader(tomllib.loads(Path(__file__).with_name("sentences.toml").read_text("utf-8"))),
    undefined=StrictUndefined,
)
_TEMPLATES.filters |= {
    "count_of": count_of,
    "p_text": p_text,
    "interval": formatting.interval_words,
    "labels": formatting.labels,
    "labels_interval": formatting.labels_interval,
    "thousands": "{:,}".format,
    "score": score,
    "ends": formatting.interval_text,
    "signed": formatting.difference_text,
    "p_value": p_value,
}


def sentence(key: str, /, **slots: object) -> str:
    """Return a sentence of sentences.toml, with texts and numbers in its slots."""
    return _TEMPLATES.get_template(key).render(slots)


MAX_WIDTH = 44
"""Characters of a path that are printed; of a longer one the last."""


def recipe_lines(
    study: Study, rows: Sequence[RecipeRow], data: Any, device: str, all_settings: bool
) -> list[str]:
    """Return a study's recipe as lines of text, before its trials.

    Args:
        study: The study, resolved.
        rows: All its settings.
        data: Its data, with `splits`.
        device: Of its trials, e.g. "cpu".
        all_settings: Whether the lines are a table of the rows, or what matters most.
    """
    if all_settings:
        head = RecipeRow("setting", "value", "source")
        table = [head, *(row._replace(value=_shortened(row.value)) for row in rows)]
        widths = [max(len(row[i]) for row in table) for i in range(2)]
        return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in table]
    values = {row.setting: row.value for row in rows}
    facts = {"runs": len(study.runs()), "measured": read_teacher_accuracy(study.folder)}
    text = sentence("recipe", study=study, values=values, data=data, device=device, **facts)
    return wrap_lines(text, " " * 12).split("\n")


def _shortened(value: str) -> str:
    """Return a long value with the ends of its paths only."""
    if len(value) <= MAX_WIDTH:
        return value
    if ", " not in value:
        return f"...{value[3 - MAX_WIDTH :]}" if "/" in value else value
    pairs = (part.partition("=") for part in value.split(", "))
    return ", ".join(f"{model}{mark}{Path(file).name}" for model, mark, file in pairs)


def holds_for(design: Design, split: str, new_images: bool) -> str:
    """Return what conclusions are about, with images: e.g. "... and new images like those ...".

    Args:
        design: What the repeats vary.
        split: Whose images were predicted; "": there are no splits.
        new_images: Whether the standard error includes the choice of these images.
    """
    return sentence("holds for", design=design, split=split, new_images=new_images)


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

    def sentence(self, key: str, /, **slots: object) -> str:
        """Return a sentence of sentences.toml about this comparison, there named `c`."""
        return sentence(key, c=self, **slots)

    @property
    def any_time(self) -> bool:
        """Whether intervals and p values are always-valid."""
        return self.anytime_level is not None

    @property
    def is_adaptive(self) -> bool:
        """Whether the number of repeats was not fixed in advance."""
        return math.isnan(self.planned)

    @property
    def level(self) -> float:
        """Family-wise error rate of the comparison."""
        return SIGNIFICANCE_LEVEL if self.anytime_level is None else self.anytime_level

    @property
    def interval(self) -> str:
        """Kind of the interval, e.g. "simultaneous 95% CI"."""
        return self.sentence("interval")

    @property
    def single_interval(self) -> str:
        """Kind of the interval where there is one comparison."""
        return self.interval if self.any_time else "95% CI"

    @property
    def holds_for(self) -> str:
        """What conclusions are about."""
        text = holds_for(self.design, self.split, new_images=self.images is not None)
        needs_reason = self.images is None and self.design.folds is None and self.why_these_images
        return f"{text} ({self.why_these_images})" if needs_reason else text

    def method(self, why_unpaired: str = "") -> list[str]:
        """Return the sentences of the note below the comparison's table."""
        how = self.sentence("unpaired", why=why_unpaired) if why_unpaired else ""
        sentences = [how or self.sentence("method"), self.sentence("adaptive")]
        return [text for text in [*sentences, self.sentence("about")] if text]


# Findings in words.


def verdict(
    table: pd.DataFrame,
    criterion: Criterion,
    by: Sequence[str] | None,
    context: ComparisonContext,
    m: int | None = None,
    brief: bool = False,
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
        brief: whether the conclusion is one or two sentences, without what would help.
    """
    finding = find(table, criterion.sign, context.level, context.any_time, m)
    is_against_no_distillation = criterion.has_task_baseline and criterion.task.is_distillation
    if finding.kind == "no comparison":
        key = "no arms" if is_against_no_distillation else "no runs"
        return context.sentence(key if criterion.fixed else "no baseline")
    if finding.kind == "no test":
        return _no_test(finding.tested, context)
    row = finding.row
    is_of_task = context.is_one_study and criterion.has_task_baseline
    help = advice = ""
    if finding.kind == "not significant":
        advice = _advice(finding, criterion, context, brief)
    elif finding.kind == "better" and not (brief or context.any_time) and _has_components(row):
        help = what_would_help(row, finding.m, criterion)
    return context.sentence(
        finding.kind,
        finding=finding,
        row=row,
        criterion=criterion,
        label=str(row.label) if by is None else config_label(row, by),
        distilled=criterion.task.subject if is_of_task else "",
        signed=_signed(row, criterion),
        n=formatting.n_text(row, context.planned),
        paired=bool(row.get("paired", True)),
        too_small=_is_too_small(finding, criterion, context),
        help=help,
        advice=advice,
        brief=brief,
    )


def _signed(row: pd.Series, criterion: Criterion) -> str:
    """Return a difference with its unit, e.g. "+3.1 percentage points"."""
    return f"{formatting.difference_text(row, criterion.scale)} {criterion.unit}".rstrip()


def short_verdict(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """Return the conclusion of `verdict` in a few words, e.g. "better: +3.1 points, p = 0.002"."""
    finding = find(table, criterion.sign, context.level, context.any_time)
    if not len(finding.row):
        return "no comparison"
    kind = "worse" if finding.kind == "all worse" else finding.kind
    unit = " points" if criterion.in_points else ""
    value = formatting.difference_text(finding.row, criterion.scale)
    return f"{kind}: {value}{unit}, {p_text(finding.row.p_holm)}"


def _no_test(table: pd.DataFrame, context: ComparisonContext) -> str:
    """Return that no comparison has a p value, and why."""
    if not len(table):
        return context.sentence("no test", n=0, label="", least=MIN_REPEATS)
    counts = table.reindex(columns=["n", "n_baseline"]).min(axis=1)
    row = table.loc[counts.idxmax()]
    return context.sentence(
        "no test",
        row=row,
        label=row.label if len(table) == 1 and not context.is_one_study else "",
        n=int(counts.max()),
        units=int(table.get("n_units", table.n).fillna(table.n).max()),
        paired=row.get("paired", True),
        counts=formatting.n_text(row),
        least=MIN_REPEATS,
        unpaired=not table.get("paired", pd.Series(True)).all(),
    )


# Advice: what a study could have detected, and whether repeats or images would help.


MAX_SUGGESTED_REPEATS = 200
"""The verdict does not suggest more repeats than these."""
LARGE_DIFFERENCE = 0.05
"""A difference of 5 points, which distillation rarely makes: a study that detects no smaller one
is called too small."""
SMALL_DIFFERENCE = 0.01
"""A difference of 1 point, which many studies of distillation hope to show."""


def _is_too_small(finding: Finding, criterion: Criterion, context: ComparisonContext) -> bool:
    """Return whether a study detects only differences that distillation rarely makes."""
    is_planned = context.is_one_study and not context.any_time
    is_open = finding.kind == "not significant" and is_planned and criterion.in_points
    return is_open and detectable(finding.row, finding.m) > LARGE_DIFFERENCE


def _advice(finding: Finding, criterion: Criterion, context: ComparisonContext, brief: bool) -> str:
    """Return what ends the sentence on a difference that is not significant."""
    row = finding.row
    if context.any_time:
        return undecided_text(finding.tested, criterion, context)
    if not row.get("paired", True) and math.isnan(row.low):
        return sentence("equal runs")
    if not _has_components(row):
        return "."
    return power_text(finding.tested, finding.m, criterion, context.is_one_study, brief)


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


_TEMPLATES.filters["with_unit"] = with_unit


def describe_detectable(row: pd.Series, m: int, criterion: Criterion, brief: bool = False) -> str:
    """Return the minimum detectable difference of a comparison with its condition; "" if none.

    Args:
        row: of the table of `comparison.compare`.
        m: number of comparisons.
        criterion: by which the table was made.
        brief: whether the condition is 80% power alone.
    """
    least = detectable(row, m)
    if not least < criterion.largest_difference:
        return ""
    examples = "" if math.isnan(row.n_images) else _examples(row.n_images, criterion)
    facts = {"n": f"{row.n:.0f}", "examples": examples, "least": with_unit(least, criterion)}
    return sentence("able", m=m, brief=brief, **facts)


def _examples(count: float, criterion: Criterion) -> str:
    """Return a number of examples as text, e.g. "500 val images", or of groups."""
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
    as_crossed = _components(row).error(row.n, row.n_images)
    return _has_df_of_repeats(row) and bool(row.error <= 1.001 * as_crossed)


def _has_df_of_repeats(row: pd.Series) -> bool:
    """Return False if the error has fewer df than the repeats give, as with several teachers."""
    return bool(row.get("n_units", row.n) >= row.n and row.df >= row.n - 1)


def power_text(
    table: pd.DataFrame, m: int, criterion: Criterion, has_flags: bool = True, brief: bool = False
) -> str:
    """Return what a study without a significant difference could detect, and what would help.

    It is about the first row of the table, which the verdict names.

    Args:
        table: of `comparison.compare`, one student's.
        m: number of comparisons.
        criterion: by which the table was made.
        has_flags: whether the sentences may name flags of the study.
        brief: whether it is only what the study could detect, and what would narrow the interval.
    """
    row, level = table.iloc[0], SIGNIFICANCE_LEVEL / m
    n, parts, images = f"{row.n:.0f}", _components(row), row.n_images
    if row.sd <= ROUNDING * abs(row["diff"]) and not row.error > 0:
        least = math.floor(2 - math.log2(level))  # with 2 / 2^n < level
        return sentence("all equal", n=n, diff=row["diff"], least=least, has_flags=has_flags)
    able = describe_detectable(row, m, criterion, brief)
    if not able:
        return sentence("no power", n=n)
    gain, needed, limit = 0.0, None, 0.0
    with_error = table[table.error > 0]
    repeats_help = _has_independent_repeats(row)
    if parts.has_images and repeats_help:  # with any number of repeats
        limit = detectable_difference(parts, math.inf, images, level)
    is_improvement = criterion.sign * row["diff"] > ROUNDING
    if is_improvement and repeats_help:
        # the repeats that 80 % power needs if the shrunk estimate is the true difference
        signed = (criterion.sign * with_error["diff"]).tolist()
        gain = shrunk(signed, with_error.error.tolist(), 0)
        needed = repeats_needed(gain, parts, images, level, most=MAX_SUGGESTED_REPEATS)
    return sentence(
        "power",
        able=able,
        brief=brief,
        gain=with_unit(gain, criterion) if is_improvement else None,
        repeats_help=repeats_help,
        tested=len(with_error),
        needed=needed,
        has_flags=has_flags,
        examples=_examples(images, criterion),
        least=with_unit(limit, criterion) if limit > gain else "",
        most=MAX_SUGGESTED_REPEATS,
        help=what_would_help(row, m, criterion, brief),
        too_few_images=criterion.in_points and criterion.scale * limit > 100 * SMALL_DIFFERENCE,
    )


def what_would_help(row: pd.Series, m: int, criterion: Criterion, brief: bool = False) -> str:
    """Return what would narrow the interval of a difference, and where its variance is from.

    Args:
        row: of the table of `comparison.compare`.
        m: number of comparisons.
        criterion: by which the table was made.
        brief: whether the second is left out.

    Returns:
        Sentences; "" with several teachers, or an error that repeats and images do not explain.
    """
    parts, n, images = _components(row), row.n, row.n_images
    half = (row.high - row.low) / 2
    repeats_help = _has_independent_repeats if parts.has_images else _has_df_of_repeats
    if not 0 < half < math.inf or not repeats_help(row):
        return ""
    repeat, image, rest = (f"{100 * share:.0f}%" for share in parts.shares(n, images))
    # relative to the present design: components that are cut at 0 add up to a little more
    level = 1 - SIGNIFICANCE_LEVEL / m
    # what folds share of their train sets stays as it is with any number of repeats
    fixed = 0.0 if parts.has_images else max(0.0, row.error**2 - parts.error(n, images) ** 2)

    def half_width(repeats: float, images: float) -> float:
        if parts.has_images:
            return parts.half_width(repeats, images, level)
        return t_quantile(repeats - 1, level) * math.sqrt(fixed + parts.repeat / repeats)

    scale = criterion.scale * half / half_width(n, images)

    def width(repeats: float, images: float) -> str:
        width = scale * half_width(repeats, images)
        return f"±{width:.{formatting.decimals(width, 0)}f}"

    return sentence(
        "help",
        brief=brief,
        criterion=criterion,
        repeat=repeat,
        image=image,
        rest=rest,
        n=f"{n:.0f}",
        has_images=parts.has_images,
        images=f"{images:,.0f}",
        now=width(n, images),
        more_repeats=width(2 * n, images),
        more_images=width(n, 2 * images),
    )


def undecided_text(table: pd.DataFrame, criterion: Criterion, context: ComparisonContext) -> str:
    """Return whether a study that adds repeats until p <= level would add more.

    It is about the first row of the table, which the verdict names.
    """
    row, task = table.iloc[0], criterion.task
    return sentence(
        "undecided",
        row=row,
        criterion=criterion,
        score=task.metrics[task.score].label,
        undecidable=undecidable_sentence(row.n_images, row.least_decidable, criterion),
        all_open=bool((table.p > context.level).all()),
    )


def undecidable_sentence(images: float, least: float, criterion: Criterion) -> str:
    """Return that more repeats of the same images cannot decide a difference.

    Args:
        images: number of val images.
        least: `AnytimeTest.least_decidable`.
        criterion: that decides the search.
    """
    count, least_text = _examples(images, criterion), with_unit(least, criterion)
    return sentence("undecidable", count=count, least=least_text, examples=criterion.task.sampled)


# What distilling is worth in labels.


def label_curve_text(
    table: pd.DataFrame, run: Run, labels: int, design: Design, brief: bool = False
) -> str:
    """Return how many labels distilling is worth, a sentence per student, and whose labels.

    Args:
        table: of `comparison.label_curve`.
        run: of the study.
        labels: labelled images of the teacher's training; 0: not known.
        design: of the study.
        brief: whether what the intervals are about is left out.
    """
    distilled, lines = table[table.arm == "distilled"], []
    for student, rows in distilled.groupby("student", sort=False):
        clear = (rows.p_holm < SIGNIFICANCE_LEVEL) & (rows.gain > 0)
        losses = (rows.p_holm < SIGNIFICANCE_LEVEL) & (rows.gain < 0)
        last, open_ = rows.n[clear].max(), rows.n[~clear & ~losses]
        facts: dict[str, object] = {
            "brief": brief,
            "gains": rows[clear].to_dict("records"),
            "last": last,
            "losses": list(rows.n[losses]),
            "without": list(open_[open_ < last]),
            "after": list(open_[open_ > last]),
            "ends": (rows.n.min(), rows.n.max()),
            "ratio": (rows.n / rows.n.shift()).max(),
            "student": str(student) if distilled.student.nunique() > 1 else "",
        }
        lines.append(sentence("worth", **facts))
    kind = "file" if is_output_file(run.teacher) else "" if run.teacher_epochs else "finished"
    ends = table.n.min(), table.n.max()
    lines.append(sentence("labels of the teacher", kind=kind, run=run, labels=labels, ends=ends))
    if not brief:
        split, is_new = str(table.split[0]), not math.isnan(table.images[0])
        about = holds_for(design, split, new_images=is_new)
        lines.append(sentence("about worth", about=about, split=split))
    return " ".join(line for line in lines if line)


# The chosen configuration on val and test, beside its baseline and the recipe's default.


def best_sentence(
    selection: pd.DataFrame, criterion: Criterion, name: str, context: ComparisonContext
) -> str:
    """Return the performance of the best configuration, from a table of `comparison.selection`."""
    rows = selection.set_index("row")
    signed, ends = _difference(rows, "difference", "test", criterion)
    baseline = rows.loc["baseline"] if "baseline" in rows.index else None
    facts = {"best": rows.loc["best"], "baseline": baseline, "signed": signed, "ends": ends}
    return context.sentence("best", name=name, criterion=criterion, **facts)


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
    rows = selection.set_index("row")
    if "chosen - default" not in rows.index:
        return sentence("is default")
    difference = rows.loc["chosen - default"]
    split = "test" if math.isfinite(difference["test/mean"]) else "val"
    if math.isnan(difference[f"{split}/mean"]):
        return ""
    signed, ends = _difference(rows, "chosen - default", split, criterion)
    facts = {"split": split, "row": rows.loc["default"], "signed": signed, "ends": ends}
    facts["is_loss"] = criterion.sign * difference[f"{split}/mean"] < 0
    facts["excludes_0"] = difference[f"{split}/low"] * difference[f"{split}/high"] > 0
    return context.sentence("default", name=name, criterion=criterion, **facts)


def _difference(rows: pd.DataFrame, name: str, split: str, criterion: Criterion) -> tuple[str, str]:
    """Return a difference of `comparison.selection` with its unit, and the ends of its interval."""
    if name not in rows.index:
        return "", ""
    mean, low, high = rows.loc[name, [f"{split}/mean", f"{split}/low", f"{split}/high"]]
    row = pd.Series({"diff": mean, "low": low, "high": high})
    return _signed(row, criterion), formatting.interval_words(low, high, criterion.scale)


def choice_text(table: pd.DataFrame, criterion: Criterion, design: Design) -> str:
    """Return which configurations may be the best, and the cheapest of them.

    "" if no two configurations can be compared in enough repeats.

    Args:
        table: of `comparison.contenders`.
        criterion: of the table.
        design: what the repeats vary.
    """
    if not len(table) or table.p_best.notna().sum() < 2:
        return ""
    few, kept = table[table.p_best.isna()], table[table.may_be_best & table.p_best.notna()]
    cost = "latency_ms" if table.latency_ms.notna().all() else "params"
    costs = [name for name in (cost, "needs_teacher", "epochs") if kept[name].nunique() > 1]
    facts = {"total": len(table), "n": len(kept), "equal": with_unit(criterion.equal, criterion)}
    facts |= {"untested": int(few.may_be_best.sum()), "stopped": int((~few.may_be_best).sum())}
    cheapest = kept[kept.cheapest].iloc[0]
    facts |= {"level": SIGNIFICANCE_LEVEL, "cheapest": cheapest, "costs": costs}
    gap = abs(cheapest["mean"] - kept["mean"].iloc[0])
    facts["gap"] = with_unit(float(f"{gap:.2g}"), criterion) if gap else ""
    facts["lacks_repeats"] = not design.by_teacher and kept.n_units.iloc[0] < table.n.max()
    return sentence("choice", criterion=criterion, design=design, **facts)


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
    rows = [row for row in effort.to_dict("records") if row["configs"] and row["baseline_configs"]]
    return sentence("effort", rows=rows, is_distillation=task.is_distillation) if rows else ""


def effort_warning(effort: pd.DataFrame, study: Study) -> str:
    """Return a sentence if one arm had many more configurations than the other, else "".

    Args:
        effort: of `tuning_effort`.
        study: whose search and words the sentence follows.
    """
    for _, row in effort.iterrows():
        few, many = sorted((row.configs, row.baseline_configs))
        if few and many > MAX_RATIO * few:
            facts = {"few": few, "many": many, "study": study, "half": HALF}
            facts["group"] = row.group if len(effort) > 1 else ""
            return sentence("one-sided", is_baseline=few == row.baseline_configs, **facts)
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
    return sentence("longer", times=times, examples=task.examples)


# A study in short: the summary for reading, and the line that stands for the results.


SHORT_METRICS = ("acc", "ce", "agreement")
"""Metrics of the summary of distillation for reading; those without a value are left out."""


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
    if ranked := [metric for metric in metrics if task.metrics[metric].better is not None]:
        first = task.score if task.score in ranked else ranked[0]
        sign = 1 if task.metrics[first].better == "higher" else -1
        table = by_mean(table, f"val/{first}", sign)
    names, columns = ["label", *by, "n"], [list(table.label)]
    columns += [[_rounded(value) for value in table[name]] for name in by]
    counts = table[[f"val/{metric}/n" for metric in metrics]].max(axis=1).astype(int)
    planned = table.get("n_planned", counts)
    pairs = zip(counts, planned, strict=True)
    columns.append([formatting.count_of_planned(n, of) if n < of else n for n, of in pairs])
    for metric in metrics:
        mean, sd = (table[f"val/{metric}/{statistic}"] for statistic in ("mean", "std"))
        if mean.notna().any():
            names.append(task.metrics[metric].label)
            columns.append([formatting.plus_minus(m, s) for m, s in zip(mean, sd, strict=True)])
    # a training function may have a hyperparameter and a metric of one name
    short = pd.DataFrame(dict(enumerate(columns)))
    short.columns = pd.Index(names, name="mean ± SD")
    return short


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
