"""A study's folder: what is written at the start, what is written at the end."""

import json
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from kdtune import __version__
from kdtune.config.files import COSTS, PREDICTIONS, PROVENANCE, STUDY, atomic_write
from kdtune.config.hyperparameters import active_values
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.planning.optuna_export import FILE as OPTUNA
from kdtune.planning.optuna_export import export
from kdtune.results.frames import write_frames
from kdtune.results.study_results import Results, load
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import Line, read_lines
from kdtune.training.run import STUDENT

STUDENTS = "students"
SUMMARY_CSV, SUMMARY_MD = "summary.csv", "summary.md"
FINISHED = (
    *("epochs", "epochs.parquet", "trials.parquet", PREDICTIONS, COSTS),
    *(SUMMARY_CSV, SUMMARY_MD, OPTUNA, STUDENTS),
)
"""What a finished study has on an object store, besides its trials and its teacher."""


def write_study(study: Study, fingerprints: Mapping[str, str]) -> None:
    """Write study.json and, once, provenance.json: classes, versions and the command.

    Args:
        study: The study as it is run.
        fingerprints: Of data, teacher and student, see `training.run.check`.
    """
    with atomic_write(study.folder / STUDY) as part:
        part.write_text(study.to_json(fingerprints), encoding="utf-8")
    file = study.folder / PROVENANCE
    if file.exists():
        return
    names = ("torch", "torchvision", "ray", "numpy", "pandas")
    record = {
        "classes": load_data(study.run).classes,
        "python": platform.python_version(),
        "versions": {"kdtune": __version__} | {name: version(name) for name in names},
        "command": _command(),
    }
    with atomic_write(file) as part:
        part.write_text(json.dumps(record, indent=2), encoding="utf-8")


def _command() -> list[str]:
    """Return the command line as a user would type it."""
    program = Path(sys.argv[0])
    if program.parent.name == "kdtune":
        return ["python", "-m", f"kdtune.{program.stem}", *sys.argv[1:]]
    return ["python", program.name, *sys.argv[1:]]


def finish(folder: Path, mirror: Mirror) -> None:
    """Write everything that follows from the records, here and on the study's object store."""
    results, (lines, _) = load(folder), read_lines(folder)
    mirror.pull_trials(list(results.trials.trial_id), PREDICTIONS)
    write_frames(folder, results.frames)
    with atomic_write(folder / SUMMARY_CSV) as part:
        results.summary().to_csv(part, index=False)
    export(results.study, lines)
    with atomic_write(folder / SUMMARY_MD) as part:
        part.write_text(f"{results.text()}\n", encoding="utf-8")
    _export_students(results, lines, mirror)
    mirror.push(*FINISHED)
    mirror.delete_removed(STUDENTS)


def _export_students(results: Results, lines: list[Line], mirror: Mirror) -> None:
    """Copy the students of the best configuration to students/, with what predicting needs.

    A user may have deleted folders of `trials/`; earlier copies of their students are kept.
    """
    best = results.best()
    if best is None:
        return
    starts = (line for line in lines if line["kind"] == "start")
    config = next(line["config"] for line in starts if line["config_id"] == best)
    run = replace(results.study.run, **active_values(config))
    named = json.dumps(asdict(run), indent=2)
    target, part = results.folder / STUDENTS, results.folder / f"{STUDENTS}.part"
    before = target / f"{STUDENTS}.json"
    kept = before.is_file() and before.read_text(encoding="utf-8") == named
    trials = results.trials[results.trials.config_id == best]
    mirror.pull_trials(list(trials.trial_id), STUDENT)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    (part / f"{STUDENTS}.json").write_text(named, encoding="utf-8")
    for _, trial in trials[trials.status == "completed"].iterrows():
        name = f"repeat-{trial['repeat']:02d}.safetensors"
        own = results.folder / "trials" / trial.trial_id / STUDENT
        sources = (own, target / name) if kept else (own,)
        if source := next(filter(Path.exists, sources), None):
            shutil.copy(source, part / name)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
