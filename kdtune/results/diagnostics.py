"""What a reader must know before the table: what is missing in a study, and what cannot be right.

How far it is, too. Each function returns sentences; none of them raises.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd

from kdtune.config.metrics import RECORDED
from kdtune.config.study import Study
from kdtune.results.comparison import completed, config_label
from kdtune.results.frames import Frames

MAX_LISTED = 10
"""Runs that are named one by one; the rest are counted."""


def find_problems(study: Study, frames: Frames, by: Sequence[str]) -> list[str]:
    """All faults of a study, the gravest first."""
    return [
        *(f"a torn line was skipped: {place}" for place in frames.incomplete),
        *_ended_badly(frames.trials, by),
        *_not_started(study, frames.trials),
        *_without_numbers(frames.trials, by),
        *_other_repeats(frames.trials, by),
        *_identical_curves(frames, by),
    ]


def find_caveats(frames: Frames, columns: Sequence[str]) -> list[str]:
    """What is no fault, but misleads who does not know it."""
    words = []
    if "loss" in columns and frames.trials["config/alpha"].nunique() > 1:
        words.append(
            "loss = alpha ce + (1 - alpha) distill: it is not comparable across alpha; ce is"
        )
    return words


def describe_status(study: Study, frames: Frames) -> str:
    """How far a study is, e.g. "complete: 40 runs"."""
    counts = frames.trials.status.value_counts()
    done = int(counts.get("completed", 0))
    ended = done + int(counts.get("failed", 0)) + int(counts.get("pruned", 0))
    # of a search that adapts: those it has started
    planned = len(frames.trials) + _missing(study, frames.trials)
    if ended == planned and not frames.running:
        rest = f", {planned - done} failed or pruned" if done < planned else ""
        return f"complete: {done} runs{rest}"
    word = "running" if frames.running else "not running, and not complete"
    last = ""
    if frames.last_record_time is not None:
        last = f"; last record {datetime.fromtimestamp(frames.last_record_time, UTC):%F %T} UTC"
    return f"{word}: {done} of {planned} runs completed{last}"


def _ended_badly(trials: pd.DataFrame, by: Sequence[str]) -> list[str]:
    words = []
    for status in ("failed", "truncated"):
        some = trials[trials.status == status]
        for _, trial in some.head(MAX_LISTED).iterrows():
            reason = f" ({trial.error})" if isinstance(trial.error, str) else ""
            have = f"{trial.n_epochs} of {trial.n_epochs_planned} epochs"
            words.append(
                f"{status}, left out: {trial.trial_id}, {config_label(trial, by)}, repeat "
                f"{trial['repeat']}, {have}{reason}"
            )
        if len(some) > MAX_LISTED:
            words.append(f"{status}, left out: {len(some) - MAX_LISTED} more runs")
    if running := int((trials.status == "running").sum()):
        words.append(f"{running} runs are running, and left out")
    return words


def _not_started(study: Study, trials: pd.DataFrame) -> list[str]:
    missing = _missing(study, trials)
    return [f"{missing} runs have not started"] if missing else []


def _missing(study: Study, trials: pd.DataFrame) -> int:
    """Runs that have not started, as far as they are known before they do."""
    if not study.is_fixed:
        return 0
    started = int((trials.phase == "search").sum())  # an earlier race may have fresh repeats, too
    return max(0, len(study.runs()) * study.repeats - started)


def _without_numbers(trials: pd.DataFrame, by: Sequence[str]) -> list[str]:
    done = completed(trials)
    words = []
    for metric in RECORDED:
        recorded = done[f"val/{metric}@last"].notna().any()
        if metric == "distill" or not recorded:  # plain training has none
            continue
        for _, trial in done[done[f"val/{metric}@last"].isna()].head(MAX_LISTED).iterrows():
            words.append(f"no val {metric}: {config_label(trial, by)}, repeat {trial['repeat']}")
    return words


def _other_repeats(trials: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """Configurations with as many repeats as others, but not the same."""
    trials = trials[trials.phase == "search"]  # later phases are of some configurations by design
    sets = completed(trials).groupby("config_id")["repeat"].agg(lambda r: frozenset(r))
    if not len(sets):
        return []
    size = sets.map(len)
    usual = sets[size == size.max()].mode().iloc[0]
    words = []
    for config, repeats in sets.items():
        if repeats <= usual:
            continue
        row = trials[trials.config_id == config].iloc[0]
        extra = ", ".join(str(r) for r in sorted(repeats - usual))
        words.append(f"{config_label(row, by)} has repeats that others lack: {extra}")
    return words[:MAX_LISTED]


def _identical_curves(frames: Frames, by: Sequence[str]) -> list[str]:
    """Runs of one configuration or of one repeat with the same numbers in every epoch.

    A seed, or a hyperparameter's value, was not applied, and one run counts as two.
    """
    done = completed(frames.trials)
    val = frames.epochs[frames.epochs.split == "val"]
    val = val[val.trial_id.isin(done.trial_id)].sort_values("epoch", kind="stable")
    numbers = val[["epoch", "acc", "ce", "logit_diff", "agreement"]]
    hashes = pd.util.hash_pandas_object(numbers, index=False)
    done = done.assign(curve=done.trial_id.map(hashes.groupby(val.trial_id).agg(tuple)))
    words = []
    for same in ("config_id", "repeat"):
        for _, group in done[done.duplicated([same, "curve"], keep=False)].groupby([same, "curve"]):
            runs = (
                f"{config_label(t, by)}, repeat {t['repeat']}" for _, t in group.head(2).iterrows()
            )
            words.append(f"the same curve to the last digit: {' and '.join(runs)}")
    return words[:MAX_LISTED]
