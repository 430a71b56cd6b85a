"""Several studies of the same data side by side."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.fields import declarations
from kdtune.config.run import HYPERPARAMETERS, Run
from kdtune.config.study import Format, Study
from kdtune.config.task import Range, Values
from kdtune.config.text import InputError, short
from kdtune.results.comparison import (
    DEFAULT,
    SIGNIFICANCE_LEVEL,
    Criterion,
    by_repeat,
    completed,
    completed_configs,
    difference_and_interval,
    format_table,
    markdown,
    over_known,
    plus_minus,
)
from kdtune.results.design import (
    Design,
    Pair,
    difference_table,
    exact_test,
    is_significant,
    p_text,
    p_value,
    since_interval,
    stricter,
)
from kdtune.results.results import Results, load
from kdtune.results.words import NOT_ADJUSTED
from kdtune.statistics.intervals import MIN_REPEATS, mean_interval, unpaired_difference
from kdtune.storage.records import read_saved

# Setups of several studies: whether they have the same data, can be paired, and what differs.


SHARED_BY_PAIRS = ("seed", "train_images", "augmentation", "folds", "teachers")
"""What a repeat of two studies must share: it fixes order and augmentation of the same images, the
split into train and val, and which of the teachers it learns from."""
NOT_COMPARED = {
    *("name", "out", "run", "space", "keep", "rerun_dropped", "address", "cache", "cache_gb"),
    *("gpus", "gpus_per_trial", "loader_workers", "data", "extra", "repeat", "study_values"),
}
"""Fields of `Study` and `Run` without an influence on results, or that are compared otherwise: data
by their content, the run and the space value by value."""


def fingerprints_of(results: Results) -> dict[str, str]:
    """Return the content hashes of a study's data, teacher and student, as far as known."""
    return read_saved(results.folder).fingerprints


def check_same_data(studies: Mapping[str, Results]) -> str:
    """Raise InputError if studies, by name, are known to have different data.

    Returns:
        A sentence if that is not known for some of them, else "".
    """
    prints = {name: fingerprints_of(results).get("data") for name, results in studies.items()}
    known = {name: text for name, text in prints.items() if text is not None}
    if len(set(known.values())) > 1:
        shown = ", ".join(f"{name}: {studies[name].study.run.data}" for name in known)
        raise InputError(
            f"studies can be compared on the same data only, but these have different data "
            f"({shown}; fingerprints {', '.join(known.values())}); name studies of one data set, "
            f"or one study"
        )
    sizes = {name: val_size(results) for name, results in studies.items()}
    if len(set(sizes.values()) - {0}) > 1:
        shown = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise InputError(
            f"studies can be compared on the same val images only, but their numbers of val images "
            f"differ ({shown}); name studies with the same ones, or one study"
        )
    unknown = [name for name, text in prints.items() if text is None]
    if not unknown:
        return ""
    have = "has" if len(unknown) == 1 else "have"
    return (
        f"It is not known whether the data are the same, since {' and '.join(unknown)} {have} no "
        f"fingerprint of them; the comparison assumes it."
    )


def val_size(results: Results) -> int:
    """Return the number of val images of a study; 0 before its first epoch."""
    val = results.epochs[results.epochs.split == "val"]
    return int(val.n_examples.max()) if len(val) else 0


def pairing_obstacles(one: Study, other: Study) -> list[str]:
    """Return why the repeats of two studies are independent: "seed 0 and 1"; [] if they pair."""
    pairs = ((n, getattr(one.run, n), getattr(other.run, n)) for n in SHARED_BY_PAIRS)
    return [
        f"{name.replace('_', ' ')} {_shown(a)} and {_shown(b)}" for name, a, b in pairs if a != b
    ]


def differing_settings(studies: Mapping[str, Results]) -> pd.DataFrame:
    """Return the settings that differ between studies, by name: a row each, a column per study.

    Settings are those that can change results: of the run, of the space, of the search; and the
    fingerprints of teacher and student, where the names alone are equal.
    """
    columns = [dict(_settings(results)) for results in studies.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for name in names:
        values = [column.get(name, "-") for column in columns]
        if len(set(values)) > 1:
            rows.append([name, *values])
    return pd.DataFrame(rows, columns=["setting", *studies])


def _settings(results: Results) -> Iterator[tuple[str, str]]:
    study = results.study
    for name, declared in declarations(Run).items():
        if name in HYPERPARAMETERS:
            yield name, _shown(_all_values(study, name) if study.has_effect(name) else "-")
        elif name not in NOT_COMPARED and declared.setting.defines:
            resolved = "augmentation" if name == "augment" else name  # None is a default
            yield name, _shown(getattr(study.run, resolved))
    for f in fields(Study):
        if f.name not in NOT_COMPARED:
            yield f.name, _shown(getattr(study, f.name))
    for name, text in fingerprints_of(results).items():
        if name != "data":
            yield f"fingerprint of the {name}", text


def _all_values(study: Study, name: str) -> Values:
    """Return the values of a hyperparameter in their order, those of the baseline included."""
    values = study.values(name)
    if isinstance(values, Range):
        return values
    baseline = study.task.baseline
    more = (baseline[name],) if name in baseline and study.has_plain else ()
    values = tuple(dict.fromkeys((*values, *more)))
    return values if any(isinstance(v, str) for v in values) else tuple(sorted(values))


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | Range):
        return ", ".join(map(_shown, value))
    return short(value, 6) if isinstance(value, float) else str(value)


# Several studies of the same data side by side: their best configurations, compared.
#
# The studies are compared with the first one. Repeats are paired where the studies share their
# seed,
# their training images, their augmentation, their folds and their number of teachers; otherwise
# they
# are independent samples. Unpaired repeats of studies with folds are not tested: their train sets
# overlap, and the correction for that is one for paired differences.


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


# Wording and tables of studies side by side, shared by the terminal and the report.


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
