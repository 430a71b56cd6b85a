"""Several studies of the same data side by side: their best configurations, compared.

The studies are compared with the first one. Repeats are paired where the studies share their seed,
their training images, their augmentation, their folds and their number of teachers; otherwise they
are independent samples. Unpaired repeats of studies with folds are not tested: their train sets
overlap, and the correction for that is one for paired differences.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.errors import InputError
from kdtune.results.comparison import (
    DEFAULT,
    SIGNIFICANCE_LEVEL,
    Criterion,
    by_repeat,
    completed,
    completed_configs,
    over_known,
)
from kdtune.results.design import Design, stricter
from kdtune.results.pairs import Pair, difference_table
from kdtune.results.setups import check_same_data, differing_settings, pairing_obstacles
from kdtune.results.study_results import Results, load
from kdtune.statistics.intervals import mean_interval, unpaired_difference

SPLITS = ("val", "test")
Row = dict[str, Any]
MAX_FILE_NAME = 100
"""Characters of the studies' names in the name of a file."""


def load_several(places: Sequence[str], criterion: Criterion = DEFAULT) -> "SideBySide":
    """Read several studies to compare them.

    Args:
        places: Two or more folders, or URIs on object stores; the others are compared with the
            first.
        criterion: Metric and epoch selection; its baseline is compared, too.

    Raises:
        InputError: One is no study, one is given twice, or their data differ.
    """
    loaded = [load(place) for place in places]
    for place, results in zip(places, loaded, strict=True):
        if not results.task.is_distillation:
            raise InputError(
                f"only studies of distillation can be compared side by side, but {place} is of a "
                f"training function; compare its table: kdtune.compare(results.trials, ...)"
            )
    keys = [p if "://" in p else str(Path(p).expanduser().resolve()) for p in places]
    if len(set(keys)) < len(keys):
        raise InputError(f"each study must be given once, but got {' '.join(places)}")
    names = [results.study.name for results in loaded]
    if len(set(names)) < len(names):
        names = list(places)
    studies = dict(zip(names, loaded, strict=True))
    return SideBySide(studies, criterion, check_same_data(studies))


@dataclass(frozen=True)
class SideBySide:
    """Studies of the same data, by name, the first of which the others are compared with."""

    studies: dict[str, Results]
    criterion: Criterion
    doubt: str = ""
    """A sentence if it is not known whether the data are the same."""

    @property
    def reference(self) -> str:
        """Name of the first study."""
        return next(iter(self.studies))

    @cached_property
    def best(self) -> pd.DataFrame:
        """The best configuration of each study, and its best baseline.

        One row each: study, kind ("distilled" and "plain"; "other" and "baseline" for another
        baseline), is_best (the best of the study), config_id, label, and the mean over repeats with
        sd, n and the ends of its 95 % t interval: <split>/mean, /std, /n, /low, /high for val and
        test. The mean on val is optimistic, since val selected the configuration.
        """
        rows = [row for name in self.studies for row in self._best_of(name)]
        statistics = [f"{s}/{k}" for s in SPLITS for k in ("mean", "std", "n", "low", "high")]
        columns = ["study", "kind", "is_best", "config_id", "label", *statistics]
        return pd.DataFrame(rows, columns=columns)

    def _best_of(self, name: str) -> Iterator[Row]:
        results = self.studies[name]
        values = self._values(name, "val").dropna(axis=1, how="all")
        can_be = self.criterion.is_baseline(completed_configs(results.trials))
        kinds = (
            ("plain", "distilled") if self.criterion.has_plain_baseline else ("baseline", "other")
        )
        best = results.best(self.criterion)
        for kind, wanted in zip(reversed(kinds), (False, True), strict=True):
            group = [config for config in values if can_be[config] == wanted]
            config = best if best in group else results.best_among(group, self.criterion)
            if config is None:
                continue
            row: Row = {"study": name, "kind": kind, "is_best": config == best}
            row |= {"config_id": config, "label": results.label(config)}
            for split in SPLITS:
                interval = mean_interval(self._sample(name, config, split))
                row |= {f"{split}/mean": interval.mean, f"{split}/std": interval.sd}
                row |= {f"{split}/n": interval.n}
                row |= {f"{split}/low": interval.low, f"{split}/high": interval.high}
            yield row

    def _values(self, name: str, split: str) -> pd.DataFrame:
        """Return the metric of a study's trials: a row per repeat, a column per config_id."""
        trials = self.studies[name].trials_for(self.criterion)
        scope = self.criterion.scope if split == "val" else "last"
        return by_repeat(trials, self.criterion.metric, scope, split)

    def _sample(self, name: str, config: str, split: str) -> pd.Series:
        return self._values(name, split)[config].dropna()

    @cached_property
    def splits(self) -> list[str]:
        """The splits on which all studies can be compared: val, and test if all evaluate it."""
        has_test = len(self.best) and bool((self.best["test/n"] > 0).all())
        return ["val", "test"] if has_test else ["val"]

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Each other study minus the first one, on each split.

        One row per split, study and pair of configurations ("best": the best of each study;
        "plain": the best baseline of each, unless they are the best): split, study, pair, label,
        against (label in the first study), diff, low, high (simultaneous 95 % t interval:
        Bonferroni over the rows of the split; for new repeats and new images if n_images is known,
        see `pairs`), n (repeats of the study, the common ones if paired), n_reference, n_images, p,
        p_holm (over the rows of the split), paired, why (if it is not). There is no interval and no
        p value (NaN) with fewer than three repeats, or for unpaired repeats with folds.
        """
        pairs = list(self._pairs())
        parts = []
        for split in self.splits:
            rows = [self._compare(split, pair, len(pairs)) for pair in pairs]
            table = pd.DataFrame(rows)
            parts.append(table.assign(p_holm=over_known(table.p)) if len(table) else table)
        return pd.concat(parts, ignore_index=True)

    def _pairs(self) -> Iterator[tuple[str, pd.Series, pd.Series]]:
        """Yield the pairs of rows of `best` that are compared, and what they are."""
        rows = self.best
        first = rows[rows.study == self.reference]
        for name in list(self.studies)[1:]:
            own = rows[rows.study == name]
            for kind in ("best", "plain", "baseline"):
                a, b = (_of_kind(table, kind) for table in (own, first))
                if a is None or b is None:
                    continue
                if kind == "best" or not (a.is_best and b.is_best):
                    yield kind, a, b

    def _compare(self, split: str, pair: tuple[str, pd.Series, pd.Series], m: int) -> Row:
        kind, a, b = pair
        names = {"split": split, "study": a.study, "pair": kind, "label": a.label}
        x, y = (self._sample(row.study, row.config_id, split) for row in (a, b))
        level = 1 - SIGNIFICANCE_LEVEL / max(1, m)
        common = x.index.intersection(y.index)
        one, other = self.studies[self.reference].study, self.studies[a.study].study
        obstacles = pairing_obstacles(one, other)
        if not obstacles and len(common) <= min(len(x), len(y)) / 2:
            obstacles = [f"{len(common) or 'no'} common repeats"]
        why = ", ".join(obstacles)
        row: Row = names | {"against": b.label, "paired": not why, "why": why}
        if not why:
            own = self._pair(split, a, b, x[common], y[common])
            found = own.statistics(self.criterion.sign, level, self.criterion.largest_difference)
            row |= {name: found[name] for name in ("diff", "low", "high", "p", "n", "n_images")}
            return row | {"n_reference": own.n}
        row |= {"n": len(x), "n_reference": len(y), "n_images": math.nan}
        if self.design_against(a.study).folds is not None:
            none = dict.fromkeys(("low", "high", "p"), math.nan)
            return row | {"diff": x.mean() - y.mean()} | none
        means, others = self._unit_means(a.study, x), self._unit_means(b.study, y)
        welch = unpaired_difference(means, others, level)
        return row | {"diff": welch.difference, "low": welch.low, "high": welch.high, "p": welch.p}

    def _unit_means(self, name: str, sample: pd.Series) -> np.ndarray:
        """Return the independent numbers of a sample: its repeats, or the means of teachers."""
        design = self.studies[name].design
        return design.unit_means(sample.to_numpy(dtype=float), list(sample.index))

    def design_against(self, name: str) -> Design:
        """Return the design that decides the comparison of a study with the first one."""
        return stricter(*self.designs_of(name))

    def designs_of(self, name: str) -> tuple[Design, Design]:
        """Return the designs of a study and of the first one, with the teachers of both."""
        results = (self.studies[name], self.studies[self.reference])
        recipes = {(r.teacher, r.teacher_epochs) for r in (own.study.run for own in results)}
        several = len(recipes) > 1 or any(own.design.several_recipes for own in results)
        one, other = (replace(own.design, several_recipes=several) for own in results)
        return one, other

    def _pair(self, split: str, a: pd.Series, b: pd.Series, x: pd.Series, y: pd.Series) -> Pair:
        """Return a pair of configurations of two studies in their common repeats x and y."""
        design = self.design_against(a.study)
        repeats, tables = [int(repeat) for repeat in x.index], []
        if design.folds is not None:  # each repeat has other images
            return Pair(x.to_numpy(), y.to_numpy(), None, repeats, design)
        for row in (a, b):
            results = self.studies[row.study]
            trials = completed(results.trials_for(self.criterion))
            ids = trials[trials.config_id == row.config_id].set_index("repeat").trial_id[x.index]
            found = results.examples(self.criterion, split)(list(ids))
            tables.append([found.get(trial) for trial in ids])
        return Pair(x.to_numpy(), y.to_numpy(), difference_table(*tables), repeats, design)

    @cached_property
    def settings(self) -> pd.DataFrame:
        """The settings that differ; see `setups.differing_settings`."""
        return differing_settings(self.studies)

    @property
    def single_intervals(self) -> list[str]:
        """What the intervals of `best` are computed over, and hold for; one text per design."""
        return list(dict.fromkeys(own.design.single_interval for own in self.results))

    @property
    def is_adaptive(self) -> bool:
        """Whether the number of repeats of a study depended on its results."""
        return any(math.isnan(r.planned_repeats) or r.study.until_decided for r in self.results)

    @property
    def default_file(self) -> str:
        """Name of the page that compares the studies, e.g. comparison-a-b.html."""
        names = "-".join(Path(name).name for name in self.studies)
        return f"comparison-{names[:MAX_FILE_NAME]}.html"

    @property
    def results(self) -> list[Results]:
        """The studies without their names."""
        return list(self.studies.values())


def _of_kind(rows: pd.DataFrame, kind: str) -> pd.Series | None:
    """Return the row of the best configuration, or of the best one of a kind; None without any."""
    found = rows[rows.is_best] if kind == "best" else rows[rows.kind == kind]
    return found.iloc[0] if len(found) else None
