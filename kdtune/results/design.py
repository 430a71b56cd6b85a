"""Design of a comparison: what repeats vary, pairs by repeat and image, significance."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdtune.config.study import Study
from kdtune.config.task import Task
from kdtune.statistics import intervals
from kdtune.statistics.intervals import MIN_REPEATS, Components, Difference, Estimate, TeacherShare
from kdtune.statistics.tests import detectable_difference, max_t, non_inferiority, units_needed

# When a difference is significant, and p values as text, for every comparison.


def is_significant(p: Any, low: Any, high: Any, level: float, or_equal: bool = False) -> Any:
    """Return whether a difference is significant: p below the level, and an interval without 0.

    Holm's p value alone does not suffice, since it can be below the level while the simultaneous
    interval holds 0. Equal differences have no interval: p, of a sign-flip test, decides alone.

    Args:
        p: adjusted p value, or a column of them; NaN is not significant.
        low: lower end of the simultaneous interval, or a column; NaN: no interval.
        high: upper end.
        level: of the test, in (0, 1).
        or_equal: whether p = level is significant, as where repeats are added until p <= level.
    """
    excludes_0 = (low > 0) | (high < 0) | (low != low)  # NaN only differs from itself
    return (p <= level if or_equal else p < level) & excludes_0


def p_value(p: float) -> str:
    """Return a p value for a table with two digits: "0.032", "< 0.001", or "-" if there is none."""
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def p_text(p: float) -> str:
    """Return a p value for a sentence: "p = 0.032" or "p < 0.001"."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


# Design of a study: what its repeats vary, and what its intervals therefore hold for.


MIN_TEACHERS = 3
"""With fewer teachers conclusions are about these teachers, since two say little about others."""


FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """What the repeats of a study vary besides the seeds."""

    teachers: int = 1
    """Number of teachers N of one recipe; repeat r learns from teacher r mod N."""
    folds: int | None = None
    """Number of folds N; each repeat has its own train, val and teacher. None: the same for all."""
    fine_tuned: bool = True
    """Whether teachers are fine-tuned; if not, all repeats have the same even with folds."""
    adaptive: bool = False
    """Whether the number of repeats depends on the results (--repeats auto)."""
    several_recipes: bool = False
    """Whether there are teachers of several models or epochs, because the study searches them."""
    has_teacher: bool = True
    """Whether there are teachers at all; a training function of the user's own has none."""
    examples: str = "images"
    """What the splits consist of, in words."""
    has_groups: bool = False
    """Whether the values of examples are those of their groups, see `intervals.by_group`."""
    draws: bool = False
    """Whether each repeat draws its training images, see `Run.train_draw`."""
    draws_for_teacher: bool = False
    """Whether the teacher of a repeat learns from these images, see `Run.draws_for_teacher`."""
    train_examples: int | None = None
    """Number of training images of a repeat. None: not recorded."""
    pool: int | None = None
    """Number of images of train, from which repeats draw. None: not recorded."""
    several_sizes: bool = False
    """Whether this is the largest of several numbers."""

    @staticmethod
    def of(study: Study, task: Task) -> "Design":
        """Return the design of a study whose data the task names."""
        run, auto, examples = study.run, study.until_decided, task.examples
        if not task.is_distillation:
            return Design(adaptive=auto, has_teacher=False, examples=examples)
        searched = bool({"teacher", "teacher_epochs"}.intersection(study.searched))
        tuned = run.teacher_epochs != 0
        varied = (run.teachers, run.folds, tuned, auto, searched)
        return Design(
            *varied,
            examples=examples,
            has_groups=task.has_groups,
            draws=run.repeat_of_draw is not None and run.train_images != task.train_examples,
            draws_for_teacher=run.draws_for_teacher,
            train_examples=run.train_images or task.train_examples,
            pool=task.train_examples,
            several_sizes=run.largest_train_images is not None,
        )

    @property
    def sampled(self) -> str:
        """What the splits are a sample of, in words."""
        return "groups" if self.has_groups else self.examples

    @property
    def by_teacher(self) -> bool:
        """Whether teachers are the independent units: their repeats share a teacher.

        With --repeats auto repeats remain the units, since its test looks at each new one.
        """
        return self.teachers >= MIN_TEACHERS and not self.adaptive

    def units(self, repeats: Sequence[int]) -> NDArray[np.int64]:
        """Return for each repeat its unit, (R,); rows of different units are independent."""
        numbers = np.asarray(repeats, dtype=np.int64)
        return numbers % self.teachers if self.by_teacher else numbers

    def unit_means(self, table: FloatArray, repeats: Sequence[int]) -> FloatArray:
        """Return the means of the rows of each unit.

        Args:
            table: One row per repeat, [R, ...].
            repeats: Number of the repeat of each row, (R,).
        """
        if not self.by_teacher:
            return table
        units = self.units(repeats)
        return np.stack([table[units == unit].mean(0) for unit in np.unique(units)])

    def here(self, differences: FloatArray, repeats: Sequence[int]) -> Estimate:
        """Return the mean difference over units alone, for these images.

        Without an interval where each repeat has other images in val.
        """
        if self.folds is not None:
            return Estimate(float(differences.mean()), math.nan, math.nan)
        return intervals.over_repeats(self.unit_means(differences, repeats))

    def estimate(
        self, differences: FloatArray, table: FloatArray | None, repeats: Sequence[int]
    ) -> Estimate:
        """Return the mean difference with the standard error that the design asks for.

        Args:
            differences: One per repeat, (R,).
            table: Differences of each example, [R, N]; None: only repeats vary.
            repeats: Number of each repeat, (R,).
        """
        if self.folds is not None:
            return intervals.corrected_resampled(differences, 1 / (self.folds - 1))
        if table is None:
            return intervals.over_repeats(self.unit_means(differences, repeats))
        return intervals.crossed(self.unit_means(table, repeats))

    def teacher_share(self, values: FloatArray, repeats: Sequence[int]) -> TeacherShare | None:
        """Return the share of the teachers in the variance of a value over repeats, (R,).

        None with one teacher, with folds, or without two repeats of a teacher.
        """
        if self.teachers == 1 or self.folds is not None:
            return None
        return intervals.teacher_share(values, [repeat % self.teachers for repeat in repeats])


def stricter(first: Design, second: Design) -> Design:
    """Return the design that decides a comparison of two studies: folds, then fewer teachers."""
    for design in (first, second):
        if design.folds is not None:
            return design
    with_units = [design for design in (first, second) if design.by_teacher]
    return min(with_units, key=lambda design: design.teachers, default=first)


ONE_TEACHER = Design()
"""The usual design: the same teacher, train and val in all repeats."""


# Two configurations paired by repeat and, where predictions are there, by image.


ENDS = ("low", "high", "low_here", "high_here")
"""Columns with the ends of the intervals of a comparison."""
MIN_REPEATS_FOR_MAX_T = 6
"""With fewer repeats the sign-flip test cannot be significant: its least p value is 2 / 2^n."""
ExampleReader = Callable[[Sequence[str], str], Mapping[str, FloatArray]]
"""Returns a metric of each example of a split, (N,), by trial_id; trials without predictions are
left out."""


@dataclass(frozen=True)
class Pair:
    """Scores of two configurations a and b, in their R common repeats or in independent ones."""

    a: FloatArray
    """(R,)."""
    b: FloatArray
    table: FloatArray | None = None
    """Differences a - b of each example, [R, N], or of each group; None if not all predictions are
    there."""
    repeats: Sequence[int] = ()
    """Number of each common repeat; only used where teachers are the sample."""
    design: Design = ONE_TEACHER
    why_unpaired: str = ""
    """Why the repeats of a and b are independent samples; "" if they are the same repeats."""
    sizes: tuple[int, int] | None = None
    """Numbers of repeats of independent samples whose a and b are the means of teachers."""
    is_one_run: bool = False
    """Whether the values are those of the images of one run, which stand in place of repeats."""
    sides: tuple[Sequence[FloatArray], Sequence[FloatArray]] | None = None
    """Values of the examples of a and of b by repeat, of a table made elsewhere."""
    n_of_folds: int = 0
    """Number of images, or of their groups, of one partition into folds; 0 without folds."""

    @staticmethod
    def of(
        rows: Sequence[FloatArray], repeats: Sequence[int], design: Design, is_one_run: bool = False
    ) -> "Pair":
        """Return values of the repeats' images beside 0: differences, or shares of a kind.

        Args:
            rows: of each repeat its images or their groups, (N,), the same ones without folds.
            repeats: number of each repeat.
            design: of the study.
            is_one_run: whether the runs are fixed, and their images alone are the sample.
        """
        if is_one_run:
            values = np.mean(rows, axis=0)
            return Pair(values, np.zeros(len(values)), is_one_run=True)
        means = np.array([row.mean() for row in rows])
        if design.folds is None:
            return Pair(means, np.zeros(len(means)), np.stack(rows), repeats, design)
        count = sum(map(len, rows[: design.folds]))
        return Pair(means, np.zeros(len(means)), None, repeats, design, n_of_folds=count)

    @property
    def n(self) -> int:
        """Number of common repeats, or of those of a."""
        return len(self.a) if self.sizes is None else self.sizes[0]

    @property
    def n_baseline(self) -> int:
        """Number of common repeats, or of those of b."""
        return len(self.b) if self.sizes is None else self.sizes[1]

    @property
    def n_units(self) -> int:
        """Number of independent units: repeats, or teachers where these are the sample."""
        if self.why_unpaired:
            return min(len(self.a), len(self.b))
        if not self.design.by_teacher:
            return self.n
        return len(set(self.design.units(self.repeats).tolist()))

    @property
    def differences(self) -> FloatArray:
        """Differences a - b by repeat, (R,)."""
        return self.a - self.b

    @property
    def n_images(self) -> float:
        """Number of images, or of their groups, that vary; NaN if only repeats do."""
        return math.nan if self.table is None else self.table.shape[1]

    @property
    def estimate(self) -> Estimate:
        """The mean difference for new repeats and, as far as predictions allow, new images."""
        return self.design.estimate(self.differences, self.table, self.repeats)

    @property
    def components(self) -> Components:
        """Variance components of the differences; over repeats alone they are all of the repeat."""
        if self.table is not None and min(self.table.shape) > 1:
            return intervals.components(self.table)
        if self.why_unpaired:
            return Components(math.nan, math.nan, math.nan)
        variance = float(self.differences.var(ddof=1)) if self.n > 1 else math.nan
        return Components(variance, math.nan, math.nan)

    def judge(self, margin: float, sign: int, most: float = math.inf) -> dict[str, Any]:
        """Return whether a may replace b: diff, low, high (95 %), outcome and images_needed.

        See `tests.non_inferiority`. With images_needed in all, 80 % of studies decide it if the
        true difference is as estimated: infinite where no number does with these repeats, NaN where
        it is decided or not known. The interval is that of `with_extremes`.

        Args:
            margin: largest loss that is accepted, > 0.
            sign: 1 if higher values are better, else -1.
            most: largest possible difference; infinity if there is none.
        """
        pair = self if math.isinf(most) else self.with_extremes(most)
        row, parts, needed = pair.statistics(sign, 0.95, most), pair.components, math.nan
        diff = row["diff"] if pair is self else self.estimate.mean
        low, high = row["low"], row["high"]
        outcome = non_inferiority(low, high, margin, sign)
        is_known = self.is_one_run or (parts.has_images and self.n_units == self.n)
        if outcome == "undecided" and high > low and is_known and self.design.folds is None:

            def detectable(images: float) -> float:
                repeats = images if self.is_one_run else self.n
                return detectable_difference(parts, repeats, images)

            needed = units_needed(detectable, abs(sign * diff + margin))
        return {"diff": diff, "low": low, "high": high, "outcome": outcome, "images_needed": needed}

    def with_extremes(self, most: float) -> "Pair":
        """Return the pair with two images more, with the largest difference to each side.

        A t interval of shares is too narrow where few images differ, and has no width where none
        does: with 150 images of which 2 % may differ, one way only, it excludes the true difference
        in 15 % of samples to one side, and with the two images in 5 % (Bonett and Price, 2012).

        Args:
            most: largest possible difference.
        """
        ends = np.array([most, -most])
        if self.is_one_run:
            values = np.append(self.differences, ends)
            return replace(self, a=values, b=np.zeros(len(values)))
        if self.table is None:
            return self
        table = np.hstack([self.table, np.tile(ends, (len(self.table), 1))])
        return replace(self, a=table.mean(1), b=np.zeros(len(table)), table=table)

    @property
    def n_sampled(self) -> float:
        """Number of images, or of their groups; of common repeats if only these vary."""
        if self.table is None:
            return self.n_of_folds or self.n
        return self.n_images

    def statistics(self, sign: int, level: float, most: float = math.inf) -> dict[str, float]:
        """Return the columns of `comparison.compare` for this pair.

        Independent samples have Welch's t test, and no columns about common repeats.

        Args:
            sign: 1 if higher values are better, else -1.
            level: coverage of the intervals, in (0, 1).
            most: largest possible difference; intervals are cut at it.
        """
        if self.why_unpaired:
            return self._unpaired_statistics(level, most)
        d: Difference = intervals.paired_difference(self.a, self.b)
        estimate, parts = self.estimate, self.components
        here = self.design.here(self.differences, self.repeats)  # for new repeats on these images
        wins, losses = (d.wins, d.losses) if sign > 0 else (d.losses, d.wins)
        # without a standard error all differences are equal, and p is that of the sign-flip test
        by_repeat = self.design.folds is None and self.n_units == self.n
        p = d.p if math.isnan(estimate.error) and by_repeat else estimate.p
        low, high = np.clip(estimate.interval(level), -most, most).tolist()
        low_here, high_here = np.clip(here.interval(level), -most, most).tolist()
        return {
            # the mean over teachers is another one where their numbers of repeats differ
            "diff": estimate.mean if self.design.by_teacher else d.interval.mean,
            "sd": d.interval.sd,
            "error": estimate.error,
            "df": estimate.df,
            "low": low,
            "high": high,
            "low_here": low_here,
            "high_here": high_here,
            "n": self.n,
            "n_units": self.n_units,
            "n_images": self.n_images,
            "var_repeat": parts.repeat,
            "var_image": parts.image,
            "var_rest": parts.rest,
            "correlation": d.correlation,
            "p": p,
            "wins": wins,
            "ties": d.ties,
            "losses": losses,
            "p_better": d.p_greater if sign > 0 else 1 - d.p_greater,
        }

    def _unpaired_statistics(self, level: float, most: float) -> dict[str, float]:
        names = ["diff", "sd", "error", "df", "p", "n", "n_images", *ENDS]
        names += ["wins", "ties", "losses", "p_better", "correlation"]
        welch = intervals.unpaired_difference(self.a, self.b)
        row = dict.fromkeys(names, math.nan) | {"diff": welch.mean, "n": self.n}
        if self.design.folds is not None:  # the correction is one for paired differences
            return row
        low, high = np.clip(welch.interval(level), -most, most).tolist()
        row |= {"error": welch.error, "df": welch.df, "p": welch.p}
        return row | dict(zip(ENDS, (low, high, low, high), strict=True))


FLIPS = ("negative_flips", "positive_flips")
"""Shares of the images on which a model and its reference differ: the reference alone is right,
and the model alone is (Yan et al., CVPR 2021)."""


Rows = Sequence[FloatArray]
"""Of each repeat the values of its images, (N,)."""


def judge_rows(
    new: Rows, reference: Rows, make: Callable[[Rows], Pair], limits: Any, has_flips: bool
) -> dict[str, Any]:
    """Return the columns of `Pair.judge` for values by image, and each of `FLIPS` with its ends.

    Args:
        new: of the model that may replace the reference.
        reference: its values on the same images.
        make: returns the pair of such rows, see `Pair.of`.
        limits: arguments of `Pair.judge`.
        has_flips: whether the values are 1 for right and 0 for wrong. A share of right ones, of
            several runs of the reference, makes the flips those against one of them.
    """
    both = list(zip(new, reference, strict=True))
    row = make([x - y for x, y in both]).judge(*limits)
    pairs = make([y * (1 - x) for x, y in both]), make([x * (1 - y) for x, y in both])
    for name, pair in zip(FLIPS, pairs, strict=True):
        share, ends = pair.estimate.mean if has_flips else math.nan, (math.nan, math.nan)
        if has_flips and pair.n_units >= MIN_REPEATS:
            ends = intervals.share_interval(pair.estimate, pair.n_sampled)
        row |= {name: share, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return row


def common_repeats(a: pd.Series, b: pd.Series, name: str = "repeats") -> tuple[pd.Index, str]:
    """Return the common repeats of two samples, and why these are independent; "" if they pair.

    Args:
        a: by repeat.
        b: by repeat.
        name: of a repeat, in words.
    """
    common = a.index.intersection(b.index)
    pairs = len(common) > min(len(a), len(b)) / 2
    return common, "" if pairs else f"{len(common) or 'no'} common {name}"


@dataclass(frozen=True)
class Sample:
    """A metric of one configuration by repeat and, as far as it is known, by example."""

    values: pd.Series
    """By repeat, without NaN."""
    examples: Mapping[int, FloatArray]
    """Of each example or group, (N,), by repeat; repeats without predictions are left out."""

    def stacked(self, repeats: Sequence[int]) -> FloatArray | None:
        """Return the values per example of R repeats, [R, N]; None if those of one are missing."""
        rows = [self.examples[repeat] for repeat in repeats if repeat in self.examples]
        is_whole = len(rows) == len(repeats) and len({len(row) for row in rows}) == 1
        return np.stack(rows) if is_whole else None

    def minus(self, other: "Sample | None", design: Design) -> Pair:
        """Return this sample and another one, in their common repeats, as a pair.

        Without another one it stands beside 0, so that it is its own difference.
        """
        common = self.values.index
        if other is not None:
            common = common.intersection(other.values.index)
        repeats = [int(repeat) for repeat in common]
        a, table = self.values[common].to_numpy(), self.stacked(repeats)
        if other is None:
            return Pair(a, np.zeros(len(a)), table, repeats, design)
        b, of_other = other.values[common].to_numpy(), other.stacked(repeats)
        if table is None or of_other is None or table.shape != of_other.shape:
            return Pair(a, b, None, repeats, design)
        return Pair(a, b, table - of_other, repeats, design)


def block_of(samples: Sequence[Sample], values: pd.DataFrame) -> tuple[FloatArray, float]:
    """Return values by configuration, repeat and example, [C, R, N], and N.

    Where those of an example are missing they are by configuration and repeat alone, [C, R, 1], and
    N is NaN.

    Args:
        samples: of the C configurations.
        values: a row for each of their common repeats, a column per configuration.
    """
    tables = [sample.stacked(list(values.index)) for sample in samples]
    whole = [table for table in tables if table is not None]
    if len(whole) < len(tables) or len({table.shape for table in whole}) > 1:
        return values.to_numpy().T[:, :, None], math.nan
    return np.stack(whole), whole[0].shape[1]


def max_t_over_repeats(
    values: pd.DataFrame, baselines: Mapping[Any, Any], design: Design = ONE_TEACHER
) -> list[float]:
    """Return max-T p values; NaN for comparisons that lack one of the usual repeats.

    Args:
        values: see `comparison.by_repeat`.
        baselines: by configuration.
        design: with folds the differences are correlated, so their signs cannot be exchanged.
    """
    differences = pd.DataFrame({c: values[c] - values[b] for c, b in baselines.items()})
    counts = differences.count()
    full = differences[counts.index[counts == counts.max()]].dropna()
    if design.by_teacher:
        full = full.groupby(design.units(full.index)).mean()
    if design.folds is not None or len(full) < MIN_REPEATS_FOR_MAX_T:
        return [np.nan] * len(baselines)
    adjusted = dict(zip(full.columns, max_t(full.to_numpy()), strict=True))
    return [adjusted.get(c, np.nan) for c in baselines]
