"""Teachers before the trials: their training, accuracy and the cost of models."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch

from kdtune.config.fields import Role, is_output_file
from kdtune.config.files import COSTS, TEACHER_ACCURACY
from kdtune.config.records import Cost, TeacherAccuracy, read_costs, write_costs
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import FolderUnusableError, InputError, first_line
from kdtune.data.checks import Contents
from kdtune.data.dataset import Data
from kdtune.data.sources import StudyData
from kdtune.data.views import samples
from kdtune.models.checks import measure_cost
from kdtune.models.outputs import networks
from kdtune.raytune.machines import TrialResources, describe_ray_error
from kdtune.raytune.recorder import ProcessWatch
from kdtune.raytune.trial import TeacherTrainer, files_of_teachers, measure_teachers, with_data
from kdtune.results import warnings as results
from kdtune.storage.mirror import Mirror
from kdtune.streams.views import device_of, view_size
from kdtune.training.recipe import numbered, teachers, whole_teachers
from kdtune.training.run import make_student
from kdtune.training.teacher import (
    describe_training,
    find_unmeasured,
    initial_teacher,
    key_of,
    missing_teachers,
    with_members,
)

_MAX_RETRIES = 3
"""Times that the training of teachers goes on in another process after one has died."""
WAIT_SECONDS = 2.0
"""Time between two looks at the process that trains a teacher."""
WriteLine = Callable[[str], None]
Missing = list[tuple[Role, str]]
"""Models whose costs are not measured."""


@dataclass(frozen=True)
class Preparation:
    """What is made under Ray before a study's trials: costs of models, teachers, their accuracy."""

    study: Study
    data: StudyData
    mirror: Mirror
    trial: TrialResources
    """What a trial uses, and a task of the preparation, too. Such a task releases its GPU on
    return, which the driver's own process could not."""
    write: WriteLine
    """Gets lines for the terminal."""

    def train_teachers(self, say_epoch: WriteLine) -> None:
        """Train the teachers that are not ready, in a Ray actor.

        Args:
            say_epoch: Gets a line about each of their epochs.

        Raises:
            InputError: If one cannot be trained.
            FolderUnusableError: A folder can no longer be used.
        """
        study, data, trainer = self.study, self.data, None
        every, root = numbered(study, teachers(study)), study.folder / "teacher"
        try:
            for run, folder in missing_teachers(study.run, every, root, data):
                self.write(describe_training(run, data.of(run)))
                trainer = trainer or self._start_trainer()
                training = trainer.train.options(num_returns="streaming")
                references = training.remote(study, run, folder, Contents.of(data))
                for line in self._watched(trainer, references):
                    say_epoch(f"  {line}")
        except ray.exceptions.RayError as error:  # also if its worker was killed for its memory
            text = f"the teacher could not be trained: {describe_ray_error(error)}"
            raise _of_folder(error) or InputError(text) from error
        finally:
            if trainer is not None:  # else it goes on after Ctrl-C, in a Ray that the user started
                with suppress(ray.exceptions.RayError):
                    ray.kill(trainer)

    def _start_trainer(self) -> Any:
        """Return the actor that trains teachers; Ray starts it anew if its process dies."""
        actor: Any = ray.remote(TeacherTrainer)
        retries = {"max_restarts": _MAX_RETRIES, "max_task_retries": _MAX_RETRIES}
        cpu, gpu = self.trial
        return actor.options(num_cpus=cpu, num_gpus=gpu, **retries).remote()

    def _watched(self, trainer: Any, references: Any) -> Iterator[str]:
        """Yield the lines of a training; if the actor's process is frozen, it is killed."""
        watch = ProcessWatch(self.write)
        watch.begin("the teacher", lambda: trainer)
        while True:
            watch.poll()
            if ray.wait([references], timeout=WAIT_SECONDS)[0]:
                watch.hear("the teacher")
                try:
                    reference = next(references)
                except StopIteration:
                    return
                yield ray.get(reference)

    def gate_teachers(self) -> None:
        """Measure the accuracy of the teachers once, and print it with what is wrong.

        Raises InputError if one is less accurate than --teacher-min-acc.
        """
        study, root = self.study, self.study.folder / "teacher"
        runs = with_members(numbered(study, whole_teachers(study)))
        self.mirror.pull(*files_of_teachers(study))  # perhaps another machine has trained them

        def measure_missing(measured: list[TeacherAccuracy]) -> list[TeacherAccuracy]:
            missing = find_unmeasured(study.run, runs, root, measured, self.data)
            return self._measure(missing) if missing else []

        keys, least = [key_of(run) for run in runs], study.run.teacher_min_acc
        try:
            results.check_teachers(study.folder, keys, measure_missing, least, self.write)
        finally:
            self.mirror.push(TEACHER_ACCURACY)

    def _measure(self, missing: list[Run]) -> list[TeacherAccuracy]:
        """Measure teachers here, or in a Ray task where that takes a GPU or a cluster."""
        if _runs_on_these_cpus(self.study):
            threads = torch.get_num_threads()
            try:
                return measure_teachers(self.study, missing, self.data)
            finally:
                torch.set_num_threads(threads)
        try:
            measured: list[TeacherAccuracy] = self._in_task(measure_teachers, missing)
            return measured
        except ray.exceptions.RayTaskError as error:
            text = f"the teacher's accuracy cannot be measured: {error.cause}"
            raise _of_folder(error) or InputError(text) from error

    def measure_costs(self) -> None:
        """Measure what costs.json lacks if the study runs on GPUs or on a cluster."""
        if not _runs_on_these_cpus(self.study):  # else it was measured before Ray
            _add(self.study, self.mirror, self.write, partial(self._in_task, measure_all))

    def _in_task(self, function: Callable[..., Any], items: Any) -> Any:
        """Call a function of the study, items and data in a Ray task with a trial's resources."""
        cpu, gpu = self.trial
        task: Any = ray.remote(num_cpus=cpu, num_gpus=gpu)(with_data)
        return ray.get(task.remote(function, self.study, items, Contents.of(self.data)))


def _of_folder(error: ray.exceptions.RayError) -> FolderUnusableError | None:
    """Return the error of a folder that has ended a task of Ray; None if something else has."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, FolderUnusableError) else None


# Cost of the study's students and teachers, measured once before its trials.


def measure_before_ray(
    study: Study, data: StudyData, mirror: Mirror, write: WriteLine = print
) -> None:
    """Measure what costs.json lacks if the study runs on the CPUs of this machine.

    The machine is idle now; workers of Ray would use its cores.
    """
    if _runs_on_these_cpus(study):
        _add(study, mirror, write, lambda missing: measure_all(study, missing, data))


def _runs_on_these_cpus(study: Study) -> bool:
    return not study.address and device_of(study).type == "cpu"


def _add(
    study: Study,
    mirror: Mirror,
    write: WriteLine,
    measure_missing: Callable[[Missing], tuple[list[Cost], list[str]]],
) -> None:
    """Add what costs.json lacks; what is there is never measured again."""
    recorded = read_costs(study.folder)
    pairs = {(cost.role, cost.model) for cost in recorded}
    missing: Missing = [pair for pair in _models(study) if pair not in pairs]
    if not missing:
        return
    names = dict.fromkeys(model for _, model in missing)
    write(f"Measuring parameters, FLOPs and latency of {', '.join(names)}.")
    try:
        costs, faults = measure_missing(missing)
    except ray.exceptions.RayError as error:
        costs, faults = [], [f"cost of the models cannot be measured ({first_line(error)})"]
    for fault in faults:
        write(f"warning: {fault}")
    if costs:
        write_costs(study.folder, [*recorded, *costs])
        mirror.push(COSTS)


def measure_all(study: Study, missing: Missing, data: StudyData) -> tuple[list[Cost], list[str]]:
    """Return the costs of models, and a sentence for each that cannot be measured."""
    device = device_of(study)
    costs, faults = [], []
    for role, name in missing:
        try:
            costs.append(_measure_costs(study, data.of(study.run), role, name, device))
        except Exception as error:  # out of memory, for instance; the study does not need it
            faults.append(f"the cost of the {role} {name} cannot be measured ({first_line(error)})")
    return costs, faults


def _measure_costs(study: Study, data: Data, role: Role, name: str, device: torch.device) -> Cost:
    run: Run = replace(study.run, **{role: name})  # type: ignore[arg-type]
    student = make_student(run, data)
    teacher = [initial_teacher(member, data) for member in run.teacher_members]
    views = samples(data, run, view_size(run, data, student, *teacher))
    members = (student,) if role == "student" else networks(teacher)
    placed = [model.place(device, run.precision) for model in members]
    return replace(measure_cost(placed, role, views, study.cpus_per_trial or 1), model=name)


def _models(study: Study) -> Iterator[tuple[Role, str]]:
    """Yield every student and teacher of the study that is a network."""
    roles: tuple[Role, ...] = ("student", "teacher")
    for role in roles:
        names = map(str, study.values(role))  # type: ignore[arg-type]
        yield from ((role, name) for name in names if not is_output_file(name))
