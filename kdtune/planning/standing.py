"""Current standing of a study: active configurations, finalists, and whether it is decided.

Functions of the ledger alone, so that a resumed study has the standing that it had.
"""

import math
from typing import NamedTuple

import numpy as np

from kdtune.planning.ledger import Arm, ConfigState, Ledger, phase_of
from kdtune.statistics import racing
from kdtune.statistics.sequential import AnytimeTest


class Arms(NamedTuple):
    """Configurations of the two groups of one student that a study compares, the best first."""

    baseline: list[ConfigState]
    distilled: list[ConfigState]


class Finalists(NamedTuple):
    """The best configuration of each arm of one student; None for an arm without any score."""

    baseline: ConfigState | None
    distilled: ConfigState | None

    @property
    def states(self) -> list[ConfigState]:
        """Those that exist, the baseline first."""
        return [state for state in self if state is not None]


def active_configs(ledger: Ledger) -> dict[str, Arms]:
    """Return by student the configurations of each arm that may still be the best.

    Under the policy "race" these are the ones that racing has not eliminated, under "all" all that
    have a score.
    """
    table = ledger.table
    sd, df = racing.noise(table)

    def active(arm: Arm) -> list[ConfigState]:
        rows = ledger.rows_of(arm)
        if ledger.study.policy == "race":
            alive = racing.active(table[rows], sd, df, ledger.study.race_level)
        else:
            alive = racing.leading_counts(table[rows]) > 0
        ranked = racing.rank_by_common_mean(table, rows[alive].tolist())
        return [ledger.by_row[row] for row in ranked]

    return {g: Arms(active(Arm(g, True)), active(Arm(g, False))) for g in ledger.groups}


def configs_to_confirm(ledger: Ledger) -> list[ConfigState]:
    """Return the best few of each arm for the phase "confirm"; none of a student without choice."""
    most = ledger.study.confirm
    if ledger.study.policy != "race" or most == 0:
        return []
    found = []
    for both in active_configs(ledger).values():
        arms = [arm[:most] for arm in both]
        if any(len(arm) > 1 for arm in arms):
            found += [state for arm in arms for state in arm]
    return found


def finalists(ledger: Ledger) -> list[Finalists]:
    """Return of each student the finalists of the round of final repeats that has begun.

    Before it has begun, and after it is over, these are the best of both arms by search and
    confirmation. They are also those of a study of schema 3 or older, which recorded no finalists.
    """
    round_ = ledger.round
    if round_ is not None and round_.is_recorded and ledger.is_in_round:
        known = ledger.configs
        ids = [(pair.baseline, pair.distilled) for pair in round_.pairs]
        return [Finalists(*(None if c is None else known[c] for c in pair)) for pair in ids]
    return [Finalists(*map(_best, arms)) for arms in active_configs(ledger).values()]


def _best(arm: list[ConfigState]) -> ConfigState | None:
    confirmed = [state for state in arm if any(phase_of(r) == "confirm" for r in state.scores)]
    rivals = confirmed or arm
    if not rivals:
        return None
    repeats = sorted({r for s in rivals for r in s.scores if phase_of(r) != "final"})
    rows = [[s.scores.get(r, math.nan) for r in repeats] for s in rivals]
    return rivals[racing.rank_by_common_mean(np.array(rows), range(len(rivals)))[0]]


def final_differences(ledger: Ledger, pair: Finalists) -> list[float]:
    """Return distilled minus baseline on the final repeats, in order, up to the first gap.

    Only the repeats of the round that has begun count (see `planning.rounds`). A repeat in which
    one of the two has failed is left out and is no gap.
    """
    baseline, distilled = pair
    if baseline is None or distilled is None:
        return []
    repeats = _paired_repeats(ledger, baseline, distilled)
    return [distilled.scores[repeat] - baseline.scores[repeat] for repeat in repeats]


def _paired_repeats(ledger: Ledger, baseline: ConfigState, distilled: ConfigState) -> list[int]:
    """Return the final repeats of the round that both have completed, up to the first gap."""
    repeats, repeat = [], ledger.first_final_repeat
    while {baseline.status.get(repeat), distilled.status.get(repeat)}.isdisjoint({None, "running"}):
        if repeat in baseline.scores and repeat in distilled.scores:
            repeats.append(repeat)
        repeat += 1
    return repeats


def final_test(ledger: Ledger, pair: Finalists) -> AnytimeTest:
    """Return the always-valid test of the difference on the final repeats.

    It is about new repeats and new images, or about new repeats on these images if records of an
    older version lack the correctness of each image.
    """
    differences = final_differences(ledger, pair)
    baseline, distilled = pair
    if baseline is None or distilled is None:
        return AnytimeTest.of(differences)
    repeats = _paired_repeats(ledger, baseline, distilled)
    pairs = [(distilled.correct.get(r), baseline.correct.get(r)) for r in repeats]
    rows = [a.astype(float) - b for a, b in pairs if a is not None and b is not None]
    is_known = len(rows) == len(repeats) and len({len(row) for row in rows}) == 1
    return AnytimeTest.of(differences, np.stack(rows) if is_known else None)


def complete_pairs(ledger: Ledger) -> list[Finalists]:
    """Return the finalists of the students that have one in each arm."""
    return [pair for pair in finalists(ledger) if len(pair.states) == 2]


def level_per_pair(ledger: Ledger) -> float:
    """Return the study's level, divided by the number of pairs of finalists (Bonferroni)."""
    return ledger.study.level / max(1, len(complete_pairs(ledger)))


def undecided(ledger: Ledger) -> list[Finalists]:
    """Return the pairs of finalists whose always-valid p value exceeds their level."""
    level = level_per_pair(ledger)
    return [
        pair for pair in complete_pairs(ledger) if not final_test(ledger, pair).excludes_0(level)
    ]


def decidable(ledger: Ledger) -> list[Finalists]:
    """Return the undecided pairs that more repeats of the same images may decide."""
    level = level_per_pair(ledger)
    return [
        pair for pair in undecided(ledger) if not final_test(ledger, pair).is_undecidable(level)
    ]


def describe_decision(ledger: Ledger, pair: Finalists) -> str:
    """Return whether a complete pair is decided, and its p value, e.g. "decided (... p = 0.02)"."""
    test, level = final_test(ledger, pair), level_per_pair(ledger)
    state = "decided" if test.excludes_0(level) else "not decided"
    if state != "decided" and test.is_undecidable(level):
        state = "undecidable with these images"
    return f"{state} (always-valid p = {test.p:.2g})"


def is_decided(ledger: Ledger) -> bool:
    """Return True if there is a pair of finalists and no pair is undecided."""
    return bool(complete_pairs(ledger)) and not undecided(ledger)
