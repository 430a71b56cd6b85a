"""Warnings about a study: its records, its files and its teachers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from kdtune.config.fields import is_output_file
from kdtune.config.files import PREDICTIONS, PROVENANCE, STUDENT, STUDENTS, TRIALS, student_file
from kdtune.config.records import (
    TeacherAccuracy,
    TeacherKey,
    read_students_record,
    read_teacher_accuracy,
    write_teacher_accuracy,
)
from kdtune.config.run import DISTILLATION, Run
from kdtune.config.study import Study
from kdtune.config.task import Task
from kdtune.config.text import InputError
from kdtune.results.comparison import SIGNIFICANCE_LEVEL, completed
from kdtune.results.design import p_text
from kdtune.results.frames import Frames, config_label, trials_with_predictions
from kdtune.statistics.intervals import binomial_p, chance_level
from kdtune.storage.records import provenance_faults, read_provenance

# Problems in a study's records, and its progress, as sentences. Nothing here raises.


MAX_LISTED = 10
"""Trials that are listed one by one; further ones are only counted."""
SHOWN = 3
"""Unreadable records that are named; further ones are only counted."""


def find_problems(study: Study, frames: Frames, by: Sequence[str], task: Task) -> list[str]:
    """Return what is missing or wrong in a study's records, most serious first."""
    return [
        *_unreadable(frames.incomplete),
        *_not_completed(frames.trials, by),
        *_not_started(study, frames.trials),
        *_missing_metrics(frames.trials, by, task),
        *_unequal_repeats(frames.trials, by),
        *_identical_curves(frames, by, task),
    ]


def _unreadable(places: Sequence[str]) -> list[str]:
    """Return a sentence about the records that could not be read, if there are any."""
    if not places:
        return []
    named, word = ", ".join(places[:SHOWN]), f"record{'s' * (len(places) > 1)}"
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return [f"unreadable {word} skipped: {named}{more}"]


def recorded_warnings(folder: Path) -> list[str]:
    """Return the warnings that the driver recorded in provenance.json, and of a damaged file."""
    return [*provenance_faults(folder), *read_provenance(folder).get("warnings", [])]


def find_caveats(frames: Frames, columns: Sequence[str]) -> list[str]:
    """Return how the columns of a table could be misread."""
    caveats = []
    of_alpha = frames.metrics == DISTILLATION.recorded
    if of_alpha and "loss" in columns and frames.trials["config/alpha"].nunique() > 1:
        caveats.append(
            "The loss (alpha * ce + (1 - alpha) * distill) is not comparable across alpha; the "
            "cross-entropy (ce) is."
        )
    return caveats


def describe_status(study: Study, frames: Frames) -> str:
    """Return the progress of a study, e.g. "complete: 40 runs"."""
    counts = frames.trials.status.value_counts()
    done = int(counts.get("completed", 0))
    dropped = int(counts.get("dropped", 0))
    ended = done + int(counts.get("failed", 0)) + int(counts.get("pruned", 0)) + dropped
    # of an adaptive search only the trials that have started are known
    planned = len(frames.trials) + _count_missing(study, frames.trials)
    if ended == planned and not frames.running:
        failed = planned - done - dropped
        rest = f", {failed} failed or pruned" * bool(failed) + f", {dropped} dropped" * bool(
            dropped
        )
        return f"complete: {done} runs{rest}"
    word = "running" if frames.running else "incomplete, not running"
    last = ""
    if frames.last_record_time is not None:
        last = f"; last record {datetime.fromtimestamp(frames.last_record_time, UTC):%F %T} UTC"
    return f"{word}: {done} of {planned} runs completed{last}"


def _not_completed(trials: pd.DataFrame, by: Sequence[str]) -> list[str]:
    problems = []
    for status in ("failed", "truncated", "dropped"):
        some = trials[trials.status == status]
        for _, trial in some.head(MAX_LISTED).iterrows():
            reason = f" ({trial.error})" if isinstance(trial.error, str) else ""
            planned = trial.n_epochs_planned  # not known of every training function
            of = "" if pd.isna(planned) else f" of {planned:.0f}"
            problems.append(
                f"{status} run excluded: {trial.trial_id}, {config_label(trial, by)}, repeat "
                f"{trial['repeat']}, {trial.n_epochs}{of} epochs{reason}"
            )
        if len(some) > MAX_LISTED:
            problems.append(f"{len(some) - MAX_LISTED} more {status} runs excluded")
    if running := int((trials.status == "running").sum()):
        problems.append(f"{running} unfinished runs excluded")
    return problems


def _not_started(study: Study, trials: pd.DataFrame) -> list[str]:
    missing = _count_missing(study, trials)
    return [f"{missing} runs have not started"] if missing else []


def _count_missing(study: Study, trials: pd.DataFrame) -> int:
    """Return the number of trials that have not started; 0 if their number depends on results."""
    if not study.is_fixed:
        return 0
    started = int((trials.phase == "search").sum())  # an earlier race may have final repeats, too
    return max(0, len(study.runs()) * study.repeats - started)


def _missing_metrics(trials: pd.DataFrame, by: Sequence[str], task: Task) -> list[str]:
    """List completed trials without a metric that comparable trials recorded.

    A metric that no trial recorded is not missing: studies of earlier versions lack newer ones. A
    metric that is not comparable, such as the distillation term, depends on the loss, and need not
    exist for every loss.
    """
    done = completed(trials)
    problems = []
    for metric in task.recorded:
        recorded = done[f"val/{metric}@last"].notna()
        if recorded.all() or not recorded.any():
            continue
        expected = pd.Series(True, index=done.index)
        if not task.metrics[metric].comparable:
            loss = done["config/loss"]
            expected = recorded.groupby(loss, dropna=False).transform("any")
        lacking = done[expected & ~recorded]
        names = [f"{config_label(t, by)}, repeat {t['repeat']}" for _, t in lacking[:2].iterrows()]
        if len(lacking) > 2:  # usually those of a version that did not record it
            problems.append(
                f"val {metric} missing in {len(lacking)} of {len(done)} trials, such as {names[0]}"
            )
        else:
            problems += [f"val {metric} missing: {name}" for name in names]
    return problems


def _unequal_repeats(trials: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """List configurations that have repeats which those with the most repeats lack."""
    trials = trials[trials.phase == "search"]  # later phases run some configurations by design
    repeats_of = completed(trials).groupby("config_id")["repeat"].agg(lambda r: frozenset(r))
    if not len(repeats_of):
        return []
    size = repeats_of.map(len)
    usual = repeats_of[size == size.max()].mode().iloc[0]
    problems = []
    for config, repeats in repeats_of.items():
        if repeats <= usual:
            continue
        row = trials[trials.config_id == config].iloc[0]
        extra = ", ".join(str(r) for r in sorted(repeats - usual))
        problems.append(
            f"{config_label(row, by)} has repeats that other configurations lack: {extra}"
        )
    return problems[:MAX_LISTED]


def _identical_curves(frames: Frames, by: Sequence[str], task: Task) -> list[str]:
    """List trials of one configuration or one repeat with the same values in every epoch.

    In such trials a seed or a hyperparameter was not applied, so that one trial counts as two.
    """
    done = completed(frames.trials)
    val = frames.epochs[frames.epochs.split == "val"]
    val = val[val.trial_id.isin(done.trial_id)].sort_values("epoch", kind="stable")
    # metrics whose definition depends on alpha differ between identical students
    metrics = [name for name in task.recorded if task.metrics[name].comparable]
    hashes = pd.util.hash_pandas_object(val[["epoch", *metrics]], index=False)
    done = done.assign(curve=done.trial_id.map(hashes.groupby(val.trial_id).agg(tuple)))
    problems = []
    for same in ("config_id", "repeat"):
        for _, group in done[done.duplicated([same, "curve"], keep=False)].groupby([same, "curve"]):
            pair = (
                f"{config_label(t, by)}, repeat {t['repeat']}" for _, t in group.head(2).iterrows()
            )
            problems.append(f"identical learning curves: {' and '.join(pair)}")
    return problems[:MAX_LISTED]


# Files of a study's runs that are gone: folders deleted by hand, students that were not kept.


MAX_NAMED = 3
"""Runs that a sentence names; of more, it says how many there are."""


def find_missing_files(folder: Path, study: Study, frames: Frames, best: str | None) -> list[str]:
    """Return a sentence for each kind of file that the study's runs have left and that is gone.

    Files of a study on an object store are not looked for.

    Args:
        folder: of the study.
        study: the study.
        frames: its records.
        best: config_id of the best configuration.
    """
    if study.uri is not None:
        return []
    done = completed(frames.trials)
    return [
        *_missing_folders(folder, study, done),
        *_missing_predictions(folder, done),
        *_missing_students(folder, study, done, best),
    ]


def _missing_folders(folder: Path, study: Study, done: pd.DataFrame) -> list[str]:
    """Return a sentence if folders of completed runs were deleted."""
    if not ((folder / TRIALS).is_dir() or (folder / PROVENANCE).is_file()):
        return []  # records alone, which no driver has written
    with suppress(FileNotFoundError):
        there = {path.name for path in (folder / TRIALS).iterdir()}
        done = done[~done.trial_id.isin(there)]
    if not len(done):
        return []
    count, names = _count_runs(list(done.trial_id))
    without = len(set(done.trial_id) - trials_with_predictions(folder))
    lost = ["their students"] * (study.keep == "all")
    kept = ""
    if without:
        lost.append("their predictions" if without == len(done) else f"predictions of {without}")
    else:
        kept = f"; their predictions are in {PREDICTIONS}"
    gone = f": {' and '.join(lost)} are no longer available" if lost else ""
    return [f"the folders of {count} in {TRIALS}/ are gone{gone}{kept} ({names})"]


def _missing_predictions(folder: Path, done: pd.DataFrame) -> list[str]:
    """Return a sentence if some runs, but not all, lack predictions: then no comparison uses any.

    Runs whose folder is gone are left to `_missing_folders`.
    """
    own = [t for t in done.trial_id if not (folder / TRIALS / t / PREDICTIONS).is_file()]
    if not own or len(own) == len(done):
        return []
    held = trials_with_predictions(folder)
    lacking = [t for t in own if t not in held and (folder / TRIALS / t).is_dir()]
    if not lacking:
        return []
    count, names = _count_runs(lacking)
    return [
        f"the predictions of {count} are gone ({names}): comparisons that need them hold for these "
        f"val images only"
    ]


def _missing_students(
    folder: Path, study: Study, done: pd.DataFrame, best: str | None
) -> list[str]:
    """Return a sentence if students/ lacks runs of the best configuration.

    That happens if the best one changes after the weights of others were deleted.
    """
    if study.keep == "none" or best != exported_config(folder, study):
        return []
    own = done[done.config_id == best]
    lacking = [
        trial.trial_id
        for _, trial in own.iterrows()
        if not (folder / STUDENTS / student_file(trial["repeat"])).is_file()
        and not (folder / TRIALS / trial.trial_id / STUDENT).is_file()  # before the study's end
    ]
    if not lacking:
        return []
    return [
        f"{STUDENTS}/ lacks the students of {len(lacking)} of the {len(own)} runs of the best "
        f"configuration: they were deleted, by hand or before it was the best (--keep best). To "
        f"train them again, drop the runs (python -m kdtune.analysis {folder} --drop "
        f"{' '.join(lacking)}) and repeat the study's command with --rerun-dropped"
    ]


def exported_config(folder: Path, study: Study) -> str:
    """Return the config_id of the students in students/; "" if there are none.

    It is that of the fields that this version knows, since an earlier one may have written them.
    """
    with suppress(InputError):  # missing or damaged
        values = read_students_record(folder / STUDENTS).run
        known = {f.name: values[f.name] for f in fields(Run) if f.name in values}
        return Run(**{"study_values": study.run.study_values} | known).config_id
    return ""


def _count_runs(trials: Sequence[str]) -> tuple[str, str]:
    """Return the number of runs and the first of their names, as text."""
    more = f" and {len(trials) - MAX_NAMED} more" if len(trials) > MAX_NAMED else ""
    runs = "1 completed run" if len(trials) == 1 else f"{len(trials)} completed runs"
    return runs, f"{', '.join(trials[:MAX_NAMED])}{more}"


# Accuracy of the teachers in words: what it is, and what is wrong with it.


def describe_accuracy(record: TeacherAccuracy) -> str:
    """Return the accuracy of a teacher as a sentence."""
    parts = [f"{value} on {split} (n = {value.n:,})" for split, value in record.splits.items()]
    return f"Accuracy of the teacher {record.name}: {', '.join(parts)}."


def find_teacher_faults(records: Sequence[TeacherAccuracy]) -> list[str]:
    """Return what is wrong with teachers by their accuracy alone, one sentence each."""
    return [fault for record in records for fault in _faults(record)]


def _faults(record: TeacherAccuracy) -> Iterator[str]:
    by_chance = []
    for split, value in record.splits.items():
        chance = chance_level(value.largest_class, value.n, record.classes)
        p = binomial_p(value.correct, value.n, chance)
        if p > SIGNIFICANCE_LEVEL:
            by_chance.append(
                f"{split} ({value.correct} of {value.n} are correct, {value}; always naming one "
                f"class gives {100 * chance:.1f}%; binomial {p_text(p)})"
            )
    if by_chance:
        yield (
            f"the teacher {record.name} is no better than chance on {', '.join(by_chance)}. "
            f"Students can learn nothing from it. {_advice(record)}"
        )
    before, after = record.acc_before, record.acc_after
    if before is not None and after is not None and after < before:
        yield (
            f"the teacher {record.name} is worse after its fine-tuning ({100 * after:.1f}% on val) "
            f"than before ({100 * before:.1f}%); use its weights as they are (--teacher-epochs 0) "
            f"or train it otherwise (--teacher-lr, --teacher-trainable head, --teacher-keep best)."
        )


def _advice(record: TeacherAccuracy) -> str:
    """Return what to check of a teacher that is no better than chance."""
    if is_output_file(record.teacher):
        return (
            "Check that each row of the file has the outputs for its example, and that the classes "
            "are in the order of the data (or named in the file as `classes`)."
        )
    return (
        "Check its preprocessing (--teacher-mean, --teacher-std, --teacher-size), its weights and "
        "its learning rate (--teacher-lr)."
    )


def check_teachers(
    folder: Path,
    keys: Sequence[TeacherKey],
    measure: Callable[[list[TeacherAccuracy]], list[TeacherAccuracy]],
    least: float | None,
    say: Callable[[str], None],
) -> None:
    """Print the accuracy of a study's teachers and what is wrong with it; measure it if needed.

    Args:
        folder: Of the study, whose record is completed.
        keys: Of each teacher.
        measure: Returns the accuracy of the teachers that are not yet in the records it is given.
        least: Value of --teacher-min-acc.
        say: Is given each line.

    Raises:
        InputError: A teacher is less accurate than `least`.
    """
    known = read_teacher_accuracy(folder)
    records = {one.key: one for one in known}
    if measured := measure(known):
        records |= {one.key: one for one in measured}
        write_teacher_accuracy(folder, list(records.values()))
    own = [records[key] for key in keys]
    for record in own:
        say(describe_accuracy(record))
    for fault in find_teacher_faults(own):
        say(f"warning: {fault}")
    _check_least(own, least)


def _check_least(records: Sequence[TeacherAccuracy], least: float | None) -> None:
    """Raise InputError if a teacher is less accurate on val than --teacher-min-acc, if given."""
    for record in records:
        value = record.splits.get("val")
        if least is not None and value is not None and value.share < least:
            is_file = is_output_file(record.teacher)
            source = f"in {record.weights}" if is_file else f"with the weights {record.weights}"
            others = "Give another file (--teacher)"
            if not is_file:
                others = (
                    "Give other weights (--teacher-weights), train it otherwise under another "
                    "--name (--teacher-epochs, --teacher-lr)"
                )
            raise InputError(
                f"the teacher {record.name} must have an accuracy of at least {least:g} on val "
                f"(--teacher-min-acc), but has {value.share:.4f} ({value.correct} of {value.n}) "
                f"{source}. {others}, or lower --teacher-min-acc."
            )


def teacher_warnings(folder: Path, trials: pd.DataFrame) -> list[str]:
    """Return what is wrong with the teachers of the study in a folder; `trials` of its search."""
    records = read_teacher_accuracy(folder)
    return [*find_teacher_faults(records), *find_weak_teachers(records, trials)]


def weak_teachers_text(folder: Path, trials: pd.DataFrame) -> str:
    """Return the sentences of `find_weak_teachers` on the study in a folder, one a line."""
    weak = find_weak_teachers(read_teacher_accuracy(folder), trials)
    return "\n".join(sentence[:1].upper() + sentence[1:] for sentence in weak)


def find_weak_teachers(records: Sequence[TeacherAccuracy], trials: pd.DataFrame) -> list[str]:
    """Return a sentence for each teacher that is less accurate than students trained without it.

    Accuracies are on val. Those of a student are the mean of its best configuration without
    distillation over the completed repeats.

    Args:
        records: accuracy of the teachers.
        trials: of the search, see `frames.Frames`.
    """
    plain = completed(trials)[lambda t: t["config/alpha"] == 1]
    names = plain["config/student"]
    means = plain["val/acc@last"].groupby([names, plain.config_id], dropna=False).mean()
    found = []
    for student, acc in means.groupby(level=0).max().items():
        for name, shares in _shares_on_val(records).items():
            if (share := sum(shares) / len(shares)) < acc:
                mean = f"mean of {len(shares)}: " * (len(shares) > 1)
                found.append(
                    f"the teacher {name} is less accurate on val ({mean}{100 * share:.1f}%) than "
                    f"the student {student} trained without it (mean {100 * acc:.1f}%)."
                )
    return found


def _shares_on_val(records: Sequence[TeacherAccuracy]) -> dict[str, list[float]]:
    """Return the accuracies on val of the teachers of each recipe, in [0, 1]."""
    shares: dict[str, list[float]] = {}
    for record in records:
        if (value := record.splits.get("val")) is not None:
            shares.setdefault(record.recipe_name, []).append(value.share)
    return shares
