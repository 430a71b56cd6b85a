"""A study for Optuna's tools: runs/<name>/optuna.db, one Optuna trial a configuration.

optuna-dashboard sqlite:///runs/fashion/optuna.db
optuna.load_study(study_name="fashion", storage="sqlite:///runs/fashion/optuna.db")
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from kdtune.config.hyperparameters import HYPERPARAMETERS, Range, Values
from kdtune.config.study import Study
from kdtune.planning.ledger import ConfigState, Ledger, phase_of
from kdtune.planning.proposals import distribution
from kdtune.statistics.intervals import mean_interval
from kdtune.storage.records import Line

FILE = "optuna.db"


def export(study: Study, lines: list[Line]) -> Path:
    """Write optuna.db into the study's folder, anew.

    A trial's value is the mean val accuracy over its completed repeats of the search; its user
    attributes are config_id, n, sd and repeat/<number> (all phases). A hyperparameter without
    effect in a configuration is no parameter of its trial. Configurations with a pruned run are
    PRUNED, others without a completed run FAIL.
    """
    known = Ledger(study)
    times: dict[str, list[float]] = {}
    for line in lines:
        known.take(line)
        times.setdefault(line["config_id"], []).append(line["time"])
    file = study.folder / FILE
    aside = file.with_suffix(".part")
    aside.unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{aside}")
    target = optuna.create_study(study_name=study.name, storage=storage, direction="maximize")
    for tried in known.by_number:
        if tried.status:
            target.add_trial(_trial(study, tried, times[tried.run.config_id]))
    storage.engine.dispose()
    return aside.replace(file)


def _trial(study: Study, tried: ConfigState, times: list[float]) -> FrozenTrial:
    scores = [score for repeat, score in tried.scores.items() if phase_of(repeat) == "search"]
    interval = mean_interval(scores)
    sd = interval.sd if interval.n > 1 else None
    attributes: dict[str, Any] = {"config_id": tried.run.config_id, "n": interval.n, "sd": sd}
    attributes |= {f"repeat/{repeat}": score for repeat, score in sorted(tried.scores.items())}
    pruned = "pruned" in tried.status.values()
    state = TrialState.PRUNED if pruned else TrialState.COMPLETE if scores else TrialState.FAIL
    distributions = dict(_distributions(study, tried))
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=interval.mean if state == TrialState.COMPLETE else None,
        params={name: getattr(tried.run, name) for name in distributions},
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={},
        datetime_start=datetime.fromtimestamp(min(times)),
        datetime_complete=datetime.fromtimestamp(max(times)),
    )


def _distributions(study: Study, tried: ConfigState) -> Iterator[tuple[str, BaseDistribution]]:
    """What each hyperparameter with an effect was drawn from; alpha always, since plain has 1."""
    for name in HYPERPARAMETERS:
        values: Values = study.values(name)
        if name == "alpha" and isinstance(values, Range):
            values = Range(values.low, 1.0, values.log)
        elif name == "alpha":
            values = tuple(dict.fromkeys([*values, 1.0]))  # type: ignore[misc]
        several = isinstance(values, Range) or len(values) > 1
        if several and tried.run.config[name] is not None:
            yield name, distribution(values)
