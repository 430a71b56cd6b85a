"""A study's folder: whose it is, what is done in it, what is written into it at the end."""

import json
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.files import LOCK, PREDICTIONS, PROVENANCE, STUDY, atomic_write
from kdtune.config.hyperparameters import HYPERPARAMETERS
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.planning.optuna_export import export
from kdtune.results.frames import write_frames
from kdtune.results.study_results import Results, load
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import Line, read_lines, read_study
from kdtune.training.run import STUDENT
from kdtune.training.teacher import teacher_run

STUDENTS = "students"
FINISHED = (
    *("epochs", "epochs.parquet", "trials.parquet", PREDICTIONS),
    *("summary.csv", "summary.md", "optuna.db", STUDENTS),
)
"""What a study on a store has there at its end, beside its trials and teacher."""


def claim(study: Study) -> Study:
    """The study as it goes on: with at least the repeats that its folder has.

    One that was told to add repeats until it is decided stays one: their number hangs on what they
    said, and a test that takes it for fixed would find too much. Raises InputError where the folder
    holds another study.
    """
    if not (study.folder / STUDY).exists():
        return study
    old = read_study(study.folder)
    names = [f.name for f in fields(Run) if f.name not in (*HYPERPARAMETERS, "repeat")]
    differ = [n for n in names if getattr(old.run, n) != getattr(study.run, n)]
    differ += ["cpus_per_trial"] if old.cpus_per_trial != study.cpus_per_trial else []
    differ += ["recipe of the teacher"] if teacher_run(old.run) != teacher_run(study.run) else []
    if not differ and not study.covers(old):
        differ = ["configurations"]
    if differ:
        raise InputError(
            f"{study.folder} holds another study (other {', '.join(differ)}); give this one a "
            f"name (--name OTHER) or another folder (--out FOLDER)"
        )
    if old.until_decided and not study.until_decided:
        study = replace(study, until_decided=True, budget=old.budget, level=old.level)
    return replace(study, repeats=max(old.repeats, study.repeats))


def check_same(study: Study, made_of: Mapping[str, str]) -> None:
    """Refuse to go on with images or models other than those the study began with.

    Args:
        study: to go on with.
        made_of: fingerprints, see `distill.check`.
    """
    file = study.folder / PROVENANCE
    began: dict[str, str] = {}
    with suppress(OSError, ValueError):  # a study goes on without
        began = json.loads(file.read_text(encoding="utf-8"))
    what = {
        "data": f"the images in {study.run.data} have",
        "teacher": f"the teacher {study.run.teacher}, its weights or code, has",
        "student": f"the student {study.run.student}, its weights or code, has",
    }
    for name, fingerprint in made_of.items():
        if began.get(name, fingerprint) != fingerprint:
            raise InputError(
                f"{what[name]} changed since {study.folder} began; put that back, or begin another "
                f'study (--name OTHER); if no number hangs on it, delete "{name}" from {file}'
            )


def write_study(study: Study, made_of: Mapping[str, str]) -> None:
    """Write study.json and, once, what the results come from: data, models, versions, command."""
    with atomic_write(study.folder / STUDY) as aside:
        aside.write_text(study.to_json(), encoding="utf-8")
    file = study.folder / PROVENANCE
    if file.exists():
        return
    names = ("torch", "torchvision", "ray", "numpy", "pandas")
    record = {
        **made_of,
        "classes": load_data(study.run.data).classes,
        "python": platform.python_version(),
        "versions": {"kdtune": __version__} | {name: version(name) for name in names},
        "command": _command(),
    }
    file.write_text(json.dumps(record, indent=2), encoding="utf-8")


def _command() -> list[str]:
    """The command line as a user would type it."""
    program = Path(sys.argv[0])
    if program.parent.name == "kdtune":
        return ["python", "-m", f"kdtune.{program.stem}", *sys.argv[1:]]
    return ["python", program.name, *sys.argv[1:]]


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold the study's folder; raises InputError where another process does."""
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0.5)  # a reader looks for a moment whether it is held
    except Timeout:
        raise InputError(
            f"{folder} is being run by another process; wait for it, or give --name OTHER"
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); --out FOLDER names another"
        ) from None
    try:
        yield
    finally:
        lock.release()


def finish(folder: Path, mirror: Mirror) -> None:
    """Write all that follows from the records, here and on the study's store."""
    results, (lines, _) = load(folder), read_lines(folder)
    mirror.pull_trials(list(results.trials.trial_id), PREDICTIONS)
    write_frames(folder, results.frames)
    results.summary().to_csv(folder / "summary.csv", index=False)
    export(results.study, lines)
    text = results.text()
    (folder / "summary.md").write_text(f"{text}\n", encoding="utf-8")
    _export_students(results, lines, mirror)
    mirror.push(*FINISHED)
    mirror.delete_removed(STUDENTS)


def _export_students(results: Results, lines: list[Line], mirror: Mirror) -> None:
    """Copy the best configuration's students where a user looks for them.

    The user may have tidied up `trials/`: of what it lacks, earlier copies are kept.
    """
    best = results.best()
    if best is None:
        return
    starts = (line for line in lines if line["kind"] == "start")
    config = next(line["config"] for line in starts if line["config_id"] == best)
    run = replace(results.study.run, **{k: v for k, v in config.items() if v is not None})
    named = json.dumps(asdict(run), indent=2)
    target, aside = results.folder / STUDENTS, results.folder / f"{STUDENTS}.part"
    before = target / f"{STUDENTS}.json"
    kept = before.is_file() and before.read_text(encoding="utf-8") == named
    trials = results.trials[results.trials.config_id == best]
    mirror.pull_trials(list(trials.trial_id), STUDENT)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    (aside / f"{STUDENTS}.json").write_text(named)
    for _, trial in trials[trials.status == "completed"].iterrows():
        name = f"repeat-{trial['repeat']:02d}.safetensors"
        own = results.folder / "trials" / trial.trial_id / STUDENT
        sources = (own, target / name) if kept else (own,)
        if source := next(filter(Path.exists, sources), None):
            shutil.copy(source, aside / name)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
