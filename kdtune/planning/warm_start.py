"""What another study already knows of this one's space."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdtune.config.hyperparameters import covers
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import Ledger
from kdtune.statistics.racing import best_first, leading
from kdtune.storage.records import read_lines, read_study


def best_of_other(study: Study) -> list[Run]:
    """The configurations of `study.warm_start` that this study's space holds, the best first.

    Only what this study searches is taken over. The scores are not: they may be of other images or
    another student, and are earned anew. Raises InputError where the folder is no study.
    """
    if study.warm_start is None:
        return []
    folder = Path(study.warm_start)
    known = Ledger(read_study(folder))
    for line in read_lines(folder)[0]:
        known.take(line)
    found = []
    for row in best_first(known.table, np.flatnonzero(leading(known.table) > 0).tolist()):
        config = known.by_number[row].run.config
        taken: dict[str, Any] = {n: v for n in study.searched if (v := config[n]) is not None}
        names = [name for name in taken if name != "alpha" or taken[name] != 1]
        if all(covers(study.values(name), (taken[name],)) for name in names):
            found.append(replace(study.run, repeat=0, **taken))
    return found
