"""Folder students/ of a study: the best configuration's students, and what predicting needs."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune.config.files import (
    EXPORTS,
    STUDENT,
    STUDENTS,
    STUDENTS_CONFIG,
    TRIALS,
    student_file,
)
from kdtune.config.hyperparameters import active_values
from kdtune.config.run import Run
from kdtune.config.student_record import InputRecord, ModelRecord, StudentRecord, StudentsRecord
from kdtune.results.files_kept import exported_config
from kdtune.results.student_metrics import configuration_record, trial_metrics
from kdtune.results.study_results import Results
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import read_provenance
from kdtune.storage.schema import Line


def export_students(results: Results, lines: list[Line], mirror: Mirror) -> None:
    """Copy the students of the best configuration to students/, with all that predicting needs.

    Runs whose folders in `trials/` no longer have the student keep its earlier copy, as long as the
    same configuration is the best. So do files that were exported from them.
    """
    best = results.best()
    if best is None:
        return
    starts = (line for line in lines if line["kind"] == "start")
    config = next(line["config"] for line in starts if line["config_id"] == best)
    run = replace(results.study.run, **active_values(config))
    target, part = results.folder / STUDENTS, results.folder / f"{STUDENTS}.part"
    if (part / STUDENTS_CONFIG).exists() and not target.exists():
        part.rename(target)  # a driver was killed between the last two lines below
    kept = exported_config(results.folder, results.study) == best
    trials = results.trials[results.trials.config_id == best]
    mirror.pull_trials(list(trials.trial_id), STUDENT)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    done = trials[trials.status == "completed"].sort_values("repeat")
    students = tuple(_copies(done, results.folder, target if kept else None, part))
    if kept and _same_students(target, part):
        for file in (f for pattern in EXPORTS for f in target.glob(pattern)):
            shutil.copy2(file, part / file.name)
    record = _record(results, run, students)
    # last: the folder is whole
    (part / STUDENTS_CONFIG).write_text(record.to_json(), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _same_students(earlier: Path, now: Path) -> bool:
    """Return whether all earlier students are still there; an export is of one of them."""
    names = {file.name for file in earlier.glob("repeat-*.safetensors")}
    return names <= {file.name for file in now.glob("repeat-*.safetensors")}


def _copies(
    trials: pd.DataFrame, folder: Path, earlier: Path | None, part: Path
) -> Iterator[StudentRecord]:
    """Copy the student of each trial that still has one, and yield its record.

    Args:
        trials: The completed ones of the configuration.
        folder: Of the study.
        earlier: Folder with earlier copies of these students, if there is one.
        part: Where they are copied to.
    """
    for _, trial in trials.iterrows():
        name = student_file(trial["repeat"])
        own = folder / TRIALS / trial.trial_id / STUDENT
        sources = (own,) if earlier is None else (own, earlier / name)
        if source := next(filter(Path.exists, sources), None):
            shutil.copyfile(source, part / name)  # safetensors' own files are for their owner alone
            yield StudentRecord(
                repeat=int(trial["repeat"]),
                file=name,
                trial_id=trial.trial_id,
                sha256=hashlib.sha256((part / name).read_bytes()).hexdigest(),
                metrics=trial_metrics(trial),
            )


def _record(results: Results, run: Run, students: tuple[StudentRecord, ...]) -> StudentsRecord:
    """Return the content of students.json.

    What an earlier version of kdtune has not recorded at the start of the study stays unknown.
    """
    record = read_provenance(results.folder)
    source = record.get("sources", {}).get(f"student {run.student}", {})
    own = record.get("models", {}).get(f"student {run.student}", {})
    steps = record.get("views", {}) | {k: v for k, v in own.items() if k != "crop"}
    view = record.get("input") or None
    return StudentsRecord(
        study=results.study.name,
        model=ModelRecord(**{"name": run.student} | _known(ModelRecord, source)),
        classes=tuple(record.get("classes", ())),
        input=InputRecord(**_known(InputRecord, view)) if view else None,
        preprocessing=steps if own else None,
        students=students,
        configuration=configuration_record(results),
        versions=record.get("versions", {}),
        run=asdict(run),
    )


def _known(owner: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the fields of a dataclass."""
    return {f.name: values[f.name] for f in fields(owner) if f.name in values}
