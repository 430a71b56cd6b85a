"""A study's folder: the files at its start and its end."""

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from kdtune import __version__
from kdtune.config.files import (
    COSTS,
    EXPORTS,
    PART,
    PREDICTIONS,
    PROVENANCE,
    STUDENT,
    STUDENTS,
    STUDENTS_CONFIG,
    STUDY,
    TEACHER,
    THUMBNAILS,
    TRIALS,
    atomic_write,
    student_file,
)
from kdtune.config.records import InputRecord, ModelRecord, StudentRecord, StudentsRecord
from kdtune.config.run import Run, active_values
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData
from kdtune.models.checks import hardware_name
from kdtune.planning.proposals import FILE as OPTUNA
from kdtune.planning.proposals import export_for_optuna
from kdtune.raytune.function import FILES, LOG
from kdtune.results.comparison import Criterion
from kdtune.results.examples import (
    configuration_record,
    has_thumbnails,
    read_arms,
    trial_metrics,
    write_thumbnails,
)
from kdtune.results.formatting import csv_text
from kdtune.results.frames import write_frames
from kdtune.results.results import Results, load
from kdtune.results.warnings import exported_config
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import Line, read_lines, read_provenance

# Folder students/ of a study: the best configuration's students, and what predicting needs.


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
    names = [{f.name for f in place.glob("repeat-*.safetensors")} for place in (target, part)]
    if kept and names[0] <= names[1]:  # an export is of one of them
        for file in (f for pattern in EXPORTS for f in target.glob(pattern)):
            shutil.copy2(file, part / file.name)
    record = _record(results, run, students)
    # last: the folder is whole
    (part / STUDENTS_CONFIG).write_text(record.to_json(), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


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
        saved = folder / TRIALS / trial.trial_id / STUDENT
        sources = (saved,) if earlier is None else (saved, earlier / name)
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
    student = record.get("models", {}).get(f"student {run.student}", {})
    steps = record.get("views", {}) | {k: v for k, v in student.items() if k != "crop"}
    view = record.get("input") or None
    return StudentsRecord(
        study=results.study.name,
        model=ModelRecord(**{"name": run.student} | _known(ModelRecord, source)),
        classes=tuple(record.get("classes", ())),
        input=InputRecord(**_known(InputRecord, view)) if view else None,
        preprocessing=steps if student else None,
        students=students,
        configuration=configuration_record(results),
        versions=record.get("versions", {}),
        run=asdict(run),
    )


def _known(owner: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the fields of a dataclass."""
    return {f.name: values[f.name] for f in fields(owner) if f.name in values}


# A study's folder: what is written at the start, what is written at the end.


SUMMARY_CSV, SUMMARY_MD = "summary.csv", "summary.md"
FINISHED = (
    "epochs",
    "epochs.parquet",
    "trials.parquet",
    PREDICTIONS,
    COSTS,
    SUMMARY_CSV,
    SUMMARY_MD,
    OPTUNA,
    STUDENTS,
    THUMBNAILS,
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
        fingerprints: Of what its trials are made of, see `machines.fingerprints_of`.
        provenance: What is known of its trials, if it runs any, see `driver.prepare`. Models,
            their sources, views and warnings are added to the record; the rest is written once.
    """
    study = replace(study, rerun_dropped=False)  # it is asked for once
    with atomic_write(study.folder / STUDY) as part:
        part.write_text(study.to_json(fingerprints), encoding="utf-8")
    current = dict(provenance or {})
    added = ("models", "sources", "views", "input", "warnings")
    once = {name: value for name, value in current.items() if name not in added}
    record = read_provenance(study.folder) or once | _provenance()
    if "models" in current:
        for name in ("models", "sources"):
            record[name] = record.get(name, {}) | current.get(name, {})
        record |= {name: current[name] for name in ("views", "input") if name in current}
        warnings = [*record.get("warnings", []), *current.get("warnings", [])]
        record["warnings"] = list(dict.fromkeys(warnings))
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
    written = (STUDY, PROVENANCE, *FINISHED)
    places: list[tuple[Path, str, Sequence[str] | None]] = [
        (folder, "*.part", written),
        (trials, f"*/{FILES}/{LOG}.*.part", [LOG]),
        (trials, "*/*.part", None),
        (teacher, "**/*.part", None),
        (folder / THUMBNAILS, "*.part", None),
    ]
    for root, pattern, names in places:
        for part in root.glob(pattern):
            match = PART.fullmatch(part.name)
            if match is None or (names is not None and match["file"] not in names):
                continue
            with suppress(OSError):  # that of another user stays
                if part.is_file() and (root != teacher or part.stat().st_mtime < old):
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


def finish(
    folder: Path, mirror: Mirror, run: Run | None = None, data: StudyData | None = None
) -> None:
    """Write everything that follows from the records, here and on the study's object store.

    Students that `--keep` does not ask for are deleted. Call it when the study is complete: until
    then the best configuration may change.

    Args:
        folder: Of the study.
        mirror: Its object store.
        run: Its run, with objects that were passed; None takes the run that it has recorded.
        data: Its data; None reads them, if they are there.
    """
    results = load(folder)
    lines, _ = read_lines(folder, results.study)
    mirror.pull_trials(list(results.trials.trial_id), PREDICTIONS)
    write_frames(folder, results.frames)
    with atomic_write(folder / SUMMARY_CSV) as part:
        part.write_text(csv_text(results.summary(full=True)), encoding="utf-8")
    export_for_optuna(results.study, lines)
    with atomic_write(folder / SUMMARY_MD) as part:
        part.write_text(f"{results.text()}\n", encoding="utf-8")
    is_distillation = results.task.is_distillation
    if is_distillation:
        mirror.pull_folders(THUMBNAILS)
        _write_thumbnails(results, run or results.study.run, data)
    if is_distillation and results.study.keep != "none":
        mirror.pull_folders(STUDENTS)  # perhaps the only copy, if another machine wrote it
        export_students(results, lines, mirror)
    mirror.push(*FINISHED)
    mirror.delete_removed(STUDENTS)
    mirror.delete_removed(THUMBNAILS)
    if results.study.keep != "all":
        for file in (folder / TRIALS).glob(f"*/{STUDENT}"):
            file.unlink()
        mirror.delete_removed(TRIALS, f"/{STUDENT}")


def _write_thumbnails(results: Results, run: Run, data: StudyData | None) -> None:
    """Write thumbnails of the images that the report will show, unless the data are gone."""
    arms = read_arms(results, Criterion())
    if has_thumbnails(results.folder, arms):
        return
    with suppress(InputError):
        splits = (data or StudyData(run)).of(run).splits

        def picture(split: str, index: int) -> Image.Image:
            if splits[split].kind == "tensors":
                raise ValueError("not an image")
            example = splits[split].example(index, run.orientation)
            channels = example.numpy()  # uint8 [C, H, W]
            last = channels.transpose(1, 2, 0)
            return Image.fromarray(last[..., 0] if len(channels) == 1 else last)

        write_thumbnails(results.folder, arms, picture)
