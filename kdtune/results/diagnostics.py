"""Problems in a study's records, and its progress, as sentences. Nothing here raises."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from kdtune.config.study import Study
from kdtune.config.task import DISTILLATION, Task
from kdtune.results.comparison import completed
from kdtune.results.frames import Frames
from kdtune.results.labels import config_label
from kdtune.storage.records import provenance_faults, read_provenance

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
