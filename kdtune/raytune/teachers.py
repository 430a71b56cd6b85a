"""The teachers of a study before its trials: their training, and the gate on their accuracy."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import ray
import torch

from kdtune.config.errors import FolderUnusableError, InputError
from kdtune.config.files import TEACHER_ACCURACY
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.teacher_accuracy import TeacherAccuracy
from kdtune.data.changes import Contents
from kdtune.raytune.machines import TrialResources
from kdtune.raytune.preflight import describe_ray_error
from kdtune.raytune.trial import TeacherTrainer, measure_teachers, teacher_files
from kdtune.raytune.worker_watch import POLL_SECONDS, ProcessWatch
from kdtune.results import teachers as results
from kdtune.storage.mirror import Mirror
from kdtune.streams.resources import Resources
from kdtune.training.gate import find_unmeasured, key_of, with_members
from kdtune.training.recipe import numbered, teachers, whole_teachers
from kdtune.training.teacher import describe_training, missing_teachers

MAX_RETRIES = 3
"""Times that the training of teachers goes on in another process after one has died."""


def train_teachers(
    study: Study,
    trial: TrialResources,
    say: Callable[[str], None],
    say_epoch: Callable[[str], None],
) -> None:
    """Train the teachers that are not ready, in a Ray actor, which then releases its GPU.

    Args:
        study: The study.
        trial: What a trial uses, and a teacher, too.
        say: Gets a line about each teacher.
        say_epoch: Gets a line about each of its epochs.

    Raises:
        InputError: If one cannot be trained.
        FolderUnusableError: A folder can no longer be used.
    """
    root, trainer = study.folder / "teacher", None
    try:
        for run, folder in missing_teachers(study.run, numbered(study, teachers(study)), root):
            say(describe_training(run))
            trainer = trainer or _start_trainer(trial)
            training = trainer.train.options(num_returns="streaming")
            references = training.remote(study, run, folder, Contents.of(study.run))
            for line in _watched(trainer, references, say):
                say_epoch(f"  {line}")
    except ray.exceptions.RayError as error:  # also if its worker was killed for its memory
        text = f"the teacher could not be trained: {describe_ray_error(error)}"
        raise _of_folder(error) or InputError(text) from error
    finally:
        if trainer is not None:  # else it goes on after Ctrl-C, in a Ray that the user has started
            with suppress(ray.exceptions.RayError):
                ray.kill(trainer)


def _of_folder(error: ray.exceptions.RayError) -> FolderUnusableError | None:
    """Return the error of a folder that has ended a task of Ray; None if something else has."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, FolderUnusableError) else None


def _start_trainer(trial: TrialResources) -> Any:
    """Return the actor that trains teachers; Ray starts it anew if its process dies."""
    actor: Any = ray.remote(TeacherTrainer)
    retries = {"max_restarts": MAX_RETRIES, "max_task_retries": MAX_RETRIES}
    return actor.options(num_cpus=trial.cpu, num_gpus=trial.gpu, **retries).remote()


def _watched(trainer: Any, references: Any, say: Callable[[str], None]) -> Iterator[str]:
    """Yield the lines of a training; if the actor's process is frozen, it is killed."""
    watch = ProcessWatch(lambda _: "the teacher", say)
    watch.begin("teacher", trainer)
    while True:
        watch.poll()
        if ray.wait([references], timeout=POLL_SECONDS)[0]:
            watch.hear("teacher")
            try:
                reference = next(references)
            except StopIteration:
                return
            yield ray.get(reference)


def check_teachers(
    study: Study, mirror: Mirror, trial: TrialResources, say: Callable[[str], None]
) -> None:
    """Measure the accuracy of the teachers once, and print it with what is wrong.

    Raises InputError if one is less accurate than --teacher-min-acc.
    """
    root, every = study.folder / "teacher", with_members(numbered(study, whole_teachers(study)))
    mirror.pull(*teacher_files(study))  # perhaps another machine has trained them

    def measure(known: list[TeacherAccuracy]) -> list[TeacherAccuracy]:
        missing = find_unmeasured(study.run, every, root, known)
        return _measure(study, missing, trial) if missing else []

    keys = [key_of(run) for run in every]
    try:
        results.check_teachers(study.folder, keys, measure, study.run.teacher_min_acc, say)
    finally:
        mirror.push(TEACHER_ACCURACY)


def _measure(study: Study, missing: list[Run], trial: TrialResources) -> list[TeacherAccuracy]:
    """Measure teachers in this process, or in a Ray task where that takes a GPU or a cluster.

    The task releases its GPU on return, which the driver's own process could not.
    """
    if study.address is None and Resources.of(study).device.type == "cpu":
        threads = torch.get_num_threads()
        try:
            return measure_teachers(study, missing)
        finally:
            torch.set_num_threads(threads)
    task: Any = ray.remote(num_cpus=trial.cpu, num_gpus=trial.gpu)(measure_teachers)
    try:
        reference = task.remote(study, missing, Contents.of(study.run))
        measured: list[TeacherAccuracy] = ray.get(reference)
        return measured
    except ray.exceptions.RayTaskError as error:
        text = f"the teacher's accuracy cannot be measured: {error.cause}"
        raise _of_folder(error) or InputError(text) from error
