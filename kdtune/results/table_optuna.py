"""Trials of an Optuna storage, a SQLite database or a journal file, as a table of results."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune.config.errors import InputError, first_line

Tidy = tuple[pd.DataFrame, list[str]]
"""A table with one row per run (or run and epoch), and warnings."""
DIRECTIONS = "higher_is_better"
"""Attribute of a table: whether higher values are better, by metric, where the source says it."""


def read_sqlite(file: Path, epoch: str | None, study: str | None) -> Tidy:
    """Return the trials of an Optuna storage in a SQLite database; it is opened read-only."""
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    try:
        tables = {row[0] for row in connection.execute("select name from sqlite_master")}
    except sqlite3.DatabaseError as error:
        raise InputError(f"{file} cannot be read as a SQLite database: {error}") from error
    finally:
        connection.close()
    if not {"studies", "trials"} <= tables:
        raise InputError(
            f"a SQLite database must be an Optuna storage, but {file} has other tables"
        )
    from optuna.storages import RDBStorage

    def load() -> Any:
        return RDBStorage(f"sqlite:///{file.resolve().as_uri()}?mode=ro&uri=true")

    return _read(file, load, epoch, study)


def read_journal(file: Path, epoch: str | None, study: str | None) -> Tidy:
    """Return the trials of an Optuna storage in a journal file."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return _read(file, lambda: JournalStorage(JournalFileBackend(str(file))), epoch, study)


def _read(file: Path, load: Callable[[], Any], epoch: str | None, study: str | None) -> Tidy:
    """Return the completed trials of a study.

    Columns: number, the parameters, the user attributes, and value (value_0, value_1, ... or the
    names of the metrics if there are several). With the epoch "step": a row per trial and
    intermediate value, which is the value then.
    """
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = load()
        names = optuna.get_all_study_names(storage)
        if study is None and len(names) == 1:
            study = names[0]
        if study not in names:
            raise InputError(
                f"--study must be one of the storage's ({', '.join(names) or 'none'}), but got "
                f"{study or 'none'}"
            )
        found = optuna.load_study(study_name=study, storage=storage)
        trials, metrics = found.get_trials(deepcopy=False), _metric_names(found)
    except InputError:
        raise
    except Exception as error:  # of another version, locked or damaged
        raise InputError(
            f"{file} cannot be read as an Optuna storage: {first_line(error)}"
        ) from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    if not trials:
        raise InputError(f"a table of results must have rows, but study {study} has no trial")
    rows = [row for trial in trials for row in _trial_rows(trial, metrics, epoch == "step")]
    frame = pd.DataFrame(rows)
    done = frame.pop("state") == "COMPLETE"
    by_trial = pd.DataFrame([{"state": t.state.name} for t in trials])["state"]
    _, notes = only_done(by_trial.to_frame(), by_trial == "COMPLETE", by_trial, "complete")
    frame.attrs[DIRECTIONS] = {
        name: direction.name == "MAXIMIZE"
        for name, direction in zip(metrics, found.directions, strict=True)
    }
    if not done.any():
        raise InputError(f"study {study} of {file} must have complete trials, but has none")
    return frame[done].reset_index(drop=True), notes


def _metric_names(study: Any) -> list[str]:
    if study.metric_names:
        return list(study.metric_names)
    n = len(study.directions)
    return ["value"] if n == 1 else [f"value_{i}" for i in range(n)]


def _trial_rows(trial: Any, metrics: Sequence[str], steps: bool) -> list[dict[str, Any]]:
    row = {"number": trial.number, "state": trial.state.name}
    row |= {name: v for name, v in trial.user_attrs.items() if not isinstance(v, list | dict)}
    row |= trial.params
    if steps:
        return [row | {"step": s, metrics[0]: v} for s, v in trial.intermediate_values.items()]
    return [row | dict(zip(metrics, trial.values or [], strict=False))]


def only_done(frame: pd.DataFrame, done: pd.Series, states: pd.Series, wanted: str) -> Tidy:
    """Return the runs that are done, and a warning that counts the others by state."""
    if done.all():
        return frame, []
    counts = states[~done].astype(str).value_counts()
    others = ", ".join(f"{n} {state}" for state, n in counts.items())
    note = f"{(~done).sum()} of {len(frame)} runs are not {wanted} and are left out ({others})"
    return frame[done].reset_index(drop=True), [note]
