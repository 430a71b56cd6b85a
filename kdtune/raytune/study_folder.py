"""A study's folder: what is written at the start, what is written at the end."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.files import (
    COSTS,
    PREDICTIONS,
    PROVENANCE,
    STUDENT,
    STUDENTS,
    STUDENTS_CONFIG,
    STUDY,
    THUMBNAILS,
    TRIALS,
    atomic_write,
    student_file,
)
from kdtune.config.hyperparameters import active_values
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.models.cost import hardware_name
from kdtune.planning.optuna_export import FILE as OPTUNA
from kdtune.planning.optuna_export import export
from kdtune.results.arms import read_arms
from kdtune.results.comparison import Criterion
from kdtune.results.files_kept import exported_config
from kdtune.results.frames import write_frames
from kdtune.results.shown_images import has_thumbnails, write_thumbnails
from kdtune.results.study_results import Results, load
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import Line, read_lines, read_provenance

SUMMARY_CSV, SUMMARY_MD = "summary.csv", "summary.md"
FINISHED = (
    *("epochs", "epochs.parquet", "trials.parquet", PREDICTIONS, COSTS),
    *(SUMMARY_CSV, SUMMARY_MD, OPTUNA, STUDENTS, THUMBNAILS),
)
"""What a finished study has on an object store, besides its trials and its teacher."""


def write_study(
    study: Study,
    fingerprints: Mapping[str, str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write study.json and provenance.json: once classes, versions, command and recipe.

    Args:
        study: The study as it is run.
        fingerprints: Of what its trials are made of, see `job.Job.fingerprints`.
        provenance: What is known of its trials, if it runs any, see `job.Job.provenance`. Models,
            views and warnings are added to the record; the rest is written once.
    """
    study = replace(study, rerun_dropped=False)  # it is asked for once
    with atomic_write(study.folder / STUDY) as part:
        part.write_text(study.to_json(fingerprints), encoding="utf-8")
    own = dict(provenance or {})
    models, warnings, views = (own.pop(name, None) for name in ("models", "warnings", "views"))
    record = read_provenance(study.folder) or own | _provenance()
    if models is not None:
        models = record.get("models", {}) | models
        warnings = list(dict.fromkeys([*record.get("warnings", []), *(warnings or [])]))
        record |= {"views": views, "models": models, "warnings": warnings}
    with atomic_write(study.folder / PROVENANCE) as part:
        part.write_text(json.dumps(record, indent=2), encoding="utf-8")


def _provenance() -> dict[str, Any]:
    """Return the driver's machine, versions and command of a new study."""
    names = ("torch", "torchvision", "ray", "numpy", "pandas")
    return {
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": hardware_name(torch.device("cpu")),
            "cores": os.cpu_count(),
        },
        "python": platform.python_version(),
        "versions": {"kdtune": __version__} | {name: version(name) for name in names},
        "command": _command(),
    }


def _command() -> list[str]:
    """Return the command line as a user would type it."""
    program = Path(sys.argv[0])
    if program.parent.name == "kdtune":
        return ["python", "-m", f"kdtune.{program.stem}", *sys.argv[1:]]
    return ["python", program.name, *sys.argv[1:]]


def finish(folder: Path, mirror: Mirror) -> None:
    """Write everything that follows from the records, here and on the study's object store.

    Students that `--keep` does not ask for are deleted. Call it when the study is complete: until
    then the best configuration may change.
    """
    results, (lines, _) = load(folder), read_lines(folder)
    mirror.pull_trials(list(results.trials.trial_id), PREDICTIONS)
    write_frames(folder, results.frames)
    with atomic_write(folder / SUMMARY_CSV) as part:
        results.summary(full=True).to_csv(part, index=False)
    export(results.study, lines)
    with atomic_write(folder / SUMMARY_MD) as part:
        part.write_text(f"{results.text()}\n", encoding="utf-8")
    is_distillation = results.task.is_distillation
    if is_distillation:
        mirror.pull_folders(THUMBNAILS)
        _write_thumbnails(results)
    if is_distillation and results.study.keep != "none":
        mirror.pull_folders(STUDENTS)  # perhaps the only copy, if another machine wrote it
        _export_students(results, lines, mirror)
    mirror.push(*FINISHED)
    mirror.delete_removed(STUDENTS)
    mirror.delete_removed(THUMBNAILS)
    if results.study.keep != "all":
        for file in (folder / TRIALS).glob(f"*/{STUDENT}"):
            file.unlink()
        mirror.delete_below(TRIALS, STUDENT)


def _write_thumbnails(results: Results) -> None:
    """Write thumbnails of the images that the report will show, unless the data are gone."""
    arms = read_arms(results, Criterion())
    if has_thumbnails(results.folder, arms):
        return
    with suppress(InputError):
        splits = load_data(results.study.run).splits

        def picture(split: str, index: int) -> Image.Image:
            if splits[split].kind == "tensors":
                raise ValueError("not an image")
            channels = splits[split].example(index).numpy()  # uint8 [C, H, W]
            last = channels.transpose(1, 2, 0)
            return Image.fromarray(last[..., 0] if len(channels) == 1 else last)

        write_thumbnails(results.folder, arms, picture)


def _export_students(results: Results, lines: list[Line], mirror: Mirror) -> None:
    """Copy the students of the best configuration to students/, with what predicting needs.

    Runs whose folders in `trials/` no longer have the student keep its earlier copy, as long as the
    same configuration is the best.
    """
    best = results.best()
    if best is None:
        return
    starts = (line for line in lines if line["kind"] == "start")
    config = next(line["config"] for line in starts if line["config_id"] == best)
    run = replace(results.study.run, **active_values(config))
    named = json.dumps(asdict(run) | _preprocessing(results.folder, run.student), indent=2)
    target, part = results.folder / STUDENTS, results.folder / f"{STUDENTS}.part"
    if (part / STUDENTS_CONFIG).exists() and not target.exists():
        part.rename(target)  # a driver was killed between the last two lines below
    kept = exported_config(results.folder, results.study) == best
    trials = results.trials[results.trials.config_id == best]
    mirror.pull_trials(list(trials.trial_id), STUDENT)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for _, trial in trials[trials.status == "completed"].iterrows():
        name = student_file(trial["repeat"])
        own = results.folder / TRIALS / trial.trial_id / STUDENT
        sources = (own, target / name) if kept else (own,)
        if source := next(filter(Path.exists, sources), None):
            shutil.copy(source, part / name)
    (part / STUDENTS_CONFIG).write_text(named, encoding="utf-8")  # last: the folder is whole
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _preprocessing(folder: Path, student: str) -> dict[str, Any]:
    """Return all that turns an image into the student's input; {} if an older version ran it."""
    record = read_provenance(folder)
    own = record.get("models", {}).get(f"student {student}", {})
    steps = record.get("views", {}) | {k: v for k, v in own.items() if k != "crop"}
    return {"preprocessing": steps} if own else {}
