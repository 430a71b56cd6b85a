"""Rounds of final repeats: which configurations run one, and when another one begins.

The finalists of a round are fixed before the first of its repeats: the best configuration of each
arm and the best of all, by search and confirmation. The record of the round (`storage.rounds`) is
written before the first of its runs starts. From then on neither its final repeats nor a dropped
run changes them: the larger of two means on the same final repeats would be optimistic. The round
is over when further runs of the search or of the confirmation have ended, since the study was
extended; the finalists of the next round run repeats that no earlier round has used.

Everything here is a function of the recorded lines, so a plan that is rebuilt after a crash makes
the same round, whether its record was written or not.
"""

import math

import numpy as np

from kdtune.planning.ledger import ConfigState, Ledger, phase_of
from kdtune.planning.standing import finalists
from kdtune.statistics import racing
from kdtune.storage.rounds import FinalPair, Round


def current_round(ledger: Ledger) -> Round | None:
    """Return the round that has begun, else the one that begins next; None without a finalist."""
    return ledger.round if ledger.is_in_round else _next_round(ledger)


def default_of_round(ledger: Ledger) -> list[ConfigState]:
    """Return the recipe's default if it runs the final repeats beside the finalists, else []."""
    round_ = current_round(ledger)
    if round_ is None or round_.default is None or round_.default in round_.finalists:
        return []
    return [ledger.configs[round_.default]]


def _next_round(ledger: Ledger) -> Round | None:
    pairs = [pair for pair in finalists(ledger) if pair.states]
    if not pairs:
        return None
    number = 0 if ledger.round is None else ledger.round.number + 1
    ids = [[None if state is None else state.run.config_id for state in pair] for pair in pairs]
    groups = [pair.states[0].arm.group for pair in pairs]
    recorded = tuple(FinalPair(g, *pair) for g, pair in zip(groups, ids, strict=True))
    ranking = _ranking([state for pair in pairs for state in pair.states])
    return Round(number, ledger.next_final_repeat, recorded, ranking, _default(ledger))


def _ranking(states: list[ConfigState]) -> tuple[str, ...]:
    """Return finalists by their mean over the repeats that all have, without final ones."""
    repeats = sorted({r for s in states for r in s.scores if phase_of(r) != "final"})
    rows = np.array([[s.scores.get(r, math.nan) for r in repeats] for s in states])
    order = racing.rank_by_common_mean(rows, range(len(states)))
    return tuple(states[i].run.config_id for i in order)


def _default(ledger: Ledger) -> str | None:
    """Return the recipe's default; None if it was not suggested, or would fail once more."""
    default = ledger.study.default
    state = ledger.configs.get(default.config_id) if default is not None else None
    if state is None:
        return None
    before = {status for r, status in state.status.items() if phase_of(r) != "final"}
    return None if before & {"failed", "dropped"} else state.run.config_id
