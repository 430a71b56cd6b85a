"""Whether a student may replace the teacher, another model or the student of another study."""

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.files import STUDENTS, STUDY
from kdtune.config.records import read_students_record
from kdtune.config.study import AGAINST_TEACHER, Format
from kdtune.config.text import InputError, list_some
from kdtune.results import comparison, formatting, several, words
from kdtune.results.comparison import Criterion
from kdtune.results.design import Design, Pair, Rows, judge_rows
from kdtune.results.examples import classes_of
from kdtune.results.frames import GROUP, read_predictions
from kdtune.results.results import Results
from kdtune.results.tables import read_table
from kdtune.statistics.intervals import by_group

# A student and the reference on the same examples of a split, by repeat.


_CLASS, _TOP = "class", "top_classes"
_OUTPUTS = ("predicted", "logits", "probabilities", "top_probabilities")
"""Columns of a file of outputs."""
_SLICE = "slice/"
"""Prefix of the columns of a table of slices."""
Frames = Sequence[pd.DataFrame]
"""Of each repeat a row per example: student and reference (value of the metric), class, and group
where the data have groups."""


def _pair(frames: Frames, design: Design, is_file: bool, rows: Rows, keep: Any = None) -> Pair:
    """Return values by repeat, of the examples to keep or of all, by group, as a pair.

    The student of a file is one fixed run, so that its examples alone are the sample.
    """
    if design.has_groups:
        of_each = zip(rows, frames, keep or [slice(None)] * len(rows), strict=True)
        rows = [by_group(row, frame[GROUP].to_numpy(str)[mask]) for row, frame, mask in of_each]
    return Pair.of(rows, [int(frame["repeat"].iloc[0]) for frame in frames], design, is_file)


def _by_slice(
    frames: Frames, make: Callable[..., Pair], names: Sequence[str], criterion: Criterion
) -> pd.DataFrame:
    """Return a row per value of each column, see `Replacement.slices`."""
    keys, pairs = [], []
    for name in names:
        for value in pd.concat(frames)[name].dropna().sort_values().unique():
            keep = [(frame[name] == value).to_numpy() for frame in frames]
            if all(mask.any() for mask in keep):
                of_each = zip(frames, keep, strict=True)
                rows = [(f.student - f.reference).to_numpy()[mask] for f, mask in of_each]
                keys.append((name.removeprefix(_SLICE), value, keep[0].sum()))
                pairs.append(make(rows, keep))
    if not pairs:
        raise InputError("--slices must have values for examples of each repeat, but has none")
    table = comparison.compare_family(pairs, criterion)
    return pd.DataFrame(keys, columns=["column", "value", "images"]).join(table)


def _read(results: Results, criterion: Criterion, trials: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the predictions of trials on a split, with the metric as `student`, and the class.

    Raises:
        InputError: Some are missing, or the metric has no value per example.
    """
    of_example = criterion.declared.of_example
    if of_example is None or criterion.scope != "last":
        name = f"{criterion.metric} (--scope {criterion.scope})"
        raise InputError(f"--against needs a value per example at the last epoch, not {name}")
    frame = read_predictions(results.folder, list(trials.trial_id))
    needed = {"label", *[GROUP] * results.design.has_groups}
    frame = frame[frame["split"] == split] if needed <= {*frame} else pd.DataFrame({"trial_id": []})
    if missing := [trial for trial in trials.trial_id if trial not in set(frame.trial_id)]:
        raise InputError(
            f"--against needs the predictions of each run on {split}, but {results.folder} lacks "
            f"those of {list_some(missing, 3)}, or an early version wrote them; run it again"
        )
    names = np.array(classes_of(results.folder, int(frame.label.max()) + 1))
    frame = frame.merge(trials[["trial_id", "repeat"]], on="trial_id")
    frame = frame.assign(**{_CLASS: names[frame.label.astype(int)]})
    return frame.assign(student=np.asarray(of_example(frame), float)).sort_values("example")


def _shipped(results: Results) -> pd.DataFrame:
    """Return the trial of the student that `load_student` takes, a row; none if none is kept."""
    with suppress(InputError, ValueError):  # no students, or the record of an early version
        students = read_students_record(results.folder / STUDENTS).students
        first = min((student.repeat, student.trial_id) for student in students)
        return results.trials[results.trials.trial_id == first[1]]
    return results.trials.head(0)


# The reference: the teacher, a file of a model's outputs, or the best configuration of a study.


@dataclass(frozen=True)
class _Reference:
    """What a student is to replace."""

    name: str
    """In words."""
    truth: str
    """Column of `_read` that its classes are compared with; "": it has values of the metric."""
    rows: pd.DataFrame
    """Its class or value, `reference`, by the other columns: which example, and in which repeat
    where repeats are paired. Empty for the teacher, whose class the rows of `_read` have."""
    design: Design
    costs: pd.DataFrame
    """Rows of `Results.costs` that may be its own."""
    note: str = ""
    """What to know about the comparison."""

    def join(self, frame: pd.DataFrame) -> list[pd.DataFrame]:
        """Return the rows of `_read` with the column `reference`, of each repeat that it has.

        Raises InputError if some are missing.
        """
        if self.truth == "label":
            frame = frame.assign(reference=frame.get("teacher", math.nan))
        else:
            if "repeat" in self.rows:
                frame = frame[frame["repeat"].isin(self.rows["repeat"])]
            elif "file" not in self.rows and self.design.folds and frame["split"].iloc[0] == "val":
                raise InputError(f"{self.name} must name files, since val differs between repeats")
            frame = frame.merge(self.rows, "left")  # by all other columns
        if (lacking := frame.reference.isna()).any():
            row = frame[lacking].iloc[0]
            raise InputError(
                f"{self.name} must have an output for each example of {row.split}, but "
                f"{frame.example[lacking].nunique():,} of {frame.example.nunique():,} have none, "
                f"such as {row.example}"
            )
        if self.truth:
            frame = frame.assign(reference=(frame.reference == frame[self.truth]).astype(float))
        return [rows for _, rows in frame.groupby("repeat")]


def _find_reference(
    results: Results, against: str, criterion: Criterion, split: str, classes: list[str]
) -> _Reference:
    """Return the teacher, the outputs in a file or the best configuration of a study."""
    file, costs = Path(against).expanduser(), results.costs
    if "://" in against or (file / STUDY).is_file():
        return _of_study(results, against, criterion, split)
    if criterion.metric != "acc":
        raise InputError(f"--metric must be acc, or --against a study, not {criterion.metric}")
    if against == AGAINST_TEACHER:
        costs = costs[costs.role == "teacher"]
        return _Reference("the teacher", "label", pd.DataFrame(), results.design, costs)
    rows = _predicted_classes(file, split, classes)
    return _Reference(file.name, _CLASS, rows, results.design, costs.head(0))


def _predicted_classes(file: Path, split: str, classes: list[str]) -> pd.DataFrame:
    """Return the class that a file of outputs gives each example of a split, as `reference`.

    The formats are parquet as in docs/teachers.md, and a table with a column `predicted`. The other
    column is `file`, or `example`, the index in the split.
    """
    frame = read_table(str(file), "--against (teacher, a study or a file of outputs)")
    order = classes
    if file.suffix == ".parquet":
        from pyarrow.parquet import read_schema

        named = (read_schema(file).metadata or {}).get(b"classes", b"null")
        order = list(map(str, json.loads(named) or order))
    frame = frame[frame["split"] == split] if "split" in frame else frame
    kind = next((kind for kind in _OUTPUTS if kind in frame), "predicted")
    key = "file" if "file" in frame and frame["file"].notna().all() else "example"
    is_whole = {key, kind} <= set(frame) and not frame[key].duplicated().any()
    is_whole = is_whole and (key == "file" or pd.api.types.is_integer_dtype(frame[key]))
    if not is_whole or sorted(order) != sorted(classes):
        raise InputError(
            f"{file} must have the column example or file, each once, {' or '.join(_OUTPUTS)}, and "
            f"the classes of the data ({list_some(classes, 3)}), but has {', '.join(frame)}"
        )
    values: Sequence[Any] = list(frame[kind])
    if kind != "predicted":
        if not all(len(row) and np.isfinite(row).all() for row in values):
            raise InputError(f"{file}: {kind} must be lists of finite numbers, but some are not")
        tops = frame[_TOP] if kind == "top_probabilities" else [range(len(order))] * len(values)
        values = [top[np.argmax(row)] for top, row in zip(tops, values, strict=True)]
    names = {name: name for name in order} | dict(enumerate(order))
    found = [names.get(value, names.get(str(value))) for value in values]
    return pd.DataFrame({key: frame[key].to_numpy(), "reference": found})


def _of_study(results: Results, folder: str, criterion: Criterion, split: str) -> _Reference:
    """Return the best configuration of another study of the same data.

    Its repeats are paired with those of the student where the studies share what a repeat fixes;
    else each example has the mean of its repeats.
    """
    side = several.load_several([str(results.folder), folder], criterion)
    name, other = list(side.studies.items())[1]
    chosen = next((c for c in side.candidates if c.study == name and c.is_best), None)
    if chosen is None:
        raise InputError(f"{folder} must have a completed run to be replaced, but has none")
    rows = _read(other, chosen.criterion, chosen.trials, split)
    why = ", ".join(several.pairing_obstacles(results.study, other.study))
    if not {*rows["repeat"]} & {*results.trials_for(criterion)["repeat"]}:
        why = why or "other repeats"
    keys, reference = ["repeat", "example", "label"][bool(why) :], f"{chosen.label} of {name}"
    rows = rows.groupby(keys).student.mean().rename("reference").reset_index()
    design = results.design if why else side.design_against(name)
    unpaired = words.sentence("unpaired reference", name=reference, why=why) if why else ""
    costs = other.costs[other.costs.model == other.student(chosen.config_id)]
    note = " ".join(filter(None, [side.doubt, unpaired]))
    return _Reference(reference, "", rows, design, costs[costs.role == "student"], note)


# The verdict on each student, and its table and sentences.


@dataclass(frozen=True, repr=False)
class Replacement:
    """Whether students may replace a reference; `text` is for reading."""

    table: pd.DataFrame
    """See `kdtune.Results.replaces`."""
    slices: pd.DataFrame
    """One row per student, kind and slice: label, kind, column, value, images, and the columns of
    `Results.compare`: low and high are simultaneous for all slices of a student and kind."""
    results: Results
    criterion: Criterion
    reference: _Reference
    is_fixed: bool
    """Whether the study had recorded reference and margin before its first run."""
    is_selected: bool
    """Whether val chose each configuration among several, in the repeats that judge it."""

    def text(self, format: Format = "md") -> str:
        """Return tables and sentences as Markdown; csv and json are the slices, or the table."""
        if format != "md":
            return formatting.format_table(self.slices if len(self.slices) else self.table, format)
        rows = [words.sentence("head of replacement", r=self), *self._of_rows("row of replacement")]
        head, *lines = map(list, zip(*(text.split("\t") for text in rows), strict=True))
        parts = [words.sentence("replacement of", r=self), formatting.markdown(head, lines)]
        for (label, kind), of_slices in self.slices.groupby(["label", "kind"], sort=False):
            heads = {"column": "slice", "value": "value", "images": self.results.task.examples}
            cells = formatting.comparison_rows(of_slices, heads, self.criterion)
            parts += [f"Slices, {label}, {kind}:", formatting.markdown(*cells)]
        return "\n\n".join([*parts, *self.sentences])

    @property
    def sentences(self) -> list[str]:
        """The verdict on each row in words, and what to know about the reference."""
        return [text for text in [*self._of_rows("replacement"), self.reference.note] if text]

    def _of_rows(self, key: str) -> list[str]:
        """Return a text about each row of the table."""
        say, design = self.results.context(self.criterion).sentence, self.reference.design
        about = {"r": self, "design": design, "new_images": design.folds is None}
        rows = (row for _, row in self.table.iterrows())
        return [say(key, row=row, split=row.split, **about) for row in rows]


def recorded_sentences(results: Results) -> list[str]:
    """Return the verdict that a study has asked for before its first run; [] if it has not."""
    try:
        return [] if results.study.margin is None else replaces(results).sentences
    except InputError as error:
        return [words.sentence("not judged", error=error)]


def replaces(
    results: Results,
    against: str | None = None,
    margin: float | None = None,
    configs: Sequence[str] = (),
    criterion: Criterion | None = None,
    slices: pd.DataFrame | None = None,
) -> Replacement:
    """Judge whether students may replace a reference; see `kdtune.Results.replaces`.

    Args:
        results: of the study.
        against: see there.
        margin: see there.
        configs: see there.
        criterion: of the comparison.
        slices: a column `example` (index in the split, or file), and columns whose values are
            slices.
    """
    criterion, study = criterion or results.default_criterion, results.study
    recorded = None if study.margin is None else study.margin / criterion.scale
    asked = study.against or AGAINST_TEACHER
    against, margin = against or asked, recorded if margin is None else margin
    if margin is None or not results.task.is_distillation:
        needs = "--margin, the largest loss that you accept (such as --margin 1.0)"
        raise InputError(f"--against must be used with {needs}, for students of distillation")
    criterion.check_margin("margin", margin)
    is_same = os.path.abspath(against) == os.path.abspath(asked) and math.isclose(
        margin, recorded or 0
    )
    is_fixed = is_same and criterion.decides_the_search and not configs
    split = "test" if (results.epochs["split"] == "test").any() else "val"
    trials = comparison.completed(results.trials_for(criterion))
    students = comparison.students_of(results.of_largest(trials))
    groups = students.index.groupby(students).values()
    chosen: Sequence[Any] = configs or [
        results.best_among(list(group), criterion) for group in groups
    ]
    missing = [config for config in chosen if config not in set(trials.config_id)]
    if missing or not chosen:
        of = ", ".join(map(str, missing)) or "this study"
        raise InputError(f"a completed run is needed to judge a replacement, but {of} has none")
    kinds = {"recipe": trials, "file": _shipped(results)}
    arms = [(c, kind, of[of.config_id == c]) for c in chosen for kind, of in kinds.items()]
    arms = [arm for arm in arms if len(arm[2])]
    frames = [_with_slices(_read(results, criterion, of, split), slices) for *_, of in arms]
    classes = list(classes_of(results.folder, int(frames[0].label.max()) + 1))
    reference = _find_reference(results, against, criterion, split, classes)
    rows, of_slices = [], [pd.DataFrame(columns=["label", "kind"])]
    for (config, kind, of), frame in zip(arms, frames, strict=True):
        if not (joined := reference.join(frame)):
            continue  # a file whose repeat the other study lacks
        make = partial(_pair, joined, reference.design, kind == "file")
        keys = {"config_id": config, "label": results.label(config), "kind": kind, "split": split}
        row = keys | {"margin": margin} | _judge(joined, make, criterion, margin)
        rows.append(row | _ratios(results.costs, reference.costs, of.iloc[0]))
        if names := [name for name in frame if name.startswith(_SLICE)]:
            of_slices.append(_by_slice(joined, make, names, criterion).assign(**keys))
    table, parts = pd.DataFrame(rows), pd.concat(of_slices[len(of_slices) > 1 :])
    is_held_out = results.uses_held_out_repeats(criterion)
    is_selected = not (configs or is_held_out) and len(students) > len(chosen)
    return Replacement(table, parts, results, criterion, reference, is_fixed, is_selected)


def _with_slices(frame: pd.DataFrame, slices: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of `_read` with the columns of a table of slices, prefixed."""
    if slices is None:
        return frame
    example = slices.get("example", pd.Series(dtype=int))
    key = "example" if pd.api.types.is_integer_dtype(example) else "file"
    groups = slices.drop(columns="example", errors="ignore").nunique()
    is_table = len(groups) and groups.between(1, len(slices) / 2).all()
    if not is_table or example.duplicated().any() or not frame[key].isin(example).any():
        columns = ", ".join(f"{name} (values: {n:,})" for name, n in slices.nunique().items())
        raise InputError(
            f"--slices must be a table with a column example, the index or the file of examples of "
            f"{frame['split'].iloc[0]} (0 to {frame.example.max()}), each once, and columns that "
            f"put them into groups, but has {columns}"
        )
    rows = slices.add_prefix(_SLICE).rename(columns={f"{_SLICE}example": key})
    return frame.merge(rows, "left", key)


def _judge(
    frames: Frames, make: Callable[..., Pair], criterion: Criterion, margin: float
) -> dict[str, Any]:
    """Return the columns of a row that follow from the values of the examples."""
    student, reference = (
        [f[name].to_numpy(float) for f in frames] for name in ("student", "reference")
    )
    limits = (margin, criterion.sign, criterion.largest_difference)
    row = judge_rows(student, reference, make, limits, criterion.metric == "acc")
    pair, classes = make(student), _by_slice(frames, make, [_CLASS], criterion)
    worst = classes.loc[(criterion.sign * classes["diff"]).idxmin()]
    row |= {"student": np.mean([x.mean() for x in student]), "n": len(frames)}
    row |= {"reference": np.mean([y.mean() for y in reference]), "n_images": pair.n_sampled}
    return row | {"worst_class": worst.value, "worst_diff": worst["diff"], "worst_p": worst.p_holm}


def _ratios(costs: pd.DataFrame, others: pd.DataFrame, trial: pd.Series) -> dict[str, float]:
    """Return latency and size of a trial's student as shares of the reference's; NaN if unknown."""
    ours = costs[(costs.role == "student") & (costs.model == trial["config/student"])]
    theirs = others[others.model == trial["config/teacher"]] if len(others) > 1 else others
    if not (len(ours) and len(theirs)):
        return {"latency_ratio": math.nan, "size_ratio": math.nan}
    a, b = ours.iloc[0], theirs.iloc[0]
    same = all(a[name] == b[name] for name in ("hardware", "device", "threads", "precision"))
    latency = a.latency_ms / b.latency_ms if same else math.nan
    return {"latency_ratio": latency, "size_ratio": a.bytes / b.bytes}
