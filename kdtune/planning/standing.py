"""How a study stands: who may still be the best, who are the finalists, whether it is decided.

Functions of what is ledger, so that a resumed search stands where it stood.
"""

import math

import numpy as np

from kdtune.planning.ledger import FIRST, ConfigState, Ledger, phase_of
from kdtune.statistics import racing as race
from kdtune.statistics.sequential import anytime_p


def in_question(ledger: Ledger) -> dict[bool, list[ConfigState]]:
    """Of plain training (True) and distilling (False): those that may be the best, best first.

    With the policy "all" nothing is raced: all that have a mean.
    """
    table, is_plain = ledger.table, ledger.is_plain
    sd, df = race.noise(table)
    sides = {}
    for side in (True, False):
        rows = np.flatnonzero(is_plain == side)
        if ledger.study.policy == "race":
            alive = race.in_question(table[rows], sd, df, ledger.study.race_level)
        else:
            alive = race.leading(table[rows]) > 0
        best = race.best_first(table, rows[alive].tolist())
        sides[side] = [ledger.by_number[row] for row in best]
    return sides


def to_confirm(ledger: Ledger) -> list[ConfigState]:
    """The best few of each side; none where nothing is left to choose between."""
    most = ledger.study.confirm
    if ledger.study.policy != "race" or most == 0:
        return []
    sides = [side[:most] for side in in_question(ledger).values()]
    return [t for side in sides for t in side] if any(len(s) > 1 for s in sides) else []


def finalists(ledger: Ledger) -> list[ConfigState]:
    """The best of plain training, then of distilling, by search and confirmation together."""
    found = []
    for side in in_question(ledger).values():
        confirmed = [t for t in side if any(phase_of(r) == "confirm" for r in t.scores)]
        if rivals := confirmed or side:
            repeats = sorted({r for t in rivals for r in t.scores if phase_of(r) != "final"})
            rows = [[t.scores.get(r, math.nan) for r in repeats] for t in rivals]
            found.append(rivals[race.best_first(np.array(rows), range(len(rivals)))[0]])
    return found


def final_differences(ledger: Ledger) -> list[float]:
    """Distilled minus plain on the final repeats, in their order, up to the first gap.

    A repeat in which one of them has failed is no gap: it is left out.
    """
    both = finalists(ledger)
    if len(both) < 2:
        return []
    plain, distilled = both
    differences, repeat = [], FIRST["final"]
    while {plain.status.get(repeat), distilled.status.get(repeat)}.isdisjoint({None, "running"}):
        if repeat in plain.scores and repeat in distilled.scores:
            differences.append(distilled.scores[repeat] - plain.scores[repeat])
        repeat += 1
    return differences


def is_decided(ledger: Ledger) -> bool:
    """Whether the final repeats tell the finalists apart, at any time and at the level."""
    return anytime_p(final_differences(ledger)) <= ledger.study.level
