"""A study's folder: which study continues the one in it, and the files at its start and its end.

Imports neither torch nor Ray at first: a complete study is only read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kdtune import __version__
from kdtune.config import files
from kdtune.config.fields import declarations
from kdtune.config.records import (
    InputRecord,
    ModelRecord,
    StudentRecord,
    StudentsRecord,
    known_fields,
    read_students_record,
)
from kdtune.config.run import COMPARED_BY_CONTENT, HYPERPARAMETERS, Run, active_values
from kdtune.config.study import AGAINST_TEACHER, OF_FUNCTION, Study
from kdtune.config.task import Range, covers, name_of
from kdtune.config.text import InputError
from kdtune.planning.plan import Plan
from kdtune.results import examples
from kdtune.results.comparison import Criterion
from kdtune.results.formatting import csv_text
from kdtune.results.frames import write_frames
from kdtune.results.replacement import recorded_sentences
from kdtune.results.results import Results, load
from kdtune.results.several import as_text
from kdtune.results.warnings import exported_config
from kdtune.storage import records
from kdtune.storage.records import Line, SavedStudy

if TYPE_CHECKING:
    from PIL.Image import Image

    from kdtune.data.sources import StudyData
    from kdtune.storage.mirror import Mirror

# Whether a study continues the one in its folder, and whether that is complete.
#
# Settings are compared by value; data, weights and models by fingerprint, never by path. So a study
# that was copied, renamed or moved to another machine, with its data elsewhere, can be continued.


SUMMARY_CSV, SUMMARY_MD = "summary.csv", "summary.md"
FINISHED_FILES = ("epochs.parquet", "trials.parquet", SUMMARY_CSV, SUMMARY_MD, files.OPTUNA)
"""Files of a complete study that follow from its records."""


def read_complete(study: Study) -> Results | None:
    """Return the results of a study that its folder holds complete; None if anything is left to do.

    Whatever is not certain from the folder alone is left to the driver: another place of the data,
    an extension, an earlier schema, missing files.

    Raises:
        InputError: The folder holds another study.
    """
    folder = study.folder
    left_to_driver = (study.uri, study.train, study.run.objects, study.notify)
    if any(left_to_driver) or not (folder / files.STUDY).is_file() or records.is_running(folder):
        return None
    lines: list[str] = []
    saved = records.read_saved(folder)
    asked = replace(study, run=study.run.absolute(), tracker=(), notify=None)
    study = merge_with_saved(asked, saved, lines.append)
    if study.to_json(saved.fingerprints) != (folder / files.STUDY).read_text("utf-8"):
        return None
    if is_moved(study, saved) or not _has_finished_files(folder, study):
        return None
    recorded, _ = records.read_lines(folder, study)
    if not Plan(study, recorded).is_done:
        return None
    for line in lines:
        print(line)
    return load(folder)


def _has_finished_files(folder: Path, study: Study) -> bool:
    """Return whether a folder has all that is written at the end, newer than the records."""
    parts = records.list_parts(folder / files.EPOCHS)
    newest = max((part.stat().st_mtime for part in parts), default=0.0)
    finished = [folder / name for name in FINISHED_FILES]
    if not all(file.is_file() and file.stat().st_mtime >= newest for file in finished):
        return False
    if study.keep != "all" and any((folder / files.TRIALS).glob(f"*/{files.STUDENT}")):
        return False  # which the end deletes
    try:
        record = read_students_record(folder / files.STUDENTS) if study.keep != "none" else None
    except InputError:
        return False
    names = [files.student_file(student.repeat) for student in record.students] if record else []
    return all((folder / files.STUDENTS / name).is_file() for name in names)


KEEPING = ("none", "best", "all")
"""Values of `Study.keep`, from the fewest students kept to the most."""


def read_if_saved(folder: Path) -> SavedStudy | None:
    """Return what an earlier call saved in a study's folder; None if there is no study yet.

    Call it with the study's lock held (`lock_study`, and on a store `hold_lease`): before that,
    another driver may be changing the file.
    """
    return records.read_saved(folder) if (folder / files.STUDY).exists() else None


def merge_with_saved(
    study: Study, saved: SavedStudy, write: Callable[[str], None] = print
) -> Study:
    """Return the study that continues the saved one: with at least its repeats.

    A study with --repeats auto keeps that: the number of its repeats depends on their results, and
    a test that takes the number for fixed would find too many differences.

    Args:
        study: The study that is asked for.
        saved: What its folder holds, see `read_if_saved`.
        write: Is given a line for each saved value that takes precedence.

    Raises:
        InputError: The saved study is another one. Data and weights are not compared here, but by
            content in `check_same`.
    """
    old = saved.study
    changes = (_changed_task, _changed_space)
    if study.train is None and old.train is None:
        study = replace(study, run=_with_recorded(study.run, old.run))
        changes = (_changed_fields, _changed_space)
    if differences := [text for changed in changes for text in changed(old, study)]:
        raise InputError(
            f"{study.folder} holds another study ({'; '.join(differences)}); restore these "
            f"settings to continue it, or give this one another name (--name OTHER) or folder "
            f"(--out FOLDER)"
        )
    for flags, values in _prevailing(old, study):
        write(f"{study.folder} was begun with {flags}; continuing with it")
        study = replace(study, **values)
    return study


def _prevailing(old: Study, new: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield flags and fields of the saved study that take precedence over those of the new one."""
    if old.until_decided and not new.until_decided:
        flags = f"--repeats auto --budget {old.budget} --level {old.level:g}"
        yield flags, {"until_decided": True, "budget": old.budget, "level": old.level}
    if KEEPING.index(old.keep) > KEEPING.index(new.keep):  # no students are deleted
        yield f"--keep {old.keep}", {"keep": old.keep}
    if old.plain_share != new.plain_share and "plain_share" not in new.flags:
        yield f"--plain-share {old.plain_share:g}", {"plain_share": old.plain_share}
    if old.repeats > new.repeats:
        yield f"--repeats {old.repeats}", {"repeats": old.repeats}
    if (old.against, old.margin) != (new.against, new.margin):  # results must not choose them
        flags = f"--against {old.against or AGAINST_TEACHER} --margin {old.margin}"
        flags = flags if old.margin else "no --margin (kdtune.analysis takes one after the results)"
        yield flags, {"against": old.against, "margin": old.margin}


def _with_recorded(run: Run, old: Run) -> Run:
    """Return the run with the recorded values of settings that are not given, see `Setting`."""
    open_fields = [n for n, d in declarations(Run).items() if d.setting.resolved]
    open_fields.append("image_size")  # resolved only in a study of models of several sizes
    recorded = {n: getattr(old, n) for n in open_fields if getattr(run, n) is None}
    if run.precision == "auto":
        recorded["precision"] = old.precision
    return replace(run, **recorded, study_values=old.study_values)


def is_moved(study: Study, saved: SavedStudy) -> bool:
    """Return True if data or weights have other paths than in the saved study, or are objects.

    Then `check_same` must compare their contents, even if no trial is left to run.
    """
    old, new = saved.study.run, study.run
    are_others = any(getattr(old, name) != getattr(new, name) for name in COMPARED_BY_CONTENT)
    return bool(new.objects) or are_others  # objects may be others under the same names


def check_same(study: Study, saved: SavedStudy, fingerprints: Mapping[str, str]) -> None:
    """Raise InputError if data, teacher or student are not those that the saved study began with.

    Args:
        study: The study that is asked for.
        saved: What its folder holds.
        fingerprints: Of the study that is asked for, see `training.run.check`.
    """
    run = study.run
    for name, fingerprint in fingerprints.items():
        before = saved.fingerprints.get(name, fingerprint)
        if before != fingerprint:
            has = "have" if name.startswith("extra") else "has"
            raise InputError(
                f"{_describe(name, run)} {has} changed since {study.folder} began (fingerprint "
                f"{before} → {fingerprint}); restore it, or begin another study (--name OTHER); if "
                f'the change cannot affect any number, delete "{name}" from the fingerprints in '
                f"{study.folder / files.STUDY}"
            )
    begun_with = ("data", "teacher", "student")
    unknown = [n for n in begun_with if n in fingerprints.keys() - saved.fingerprints.keys()]
    if unknown:
        print(
            f"{study.folder} has no fingerprint to compare the {' and the '.join(unknown)} with "
            f"(kdtune 0.1 saved none for its own models); make sure that they are unchanged"
        )


def _describe(name: str, run: Run) -> str:
    """Return what a fingerprint is of, in words."""
    role, _, model = name.partition(" ")
    if role in ("teacher", "student"):
        return f"the {role} {model or getattr(run, role)} (its weights or its code)"
    others = {
        "data": f"the data in {run.data}",
        "extra": f"the images without labels of --extra {run.extra}",
        "train": "the training function (its code)",
    }
    return others.get(role, f"the {name} (its code)")  # an objective of the user's own


def _changed_fields(old: Study, new: Study) -> Iterator[str]:
    """Yield "NAME: OLD → NEW" for each field that defines a study and differs."""
    for name, begun in old.run.study_values:
        if begun is not None and not covers(values := new.all_values(name), (begun,)):
            yield f"{name}: {begun} → {as_text(values)}"
    left_out = (*HYPERPARAMETERS, *COMPARED_BY_CONTENT, "repeat", "study_values")
    for name, declared in declarations(Run).items():
        if name in left_out or not declared.setting.defines:
            continue
        resolved = "augmentation" if name == "augment" else name  # None is a default
        before, now = getattr(old.run, resolved), getattr(new.run, resolved)
        if before != now and not (declared.setting.resolved and before is None):
            yield f"{name}: {before} → {now}"
    for name in ("metric", "mode"):
        if (before := getattr(old, name)) != (now := getattr(new, name)):
            yield f"{name}: {before} → {now}"
    before, now = old.cpus_per_trial or 1, new.cpus_per_trial or 1
    if before != now and not _surely_on_gpus(new):  # the last digits of a CPU depend on it
        yield f"cpus_per_trial: {before} → {now}"


def _surely_on_gpus(study: Study) -> bool:
    """Return True if the study's runs use GPUs; on a cluster only if they are asked for."""
    if study.device == "auto" and study.address is not None:
        return bool(study.gpus)
    from kdtune.streams.views import device_of  # torch, which is needed in this case alone

    return device_of(study).type != "cpu"


def _changed_task(old: Study, new: Study) -> Iterator[str]:
    """Yield what differs in the training function or its declarations: "metric: a → b"."""
    for name in ("train", *OF_FUNCTION):
        values = (getattr(study, name) for study in (old, new))
        before, now = (name_of(value) if callable(value) else value for value in values)
        if before != now:
            yield f"{name}: {before} → {now}"
    if set(old.task.names) != set(new.task.names):
        names = (", ".join(sorted(study.task.names)) for study in (old, new))
        yield f"hyperparameters: {' → '.join(names)}"


def _changed_space(old: Study, new: Study) -> Iterator[str]:
    """Yield what the new study's configurations lack of the old ones: "alpha lacks 0.1"."""
    if old.run.largest_train_images != new.run.largest_train_images:  # the steps of all follow it
        sizes = " → ".join(as_text(study.values("train_images")) for study in (old, new))
        yield f"train_images: {sizes}"
        return
    if set(old.task.names) != set(new.task.names) or new.covers(old):
        return
    names = [name for name in old.task.names if old.has_effect(name) or new.has_effect(name)]
    pairs = [(name, old.all_values(name), new.all_values(name)) for name in names]
    differing = [pair for pair in pairs if not covers(pair[2], pair[1])]
    if not differing:
        yield "other configurations"
    for name, before, now in differing:
        if isinstance(before, Range) or isinstance(now, Range) or len(before) == len(now) == 1:
            yield f"{name}: {as_text(before)} → {as_text(now)}"
        else:
            yield f"{name} lacks {as_text(tuple(v for v in before if v not in now))}"


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
    target, part = results.folder / files.STUDENTS, results.folder / f"{files.STUDENTS}.part"
    if (part / files.STUDENTS_CONFIG).exists() and not target.exists():
        part.rename(target)  # a driver was killed between the last two lines below
    kept = exported_config(results.folder, results.study) == best
    trials = results.trials[results.trials.config_id == best]
    mirror.pull_trials(list(trials.trial_id), files.STUDENT)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    done = trials[trials.status == "completed"].sort_values("repeat")
    students = tuple(_copies(done, results.folder, target if kept else None, part))
    names = [{f.name for f in place.glob("repeat-*.safetensors")} for place in (target, part)]
    if kept and names[0] <= names[1]:  # an export is of one of them
        for file in (f for pattern in files.EXPORTS for f in target.glob(pattern)):
            shutil.copy2(file, part / file.name)
    record = _record(results, run, students)
    # last: the folder is whole
    (part / files.STUDENTS_CONFIG).write_text(record.to_json(), encoding="utf-8")
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
        name = files.student_file(trial["repeat"])
        saved = folder / files.TRIALS / trial.trial_id / files.STUDENT
        sources = (saved,) if earlier is None else (saved, earlier / name)
        if source := next(filter(Path.exists, sources), None):
            shutil.copyfile(source, part / name)  # safetensors' own files are for their owner alone
            yield StudentRecord(
                repeat=int(trial["repeat"]),
                file=name,
                trial_id=trial.trial_id,
                sha256=hashlib.sha256((part / name).read_bytes()).hexdigest(),
                metrics=examples.trial_metrics(trial),
            )


def _record(results: Results, run: Run, students: tuple[StudentRecord, ...]) -> StudentsRecord:
    """Return the content of students.json.

    What an earlier version of kdtune has not recorded at the start of the study stays unknown.
    """
    record = records.read_provenance(results.folder)
    source = record.get("sources", {}).get(f"student {run.student}", {})
    student = record.get("models", {}).get(f"student {run.student}", {})
    steps = record.get("views", {}) | {k: v for k, v in student.items() if k != "crop"}
    view = record.get("input") or None
    return StudentsRecord(
        study=results.study.name,
        model=ModelRecord(**{"name": run.student} | known_fields(ModelRecord, source)),
        classes=tuple(record.get("classes", ())),
        input=InputRecord(**known_fields(InputRecord, view)) if view else None,
        preprocessing=steps if student else None,
        students=students,
        configuration=examples.configuration_record(results),
        versions=record.get("versions", {}),
        run=asdict(run),
    )


# A study's folder: what is written at the start, what is written at the end.


FINISHED = [files.EPOCHS, *FINISHED_FILES, files.PREDICTIONS, files.COSTS]
FINISHED += [files.STUDENTS, files.THUMBNAILS]
"""What a finished study has on an object store, besides its trials and its teacher."""
OLD_PART_SECONDS = 3600.0
"""A temporary file that is older is of a process that was killed."""


def write_study(
    study: Study, fingerprints: Mapping[str, str], provenance: Mapping[str, Any] | None = None
) -> None:
    """Write study.json and provenance.json: once classes, versions, command and recipe.

    Args:
        study: The study as it is run.
        fingerprints: Of what its trials are made of, see `machines.fingerprints_of`.
        provenance: What is known of its trials, if it runs any, see `distillation.prepare`. Models,
            their sources, views and warnings are added to the record; the rest is written once.
    """
    recorded = records.read_provenance(study.folder)
    study = replace(study, rerun_dropped=False)  # it is asked for once
    files.write_text(study.folder / files.STUDY, study.to_json(fingerprints))
    current = dict(provenance or {})
    added = ("models", "sources", "views", "input", "warnings")
    once = {name: value for name, value in current.items() if name not in added}
    record = recorded or once | _provenance()
    if "models" in current:
        for name in ("models", "sources"):
            record[name] = record.get(name, {}) | current.get(name, {})
        record |= {name: current[name] for name in ("views", "input") if name in current}
        warnings = [*record.get("warnings", []), *current.get("warnings", [])]
        record["warnings"] = list(dict.fromkeys(warnings))
    files.write_text(study.folder / files.PROVENANCE, json.dumps(record, indent=2))


def remove_parts(folder: Path) -> None:
    """Remove old temporary files of processes that were killed while they wrote.

    The files of a training function of the user's own stay.
    """
    log = f"{files.TRIALS}/*/{files.TRIAL_FILES}/{files.EPOCHS_LOG}"
    written = ["*", f"{files.TRIALS}/*/*", log, f"{files.TEACHER}/**/*", f"{files.THUMBNAILS}/*"]
    for part in (part for name in written for part in folder.glob(f"{name}.????????.part")):
        with suppress(OSError):  # that of another user stays
            is_old = part.stat().st_mtime < time.time() - OLD_PART_SECONDS
            if is_old and files.PART.fullmatch(part.name):
                part.unlink()


def add_warning(folder: Path, sentence: str) -> None:
    """Add a sentence to the warnings of a study that has begun, which results and report show."""
    record = records.read_provenance(folder)
    record["warnings"] = list(dict.fromkeys([*record.get("warnings", []), sentence]))
    files.write_text(folder / files.PROVENANCE, json.dumps(record, indent=2))


def _provenance() -> dict[str, Any]:
    """Return the driver's machine, versions and command of a new study."""
    from torch import device

    from kdtune.models.checks import hardware_name

    names = ("torch", "torchvision", "ray", "numpy", "pandas")
    return {
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": hardware_name(device("cpu")),
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
    from kdtune.planning.proposals import export_for_optuna  # Optuna takes long to import

    results = load(folder)
    lines, _ = records.read_lines(folder, results.study)
    mirror.pull_trials(list(results.trials.trial_id), files.PREDICTIONS)
    write_frames(folder, results.frames)
    files.write_text(folder / SUMMARY_CSV, csv_text(results.summary(full=True)))
    export_for_optuna(results.study, lines)
    is_distillation = results.task.is_distillation
    if is_distillation:
        mirror.pull_folders(files.THUMBNAILS)
        _write_thumbnails(results, run or results.study.run, data)
    if is_distillation and results.study.keep != "none":
        mirror.pull_folders(files.STUDENTS)  # perhaps the only copy, if another machine wrote it
        export_students(results, lines, mirror)
    # last: a file in students/ may be judged
    parts = [*recorded_sentences(results), results.text()]
    files.write_text(folder / SUMMARY_MD, "\n\n".join(parts) + "\n")
    mirror.push(*FINISHED)
    mirror.delete_removed(files.STUDENTS)
    mirror.delete_removed(files.THUMBNAILS)
    if results.study.keep != "all":
        for file in (folder / files.TRIALS).glob(f"*/{files.STUDENT}"):
            file.unlink()
        mirror.delete_removed(files.TRIALS, f"/{files.STUDENT}")


def _write_thumbnails(results: Results, run: Run, data: StudyData | None) -> None:
    """Write thumbnails of the images that the report will show, unless the data are gone."""
    arms = examples.read_arms(results, Criterion())
    if examples.has_thumbnails(results.folder, arms):
        return
    from PIL.Image import fromarray

    from kdtune.data.sources import StudyData  # torch

    with suppress(InputError):
        splits = (data or StudyData(run)).of(run).splits

        def picture(split: str, index: int) -> Image:
            if splits[split].kind == "tensors":
                raise ValueError("not an image")
            pixels = splits[split].example(index, run.orientation)  # uint8 [C, H, W]
            shown = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
            return fromarray(shown.numpy())

        examples.write_thumbnails(results.folder, arms, picture)
