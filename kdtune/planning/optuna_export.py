"""Export of a study for Optuna's tools: runs/<name>/optuna.db, one trial per configuration.

optuna-dashboard sqlite:///runs/fashion/optuna.db
optuna.load_study(study_name="fashion", storage="sqlite:///runs/fashion/optuna.db")
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdtune.config.files import atomic_write
from kdtune.config.hyperparameters import Range, Values, including
from kdtune.config.study import Study
from kdtune.planning.distributions import distribution
from kdtune.planning.ledger import ConfigState, Ledger, phase_of
from kdtune.statistics.intervals import mean_interval
from kdtune.storage.schema import Line

FILE = "optuna.db"


def export(study: Study, lines: list[Line]) -> Path:
    """Write optuna.db into the study's folder, replacing an earlier one.

    The value of a trial is the mean score, for distillation the validation accuracy, over its
    completed repeats of the search. Its user attributes are config_id, n, sd and repeat/<number>
    (all phases). Inactive hyperparameters of a configuration are no parameters of its trial.
    Configurations with a pruned run are PRUNED, others without a completed run FAIL.

    Args:
        study: the study.
        lines: its records, in the order written.

    Returns:
        The file.
    """
    ledger = Ledger(study)
    times: dict[str, list[float]] = {}
    for line in lines:
        ledger.add_record(line)
        if "config_id" in line:
            times.setdefault(line["config_id"], []).append(line["time"])
    file = study.folder / FILE
    with atomic_write(file) as part:
        part.unlink(missing_ok=True)  # of a process of the same id that was killed
        storage = optuna.storages.RDBStorage(f"sqlite:///{part}")
        direction = StudyDirection.MAXIMIZE if study.task.sign > 0 else StudyDirection.MINIMIZE
        target = optuna.create_study(study_name=study.name, storage=storage, direction=direction)
        for state in ledger.by_row:
            if state.status:
                target.add_trial(_trial(study, state, times[state.run.config_id]))
        storage.engine.dispose()
    return file


def _trial(study: Study, config: ConfigState, times: list[float]) -> FrozenTrial:
    values = {repeat: study.task.sign * score for repeat, score in config.scores.items()}
    scores = [value for repeat, value in values.items() if phase_of(repeat) == "search"]
    interval = mean_interval(scores)
    sd = interval.sd if interval.n > 1 else None
    attributes: dict[str, Any] = {"config_id": config.run.config_id, "n": interval.n, "sd": sd}
    attributes |= {f"repeat/{repeat}": score for repeat, score in sorted(values.items())}
    pruned = "pruned" in config.status.values()
    state = TrialState.PRUNED if pruned else TrialState.COMPLETE if scores else TrialState.FAIL
    distributions = dict(_distributions(study, config))
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=interval.mean if state == TrialState.COMPLETE else None,
        params={name: config.run.resolved_value(name) for name in distributions},
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={},
        datetime_start=datetime.fromtimestamp(min(times)),
        datetime_complete=datetime.fromtimestamp(max(times)),
    )


def _distributions(study: Study, config: ConfigState) -> Iterator[tuple[str, BaseDistribution]]:
    """Yield the distributions of the active hyperparameters.

    They always contain the values of the baseline (alpha = 1).
    """
    baseline, active = study.task.baseline, study.task.resolved(config.run.config)
    for name in study.task.names:
        values: Values = study.values(name)
        if name in baseline and isinstance(values, Range):
            values = including(values, baseline[name])
        elif name in baseline:
            values = tuple(dict.fromkeys([*values, baseline[name]]))  # type: ignore[misc]
        several = isinstance(values, Range) or len(values) > 1
        if several and active[name] is not None:
            # of true values, which Optuna's tools show; on the log-odds scale it is uniform, since
            # Optuna has no such distribution and nothing is sampled from this one
            yield name, distribution(values)
