"""A study's folder: what is written at the start, what is written at the end."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kdtune import __version__
from kdtune.config.errors import InputError
from kdtune.config.files import (
    COSTS,
    PART,
    PREDICTIONS,
    PROVENANCE,
    STUDENT,
    STUDENTS,
    STUDY,
    TEACHER,
    THUMBNAILS,
    TRIALS,
    atomic_write,
)
from kdtune.config.objects import NO_OBJECTS, Objects
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.models.cost import hardware_name
from kdtune.planning.optuna_export import FILE as OPTUNA
from kdtune.planning.optuna_export import export
from kdtune.raytune.function_trial import FILES, LOG
from kdtune.raytune.students_folder import export_students
from kdtune.results.arms import read_arms
from kdtune.results.comparison import Criterion
from kdtune.results.frames import write_frames
from kdtune.results.shown_images import has_thumbnails, write_thumbnails
from kdtune.results.study_results import Results, load
from kdtune.results.tables import csv_text
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import read_lines, read_provenance

SUMMARY_CSV, SUMMARY_MD = "summary.csv", "summary.md"
FINISHED = (
    *("epochs", "epochs.parquet", "trials.parquet", PREDICTIONS, COSTS),
    *(SUMMARY_CSV, SUMMARY_MD, OPTUNA, STUDENTS, THUMBNAILS),
)
"""What a finished study has on an object store, besides its trials and its teacher."""
TEACHER_PART_SECONDS = 3600.0
"""A temporary file of a teacher that is older is of a process that was killed: kdtune.teacher and
kdtune.distill train teachers without the study's lock."""


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
            their sources, views and warnings are added to the record; the rest is written once.
    """
    study = replace(study, rerun_dropped=False)  # it is asked for once
    with atomic_write(study.folder / STUDY) as part:
        part.write_text(study.to_json(fingerprints), encoding="utf-8")
    own = dict(provenance or {})
    models, warnings, sources = (own.pop(name, None) for name in ("models", "warnings", "sources"))
    seen = {name: own.pop(name) for name in ("views", "input") if name in own}
    record = read_provenance(study.folder) or own | _provenance()
    if models is not None:
        models = record.get("models", {}) | models
        sources = record.get("sources", {}) | (sources or {})
        warnings = list(dict.fromkeys([*record.get("warnings", []), *(warnings or [])]))
        record |= seen | {"models": models, "sources": sources, "warnings": warnings}
    with atomic_write(study.folder / PROVENANCE) as part:
        part.write_text(json.dumps(record, indent=2), encoding="utf-8")


def remove_parts(folder: Path) -> None:
    """Remove the temporary files of drivers and trials that were killed while they wrote.

    Call it with the study's lock and lease. Then no other driver of the study lives, on any machine
    that shares the folder, and its trials have ended with it. A trial that still runs on a machine
    that was cut off may fail when its file is removed; its results are not used. Reports, teachers
    and other files that another command may be writing stay, and so do the user's own.
    """
    old = time.time() - TEACHER_PART_SECONDS
    trials, teacher = folder / TRIALS, folder / TEACHER
    places = (
        *((part, (STUDY, PROVENANCE, *FINISHED)) for part in folder.glob("*.part")),
        *((part, (LOG,)) for part in trials.glob(f"*/{FILES}/{LOG}.*.part")),
        *((part, None) for part in trials.glob("*/*.part")),
        *((part, None) for part in teacher.rglob("*.part")),
        *((part, None) for part in (folder / THUMBNAILS).glob("*.part")),
    )
    for part, names in places:
        found = PART.fullmatch(part.name)
        if found and (names is None or found["file"] in names):
            with suppress(OSError):  # that of another user stays
                if part.is_file() and (teacher not in part.parents or part.stat().st_mtime < old):
                    part.unlink()


def add_warning(folder: Path, sentence: str) -> None:
    """Add a sentence to the warnings of a study that has begun, which results and report show."""
    record = read_provenance(folder)
    warnings = list(dict.fromkeys([*record.get("warnings", []), sentence]))
    with atomic_write(folder / PROVENANCE) as part:
        part.write_text(json.dumps(record | {"warnings": warnings}, indent=2), encoding="utf-8")


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
    """Return the command line as a user would type it, without the text of --notify."""
    program, words = Path(sys.argv[0]), list(sys.argv[1:])
    for i, word in enumerate(words):  # it may hold a password
        if i and words[i - 1] == "--notify":
            words[i] = "..."
        elif word.startswith("--notify="):
            words[i] = "--notify=..."
    if program.parent.name == "kdtune":
        return ["python", "-m", f"kdtune.{program.stem}", *words]
    return ["python", program.name, *words]


def finish(folder: Path, mirror: Mirror, objects: Objects = NO_OBJECTS) -> None:
    """Write everything that follows from the records, here and on the study's object store.

    Students that `--keep` does not ask for are deleted. Call it when the study is complete: until
    then the best configuration may change.

    Args:
        folder: Of the study.
        mirror: Its object store.
        objects: That were passed, among which its data may be.
    """
    results = load(folder)
    lines, _ = read_lines(folder, results.study)
    mirror.pull_trials(list(results.trials.trial_id), PREDICTIONS)
    write_frames(folder, results.frames)
    with atomic_write(folder / SUMMARY_CSV) as part:
        part.write_text(csv_text(results.summary(full=True)), encoding="utf-8")
    export(results.study, lines)
    with atomic_write(folder / SUMMARY_MD) as part:
        part.write_text(f"{results.text()}\n", encoding="utf-8")
    is_distillation = results.task.is_distillation
    if is_distillation:
        mirror.pull_folders(THUMBNAILS)
        _write_thumbnails(results, objects)
    if is_distillation and results.study.keep != "none":
        mirror.pull_folders(STUDENTS)  # perhaps the only copy, if another machine wrote it
        export_students(results, lines, mirror)
    mirror.push(*FINISHED)
    mirror.delete_removed(STUDENTS)
    mirror.delete_removed(THUMBNAILS)
    if results.study.keep != "all":
        for file in (folder / TRIALS).glob(f"*/{STUDENT}"):
            file.unlink()
        mirror.delete_below(TRIALS, STUDENT)


def _write_thumbnails(results: Results, objects: Objects) -> None:
    """Write thumbnails of the images that the report will show, unless the data are gone."""
    arms = read_arms(results, Criterion())
    if has_thumbnails(results.folder, arms):
        return
    with suppress(InputError):
        splits = load_data(replace(results.study.run, objects=objects)).splits

        def picture(split: str, index: int) -> Image.Image:
            if splits[split].kind == "tensors":
                raise ValueError("not an image")
            own = splits[split].example(index, results.study.run.orientation)
            channels = own.numpy()  # uint8 [C, H, W]
            last = channels.transpose(1, 2, 0)
            return Image.fromarray(last[..., 0] if len(channels) == 1 else last)

        write_thumbnails(results.folder, arms, picture)
