"""Distillation under Ray: its trials, and before them the training and checks of its teachers."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import ray
import torch

from kdtune.config import records
from kdtune.config.fields import Role, is_output_file
from kdtune.config.files import CHECKPOINT, COSTS, TEACHER_ACCURACY
from kdtune.config.records import Cost, TeacherAccuracy
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import find_metric
from kdtune.config.text import FolderUnusableError, InputError, UserError, first_line
from kdtune.data.checks import Contents, data_record, describe_data, find_changes
from kdtune.data.dataset import Data
from kdtune.data.sources import StudyData
from kdtune.data.views import probe_views
from kdtune.models.checks import measure_cost
from kdtune.models.outputs import networks
from kdtune.models.weights import RECORD, WEIGHTS
from kdtune.planning.plan import Plan
from kdtune.raytune.function import EpochReport, Reporter, run_trial, trial_folder
from kdtune.raytune.machines import TrialResources, describe_ray_error
from kdtune.raytune.recorder import SilenceWatch
from kdtune.results.warnings import check_teachers
from kdtune.results.words import recipe_lines
from kdtune.statistics.intervals import by_group
from kdtune.storage.folder import folder_faults_described
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import Line, SavedStudy, pack_correct
from kdtune.streams.cache import Cache
from kdtune.streams.views import Resources, device_of, view_size
from kdtune.training import recipe, teachers
from kdtune.training import run as training_run
from kdtune.training.recipe import StudyModels

# What is made of a study before Ray: its recipe, its warnings, the function of its trials.


RUN_BYTES_PER_STUDENT_BYTE = 9
"""Bytes of a trial's files for each byte of its student: three states (one of them being written),
each with the weights and up to two moments of the optimiser. The student's file comes after."""


@dataclass(frozen=True)
class PreparedStudy:
    """A study with trials left, and everything that is prepared once, before Ray starts."""

    study: Study
    """Resolved: every default is known."""
    trainable: Callable[..., None]
    """Function(config, study), which Ray calls for each trial."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of what its trials are made of."""
    lines: Sequence[Line] = ()
    """Records of earlier calls."""
    warnings: Sequence[str] = ()
    """Sentences on what makes the study slower or less useful."""
    data: StudyData | None = None
    """None for a training function of the user's own; so are the fields below."""
    recipe_lines: Sequence[str] = ()
    """Lines for the terminal."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What provenance.json says of the trials."""
    run_bytes: int = 0
    """Size of the files of one trial."""

    @property
    def photos(self) -> bool:
        """Whether its examples are image files."""
        return self.data is not None and self.data.of(self.study.run).photos

    def find_changes(self) -> str:
        """Return a sentence on data that have changed meanwhile, or ""."""
        return "" if self.data is None else find_changes(self.data.with_extra(self.data.run))


def prepare(
    asked: Study, study: Study, saved: SavedStudy | None, study_data: StudyData
) -> PreparedStudy:
    """Prepare a study of distillation that has trials left, before Ray starts.

    Args:
        asked: The study as it was asked for.
        study: The study as it is run.
        saved: What its folder holds.
        study_data: Its data.

    Raises:
        InputError: A finished teacher is damaged, or others may write the cache.
    """
    Cache(study.cache, study.cache_gb).check()
    members = recipe.numbered(study, recipe.teachers(study))
    # raises InputError if a finished teacher is damaged
    teachers.missing_teachers(study.run, members, study.folder / "teacher", study_data)
    data = study_data.with_extra(study.run)
    data_set = data_record(data)
    models = StudyModels.of(study, data)
    rows = recipe.recipe_rows(asked, study, saved.study if saved else None, data, models)
    device = study.device if study.address else device_of(study).type
    faults = recipe.find_faults(study, data)
    faults += recipe.check_weights(study, models, data, is_new=saved is None)
    transforms = recipe.transforms_of(study, data, models, faults)
    epochs = partial(distillation_epochs, contents=Contents.of(study_data))
    return PreparedStudy(
        study,
        partial(run_trial, epochs),
        warnings=list(training_run.find_warnings(study, data, models, faults)),
        data=study_data,
        recipe_lines=recipe_lines(study, rows, data, device, asked.verbose),
        provenance={
            "classes": data.classes,
            "data_set": data_set,
            "recipe": [row._asdict() for row in rows],
            **transforms,
        },
        run_bytes=RUN_BYTES_PER_STUDENT_BYTE * max(model.nbytes for _, model in models.students),
    )


# The trials. Their data are read once in a process, and their teacher may be on a store.


def distillation_epochs(
    study: Study, run: Run, mirror: Mirror, reporter: Reporter, contents: Contents
) -> Generator[EpochReport, None, None]:
    """Distil the student of one run and yield its epochs, see `function.MakeEpochs`.

    Args:
        study: The study.
        run: The run.
        mirror: Of the study's folder.
        reporter: Gets sentences about the machine and its files.
        contents: What the data of the study must be.
    """
    place = trial_folder(run)
    cache = Cache(study.cache, study.cache_gb, owner=str(study.folder))
    try:
        # pull() also deletes a state that a run that was dropped has left on this machine
        mirror.pull(f"{place}/{CHECKPOINT}")
        data = data_of_call(contents, study.run)
        _pull_teacher(run, mirror, data)
        resources = replace(_resources(study, data.of(run)), cache=cache)
        teacher, folder = study.folder / "teacher", study.folder / place
        metric = find_metric(study.task.score, data.of(run).classes, study.mode)
        options = (reporter.warn, data, metric)
        with mirror.push_in_background(f"{place}/{CHECKPOINT}") as push:
            for epoch in training_run.distill(run, teacher, resources, folder, push, *options):
                val = epoch.predictions.get("val")  # of the last epoch
                groups, correct = data.of(run).splits["val"].groups, None
                if val is not None and metric.name == "acc":  # which --repeats auto counts
                    right = val.correct.numpy()
                    correct = pack_correct(right if groups is None else by_group(right, groups))
                yield EpochReport(epoch.number, epoch.seconds, epoch.splits, correct)
    finally:
        for warning in cache.warnings.values():
            reporter.warn(warning)


def _resources(study: Study, data: Data) -> Resources:
    """Return what a study may use on this machine; PyTorch takes its number of threads."""
    resources = Resources.of(study, data.photos)
    torch.set_num_threads(resources.threads)
    return resources


_data: dict[str, StudyData] = {}
"""The data that this worker of Ray has read, by the token of the driver's call; one entry."""


def data_of_call(contents: Contents, run: Run) -> StudyData:
    """Return the data of a study, which this process reads once for each call of the driver.

    What it has read for an earlier call is dropped, since files may have changed.

    Raises:
        DataChangedError: They are not those that the driver has read.
    """
    if contents.token not in _data:
        _data.clear()
        training_run.clear_cached_models()
        _data[contents.token] = contents.read(run)
    return _data[contents.token]


def _pull_teacher(run: Run, mirror: Mirror, data: StudyData) -> None:
    """Download the teacher if it is not on this machine, or is damaged here.

    Raises:
        InputError: The teacher on the store is damaged, too.
    """
    with suppress(InputError):
        if teachers.is_ready(run, mirror.folder / "teacher", data):
            return
    mirror.pull(*_files_of(run, run.teacher_members))
    teachers.is_ready(run, mirror.folder / "teacher", data)


def files_of_teachers(study: Study) -> list[str]:
    """Return the names of the files of all teachers of a study, below its folder."""
    return _files_of(study.run, recipe.numbered(study, recipe.teachers(study)))


def _files_of(run: Run, members: Iterable[Run]) -> list[str]:
    root = PurePosixPath("teacher")
    folders = [root / teachers.teacher_folder(run, member) for member in members]
    return [str(folder / name) for folder in folders for name in (WEIGHTS, RECORD)]


# Before the trials: costs of models, teachers, their accuracy.


_MAX_RETRIES = 3
"""Times that the training of teachers goes on in another process after one has died."""
WAIT_SECONDS = 2.0
"""Time between two looks at the process that trains a teacher."""
Missing = list[tuple[Role, str]]
"""Models whose costs are not measured."""


class TeacherTrainer:
    """Actor of Ray that fine-tunes teachers; the driver can kill its process, as not a task's."""

    def train(self, study: Study, run: Run, folder: Path, contents: Contents) -> Iterator[str]:
        """Fine-tune a teacher and yield lines to print.

        Args:
            study: The study.
            run: Its base run with the teacher.
            folder: Of the teacher.
            contents: What the data of the study must be.

        Raises:
            FolderUnusableError: A folder of kdtune's own on this machine can no longer be used.
        """
        with folder_faults_described(study.folder):
            data = data_of_call(contents, run)
            resources = _resources(study, data.of(run))
            if run.repeat == 0:  # the teachers of other repeats take no longer
                yield training_run.describe_fine_tuning(run, data.of(run), resources)
            mirror, lines = Mirror(study), list[str]()
            mirror.pull_folders("teacher")
            # not in the background: the training deletes its last checkpoint
            push = partial(mirror.push, "teacher")
            for epoch in teachers.fine_tune(run, folder, resources, push, lines.append, data):
                # no `yield from`: Ray's streaming sends to an inner iterator
                for line in (*lines, *teachers.epoch_lines(run, epoch)):
                    yield line
                lines.clear()
            mirror.push("teacher")
            mirror.delete_removed("teacher")
            for line in lines:
                yield line


@dataclass(frozen=True)
class TeacherPreparation:
    """What is made under Ray before a study's trials: costs of models, teachers, their accuracy."""

    study: Study
    data: StudyData
    mirror: Mirror
    trial: TrialResources
    """Resources of a trial, which tasks of the preparation use, too: a task releases its GPU at its
    end, which the driver's process could not."""
    write: Callable[[str], None]
    """Gets lines for the terminal."""

    def train_teachers(self, print_epoch: Callable[[str], None]) -> None:
        """Train the teachers that are not ready, in a Ray actor.

        Args:
            print_epoch: Gets a line about each of their epochs.

        Raises:
            InputError: If one cannot be trained.
            FolderUnusableError: A folder can no longer be used.
        """
        study, root, trainer = self.study, self.study.folder / "teacher", None
        runs = recipe.numbered(study, recipe.teachers(study))
        try:
            for run, folder in teachers.missing_teachers(study.run, runs, root, self.data):
                self.write(teachers.describe_training(run, self.data.of(run)))
                trainer = trainer or self._start_trainer()
                streaming = trainer.train.options(num_returns="streaming")
                references = streaming.remote(study, run, folder, Contents.of(self.data))
                for line in self._watched(references):
                    print_epoch(f"  {line}")
        except ray.exceptions.RayError as error:  # also if its worker was killed for its memory
            raise _in_words(error, "the teacher could not be trained") from error
        finally:
            if trainer is not None:  # else it goes on after Ctrl-C, in a Ray that the user started
                with suppress(ray.exceptions.RayError):
                    ray.kill(trainer)

    def _start_trainer(self) -> Any:
        """Return an actor that trains teachers; Ray starts it anew if its process dies."""
        retries = {"max_restarts": _MAX_RETRIES, "max_task_retries": _MAX_RETRIES}
        cpu, gpu = self.trial
        actor: Any = ray.remote(TeacherTrainer)
        return actor.options(num_cpus=cpu, num_gpus=gpu, **retries).remote()

    def _watched(self, references: Any) -> Iterator[str]:
        """Yield the lines of a training; print a warning if it sends none for a long time."""
        watch = SilenceWatch(self.write)
        watch.hear("the teacher")
        while True:
            watch.poll()
            if ray.wait([references], timeout=WAIT_SECONDS)[0]:
                watch.hear("the teacher")
                try:
                    reference = next(references)
                except StopIteration:
                    return
                yield ray.get(reference)

    def report_teacher_accuracy(self) -> None:
        """Measure the accuracy of the teachers once, and print it with warnings of weak ones.

        Raises InputError if one is less accurate than --teacher-min-acc.
        """
        study, root = self.study, self.study.folder / "teacher"
        runs = teachers.with_members(recipe.numbered(study, recipe.whole_teachers(study)))
        self.mirror.pull(*files_of_teachers(study))  # perhaps another machine has trained them

        def measure_missing(measured: list[TeacherAccuracy]) -> list[TeacherAccuracy]:
            missing = teachers.find_unmeasured(study.run, runs, root, measured, self.data)
            if missing:
                self.write(
                    f"Measuring the accuracy of {len(missing)} teacher{'s' * (len(missing) > 1)}."
                )
            return self._measure(missing) if missing else []

        keys, least = [teachers.key_of(run) for run in runs], study.run.teacher_min_acc
        try:
            check_teachers(study.folder, keys, measure_missing, least, self.write)
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
            raise _in_words(error, "the teacher's accuracy cannot be measured") from error

    def measure_costs(self) -> None:
        """Measure what costs.json lacks if the study runs on GPUs or on a cluster."""
        if not _runs_on_these_cpus(self.study):  # else it was measured before Ray
            add_costs(self.study, self.mirror, self.write, partial(self._in_task, measure_all))

    def time_epochs(self, plan: Plan) -> None:
        """Tell the plan how long an epoch of each student is expected to take."""
        runs = {run.group: run for run in plan.study.runs() or [self.study.default]}
        if _runs_on_these_cpus(self.study):
            plan.ledger.expected = training_run.time_epochs(self.study, runs, self.data)
        else:
            with suppress(ray.exceptions.RayError):  # out of memory: its trials say why
                plan.ledger.expected = self._in_task(training_run.time_epochs, runs)

    def _in_task(self, function: Callable[[Study, Any, StudyData], Any], models: Any) -> Any:
        """Call a function in a Ray task with a trial's resources, which reads the data itself."""

        def call(study: Study, models: Any, contents: Contents) -> Any:
            return function(study, models, data_of_call(contents, study.run))

        cpu, gpu = self.trial
        task: Any = ray.remote(num_cpus=cpu, num_gpus=gpu)(call)
        return ray.get(task.remote(self.study, models, Contents.of(self.data)))


def _in_words(error: ray.exceptions.RayError, text: str) -> UserError:
    """Return the FolderUnusableError that caused a RayError, else an InputError with a text."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, FolderUnusableError):
        return cause
    return InputError(f"{text}: {describe_ray_error(error)}")


def measure_teachers(study: Study, runs: list[Run], data: StudyData) -> list[TeacherAccuracy]:
    """Measure the accuracy of teachers on this machine, which may be that of a Ray task.

    Args:
        study: The study.
        runs: Its base run with each of the teachers.
        data: Its data.

    Raises:
        FolderUnusableError: A folder of kdtune's own on this machine can no longer be used.
    """
    resources, mirror = _resources(study, data.of(study.run)), Mirror(study)
    with folder_faults_described(study.folder):
        for run in runs:
            _pull_teacher(run, mirror, data)
        return teachers.measure_accuracy(study.run, runs, study.folder / "teacher", resources, data)


# Cost of the study's students and teachers, measured once before its trials.


def print_and_measure(prepared: PreparedStudy, data: StudyData, mirror: Mirror) -> None:
    """Print the recipe of a study and what its data are; measure costs on the CPUs of this machine.

    The machine is idle now; workers of Ray would use its cores.
    """
    study, write = prepared.study.absolute(), recipe.Progress().print_line
    title, facts = f"Recipe of {study.uri or prepared.study.folder}:", data.with_extra(study.run)
    write("\n".join([title, *prepared.recipe_lines, *describe_data(facts)]))
    if _runs_on_these_cpus(study):
        add_costs(study, mirror, write, lambda missing: measure_all(study, missing, data))


def _runs_on_these_cpus(study: Study) -> bool:
    return not study.address and device_of(study).type == "cpu"


def add_costs(
    study: Study,
    mirror: Mirror,
    write: Callable[[str], None],
    measure_missing: Callable[[Missing], tuple[list[Cost], list[str]]],
) -> None:
    """Add what costs.json lacks; what is there is never measured again."""
    recorded = records.read_costs(study.folder)
    pairs = {(cost.role, cost.model) for cost in recorded}
    roles: tuple[Role, ...] = ("student", "teacher")
    models = [(role, name) for role in roles for name in map(str, study.values(role))]  # type: ignore[arg-type]
    missing = [pair for pair in models if pair not in pairs and not is_output_file(pair[1])]
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
        records.write_costs(study.folder, [*recorded, *costs])
        mirror.push(COSTS)


def measure_all(study: Study, missing: Missing, data: StudyData) -> tuple[list[Cost], list[str]]:
    """Return the costs of models, and a sentence for each that cannot be measured."""
    costs, faults = [], []
    for role, name in missing:
        try:
            costs.append(_measure_cost(study, data.of(study.run), role, name))
        except Exception as error:  # out of memory, for instance; the study does not need it
            faults.append(f"the cost of the {role} {name} cannot be measured ({first_line(error)})")
    return costs, faults


def _measure_cost(study: Study, data: Data, role: Role, name: str) -> Cost:
    run: Run = replace(study.run, **{role: name})  # type: ignore[arg-type]
    student = training_run.make_student(run, data)
    teacher = [teachers.initial_teacher(member, data) for member in run.teacher_members]
    views = probe_views(data, run, view_size(run, data, student, *teacher))
    members = (student,) if role == "student" else networks(teacher)
    placed = [model.place(device_of(study), run.precision) for model in members]
    cost = measure_cost(placed, role, views, study.cpus_per_trial or 1)
    return replace(cost, model=name)
