"""Two configurations paired by repeat and, where predictions are there, by image."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdtune.results.design import ONE_TEACHER, Design, Values
from kdtune.statistics.crossed import Components, Estimate, components
from kdtune.statistics.intervals import MIN_REPEATS, Difference, paired_difference
from kdtune.statistics.multiplicity import max_t

MIN_REPEATS_FOR_MAX_T = 6
"""With fewer repeats the sign-flip test cannot be significant: its least p value is 2 / 2^n."""
ExampleReader = Callable[[Sequence[str]], Mapping[str, Values]]
"""Returns a metric of each example, (N,), by trial_id; trials without predictions are left out."""


def no_examples(trial_ids: Sequence[str]) -> Mapping[str, Values]:
    """Return nothing: the comparison is over repeats alone."""
    return {}


@dataclass(frozen=True)
class Pair:
    """Scores of two configurations a and b in their R common repeats."""

    a: Values
    """(R,)."""
    b: Values
    table: Values | None
    """Differences a - b of each example, [R, N]; None if not all predictions are there."""
    repeats: Sequence[int] = ()
    """Number of each common repeat; only used where teachers are the sample."""
    design: Design = ONE_TEACHER

    @property
    def n(self) -> int:
        """Number of common repeats."""
        return len(self.a)

    @property
    def n_units(self) -> int:
        """Number of independent units: repeats, or teachers where these are the sample."""
        if not self.design.by_teacher:
            return self.n
        return len(set(self.design.units(self.repeats).tolist()))

    @property
    def differences(self) -> Values:
        """Differences a - b by repeat, (R,)."""
        return self.a - self.b

    @property
    def n_images(self) -> float:
        """Number of images that vary; NaN if only repeats do."""
        return math.nan if self.table is None else self.table.shape[1]

    @property
    def here(self) -> Estimate:
        """The mean difference for new repeats on these images."""
        return self.design.here(self.differences, self.repeats)

    @property
    def estimate(self) -> Estimate:
        """The mean difference for new repeats and, as far as predictions allow, new images."""
        return self.design.estimate(self.differences, self.table, self.repeats)

    @property
    def components(self) -> Components:
        """Variance components of the differences; over repeats alone they are all of the repeat."""
        if self.table is not None and min(self.table.shape) > 1:
            return components(self.table)
        variance = float(self.differences.var(ddof=1)) if self.n > 1 else math.nan
        return Components(variance, math.nan, math.nan)

    def statistics(self, sign: int, level: float, most: float = math.inf) -> dict[str, float]:
        """Return the columns of `comparison.compare` for this pair.

        Args:
            sign: 1 if higher values are better, else -1.
            level: coverage of the intervals, in (0, 1).
            most: largest possible difference; intervals are cut at it.
        """
        d: Difference = paired_difference(self.a, self.b)
        estimate, here, parts = self.estimate, self.here, self.components
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
            **{"error": estimate.error, "df": estimate.df, "low": low, "high": high},
            **{"low_here": low_here, "high_here": high_here},
            **{"n": self.n, "n_units": self.n_units, "n_images": self.n_images},
            **{"var_repeat": parts.repeat, "var_image": parts.image, "var_rest": parts.rest},
            **{"correlation": d.correlation, "p": p},
            **{"wins": wins, "ties": d.ties, "losses": losses},
            **{"p_better": d.p_greater if sign > 0 else 1 - d.p_greater},
        }


def make_pairs(
    trials: pd.DataFrame,
    values: pd.DataFrame,
    baselines: Mapping[str, str],
    read: ExampleReader = no_examples,
    design: Design = ONE_TEACHER,
) -> list[Pair]:
    """Return the pair of each configuration with its baseline.

    Args:
        trials: the completed ones.
        values: a row per repeat, a column per config_id, see `comparison.by_repeat`.
        baselines: by configuration.
        read: returns values per example; of pairs with `MIN_REPEATS` common repeats only. Not
            called with folds, where each repeat has other images. If those of one trial are
            missing, all pairs are over repeats alone.
        design: of the study.
    """
    names = trials.set_index(["config_id", "repeat"]).trial_id
    common = {c: values[[c, b]].dropna().index for c, b in baselines.items()}
    wanted = {
        names[config, repeat]: None
        for c, b in baselines.items()
        if len(common[c]) >= MIN_REPEATS
        for config in (c, b)
        for repeat in common[c]
    }
    found = read(list(wanted)) if design.folds is None else {}
    if len(found) < len(wanted):  # else rows of one table would hold for different images
        found = {}

    pairs = []
    for config, baseline in baselines.items():
        repeats = common[config]
        a, b = values.loc[repeats, [config, baseline]].to_numpy().T
        tables = [[found.get(names[c, r]) for r in repeats] for c in (config, baseline)]
        own = [int(repeat) for repeat in repeats]
        pairs.append(Pair(a, b, difference_table(*tables), own, design))
    return pairs


def stack_examples(values: Sequence[Values | None]) -> Values | None:
    """Return values per example (N,) of R repeats as a table [R, N].

    None if those of a repeat are missing, or not all have the same length.
    """
    known = [own for own in values if own is not None]
    if not known or len(known) < len(values) or len({len(own) for own in known}) > 1:
        return None
    return np.stack(known)


def difference_table(a: Sequence[Values | None], b: Sequence[Values | None]) -> Values | None:
    """Return a - b as a table [R, N], from values per example of the same R repeats, or None."""
    x, y = stack_examples(a), stack_examples(b)
    return x - y if x is not None and y is not None and x.shape == y.shape else None


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
