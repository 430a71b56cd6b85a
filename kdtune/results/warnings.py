"""Warnings about a study: its records, its files and its teachers."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdtune.config import records as config_records
from kdtune.config.fields import OPTIMIZERS, is_output_file
from kdtune.config.files import PREDICTIONS, STUDENT, STUDENTS, TRIALS, student_file
from kdtune.config.records import Accuracy, TeacherAccuracy, read_teacher_accuracy
from kdtune.config.run import DISTILLATION, Run
from kdtune.config.study import Study
from kdtune.config.task import BaseRun, Task
from kdtune.config.text import InputError
from kdtune.results.comparison import SIGNIFICANCE_LEVEL, Criterion, Kind, by_repeat, completed
from kdtune.results.design import p_text
from kdtune.results.frames import INCONSISTENT, Frames, config_label, prediction_tables
from kdtune.results.summaries import edges
from kdtune.results.words import sentence
from kdtune.statistics import intervals
from kdtune.statistics.intervals import binomial_p, chance_level, mean_interval
from kdtune.storage.records import CORRECT

MAX_WARNINGS = 10
"""Warnings of one kind; further runs that are excluded are counted."""
MAX_NAMED = 3
"""Runs or records that a sentence names; of more, the rest is counted."""


def _first(names: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{separator.join(names[:MAX_NAMED])}{more}"


def find_caveats(frames: Frames, columns: Sequence[str]) -> list[str]:
    """Return how the columns of a table could be misread."""
    is_distillation = {*DISTILLATION.recorded} <= {*frames.metrics}
    if not (is_distillation and "loss" in columns and frames.trials["config/alpha"].nunique() > 1):
        return []
    return [sentence("loss")]


def describe_status(study: Study, frames: Frames) -> str:
    """Return the progress of a study, e.g. "complete: 40 runs"."""
    counts = dict.fromkeys(("completed", "failed", "pruned", INCONSISTENT, "dropped"), 0)
    counts |= frames.trials.status.value_counts().to_dict()
    # of an adaptive search only the trials that have started are known
    planned = len(frames.trials) + _count_missing(study, frames.trials)
    time = frames.last_record_time
    last = None if time is None else datetime.fromtimestamp(time, UTC)
    return sentence("status", counts=counts, planned=planned, running=frames.running, last=last)


def _count_missing(study: Study, trials: pd.DataFrame) -> int:
    """Return the number of trials that have not started; 0 if their number depends on results."""
    if not study.is_fixed:
        return 0
    started = int((trials.phase == "search").sum())  # an earlier race may have final repeats, too
    return max(0, len(study.runs()) * study.repeats - started)


# Problems in a study's records: a table of rules, each with its sentence. Nothing here raises.


class _Checked(NamedTuple):
    """What the rules look at."""

    study: Study
    frames: Frames
    by: Sequence[str]
    """Hyperparameters that tell the configurations apart."""
    task: Task

    def name(self, trial: pd.Series) -> str:
        return f"{config_label(trial, self.by)}, repeat {trial['repeat']}"


_Facts = Iterator[Mapping[str, Any]]
EXCLUDED = ("failed", "truncated", INCONSISTENT, "dropped")
"""Status of runs that are named, with the reason, in this order."""


def _unreadable(checked: _Checked) -> _Facts:
    if lines := checked.frames.incomplete:
        yield {"records": "record" + "s" * (len(lines) > 1), "lines": _first(lines)}


def _excluded_runs(checked: _Checked) -> list[tuple[str, pd.DataFrame]]:
    """Return a status and the runs that ended with it for the same reason."""
    trials = checked.frames.trials
    of_status = {status: trials[trials.status == status] for status in EXCLUDED}
    return [
        (status, alike)
        for status, runs in of_status.items()
        for _, alike in runs.groupby("error", dropna=False, sort=False)
    ]


def _excluded(checked: _Checked) -> _Facts:
    for status, alike in _excluded_runs(checked):
        names = []
        for _, trial in alike.iterrows():
            planned = trial.n_epochs_planned  # not known of every training function
            epochs = f"{trial.n_epochs}" + ("" if pd.isna(planned) else f" of {planned:.0f}")
            names.append(f"{trial.trial_id}, {checked.name(trial)}, {epochs} epochs")
        runs = f"{status} run" if len(names) == 1 else f"{len(names)} {status} runs"
        reason = f" ({alike.error.iloc[0]})" if alike.error.notna().all() else ""
        yield {"runs": runs, "names": _first(names, "; "), "reason": reason}


def _counted(checked: _Checked) -> _Facts:
    counts = {f"more {status} runs excluded": 0 for status in EXCLUDED}
    for status, alike in _excluded_runs(checked)[MAX_WARNINGS:]:
        counts[f"more {status} runs excluded"] += len(alike)
    counts["unfinished runs excluded"] = (checked.frames.trials.status == "running").sum()
    counts["runs have not started"] = _count_missing(checked.study, checked.frames.trials)
    yield from ({"count": count, "runs": runs} for runs, count in counts.items() if count)


def _left_out(checked: _Checked) -> _Facts:
    """Find what a study with a limit of time has not run."""
    study, trials = checked.study, checked.frames.trials
    if study.hours is None or checked.frames.running:
        return
    ran = trials[trials.phase == "search"].groupby("config_id")["repeat"].nunique()
    final = trials[trials.phase == "final"]["repeat"].nunique()
    counts = {"configurations": (len(ran), len(study.runs()) or study.samples)}
    if study.policy == "all":
        counts["repeats"] = (ran.max() if len(ran) else 0, study.repeats)
    if study.policy == "race" or study.until_decided:
        counts["final repeats"] = (final, study.repeats)
    left = [f"{most - n} of {most} {noun}" for noun, (n, most) in counts.items() if n < most]
    if left:
        yield {"hours": f"{study.hours:g}", "left": ", ".join(left)}


def _missing_metrics(checked: _Checked) -> _Facts:
    """Find completed trials without a metric that comparable trials recorded.

    A metric that no trial recorded is not missing: studies of earlier versions lack newer ones. A
    metric that is not comparable, such as the distillation term, depends on the loss, and need not
    exist for every loss.
    """
    trials = completed(checked.frames.trials)
    for metric in checked.task.recorded:
        recorded = trials[f"val/{metric}@last"].notna()
        expected = pd.Series(recorded.any(), index=trials.index)
        if not checked.task.metrics[metric].comparable:
            loss = trials["config/loss"]
            expected = recorded.groupby(loss, dropna=False).transform("any")
        names = [checked.name(trial) for _, trial in trials[expected & ~recorded].iterrows()]
        if names:
            facts = {"metric": metric, "count": len(names), "total": len(trials)}
            yield facts | {"runs": _first(names, "; ")}


def _identical_curves(checked: _Checked) -> _Facts:
    """Find trials of one configuration or one repeat with the same values in every epoch.

    In such trials a seed or a hyperparameter was not applied, so that one trial counts as two.
    """
    frames, task = checked.frames, checked.task
    trials = completed(frames.trials)
    val = frames.epochs[frames.epochs.split == "val"]
    val = val[val.trial_id.isin(trials.trial_id)].sort_values("epoch", kind="stable")
    # metrics whose definition depends on alpha differ between identical students
    metrics = [name for name in task.recorded if task.metrics[name].comparable]
    hashes = pd.util.hash_pandas_object(val[["epoch", *metrics]], index=False)
    trials = trials.assign(curve=trials.trial_id.map(hashes.groupby(val.trial_id).agg(tuple)))
    for same in ("config_id", "repeat"):
        equal = trials[trials.duplicated([same, "curve"], keep=False)]
        for _, group in equal.groupby([same, "curve"]):
            first, second = (checked.name(trial) for _, trial in group.head(2).iterrows())
            yield {"first": first, "second": second}


PROBLEMS: tuple[tuple[Callable[[_Checked], _Facts], str], ...] = (
    (_unreadable, "unreadable {records} skipped: {lines}"),
    (_excluded, "{runs} excluded: {names}{reason}"),
    (_counted, "{count} {runs}"),
    (_left_out, "--hours {hours} left out {left}; the same command with more hours runs them"),
    (_missing_metrics, "val {metric} missing in {count} of {total} runs: {runs}"),
    (_identical_curves, "identical learning curves: {first} and {second}"),
)
"""Rules with their sentences, the most serious first. A rule yields facts for each sentence."""


def find_problems(study: Study, frames: Frames, by: Sequence[str], task: Task) -> list[str]:
    """Return the sentences of `PROBLEMS` about a study's records, most serious first.

    Args:
        study: the study.
        frames: its records.
        by: hyperparameters that tell the configurations apart.
        task: whose metrics are checked.
    """
    checked = _Checked(study, frames, by, task)
    return [
        template.format(**facts)
        for rule, template in PROBLEMS
        for facts in islice(rule(checked), MAX_WARNINGS)
    ]


def mark_contradictions(folder: Path, frames: Frames, task: Task) -> pd.DataFrame:
    """Return the trials; the completed ones whose predictions contradict their records are marked.

    Nobody can tell which of the two is right, so such a trial counts in no table.

    Args:
        folder: of the study.
        frames: its records.
        task: of the study.
    """
    trials, faults = frames.trials, dict[str, str]()
    score = DISTILLATION.score if task.is_distillation else task.score
    counts = frames.epochs.groupby(["trial_id", "split"]).n_examples.last().to_dict()
    done = completed(trials).set_index("trial_id")
    means = done.filter(like=f"/{score}@last").to_dict("index")
    column = CORRECT if task.is_distillation else score
    names = ["trial_id", "split", column]
    for trial, table in prediction_tables(folder, list(done.index), names).items():
        groups: list[dict[str, Any]] = []
        with suppress(KeyError, ValueError, NotImplementedError):  # it lacks a column, or has texts
            grouped = table.group_by("split", use_threads=False)
            groups = grouped.aggregate([(column, "count"), (column, "mean")]).to_pylist()
        for group in groups:
            split, n, mean = group["split"], group[f"{column}_count"], group[f"{column}_mean"]
            recorded = means[trial].get(f"{split}/{score}@last", math.nan)
            of_all = counts.get((trial, split), 0)
            lacks_rows = of_all not in (0, n)  # 0: not recorded
            # one correct example more or less makes 1
            if lacks_rows or (n and abs(mean - recorded) * n > 0.75):
                file = Path(TRIALS, trial, PREDICTIONS)
                file = file if (folder / file).is_file() else Path(PREDICTIONS)
                facts = {"lacks_rows": lacks_rows, "recorded": recorded, "of_all": of_all}
                facts |= {"split": split, "n": n, "mean": mean, "label": task.metrics[score].label}
                faults[trial] = sentence(INCONSISTENT, file=file, **facts)
    marked, texts = trials.trial_id.isin(faults), trials.trial_id.map(faults)
    status, error = trials.status.mask(marked, INCONSISTENT), trials.error.mask(marked, texts)
    return trials.assign(status=status, error=error) if faults else trials


# Students of the best configuration that are gone: deleted by hand, or before it was the best.


def missing_students(folder: Path, study: Study, frames: Frames, best: str | None) -> str:
    """Return a sentence if students/ lacks students of the best configuration, else "".

    That happens if the best one changes after the weights of others were deleted. Files of a study
    on an object store are not looked for.

    Args:
        folder: of the study.
        study: the study.
        frames: its records.
        best: config_id of the best configuration.
    """
    trials = completed(frames.trials)
    of_best = trials[trials.config_id == best]
    is_kept = study.uri is None and study.keep != "none"
    if not is_kept or set(of_best.config_id) != {exported_config(folder, study)}:
        return ""
    runs = [
        trial.trial_id
        for _, trial in of_best.iterrows()
        if not (folder / STUDENTS / student_file(trial["repeat"])).is_file()
        and not (folder / TRIALS / trial.trial_id / STUDENT).is_file()  # before the study's end
    ]
    facts = {"first": _first(runs), "total": len(trials), "folder": folder}
    return sentence("gone", runs=runs, **facts) if runs else ""


def exported_config(folder: Path, study: Study) -> str:
    """Return the config_id of the students in students/; "" if there are none.

    It is that of the fields that this version knows, since an earlier one may have written them.
    """
    with suppress(InputError):  # missing or damaged
        values = config_records.read_students_record(folder / STUDENTS).run
        recorded = config_records.known_fields(Run, values)
        return Run(**{"study_values": study.run.study_values} | recorded).config_id
    return ""


# What changes a conclusion: a table of rules on the two configurations that it names.


class Named(NamedTuple):
    """The configurations that a conclusion names, and what the rules look at."""

    row: pd.Series
    """Of `comparison.compare`: a configuration and its baseline."""
    kind: Kind
    """Of the finding."""
    labels: tuple[str, str]
    """The two in words."""
    by: Sequence[str]
    """Hyperparameters that tell the configurations apart."""
    criterion: Criterion
    trials: pd.DataFrame
    """By which the criterion is judged."""
    search: pd.DataFrame
    """Trials of the search."""
    epochs: pd.DataFrame
    """See `Frames.epochs`."""
    teachers: Sequence[TeacherAccuracy]
    """They say how accurate it is to name the largest class of val always."""

    @property
    def configs(self) -> list[str]:
        """Both config_ids, the baseline's last."""
        return [self.row.config_id, self.row.baseline]

    @property
    def chance(self) -> "_Chance | None":
        """Accuracy on val without skill; None if the classes of val are not known."""
        seen = ((r.splits["val"], r.classes) for r in self.teachers if "val" in r.splits)
        return next((_Chance(v.n, chance_level(v.largest_class, v.n, k), k) for v, k in seen), None)

    def runs(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield of each configuration its words and the epochs of its completed runs."""
        trials = completed(self.trials)
        for config, label in zip(self.configs, self.labels, strict=True):
            ids = trials.trial_id[trials.config_id == config]
            yield label, self.epochs[self.epochs.trial_id.isin(ids)]


class _Chance(NamedTuple):
    n: int
    level: float
    classes: int

    def covers(self, share: float) -> bool:
        """Return True if an accuracy, or a macro F1, is no better, by the binomial test."""
        return binomial_p(round(share * self.n), self.n, self.level) > SIGNIFICANCE_LEVEL


_Slots = Mapping[str, Any] | None
"""Texts and numbers of a rule's sentence; None if it is not true."""


def _learned_nothing(named: Named) -> _Slots:
    """Find that both configurations are no better than chance, by the mean of the repeats.

    Where one class has 95 % of the images, a student that finds the others may be right less often
    than one that always names it. If another metric than accuracy decides, macro F1 must be no
    better than chance as well: without input it is about 1 / K at most.
    """
    if (chance := named.chance) is None:
        return None
    means = by_repeat(named.trials, "acc", "last")[named.configs].mean()
    f1 = by_repeat(named.trials, "macro_f1", "last")[named.configs].mean().fillna(0)
    finds_rare = not all(map(chance._replace(level=1 / chance.classes).covers, f1))
    if not all(map(chance.covers, means)) or (finds_rare and named.criterion.metric != "acc"):
        return None
    return {"accuracies": list(zip(named.labels, means, strict=True)), "chance": chance.level}


MIN_CURVE = 6
"""Epochs below which a curve has no end that could be told from its beginning."""
END = 10
"""A curve's end is one epoch in so many. With schedules that end at a learning rate of 0 it is flat
there, also where it rises before."""
RISE = 1.0
"""Points by which the end must be better than as many epochs before it. In the default study, whose
learning rate ends at 0, it is better by 0.2 to 0.6 points."""
CERTAINTY = 0.98
"""Level of the t interval of the rise over repeats, whose lower end must be above 0: one flat curve
in a hundred is taken for a rising one if its rise by chance is above RISE."""


def _still_rising(named: Named) -> _Slots:
    """Find the configurations whose score still improves at the end of the training."""
    criterion = Criterion(task=named.criterion.task)
    if not criterion.in_points:
        return None
    rising = []
    for label, of_runs in named.runs():
        val = of_runs[of_runs.split == "val"]
        curves = val.pivot_table(criterion.metric, "trial_id", "epoch").dropna()
        last = max(1, round(curves.shape[1] / END))
        if curves.shape[1] < MIN_CURVE or len(curves) < intervals.MIN_REPEATS:
            continue
        end, before = curves.iloc[:, -last:], curves.iloc[:, -2 * last : -last]
        rise = criterion.sign * criterion.scale * (end.mean(axis=1) - before.mean(axis=1))
        interval = mean_interval(rise, CERTAINTY)
        if interval.mean > RISE and not interval.low <= 0:  # NaN where all repeats rise alike
            rising.append((label, interval.mean))
    return {"rising": rising, "label": criterion.declared.label} if rising else None


def _at_the_end(named: Named) -> _Slots:
    """Find hyperparameters whose values are the lowest or highest of those searched."""
    ends = [edges(named.search, c, named.by, named.criterion) for c in named.configs]
    return {"ends": ends[0], "of_baseline": ends[1]} if any(ends) else None


def _one_learning_rate(named: Named) -> _Slots:
    """Find a difference with a single learning rate, whose steps the teacher's term changes."""
    if named.kind in ("not significant", "no test") or not named.criterion.task.is_distillation:
        return None
    pair = named.search[named.search.config_id.isin(named.configs)]
    scaled = [name for name, optimizer in OPTIMIZERS.items() if optimizer.scales_with_loss]
    rates = named.search["config/lr"].unique()
    if len(rates) > 1 or not pair["config/optimizer"].isin(scaled).all():
        return None
    return {"lr": rates[0], "optimizer": pair["config/optimizer"].iloc[0]}


def _less_calibrated(named: Named) -> _Slots:
    """Find that an accuracy that is not worse comes with a worse cross-entropy."""
    criterion, is_not_worse = named.criterion, named.kind in ("better", "not significant")
    if not is_not_worse or criterion.metric != "acc" or not criterion.task.is_distillation:
        return None
    values = by_repeat(named.trials, "ce", criterion.scope)[named.configs].dropna()
    is_worse = mean_interval(values[named.row.config_id] - values[named.row.baseline]).low > 0
    return {"ce": values.mean().to_list()} if is_worse else None


def _wrong_on_views(named: Named) -> _Slots:
    """Find that the teacher of the distilled configuration is wrong on what the student sees."""
    epochs = named.epochs[named.epochs.config_id == named.row.config_id]
    return next(({"seen": seen} for seen in find_wrong_views(named.teachers, epochs)), None)


LOST = 0.2
"""Share of val by which the best repeat must be above one at chance: where all have hardly learned,
as in studies of two epochs, one at chance is no failure."""


def _failed_repeats(named: Named) -> _Slots:
    """Find repeats whose loss rose, or that are at chance where others are far better."""
    failed, chance = [], named.chance
    if chance is None:
        return None
    for label, of_runs in named.runs():
        splits = of_runs.sort_values("epoch", kind="stable").groupby(["split", "trial_id"])
        first, last = splits[["loss", "acc"]].first(), splits[["loss", "acc"]].last()
        if not {"train", "val"} <= set(last.index.unique("split")):
            continue
        is_lost = (last.loss["train"] > first.loss["train"]) & (last.acc["val"] <= first.acc["val"])
        counts = [Accuracy(chance.n, round(a * chance.n), 0) for a in last.acc["val"]]
        best = max(counts, key=lambda count: count.correct)
        is_lost |= np.array([chance.covers(c.share) and _is_below(c, best, LOST) for c in counts])
        if is_lost.any():
            failed.append((label, int(is_lost.sum()), len(is_lost)))
    return {"failed": failed} if failed else None


NOTHING_LEARNED, AT_THE_END = "no student learned", "at the end"
ON_VIEWS, FAILED = "wrong on views", "failed repeats"
DOUBTS: Mapping[str, Callable[[Named], _Slots]] = {
    NOTHING_LEARNED: _learned_nothing,
    FAILED: _failed_repeats,
    ON_VIEWS: _wrong_on_views,
    "not converged": _still_rising,
    AT_THE_END: _at_the_end,
    "one learning rate": _one_learning_rate,
    "less calibrated": _less_calibrated,
}
"""Rules by their sentence. The first replaces a conclusion, the others follow it."""
WARNED = (NOTHING_LEARNED, FAILED, "not converged")
"""Those that are warnings, too."""


def find_doubts(named: Named) -> dict[str, str]:
    """Return the sentences of `DOUBTS` about a conclusion, by their keys.

    If no student learned, or nothing could be tested, there is nothing else to doubt.
    """
    doubts: dict[str, str] = {}
    for key, rule in DOUBTS.items():
        if (slots := rule(named)) is not None:
            doubts[key] = sentence(key, **slots)
        if key == NOTHING_LEARNED and (doubts or named.kind == "no test"):
            return doubts
    return doubts


# Accuracy of the teachers: what it is, and what is wrong with it.


FAULT_LEVEL = 0.001
"""Level of tests that are made for every teacher of every study, without a reason to doubt it."""
LARGEST_LOSS = 0.2
"""Share of the training views that a teacher may lose by the augmentation. In the default study it
loses nothing. On resized crops of images of 32 pixels it lost 0.35 (57 % of the views, 92 % of
test): distilling seemed to cost 8 points; with --augment crop alpha = 0.1 rose from 0.315 to 0.370.
"""


def _is_below(accuracy: Accuracy | None, other: Accuracy | None, least: float) -> bool:
    """Return True if an accuracy is below another one by at least so much, and not by chance."""
    if accuracy is None or other is None or other.share - accuracy.share < least:
        return False
    return intervals.fewer_p(accuracy.correct, accuracy.n, other.correct, other.n) <= FAULT_LEVEL


BETTER = 0.05
"""Share of images by which a change must make a teacher better before it is named."""


def _is_far_better(each: config_records.Alternative) -> bool:
    """Return True if a teacher is better with a change, by McNemar's exact test."""
    without, with_change = each.shares
    p = binomial_p(each.gained, max(1, each.gained + each.lost), 0.5)
    return with_change - without >= BETTER and p <= FAULT_LEVEL


LABELS = 0.1
"""Share by which train must be below val, before its labels are doubted: usually it is above."""
KNOWN_VAL = 0.03
"""Share by which test must be below val, before val is thought to be known to the teacher. Of val
cut from a teacher's own training images 100 % were right, and 92 % of test."""


VIEWS = ("teacher", "teacher_epochs", "augment", "mixup", "cutmix")
"""Hyperparameters that decide how accurate a teacher is on the training views."""


class OnViews(NamedTuple):
    """Accuracy of a teacher on the augmented images that students learn from."""

    record: TeacherAccuracy
    augment: str
    views: Accuracy

    @staticmethod
    def of(teachers: Sequence[TeacherAccuracy], row: Mapping[str, Any]) -> "OnViews | None":
        """Return what an epoch has recorded of it; None if there is nothing to compare.

        Mixed images have no class that could be right, and those that are not augmented are train.

        Args:
            teachers: Accuracies without augmentation.
            row: Of train, as of `Frames.epochs`.
        """
        key = row["config/teacher"], row["config/teacher_epochs"]
        sizes = None, row["config/train_images"]
        equal = [r for r in teachers if (r.teacher, r.epochs) == key and r.images in sizes]
        acc, augment = row.get("teacher_acc"), row["config/augment"]
        is_plain = augment in (None, "none") or row["config/mixup"] or row["config/cutmix"]
        if not equal or is_plain or acc is None or pd.isna(acc):
            return None
        n = int(row["n_examples"])
        record = equal[int(row["repeat"]) % len(equal)]
        return OnViews(record, augment, Accuracy(n, round(acc * n), 0))

    @staticmethod
    def of_run(
        teachers: Sequence[TeacherAccuracy], run: BaseRun, train: Mapping[str, Any]
    ) -> "OnViews | None":
        """Return the same from the metrics on train of a run's first epoch."""
        config = {f"config/{name}": value for name, value in run.config.items()}
        return OnViews.of(teachers, {**train, **config, "repeat": run.repeat})

    @property
    def lines(self) -> list[str]:
        """Lines for the terminal: the accuracy and, if there is a fault, a warning."""
        return [str(self), f"warning: {self.fault}"] if self.fault else [str(self)]

    @property
    def least(self) -> tuple[str, Accuracy]:
        """The split, train or val, with its lower accuracy: labels of train may be wrong, too."""
        both = [(n, self.record.splits[n]) for n in ("train", "val") if n in self.record.splits]
        return min(both, key=lambda split: split[1].share)

    def __str__(self) -> str:
        return sentence("teacher on views", seen=self)

    @property
    def fault(self) -> str:
        """A sentence if the teacher is far less accurate than without augmentation, else ""."""
        is_below = _is_below(self.views, self.least[1], LARGEST_LOSS)
        return sentence("wrong on views", seen=self) if is_below else ""


def find_wrong_views(
    teachers: Sequence[TeacherAccuracy], epochs: pd.DataFrame
) -> Iterator[OnViews]:
    """Yield the teachers that are far less accurate on the views of train, by first epochs of runs.

    Args:
        teachers: Accuracies without augmentation.
        epochs: See `Frames.epochs`.
    """
    if not teachers:
        return
    rows = epochs[(epochs.split == "train") & (epochs.epoch == 0)].sort_values("repeat")
    for row in rows.drop_duplicates([f"config/{name}" for name in VIEWS]).to_dict("records"):
        if (seen := OnViews.of(teachers, row)) is not None and seen.fault:
            yield seen


def find_teacher_faults(records: Sequence[TeacherAccuracy]) -> Iterator[str]:
    """Yield what is wrong with teachers by their accuracy alone, one sentence each."""
    for record in records:
        train, val, test = (record.splits.get(split) for split in ("train", "val", "test"))
        are_labels_wrong = _is_below(train, val, LABELS)
        if are_labels_wrong:
            yield sentence("wrong labels", record=record, train=train, val=val)
        best = max(record.alternatives, key=lambda each: each.shares[1], default=None)
        is_other = best is not None and _is_far_better(best)
        if is_other:
            of_file = is_output_file(record.teacher)
            yield sentence("alternative", record=record, best=best, of_file=of_file)
        # a head of these classes may have been trained on val, one that kdtune made was not
        may_know_val = not record.epochs or record.acc_before is not None
        if may_know_val and _is_below(test, val, KNOWN_VAL) and not _is_below(val, train, 0):
            yield sentence("known val", record=record, train=train, val=val, test=test)
        by_chance = []
        for split, value in record.splits.items():
            if is_other or (split == "train" and are_labels_wrong):
                continue
            chance = chance_level(value.largest_class, value.n, record.classes)
            p = binomial_p(value.correct, value.n, chance)
            if p > SIGNIFICANCE_LEVEL:
                by_chance.append((split, value, chance, p_text(p)))
        if by_chance:
            of_file = is_output_file(record.teacher)
            yield sentence("teacher by chance", record=record, splits=by_chance, of_file=of_file)
        if record.like_probabilities:
            yield sentence("probabilities", record=record)
        before, after = record.acc_before, record.acc_after
        if before is not None and after is not None and after < before:
            yield sentence("teacher got worse", record=record)


def check_teachers(
    folder: Path,
    keys: Sequence[config_records.TeacherKey],
    measure: Callable[[list[TeacherAccuracy]], list[TeacherAccuracy]],
    least: float | None,
    write: Callable[[str], None],
) -> None:
    """Write the accuracy of a study's teachers and what is wrong with it; measure it if needed.

    Args:
        folder: Of the study, whose record is completed.
        keys: Of each teacher.
        measure: Returns the accuracy of the teachers that are not yet in the records passed to it.
        least: Value of --teacher-min-acc.
        write: Is called with each line.

    Raises:
        InputError: A teacher is less accurate than `least`.
    """
    records = {record.key: record for record in read_teacher_accuracy(folder)}
    if measured := measure(list(records.values())):
        records |= {record.key: record for record in measured}
        config_records.write_teacher_accuracy(folder, list(records.values()))
    checked = [records[key] for key in keys]
    for _, alike in groupby(checked, attrgetter("recipe_name")):
        name = "teacher accuracy" if len(group := list(alike)) == 1 else "accuracy of teachers"
        write(sentence(name, record=group[0], records=group))
    for fault in find_teacher_faults(checked):
        write(f"warning: {fault}")
    for record in checked:
        value = record.splits.get("val")
        if least is not None and value is not None and value.share < least:
            facts = {"record": record, "value": value, "least": least}
            of_file = is_output_file(record.teacher)
            raise InputError(sentence("inaccurate teacher", of_file=of_file, **facts))


def find_weak_teachers(folder: Path, trials: pd.DataFrame) -> list[str]:
    """Return a sentence for each teacher that is less accurate than students trained without it.

    Accuracies are on val. Those of a student are the mean of its best configuration without
    distillation over the completed repeats, those of a recipe the mean of its teachers.

    Args:
        folder: of the study.
        trials: of the search, see `frames.Frames`.
    """
    undistilled = completed(trials)[lambda t: t["config/alpha"] == 1]
    groups = undistilled.groupby(
        ["config/student", "config/train_images", "config_id"], dropna=False
    )
    means = groups["val/acc@last"].mean().reset_index()
    recipes: dict[tuple[str, int | None], list[float]] = {}
    for record in read_teacher_accuracy(folder):
        if "val" in record.splits:
            of_recipe = recipes.setdefault((record.recipe_name, record.images), [])
            of_recipe.append(record.splits["val"].share)
    texts = []
    for (name, images), accs in recipes.items():
        of_size = means if images is None else means[means["config/train_images"] == images]
        best = of_size.groupby("config/student")["val/acc@last"].max()
        facts = {"name": name, "n": len(accs), "mean": sum(accs) / len(accs)}
        for student, acc in best[best > facts["mean"]].items():
            texts.append(sentence("weak teacher", student=student, acc=acc, **facts))
    return texts
