"""Current standing of a study: active configurations, finalists, and whether it is decided.

Functions of the ledger alone, so that a resumed study has the standing that it had.
"""

import math
from typing import NamedTuple

import numpy as np

from kdtune.planning.ledger import FIRST_REPEAT, ConfigState, Ledger, phase_of
from kdtune.statistics import racing
from kdtune.statistics.sequential import anytime_p


class Arms(NamedTuple):
    """Configurations of the two groups that a study compares, the best first."""

    baseline: list[ConfigState]
    distilled: list[ConfigState]


def active_configs(ledger: Ledger) -> Arms:
    """Return the configurations of each arm that may still be the best.

    Under the policy "race" these are the ones that racing has not eliminated, under "all" all that
    have a score.
    """
    table, is_baseline = ledger.table, ledger.is_baseline
    sd, df = racing.noise(table)
    arms = []
    for arm in (True, False):
        rows = np.flatnonzero(is_baseline == arm)
        if ledger.study.policy == "race":
            alive = racing.active(table[rows], sd, df, ledger.study.race_level)
        else:
            alive = racing.leading_counts(table[rows]) > 0
        ranked = racing.rank_by_common_mean(table, rows[alive].tolist())
        arms.append([ledger.by_row[row] for row in ranked])
    return Arms(*arms)


def configs_to_confirm(ledger: Ledger) -> list[ConfigState]:
    """Return the best few of each arm for the phase "confirm"; empty where there is no choice."""
    most = ledger.study.confirm
    if ledger.study.policy != "race" or most == 0:
        return []
    arms = [arm[:most] for arm in active_configs(ledger)]
    return [state for arm in arms for state in arm] if any(len(arm) > 1 for arm in arms) else []


def finalists(ledger: Ledger) -> list[ConfigState]:
    """Return the best baseline, then the best distilled configuration, by search and confirmation.

    An arm without any score has no finalist.
    """
    found = []
    for arm in active_configs(ledger):
        confirmed = [state for state in arm if any(phase_of(r) == "confirm" for r in state.scores)]
        if rivals := confirmed or arm:
            repeats = sorted({r for s in rivals for r in s.scores if phase_of(r) != "final"})
            rows = [[s.scores.get(r, math.nan) for r in repeats] for s in rivals]
            ranked = racing.rank_by_common_mean(np.array(rows), range(len(rivals)))
            found.append(rivals[ranked[0]])
    return found


def final_differences(ledger: Ledger) -> list[float]:
    """Return distilled minus baseline on the final repeats, in order, up to the first gap.

    A repeat in which one of the two has failed is left out and is no gap.
    """
    both = finalists(ledger)
    if len(both) < 2:
        return []
    baseline, distilled = both
    differences, repeat = [], FIRST_REPEAT["final"]
    while {baseline.status.get(repeat), distilled.status.get(repeat)}.isdisjoint({None, "running"}):
        if repeat in baseline.scores and repeat in distilled.scores:
            differences.append(distilled.scores[repeat] - baseline.scores[repeat])
        repeat += 1
    return differences


def is_decided(ledger: Ledger) -> bool:
    """Return True if the always-valid p value of the final repeats is at most the study's level."""
    return anytime_p(final_differences(ledger)) <= ledger.study.level
