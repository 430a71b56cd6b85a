"""What runs on Ray's workers: the epochs of distillation, and the training of teachers."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from kdtune.config.files import CHECKPOINT, state_files
from kdtune.config.records import TeacherAccuracy
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.checks import Contents
from kdtune.data.sources import StudyData
from kdtune.models.weights import RECORD, WEIGHTS
from kdtune.raytune.function import EpochReport, Reporter, trial_place
from kdtune.storage.folder import folder_faults_described
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import pack_correct
from kdtune.streams.cache import Cache
from kdtune.streams.views import Resources
from kdtune.training.epoch import Epoch
from kdtune.training.recipe import numbered, teachers
from kdtune.training.run import clear_cached_models, distill
from kdtune.training.teacher import fine_tune, is_ready, measure_accuracy, teacher_place


def distillation_epochs(
    study: Study,
    run: Run,
    mirror: Mirror,
    reporter: Reporter,
    contents: Contents,
) -> Generator[EpochReport, None, None]:
    """Distil the student of one run and yield its epochs, see `function.MakeEpochs`.

    Args:
        study: The study.
        run: The run.
        mirror: Of the study's folder.
        reporter: Gets sentences about the machine and its files.
        contents: What the data of the study must be.
    """
    place = trial_place(run)
    cache = Cache(study.cache, study.cache_gb)
    try:
        # the state before the last is on no store: an earlier one here, of a run that was dropped
        # meanwhile, is deleted
        mirror.pull(*(f"{place}/{file.name}" for file in state_files(Path(CHECKPOINT))))
        data = data_of_call(contents, study.run)
        _pull_teacher(run, mirror, data)
        resources = replace(Resources.of(study, data.of(run).photos), cache=cache)
        torch.set_num_threads(resources.threads)
        teacher, folder = study.folder / "teacher", study.folder / place
        with mirror.push_in_background(f"{place}/{CHECKPOINT}") as push:
            for epoch in distill(run, teacher, resources, folder, push, reporter.warn, data):
                yield _report(epoch)
    finally:
        for warning in cache.warnings.values():
            reporter.warn(warning)


_data: dict[str, StudyData] = {}
"""Data of the driver's call for which this process, a worker of Ray, works now, by its token."""


def data_of_call(contents: Contents, run: Run) -> StudyData:
    """Return the data of a study, which this process reads once for each call of the driver.

    What it has read for an earlier call is dropped, since files may have changed.

    Raises:
        DataChangedError: They are not those that the driver has read.
    """
    if contents.token not in _data:
        _data.clear()
        clear_cached_models()
        _data[contents.token] = contents.read(run)
    return _data[contents.token]


def with_data(
    function: Callable[[Study, Any, StudyData], Any], study: Study, items: Any, contents: Contents
) -> Any:
    """Call a function in a task of Ray, with the study's data as the task's process reads them."""
    return function(study, items, data_of_call(contents, study.run))


def _pull_teacher(run: Run, mirror: Mirror, data: StudyData) -> None:
    """Download the teacher if it is not on this machine, or is damaged here.

    Raises:
        InputError: The teacher on the store is damaged, too.
    """
    with suppress(InputError):
        if is_ready(run, mirror.folder / "teacher", data):
            return
    mirror.pull(*_files_of(run, run.teacher_members))
    is_ready(run, mirror.folder / "teacher", data)


def files_of_teachers(study: Study) -> list[str]:
    """Return the names of the files of all teachers of a study, below its folder."""
    return _files_of(study.run, numbered(study, teachers(study)))


def _files_of(run: Run, members: Iterable[Run]) -> list[str]:
    folders = [PurePosixPath("teacher") / teacher_place(run, member) for member in members]
    return [str(folder / name) for folder in folders for name in (WEIGHTS, RECORD)]


def _report(epoch: Epoch) -> EpochReport:
    """Return what is reported of an epoch; of the last one also the correctness on val."""
    val = epoch.predictions.get("val")
    correct = None if val is None else pack_correct(val.correct)
    return EpochReport(epoch.number, epoch.seconds, epoch.splits, correct)


def _train_teacher(study: Study, run: Run, folder: Path, contents: Contents) -> Iterator[str]:
    """Fine-tune a teacher on one of Ray's workers, which may have a GPU; yield lines to print.

    Args:
        study: The study.
        run: Its base run with the teacher.
        folder: Of the teacher.
        contents: What the data of the study must be.
    """
    data = data_of_call(contents, run)
    resources = Resources.of(study, data.of(run).photos)
    torch.set_num_threads(resources.threads)
    mirror, lines = Mirror(study), list[str]()
    mirror.pull_folders("teacher")
    # not in the background: the training deletes its last checkpoint
    push = partial(mirror.push, "teacher")
    for epoch in fine_tune(run, folder, resources, push, lines.append, data):
        for line in (*lines, str(epoch)):  # Ray's streaming sends to an inner iterator
            yield line
        lines.clear()
    mirror.push("teacher")
    mirror.delete_removed("teacher")
    for line in lines:
        yield line


class TeacherTrainer:
    """Actor of Ray that fine-tunes teachers; unlike the process of a task, its own is known."""

    def train(self, study: Study, run: Run, folder: Path, contents: Contents) -> Iterator[str]:
        """Fine-tune a teacher, see `_train_teacher`.

        Raises:
            FolderUnusableError: A folder of kdtune's own on this machine can no longer be used.
        """
        with folder_faults_described(study.folder):
            yield from _train_teacher(study, run, folder, contents)


def measure_teachers(
    study: Study, teachers: Sequence[Run], data: StudyData
) -> list[TeacherAccuracy]:
    """Measure the accuracy of teachers on this machine, which may be that of a Ray task.

    Args:
        study: The study.
        teachers: Its base run with each of them.
        data: Its data.

    Raises:
        FolderUnusableError: A folder of kdtune's own on this machine can no longer be used.
    """
    resources = Resources.of(study, data.of(study.run).photos)
    torch.set_num_threads(resources.threads)
    with folder_faults_described(study.folder):
        for run in teachers:
            _pull_teacher(run, Mirror(study), data)
        root = study.folder / "teacher"
        return measure_accuracy(study.run, teachers, root, resources, data)
