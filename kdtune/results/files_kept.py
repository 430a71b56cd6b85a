"""Files of a study's runs that are gone: folders deleted by hand, students that were not kept."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.files import (
    PREDICTIONS,
    PROVENANCE,
    STUDENT,
    STUDENTS,
    TRIALS,
    student_file,
)
from kdtune.config.run import Run
from kdtune.config.student_record import read_students_record
from kdtune.config.study import Study
from kdtune.results.comparison import completed
from kdtune.results.frames import Frames
from kdtune.results.predictions import trials_with_predictions

MAX_NAMED = 3
"""Runs that a sentence names; of more, it says how many there are."""


def find_missing_files(folder: Path, study: Study, frames: Frames, best: str | None) -> list[str]:
    """Return a sentence for each kind of file that the study's runs have left and that is gone.

    Files of a study on an object store are not looked for.

    Args:
        folder: of the study.
        study: the study.
        frames: its records.
        best: config_id of the best configuration.
    """
    if study.uri is not None:
        return []
    done = completed(frames.trials)
    return [
        *_missing_folders(folder, study, done),
        *_missing_predictions(folder, done),
        *_missing_students(folder, study, done, best),
    ]


def _missing_folders(folder: Path, study: Study, done: pd.DataFrame) -> list[str]:
    """Return a sentence if folders of completed runs were deleted."""
    if not ((folder / TRIALS).is_dir() or (folder / PROVENANCE).is_file()):
        return []  # records alone, which no driver has written
    with suppress(FileNotFoundError):
        there = {path.name for path in (folder / TRIALS).iterdir()}
        done = done[~done.trial_id.isin(there)]
    if not len(done):
        return []
    count, names = _count_runs(list(done.trial_id))
    without = len(set(done.trial_id) - trials_with_predictions(folder))
    lost = ["their students"] * (study.keep == "all")
    kept = ""
    if without:
        lost.append("their predictions" if without == len(done) else f"predictions of {without}")
    else:
        kept = f"; their predictions are in {PREDICTIONS}"
    gone = f": {' and '.join(lost)} are no longer available" if lost else ""
    return [f"the folders of {count} in {TRIALS}/ are gone{gone}{kept} ({names})"]


def _missing_predictions(folder: Path, done: pd.DataFrame) -> list[str]:
    """Return a sentence if some runs, but not all, lack predictions: then no comparison uses any.

    Runs whose folder is gone are left to `_missing_folders`.
    """
    own = [t for t in done.trial_id if not (folder / TRIALS / t / PREDICTIONS).is_file()]
    if not own or len(own) == len(done):
        return []
    held = trials_with_predictions(folder)
    lacking = [t for t in own if t not in held and (folder / TRIALS / t).is_dir()]
    if not lacking:
        return []
    count, names = _count_runs(lacking)
    return [
        f"the predictions of {count} are gone ({names}): comparisons that need them hold for these "
        f"val images only"
    ]


def _missing_students(
    folder: Path, study: Study, done: pd.DataFrame, best: str | None
) -> list[str]:
    """Return a sentence if students/ lacks runs of the best configuration.

    That happens if the best one changes after the weights of others were deleted.
    """
    if study.keep == "none" or best != exported_config(folder, study):
        return []
    own = done[done.config_id == best]
    lacking = [
        trial.trial_id
        for _, trial in own.iterrows()
        if not (folder / STUDENTS / student_file(trial["repeat"])).is_file()
        and not (folder / TRIALS / trial.trial_id / STUDENT).is_file()  # before the study's end
    ]
    if not lacking:
        return []
    return [
        f"{STUDENTS}/ lacks the students of {len(lacking)} of the {len(own)} runs of the best "
        f"configuration: they were deleted, by hand or before it was the best (--keep best). To "
        f"train them again, drop the runs (python -m kdtune.analysis {folder} --drop "
        f"{' '.join(lacking)}) and repeat the study's command with --rerun-dropped"
    ]


def exported_config(folder: Path, study: Study) -> str:
    """Return the config_id of the students in students/; "" if there are none.

    It is that of the fields that this version knows, since an earlier one may have written them.
    """
    with suppress(InputError):  # missing or damaged
        values = read_students_record(folder / STUDENTS).run
        known = {f.name: values[f.name] for f in fields(Run) if f.name in values}
        return Run(**{"study_values": study.run.study_values} | known).config_id
    return ""


def _count_runs(trials: Sequence[str]) -> tuple[str, str]:
    """Return the number of runs and the first of their names, as text."""
    more = f" and {len(trials) - MAX_NAMED} more" if len(trials) > MAX_NAMED else ""
    runs = "1 completed run" if len(trials) == 1 else f"{len(trials)} completed runs"
    return runs, f"{', '.join(trials[:MAX_NAMED])}{more}"
