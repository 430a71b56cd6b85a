"""Several studies: those of the same data side by side, and the list of a folder's studies."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.fields import declarations
from kdtune.config.files import STUDY
from kdtune.config.run import HYPERPARAMETERS, Run
from kdtune.config.study import Format, Study
from kdtune.config.task import Range, Values
from kdtune.config.text import InputError, first_line, short
from kdtune.results.comparison import (
    DEFAULT,
    Criterion,
    by_repeat,
    compare_pairs,
    comparison_rows,
    completed,
    completed_configs,
    format_table,
    markdown,
    mean_columns,
    over_known,
    plus_minus,
)
from kdtune.results.design import Design, Pair, difference_table, stricter
from kdtune.results.results import Results, data_name, load
from kdtune.results.words import ComparisonContext, short_verdict, verdict
from kdtune.statistics.intervals import mean_interval
from kdtune.storage.records import read_saved

# What the studies have in common: whether they can be compared and paired, and what differs.


SHARED_BY_PAIRS = ("seed", "train_images", "augmentation", "folds", "teachers")
"""What a repeat of two studies must share: it fixes order and augmentation of the same images, the
split into train and val, and which of the teachers it learns from."""
NOT_COMPARED = {
    *("name", "out", "run", "space", "keep", "rerun_dropped", "address", "cache", "cache_gb"),
    *("gpus", "gpus_per_trial", "loader_workers", "data", "extra", "repeat", "study_values"),
}
"""Fields of `Study` and `Run` without an influence on results, or that are compared otherwise: data
by their content, the run and the space value by value."""


def _fingerprints_of(results: Results) -> dict[str, str]:
    """Return the content hashes of a study's data, teacher and student, as far as known."""
    return read_saved(results.folder).fingerprints


def check_same_data(studies: Mapping[str, Results]) -> str:
    """Raise InputError if studies, by name, are known to have different data.

    Returns:
        A sentence if that is not known for some of them, else "".
    """
    prints = {name: _fingerprints_of(results).get("data") for name, results in studies.items()}
    sizes = {name: val_size(results) for name, results in studies.items()}
    unknown = [name for name, text in prints.items() if text is None]
    if len({*prints.values(), None}) > 2 or len({*sizes.values(), 0}) > 2:
        shown = "; ".join(
            f"{name}: {results.study.run.data}, fingerprint {prints[name] or 'not known'}, "
            f"{sizes[name] or 'no'} val images"
            for name, results in studies.items()
        )
        raise InputError(
            f"studies can be compared on the same data only, but these have different data "
            f"({shown}); name studies of one data set, or one study"
        )
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
    columns = {name: pd.Series(dict(_settings(results))) for name, results in studies.items()}
    table = pd.concat(columns, axis=1, sort=False).fillna("-")
    table = table[table.nunique(axis=1) > 1].rename_axis("setting")
    return table.reset_index(allow_duplicates=True)


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
    for name, text in _fingerprints_of(results).items():
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


# Studies side by side: the others are compared with the first one. Repeats are paired where the
# studies share their seed, their training images, their augmentation, their folds and their number
# of teachers; otherwise they are independent samples.


_SPLITS = ("val", "test")
_Row = dict[str, Any]
MAX_FILE_NAME = 100
"""Characters of the studies' names in the name of a file."""


def load_several(folders: Sequence[str], criterion: Criterion = DEFAULT) -> "SideBySide":
    """Read several studies to compare them.

    Args:
        folders: Two or more folders, or URIs on object stores; the others are compared with the
            first.
        criterion: Metric and epoch selection; its baseline is compared, too.

    Raises:
        InputError: One is no study, one is given twice, or their data differ.
    """
    loaded = [load(folder) for folder in folders]
    for folder, results in zip(folders, loaded, strict=True):
        if not results.task.is_distillation:
            raise InputError(
                f"only studies of distillation can be compared side by side, but {folder} is of a "
                f"training function; compare its table: kdtune.compare(results.trials, ...)"
            )
    keys = [p if "://" in p else str(Path(p).expanduser().resolve()) for p in folders]
    if len(set(keys)) < len(keys):
        raise InputError(f"each study must be given once, but got {' '.join(folders)}")
    names = [results.study.name for results in loaded]
    if len(set(names)) < len(names):
        names = list(folders)
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
        statistics = [f"{s}/{k}" for s in _SPLITS for k in ("mean", "std", "n", "low", "high")]
        columns = ["study", "kind", "is_best", "config_id", "label", *statistics]
        return pd.DataFrame(rows, columns=columns)

    def _best_of(self, name: str) -> Iterator[_Row]:
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
            row: _Row = {"study": name, "kind": kind, "is_best": config == best}
            row |= {"config_id": config, "label": results.label(config)}
            for split in _SPLITS:
                row |= mean_columns(split, self._values(name, split)[config])
            yield row

    def _values(self, name: str, split: str) -> pd.DataFrame:
        """Return the metric of a study's trials: a row per repeat, a column per config_id."""
        trials = self.studies[name].trials_for(self.criterion)
        scope = self.criterion.scope if split == "val" else "last"
        return by_repeat(trials, self.criterion.metric, scope, split)

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
        see `design.Pair`), n (repeats of the study, the common ones if paired), n_reference,
        n_images, p, p_holm (over the rows of the split), paired, why (if it is not). There is no
        interval and no p value (NaN) with fewer than three repeats, or for unpaired repeats with
        folds.
        """
        table = self.statistics
        columns = ["split", "study", "pair", "label", "against", "paired", "why"]
        columns += ["diff", "low", "high", "p", "n", "n_images", "n_baseline", "p_holm"]
        return table[columns].rename(columns={"n_baseline": "n_reference"}) if len(table) else table

    @cached_property
    def statistics(self) -> pd.DataFrame:
        """`comparisons` with all columns of `comparison.compare_pairs`."""
        kinds = list(self._pairs())
        parts = []
        for split in self.splits if kinds else ():
            pairs = [self._pair(split, a, b) for _, a, b in kinds]
            table = compare_pairs(pairs, self.criterion, m=len(pairs))
            names = [
                [split, a.study, kind, a.label, b.label, not pair.why_unpaired, pair.why_unpaired]
                for (kind, a, b), pair in zip(kinds, pairs, strict=True)
            ]
            columns = ["split", "study", "pair", "label", "against", "paired", "why"]
            table[columns] = pd.DataFrame(names, columns=columns)
            # repeats, even where the means of teachers are the sample
            sizes = [[len(self._sample(row, split)) for row in (a, b)] for _, a, b in kinds]
            unpaired = ~table.paired.astype(bool)
            table["n_baseline"] = table.n
            table.loc[unpaired, ["n", "n_baseline"]] = np.array(sizes)[unpaired]
            parts.append(table.assign(p_holm=over_known(table.p)))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _pairs(self) -> Iterator[tuple[str, pd.Series, pd.Series]]:
        """Yield the pairs of rows of `best` that are compared, and what they are."""
        rows = self.best
        first = rows[rows.study == self.reference]
        for name in list(self.studies)[1:]:
            others = rows[rows.study == name]
            for kind in ("best", "plain", "baseline"):
                a, b = (_of_kind(table, kind) for table in (others, first))
                if a is None or b is None:
                    continue
                if kind == "best" or not (a.is_best and b.is_best):
                    yield kind, a, b

    def _pair(self, split: str, a: pd.Series, b: pd.Series) -> Pair:
        """Return the pair of a configuration of a study with one of the first study."""
        x, y = (self._sample(row, split) for row in (a, b))
        common = x.index.intersection(y.index)
        obstacles = pairing_obstacles(*(self.studies[row.study].study for row in (b, a)))
        if not obstacles and len(common) <= min(len(x), len(y)) / 2:
            obstacles = [f"{len(common) or 'no'} common repeats"]
        design = self.design_against(a.study)
        if why := ", ".join(obstacles):
            means, others = self._unit_means(a.study, x), self._unit_means(b.study, y)
            return Pair(means, others, design=design, why_unpaired=why)
        tables = [self._examples(row, split, common, design) for row in (a, b)]
        x, y, repeats = x[common], y[common], [int(repeat) for repeat in common]
        return Pair(x.to_numpy(), y.to_numpy(), difference_table(*tables), repeats, design)

    def _sample(self, row: pd.Series, split: str) -> pd.Series:
        """Return the metric of a row of `best` by repeat."""
        return self._values(row.study, split)[row.config_id].dropna()

    def _examples(
        self, row: pd.Series, split: str, repeats: pd.Index, design: Design
    ) -> list[np.ndarray | None]:
        """Return the metric of each example by repeat, as far as known."""
        if design.folds is not None:  # each repeat has other images
            return [None] * len(repeats)
        results = self.studies[row.study]
        trials = completed(results.trials_for(self.criterion))
        ids = trials[trials.config_id == row.config_id].set_index("repeat").trial_id[repeats]
        by_trial = results.examples(self.criterion, split)(list(ids))
        return [by_trial.get(trial) for trial in ids]

    def _unit_means(self, name: str, sample: pd.Series) -> np.ndarray:
        """Return the independent numbers of a sample: its repeats, or the means of teachers."""
        design = self.studies[name].design
        return design.unit_means(sample.to_numpy(dtype=float), list(sample.index))

    def design_against(self, name: str) -> Design:
        """Return the design that decides the comparison of a study with the first one."""
        results = (self.studies[name], self.studies[self.reference])
        recipes = {(r.study.run.teacher, r.study.run.teacher_epochs) for r in results}
        several = len(recipes) > 1 or any(r.design.several_recipes for r in results)
        return stricter(*(replace(r.design, several_recipes=several) for r in results))

    def context(self, row: pd.Series) -> ComparisonContext:
        """Return the baseline of a row of `comparisons`, with the sentences about it."""
        return ComparisonContext(
            baseline=f"{row.against} in {self.reference}",
            planned=math.nan if self.is_adaptive else 0,
            images=None if math.isnan(row.n_images) else int(row.n_images),
            design=self.design_against(row.study),
            split=row.split,
            is_one_study=False,
        )

    @cached_property
    def settings(self) -> pd.DataFrame:
        """The settings that differ; see `differing_settings`."""
        return differing_settings(self.studies)

    @property
    def single_intervals(self) -> list[str]:
        """What the intervals of `best` are computed over, and hold for; one text per design."""
        return list(dict.fromkeys(results.design.single_interval for results in self.results))

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
    matches = rows[rows.is_best] if kind == "best" else rows[rows.kind == kind]
    return matches.iloc[0] if len(matches) else None


# Tables and sentences of studies side by side, shared by the terminal and the report.


_Rows = tuple[list[str], list[list[str]]]


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
    return "\n\n".join(part for part in [*parts, side.doubt, *conclusions(side)] if part)


def best_rows(side: SideBySide) -> _Rows:
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


def difference_rows(side: SideBySide) -> _Rows:
    """Return head and rows of the table of differences from the first study."""
    table = side.statistics
    kinds = table["pair"].map(lambda kind: "" if kind == "best" else f"{kind}: ")
    table = table.assign(label=kinds + table.label).drop(columns=["wins", "low_here"])
    columns = {"study": "study", "label": "configuration", "against": f"against {side.reference}'s"}
    return comparison_rows(table, columns | {"split": "split"}, side.criterion)


def setting_rows(side: SideBySide) -> _Rows:
    """Return head and rows of the table of settings that differ."""
    table = side.settings
    return list(table.columns), [list(row) for row in table.itertuples(index=False)]


def method(side: SideBySide) -> str:
    """Return how the differences were computed, and what they are about.

    Once for val and test, as long as both are paired by image or neither is; test stands for both.
    """
    sentences = {}
    for _, row in side.statistics.iterrows():
        context = side.context(row)
        # unpaired folds have no test, as the conclusion says
        if row.paired or context.design.folds is None:
            sentences[row.study, context.images is None] = context.method(row.why)
    return " ".join(dict.fromkeys(chain.from_iterable(sentences.values())))


def conclusions(side: SideBySide) -> Iterator[str]:
    """Yield a sentence for each other study on its best configuration, on test if there is one."""
    table = side.statistics
    if not len(table):
        yield "No comparison: each study needs completed runs."
        return
    split = side.splits[-1]
    criterion = replace(side.criterion, split=split)
    table = table[table.split == split]
    for _, row in table[table["pair"] == "best"].iterrows():
        context = side.context(row)
        rows = row.to_frame().T.infer_objects().assign(label=f"{row.label} in {row.study}")
        yield verdict(rows, criterion, None, context, m=len(table))


# The list of the studies in a folder: state, data, best configuration, conclusion, date.


_COLUMNS = ["name", "state", "data", "best", "mean", "std", "n", "verdict", "last_record", "metric"]
_MAX_STATE = 80
"""Characters of a state in the printed list."""


def is_folder_of_studies(place: str) -> bool:
    """Return whether a place is a folder that is no study, but holds studies."""
    folder = Path(place).expanduser()
    if "://" in place or (folder / STUDY).exists() or not folder.is_dir():
        return False
    return any(True for _ in folder.glob(f"*/{STUDY}"))


def list_studies(folder: str | Path, criterion: Criterion = DEFAULT) -> pd.DataFrame:
    """Return one row per study in a folder, those with the latest records first.

    Columns: name (of its folder), state, data, best (label of the best configuration), mean, std
    and n (of its metric on val over repeats), verdict (in a few words), last_record (time of the
    last record, UTC), metric. A study that cannot be read has the reason as its state.

    Args:
        folder: of the studies.
        criterion: of distillation studies; that of a training function has its own.
    """
    files = sorted(Path(folder).expanduser().glob(f"*/{STUDY}"))
    table = pd.DataFrame(
        [_describe_folder(file.parent, criterion) for file in files], columns=_COLUMNS
    )
    return table.sort_values("last_record", ascending=False, na_position="last", kind="stable")


def _describe_folder(folder: Path, criterion: Criterion) -> _Row:
    try:
        return {"name": folder.name} | _describe(load(folder), criterion)
    except InputError as error:
        # a list is of one line each: of the reason the first part, without the path
        reason = str(error).replace(f"{folder}/", "").replace(str(folder), "it")
        return {"name": folder.name, "state": f"damaged: {reason}"}
    except Exception as error:  # whatever damaged records raise, the other studies are listed
        return {"name": folder.name, "state": f"damaged: {first_line(error)}"}


def _describe(results: Results, criterion: Criterion) -> _Row:
    if results.task is not criterion.task:
        criterion = results.default_criterion
    row: _Row = {
        "state": results.status.partition("; last record")[0],
        "data": data_name(results.study),
        "metric": criterion.metric,
    }
    if (time := results.frames.last_record_time) is not None:
        row["last_record"] = f"{datetime.fromtimestamp(time, UTC):%F %T}"
    if incomplete := len(results.frames.incomplete):
        row["state"] += f", {incomplete} damaged record{'s' * (incomplete > 1)}"
    best = results.best(criterion)
    if best is None:
        return row
    values = by_repeat(results.trials_for(criterion), criterion.metric, criterion.scope)
    interval = mean_interval(values[best].dropna())
    row |= {"best": results.label(best), "mean": interval.mean, "std": interval.sd}
    table = results.compare(criterion)
    if len(results.compared_students(criterion)) > 1:  # the best one's student against itself
        table = table[criterion.groups(table) == results.student(best)]
    row["verdict"] = short_verdict(table, criterion, results.context(criterion))
    return row | {"n": interval.n}


def studies_text(table: pd.DataFrame, criterion: Criterion, format: Format = "md") -> str:
    """Return the table of `list_studies` as text; csv and json have all digits."""
    if format in ("csv", "json"):
        return format_table(table, format)
    percent = " (%)" * criterion.in_points
    head = ["study", "state", "data", "best configuration", f"val {criterion.metric}{percent}"]
    head += ["n", "distillation", "last record (UTC)"]
    if not criterion.has_plain_baseline:
        head[6] = "against the baseline"
    rows = []
    for _, row in table.iterrows():
        scale, n = criterion.scale, "-" if math.isnan(row.n) else f"{row.n:.0f}"
        value = plus_minus(scale * row["mean"], scale * row["std"])
        if isinstance(row.metric, str) and row.metric != criterion.metric:
            value = f"{plus_minus(row['mean'], row['std'])} ({row.metric})"
        texts = ["-" if pd.isna(row[c]) else str(row[c]) for c in ("data", "best", "verdict")]
        last = "-" if pd.isna(row.last_record) else str(row.last_record)[:16]
        state = shorten(row.state, _MAX_STATE, placeholder=" ...")
        rows.append([row["name"], state, *texts[:2], value, n, texts[2], last])
    return markdown(head, rows)
