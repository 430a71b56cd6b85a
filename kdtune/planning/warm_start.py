"""Warm start: the best configurations of another study, to be suggested first."""

from pathlib import Path
from typing import Any

import numpy as np

from kdtune.config.base_run import BaseRun
from kdtune.config.hyperparameters import covers
from kdtune.config.study import Study
from kdtune.planning.ledger import FIRST_REPEAT, ConfigState, Ledger, phase_of
from kdtune.planning.standing import active_configs, finalists
from kdtune.statistics.racing import adjusted_means, leading_counts
from kdtune.storage.records import read_lines, read_study


def best_of_other(study: Study) -> list[BaseRun]:
    """Return the configurations of `study.warm_start` that lie in this study's space, best first.

    Only hyperparameters that this study searches are taken over. Scores are not: they may belong to
    other images or another student.

    Raises:
        InputError: If the folder holds no study.
    """
    if study.warm_start is None:
        return []
    folder = Path(study.warm_start).expanduser()
    other = read_study(folder)
    ledger = Ledger(other)
    for line in read_lines(folder, other)[0]:
        ledger.add_record(line)
    found = []
    for state in ranked(ledger):
        config = state.run.task.resolved(state.run.config)
        taken: dict[str, Any] = {n: v for n in study.searched if (v := config.get(n)) is not None}
        given = study.task.baseline.items()
        names = [name for name in taken if (name, taken[name]) not in given]
        if all(covers(study.values(name), (taken[name],)) for name in names):
            found.append(study.base_run.sample(repeat=0, **taken))
    return found


def ranked(ledger: Ledger) -> list[ConfigState]:
    """Return all configurations that have a score, the best first.

    Racing gives configurations different numbers of repeats. The repeats that all of them share are
    often the first one alone, and by that one the winner of a race may come last. Therefore the
    order is, first, by how far a configuration came: finalists, confirmed ones, active ones, those
    that racing has eliminated; second, by the mean over its own repeats of the search with the
    repeats' effects removed (`racing.adjusted_means`). Where every configuration has every repeat,
    these are the plain means.
    """
    phases = list(FIRST_REPEAT)
    arms = (arm for both in active_configs(ledger).values() for arm in both)
    active = {state.row for arm in arms for state in arm}
    final = {state.row for pair in finalists(ledger) for state in pair.states}
    # rounded, so that equal accuracies keep the order in which they were suggested
    means = np.round(adjusted_means(ledger.table), 12)

    def key(state: ConfigState) -> tuple[int, bool, float]:
        # the recipe's default runs final repeats, whether it is good or not
        deciding = (r for r in state.scores if phase_of(r) != "final" or state.row in final)
        last_phase = phases.index(phase_of(max(deciding)))
        return -last_phase, state.row not in active, -float(means[state.row])

    rows = np.flatnonzero(leading_counts(ledger.table) > 0)
    return sorted((ledger.by_row[row] for row in rows), key=key)
