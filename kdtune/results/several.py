"""Several studies: those of the same data side by side, and the list of a folder's studies."""

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
from kdtune.config.run import HYPERPARAMETERS, TEACHER_TRAINING, Run
from kdtune.config.study import OF_FUNCTION, Format, Study
from kdtune.config.task import Range, ends_of
from kdtune.config.text import TABLE_DIGITS, InputError, first_line, short
from kdtune.results import comparison
from kdtune.results.comparison import DEFAULT, Criterion
from kdtune.results.design import Design, Pair, Sample, common_repeats, stricter
from kdtune.results.formatting import as_json, comparison_rows, format_table, markdown, plus_minus
from kdtune.results.results import Results, check_baseline, data_name, load
from kdtune.results.words import ComparisonContext, sentence, short_verdict, verdict
from kdtune.statistics.intervals import mean_interval
from kdtune.storage.records import read_saved

# What the studies have in common: whether they can be compared and paired, and what differs.


SHARED_BY_PAIRS = ("seed", "train_images", "train_draw", "augmentation", "folds", "teachers")
"""What a repeat of two studies must share: it fixes order and augmentation of the same images, the
split into train and val, and which of the teachers it learns from."""
_NOT_COMPARED = """
name out run space keep rerun_dropped address cache cache_gb gpus gpus_per_trial loader_workers
data extra repeat study_values against margin
"""
NOT_COMPARED = frozenset(_NOT_COMPARED.split())
"""Fields of `Study` and `Run` without an influence on results, or that are compared otherwise: data
by their content, the run and the space value by value."""


def check_same_data(studies: Mapping[str, Results]) -> str:
    """Raise InputError if studies, by name, are known to have different data.

    Returns:
        A sentence if that is not known for some of them, else "".
    """
    prints = {n: read_saved(r.folder).fingerprints.get("data") for n, r in studies.items()}
    val = {name: r.epochs[r.epochs.split == "val"] for name, r in studies.items()}
    counts = {name: epochs.n_examples.max() for name, epochs in val.items()}
    sizes = {name: int(count) for name, count in counts.items() if pd.notna(count)}
    if len({*prints.values(), None}) > 2 or len(set(sizes.values())) > 1:
        shown = "; ".join(
            f"{name}: {data_name(results.study)}, fingerprint {prints[name] or 'not known'}, "
            f"{sizes.get(name, 'no')} val images"
            for name, results in studies.items()
        )
        raise InputError(
            f"studies can be compared on the same data only, but these have different data "
            f"({shown}); name studies of one data set, or one study"
        )
    unknown = [name for name, fingerprint in prints.items() if fingerprint is None]
    return sentence("data not known", studies=unknown) if unknown else ""


def pairing_obstacles(one: Study, other: Study) -> list[str]:
    """Return why the repeats of two studies are independent: "seed 0 and 1"; [] if they pair."""
    if one.train is not None or other.train is not None:
        return ["a training function has random seeds of its own"]
    differ = [n for n in SHARED_BY_PAIRS if getattr(one.run, n) != getattr(other.run, n)]
    values = [(n, as_text(getattr(one.run, n)), as_text(getattr(other.run, n))) for n in differ]
    return [f"{name.replace('_', ' ')} {a} and {b}" for name, a, b in values]


def differing_settings(studies: Mapping[str, Results]) -> pd.DataFrame:
    """Return the settings that differ between studies, by name: a row each, a column per study.

    Settings are those that can change results: of the run, of the space, of the search; and the
    fingerprints of teacher and student, where the names alone are equal. Of studies of distillation
    and of training functions they are those that all of them have.
    """
    columns = {name: pd.Series(dict(_settings(results))) for name, results in studies.items()}
    table = pd.concat(columns, axis=1, sort=False)
    is_mixed = len({results.task.is_distillation for results in studies.values()}) > 1
    table = table.dropna() if is_mixed else table.fillna("-")
    table = table[table.nunique(axis=1) > 1].rename_axis("setting")
    return table.reset_index(allow_duplicates=True)


def _settings(results: Results) -> Iterator[tuple[str, str]]:
    study = results.study
    of_function = ((name, as_text(study.all_values(name))) for name in study.task.names)
    yield from _settings_of_run(study) if study.train is None else of_function
    for f in fields(Study):
        if f.name not in NOT_COMPARED and (study.train is not None or f.name not in OF_FUNCTION):
            yield f.name, as_text(getattr(study, f.name))
    for name, text in read_saved(results.folder).fingerprints.items():
        if name != "data":
            yield f"fingerprint of the {name}", text


def _settings_of_run(study: Study) -> Iterator[tuple[str, str]]:
    is_trained = any(epochs != 0 for epochs in ends_of(study.values("teacher_epochs")))
    for name, declared in declarations(Run).items():
        if name in HYPERPARAMETERS:
            values = study.all_values(name)
            if isinstance(values, tuple) and not any(isinstance(v, str) for v in values):
                values = tuple(sorted(values, key=lambda value: (value is not None, value)))
            yield name, as_text(values if study.has_effect(name) else "-")
        elif name not in NOT_COMPARED and declared.setting.defines:
            resolved = "augmentation" if name == "augment" else name  # None is a default
            has_effect = is_trained or name not in TEACHER_TRAINING
            yield name, as_text(getattr(study.run, resolved) if has_effect else "-")


def as_text(value: Any) -> str:
    """Return the value of a setting, or its values."""
    if isinstance(value, Sequence) and not isinstance(value, str | Range):
        return ", ".join(map(as_text, value))
    return short(value, TABLE_DIGITS) if isinstance(value, float) else str(value)


# Studies side by side: the others are compared with the first one. Repeats are paired where the
# studies share their seed, their training images, their augmentation, their folds and their number
# of teachers; otherwise they are independent samples.


MAX_FILE_NAME = 100
"""Characters of the studies' names in the name of a file."""


@dataclass(frozen=True)
class Candidate:
    """A configuration of a study that is compared with one of another study."""

    study: str
    """Name of the study."""
    kind: str
    """"distilled" or "plain"; "other" or "baseline" for another baseline."""
    is_best: bool
    """Whether it is the best of the study, of either kind."""
    config_id: str
    results: Results
    """The study."""
    criterion: Criterion

    @property
    def label(self) -> str:
        """The configuration in words."""
        return self.results.label(self.config_id)

    @property
    def trials(self) -> pd.DataFrame:
        """The completed trials by which the criterion is judged."""
        trials = comparison.completed(self.results.trials_for(self.criterion))
        return trials[trials.config_id == self.config_id]

    def values(self, split: str) -> pd.Series:
        """Return the criterion's metric on a split by repeat."""
        return self.criterion.by_repeat(self.trials, split)[self.config_id].dropna()

    def unit_means(self, values: pd.Series) -> np.ndarray:
        """Return the independent ones of the values: those of repeats, or means of teachers."""
        return self.results.design.unit_means(values.to_numpy(dtype=float), list(values.index))

    def sample(self, split: str) -> Sample:
        """Return the criterion's metric on a split by repeat and by example."""
        return self.results.judged(self.criterion).samples(split, [self.config_id])[self.config_id]


def load_several(folders: Sequence[str], criterion: Criterion = DEFAULT) -> "SideBySide":
    """Read several studies to compare them.

    Args:
        folders: Two or more folders, or URIs on object stores; the others are compared with the
            first.
        criterion: Metric and epoch selection; its baseline is compared, too.

    Raises:
        InputError: One is no study or lacks the baseline, one is given twice, or their data differ.
    """
    loaded = [load(folder) for folder in folders]
    for folder, results in zip(folders, loaded, strict=True):
        metrics = {name: results.task.metrics[name].better for name in results.task.comparable}
        if metrics.get(criterion.metric) != criterion.declared.better:
            raise InputError(
                f"--metric must be one that all studies have, better in the same direction, but "
                f"{folder} has {', '.join(metrics)} and not {criterion.metric}"
            )
        check_baseline(criterion, results.study)
    places = {f if "://" in f else Path(f).expanduser().resolve() for f in folders}
    if len(places) < len(folders):
        raise InputError(f"each study must be given once, but got {' '.join(folders)}")
    names = [results.study.name for results in loaded]
    are_unique = len(set(names)) == len(names)
    studies = dict(zip(names if are_unique else folders, loaded, strict=True))
    task = replace(criterion.task, has_groups=loaded[0].task.has_groups)
    criterion = replace(criterion, task=task)
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

    def criterion_of(self, results: Results) -> Criterion:
        """Return the criterion with the task of a study, and its own baseline if none is named."""
        baseline = None if self.criterion.has_task_baseline else self.criterion.baseline
        return replace(self.criterion, baseline=baseline, task=results.task)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The best configuration of each study, and its best baseline."""
        candidates = []
        for name, results in self.studies.items():
            criterion = self.criterion_of(results)
            is_distilled = criterion.has_task_baseline and results.task.is_distillation
            kinds = ("distilled", "plain") if is_distilled else ("other", "baseline")
            best = results.best(criterion)
            is_baseline = criterion.is_baseline(comparison.completed_configs(results.trials))
            for kind, value in zip(kinds, (False, True), strict=True):
                group = list(is_baseline.index[is_baseline == value])
                config = best if best in group else results.best_among(group, criterion)
                if config is not None:
                    of_study = (config == best, config, results, criterion)
                    candidates.append(Candidate(name, kind, *of_study))
        return candidates

    @cached_property
    def best(self) -> pd.DataFrame:
        """The best configuration of each study, and its best baseline.

        One row each: study, kind ("distilled" and "plain"; "other" and "baseline" for another
        baseline), is_best (the best of the study), config_id, label, and the mean over repeats with
        sd, n and the ends of its 95 % t interval: <split>/mean, /std, /n, /low, /high for val and
        test. The mean on val is optimistic, since val selected the configuration.
        """
        names = ("study", "kind", "is_best", "config_id", "label")
        rows = [
            {name: getattr(candidate, name) for name in names}
            | comparison.mean_columns("val", candidate.values("val"))
            | comparison.mean_columns("test", candidate.values("test"))
            for candidate in self.candidates
        ]
        return pd.DataFrame(rows)

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
        against (label in the first study), paired, why (if it is not), n (repeats of the study, the
        common ones if paired), n_baseline, p_holm (over the rows of the split), and the other
        columns of `comparison.compare`. The interval is simultaneous: Bonferroni over the rows of
        the split. There is no interval and no p value (NaN) with fewer than three repeats, or for
        unpaired repeats with folds.
        """
        compared = list(self._pairs())
        parts = []
        for split in self.splits if compared else ():
            pairs = [self._pair(split, a, b) for _, a, b in compared]
            table = comparison.compare_samples(pairs, self.criterion, m=len(pairs))
            names = [(kind, a.study, a.label, b.label) for kind, a, b in compared]
            table[["pair", "study", "label", "against"]] = names
            parts.append(table.assign(split=split, p_holm=comparison.holm_without_nan(table.p)))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _pairs(self) -> Iterator[tuple[str, Candidate, Candidate]]:
        """Yield the pairs of configurations that are compared, and what they are."""
        for name in list(self.studies)[1:]:
            for kind in ("best", "plain", "baseline"):
                a, b = self._candidate(name, kind), self._candidate(self.reference, kind)
                if a and b and (kind == "best" or not (a.is_best and b.is_best)):
                    yield kind, a, b

    def _candidate(self, name: str, kind: str) -> Candidate | None:
        """Return the best configuration of a study, of all or of a kind; None without any."""
        of_study = (c for c in self.candidates if c.study == name)
        return next((c for c in of_study if (c.is_best and kind == "best") or c.kind == kind), None)

    def _pair(self, split: str, a: Candidate, b: Candidate) -> Pair:
        """Return the pair of a configuration of a study with one of the first study."""
        x, y, design = a.values(split), b.values(split), self.design_against(a.study)
        _, too_few = common_repeats(x, y)
        if why := ", ".join(pairing_obstacles(b.results.study, a.results.study)) or too_few:
            means, sizes = (a.unit_means(x), b.unit_means(y)), (len(x), len(y))
            return Pair(*means, design=design, why_unpaired=why, sizes=sizes)
        return a.sample(split).minus(b.sample(split), design)

    def design_against(self, name: str) -> Design:
        """Return the design that decides the comparison of a study with the first one."""
        results = (self.studies[name], self.studies[self.reference])
        recipes = {(r.study.run.teacher, r.study.run.teacher_epochs) for r in results}
        several = len(recipes) > 1 or any(r.design.several_recipes for r in results)
        return stricter(*(replace(r.design, several_recipes=several) for r in results))

    def context(self, row: pd.Series) -> ComparisonContext:
        """Return the baseline of a row of `comparisons`, with the sentences about it."""
        studies = self.studies.values()
        adaptive = any(math.isnan(r.planned_repeats) or r.study.until_decided for r in studies)
        return ComparisonContext(
            baseline=f"{row.against} in {self.reference}",
            planned=math.nan if adaptive else 0,
            images=None if math.isnan(row.n_images) else int(row.n_images),
            design=self.design_against(row.study),
            split=row.split,
            is_one_study=False,
        )

    @property
    def default_file(self) -> str:
        """Name of the page that compares the studies, e.g. comparison-a-b.html."""
        names = "-".join(Path(name).name for name in self.studies)
        return f"comparison-{names[:MAX_FILE_NAME]}.html"


# Tables and sentences of studies side by side, shared by the terminal and the report.


_IN_JSON = ["split", "study", "pair", "label", "against", "paired", "why", "diff", "low", "high"]
_IN_JSON += ["p", "n", "n_images", "n_reference", "p_holm"]


def text(side: SideBySide, format: Format = "md") -> str:
    """Return the comparison as text.

    "json" is the three tables alone, "csv" the one of the best configurations.
    """
    if format == "csv":
        return format_table(side.best, "csv")
    if format == "json":
        comparisons = side.comparisons.rename(columns={"n_baseline": "n_reference"})
        comparisons = comparisons.reindex(columns=_IN_JSON if len(comparisons) else [])
        settings = differing_settings(side.studies)
        tables = {"best": side.best, "comparisons": comparisons, "settings": settings}
        return as_json({"studies": list(side.studies)} | tables)
    parts = [*conclusions(side), side.doubt]
    if len(side.comparisons):
        parts += [f"Difference from {side.reference}:", markdown(*difference_rows(side))]
        parts.append(method(side))
    parts += ["Best configurations:", markdown(*best_rows(side)), best_note(side)]
    parts += ["Settings that differ:", markdown(*setting_rows(side))]
    return "\n\n".join(filter(None, parts))


def best_rows(side: SideBySide) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of the best configurations."""
    scale, percent = side.criterion.scale, " (%)" * side.criterion.in_points
    head = ["study", "", "configuration", "n"]
    head += [f"{split} {side.criterion.metric}{percent}" for split in side.splits]
    rows = []
    for _, row in side.best.iterrows():
        kind = f"{row.kind}{' (best)' * row.is_best}"
        cells = [row.study, kind, row.label, f"{row['val/n']:.0f}"]
        for split in side.splits:
            cells.append(plus_minus(scale * row[f"{split}/mean"], scale * row[f"{split}/std"]))
        rows.append(cells)
    return head, rows


def best_note(side: SideBySide) -> str:
    """Return what the numbers of the best configurations are."""
    return sentence("best of each", scope=side.criterion.scope, has_test="test" in side.splits)


def difference_rows(side: SideBySide) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of differences from the first study."""
    table = side.comparisons.drop(columns=["wins", "low_here"])
    kinds = table["pair"].map(lambda kind: "" if kind == "best" else f"{kind}: ")
    table = table.assign(label=kinds + table.label)
    columns = {"study": "study", "label": "configuration", "against": f"against {side.reference}'s"}
    return comparison_rows(table, columns | {"split": "split"}, side.criterion)


def setting_rows(side: SideBySide) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of settings that differ."""
    table = differing_settings(side.studies)
    return list(table.columns), [list(row) for row in table.itertuples(index=False)]


def method(side: SideBySide) -> str:
    """Return how the differences were computed, and what they are about.

    Once for val and test, as long as both are paired by image or neither is; test stands for both.
    """
    sentences = {}
    for _, row in side.comparisons.iterrows():
        context = side.context(row)
        # unpaired folds have no test, as the conclusion says
        if row.paired or context.design.folds is None:
            sentences[row.study, row.why, context.images is None] = context.method(row.why)
    return " ".join(dict.fromkeys(chain.from_iterable(sentences.values())))


def conclusions(side: SideBySide) -> Iterator[str]:
    """Yield a text for each other study on its best configuration, on test if there is one."""
    table = side.comparisons
    if not len(table):
        yield sentence("no studies")
        return
    split = side.splits[-1]
    criterion = replace(side.criterion, split=split)
    table = table[table.split == split]
    for _, row in table[table["pair"] == "best"].iterrows():
        rows = row.to_frame().T.infer_objects().assign(label=f"{row.label} in {row.study}")
        yield verdict(rows, criterion, None, side.context(row), len(table))


def split_conclusion(text: str) -> tuple[str, str]:
    """Return a conclusion's first sentence, with which a page begins, and the rest or ""."""
    first, _, rest = text.partition(". ")
    return f"{first.removesuffix('.')}.", rest


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


def _describe_folder(folder: Path, criterion: Criterion) -> dict[str, Any]:
    """Return the row of a folder; a list is of one line each, so reasons lack the path."""
    row: dict[str, Any] = {"name": folder.name}
    try:
        return row | _describe(load(folder), criterion)
    except Exception as error:  # whatever damaged records raise, the other studies are listed
        reason = first_line(error).replace(f"{folder}/", "").replace(str(folder), "it")
        return row | {"state": f"damaged: {reason}"}


def _describe(results: Results, criterion: Criterion) -> dict[str, Any]:
    if results.task.is_distillation:
        criterion = replace(criterion, task=results.task)
    else:
        criterion = results.default_criterion
    state, time = results.status.partition("; last record")[0], results.frames.last_record_time
    if incomplete := len(results.frames.incomplete):
        state += f", {incomplete} damaged record{'s' * (incomplete > 1)}"
    row = {"state": state, "data": data_name(results.study), "metric": criterion.metric}
    if time is not None:
        row["last_record"] = f"{datetime.fromtimestamp(time, UTC):%F %T}"
    best = results.best(criterion)
    if best is None:
        return row
    values = criterion.by_repeat(results.trials_for(criterion))
    interval = mean_interval(values[best].dropna())
    table = results.compare(criterion)
    if len(results.compared_students(criterion)) > 1:  # the best one's student against itself
        table = table[criterion.groups(table) == results.student(best)]
    words = short_verdict(table, criterion, results.context(criterion))
    conclusions = [c for c in results.conclusions(criterion) if c.learned_nothing]
    if any(c.student in (None, results.student(best)) for c in conclusions):
        words = "no student learned"
    numbers = {"mean": interval.mean, "std": interval.sd, "n": interval.n}
    return row | numbers | {"best": results.label(best), "verdict": words}


def studies_text(table: pd.DataFrame, criterion: Criterion, format: Format = "md") -> str:
    """Return the table of `list_studies` as text; csv and json have all digits."""
    if format in ("csv", "json"):
        return format_table(table, format)
    percent = " (%)" * criterion.in_points
    head = ["study", "state", "data", "best configuration", f"val {criterion.metric}{percent}"]
    head += ["n", "distillation", "last record (UTC)"]
    if not criterion.has_task_baseline:
        head[6] = "against the baseline"
    rows = []
    for _, row in table.iterrows():
        texts = row.where(row.notna(), "-")
        value = plus_minus(criterion.scale * row["mean"], criterion.scale * row["std"])
        if isinstance(row.metric, str) and row.metric != criterion.metric:
            value = f"{plus_minus(row['mean'], row['std'])} ({row.metric})"
        n = "-" if math.isnan(row.n) else f"{row.n:.0f}"
        state = shorten(row.state, _MAX_STATE, placeholder=" ...")
        cells = [row["name"], state, texts.data, texts.best, value, n, texts.verdict]
        rows.append([*cells, str(texts.last_record)[:16]])
    return markdown(head, rows)
