"""Driver of a study: checks, Ray, the tuner, resuming."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError
from ray.tune.logger import TBXLoggerCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from kdtune.config.files import COSTS, PROVENANCE, STUDY, TEACHER_ACCURACY, not_writable_by_all
from kdtune.config.study import (
    Study,
    check_objects,
    check_packages,
    describe_fixed_students,
    flags_without_effect,
)
from kdtune.config.task import is_importable, name_of
from kdtune.config.text import DataChangedError, InputError, first_line
from kdtune.data.arrays import with_extra
from kdtune.data.checks import (
    Contents,
    data_record,
    describe_data,
    find_changes,
    forget_changed_data,
)
from kdtune.data.sources import load_data
from kdtune.planning.plan import Plan
from kdtune.raytune.folder import (
    add_warning,
    check_same,
    finish,
    is_moved,
    merge_with_saved,
    read_if_saved,
    remove_parts,
    write_study,
)
from kdtune.raytune.function import make_run, run_function_trial
from kdtune.raytune.machines import (
    Capacity,
    MachineMonitor,
    TrialResources,
    check_local_resources,
    fingerprint,
    preflight,
)
from kdtune.raytune.objects import share_objects, take_objects
from kdtune.raytune.progress import (
    ProgressDisplay,
    describe_end,
    describe_state,
    notified,
    print_recipe,
)
from kdtune.raytune.recorder import MAX_RETRIES, Recorder, WorkerWatch
from kdtune.raytune.session import (
    check_address,
    check_local_ray,
    lost_ray_in_words,
    ray_session,
    silence_said,
    summarised,
)
from kdtune.raytune.teachers import (
    check_teachers,
    measure_before_ray,
    measure_with_ray,
    train_teachers,
)
from kdtune.raytune.trial import run_trial, teacher_files
from kdtune.results.results import Results, load
from kdtune.storage.folder import fault_of_driver, lock_study
from kdtune.storage.mirror import Mirror, RecordsUploader, hold_lease
from kdtune.storage.records import Records, SavedStudy, read_lines
from kdtune.storage.store import reach
from kdtune.streams.cache import Cache
from kdtune.streams.working_set import cache_warning
from kdtune.tracking.callbacks import Tracker
from kdtune.training.recipe import (
    RecipeRow,
    find_faults,
    format_recipe,
    numbered,
    recipe_rows,
    resolve_study,
    teachers,
    transforms_of,
    with_weights_of_studies,
)
from kdtune.training.run import check_objectives, check_study, make_student
from kdtune.training.teacher import find_other_views, initial_teacher, missing_teachers

# Ray Tune's searcher and scheduler on top of the plan.
#
# Neither has a state of its own, on disk or in memory: the plan follows from the records.


class RepeatSearcher(Searcher):
    """Searcher that suggests each run of the plan once.

    Args:
        plan: Says which run is next.
        concurrent_trials: Returns how many trials may run now.
        is_over: Returns True if no further run can succeed.
    """

    def __init__(
        self,
        plan: Plan,
        concurrent_trials: Callable[[], int],
        is_over: Callable[[], bool] = bool,
    ):
        super().__init__()
        self.plan, self.concurrent_trials, self.is_over = plan, concurrent_trials, is_over

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that never happens

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Ignore metric, mode and space, which are the study's."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration and repeat of the next trial; None to wait; or FINISHED."""
        if self.is_over():
            return None if self.plan.ledger.running else Searcher.FINISHED
        if len(self.plan.ledger.running) >= self.concurrent_trials():
            return None
        run = self.plan.next_run()
        if run is not None:
            values = {name: run.value(name) for name in self.plan.study.task.names}
            return values | {"repeat": run.repeat}
        return None if self.plan.ledger.running else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the recorder passes to the plan what it writes."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the records say which runs are left."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""


class EarlyStopper(FIFOScheduler):
    """Scheduler that prunes the trials that the plan tells it to."""

    def __init__(self, plan: Plan, study: Study):
        super().__init__()
        self.plan, self.study = plan, study

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return STOP or CONTINUE; Tune asks this before the recorder writes the epochs."""
        run = make_run(self.study, trial.config)
        if self.plan.should_prune(run, result.get("epochs", ())):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)


# What a study's trials are, for its driver: checks, preparations, and the function of a trial.


Say = Callable[[str], None]
"""Prints a line on the terminal."""


class Job(ABC):
    """Steps of a driver that depend on the kind of trials, in the order of their calls.

    An adapter without state: every method is given the study as it is by then.
    """

    def begin(self, study: Study) -> Study:
        """Return the study as it is compared with the one that its folder holds."""
        return study

    def resolve(self, study: Study, begun: bool) -> Study:
        """Return the study with a value for each setting that follows from data and models.

        Args:
            study: That has trials left.
            begun: Whether its folder already holds it.
        """
        return study

    def files(self, study: Study) -> list[str]:
        """Return the names of files in the study's folder that trials need."""
        return []

    @abstractmethod
    def fingerprints(self, study: Study) -> dict[str, str]:
        """Return content hashes of what the trials are made of.

        Raises InputError if one of them cannot work.
        """

    def check(self, study: Study) -> None:
        """Raise InputError if a study that has trials left cannot run."""
        return None

    @abstractmethod
    def provenance(self, asked: Study, study: Study, saved: SavedStudy | None) -> Mapping[str, Any]:
        """Return what provenance.json says of the trials, see `study_folder.write_study`.

        Args:
            asked: The study as it was asked for.
            study: The study as it is run, with trials left.
            saved: What its folder holds.
        """

    @abstractmethod
    def describe(self, provenance: Mapping[str, Any]) -> Sequence[str]:
        """Return lines for the terminal that say what is run."""

    def prepare_before_ray(self, study: Study, mirror: Mirror) -> None:
        """Do what is to be done before Ray's workers use the machine."""
        return None

    def about_data(self, study: Study) -> Sequence[str]:
        """Return lines for the terminal about the data."""
        return []

    def warnings(self, study: Study, count: int) -> Iterator[str]:
        """Yield a sentence for what makes a study of so many concurrent trials less useful."""
        yield from ()

    def prepare(
        self, study: Study, mirror: Mirror, trial: TrialResources, say: Say, say_epoch: Say
    ) -> None:
        """Make what all trials need, such as the teacher.

        Args:
            study: The study.
            mirror: Of its folder.
            trial: What a trial uses.
            say: Gets each line.
            say_epoch: Gets the lines about epochs of a teacher.
        """
        return None

    @abstractmethod
    def trainable(self, study: Study) -> Callable[..., None]:
        """Return function(config, study, concurrent), which Ray calls for each trial."""

    def find_changes(self, study: Study) -> str:
        """Return a sentence on data that have changed while the study ran; "" if none have."""
        return ""


# The job of a study of distillation: data, teachers, students.


class DistillationJob(Job):
    """Trials are distillation runs: a teacher is trained first, streams are shared."""

    def begin(self, study: Study) -> Study:
        """Return the study with absolute paths, and the weights of other studies by file."""
        return replace(study, run=with_weights_of_studies(study.run.absolute()))

    def resolve(self, study: Study, begun: bool) -> Study:
        """Return the study with its whole recipe."""
        check_objects(study)
        forget_changed_data(study.run)
        return resolve_study(study, begun=begun)

    def files(self, study: Study) -> list[str]:
        """Return the names of the teachers' files."""
        return teacher_files(study)

    def fingerprints(self, study: Study) -> dict[str, str]:
        """Return the fingerprints of data, models and the user's own objectives."""
        data = with_extra(load_data(study.run), study.run)
        own_objectives = check_objectives(study, len(data.classes))
        return check_study(study, data) | own_objectives

    def check(self, study: Study) -> None:
        """Raise InputError if a finished teacher is damaged, or others may write the cache."""
        Cache(study.cache, study.cache_gb).check()
        every = numbered(study, teachers(study))
        missing_teachers(study.run, every, study.folder / "teacher")

    def provenance(self, asked: Study, study: Study, saved: SavedStudy | None) -> Mapping[str, Any]:
        """Return classes, data, recipe and transforms."""
        data = with_extra(load_data(study.run), study.run)
        rows = recipe_rows(asked, study, saved.study if saved else None, data)
        transforms = transforms_of(study, data)
        return {
            "classes": data.classes,
            "data_set": data_record(data),
            "recipe": [row._asdict() for row in rows],
            "views": transforms.views,
            "models": transforms.models,
            "input": transforms.input,
            "sources": transforms.sources,
            "warnings": transforms.warnings,
        }

    def describe(self, provenance: Mapping[str, Any]) -> Sequence[str]:
        """Return the recipe: all settings, and where they came from."""
        return format_recipe([RecipeRow(**row) for row in provenance["recipe"]])

    def prepare_before_ray(self, study: Study, mirror: Mirror) -> None:
        """Measure the cost of the models while the machine is idle."""
        measure_before_ray(study, mirror)

    def about_data(self, study: Study) -> Sequence[str]:
        """Return the counts of images by class, and what is suspicious about them."""
        return list(describe_data(with_extra(load_data(study.run), study.run)))

    def warnings(self, study: Study, count: int) -> Iterator[str]:
        """Yield a sentence for what makes the study slower or less useful."""
        yield from flags_without_effect(study)
        data = with_extra(load_data(study.run), study.run)
        yield from data.warnings
        yield from find_faults(study, data)
        yield from find_other_views(study, data)
        yield from describe_fixed_students(study)
        cache = Cache(study.cache, study.cache_gb)
        student, own_teachers = make_student(study.run, data), teachers(study)
        if strangers := cache.strangers():
            yield strangers
        if fault := cache.fault():
            yield fault
        elif too_small := cache_warning(
            study, count, data, student, [initial_teacher(run, data) for run in own_teachers]
        ):
            yield too_small
        count_used = len({run.teacher_number for run in numbered(study, own_teachers)})
        if count_used < study.run.teachers:
            yield (
                f"--repeats {study.repeats} uses only {count_used} of --teachers "
                f"{study.run.teachers}"
            )
        if not study.has_plain:
            yield (
                "the study has no baseline without distillation (alpha = 1), so there will be no "
                "verdict"
            )

    def prepare(
        self, study: Study, mirror: Mirror, trial: TrialResources, say: Say, say_epoch: Say
    ) -> None:
        """Measure the models on the device of the trials, train and check the teachers."""
        measure_with_ray(study, mirror, trial, say)
        train_teachers(study, trial, say, say_epoch)
        check_teachers(study, mirror, trial, say)

    def trainable(self, study: Study) -> Callable[..., None]:
        """Return the function of a distillation run on the data as this process has read them."""
        return partial(run_trial, contents=Contents.of(study.run))

    def find_changes(self, study: Study) -> str:
        """Return a sentence on image files that have changed while the study ran; "" if none."""
        return find_changes(study.run)


# The job of a study of a training function of the user's own.


class FunctionJob(Job):
    """Trials are calls of a function that yields metrics."""

    def begin(self, study: Study) -> Study:
        """Return the study; raise InputError if other machines cannot import its function."""
        if callable(study.train) and not is_importable(study.train):
            if study.address is not None or study.uri is not None:
                raise InputError(
                    f"train must be importable on every machine of a cluster, but "
                    f"{name_of(study.train)} is defined in a notebook, a script or another "
                    f"function; put it into a module and give train='module:function'"
                )
            try:
                cloudpickle.dumps(study.train)
            except Exception as error:  # whatever an object of the user raises
                raise InputError(
                    f"train cannot be sent to another process ({first_line(error)}); put it into a "
                    f"module and give train='module:function'"
                ) from None
        return study

    def fingerprints(self, study: Study) -> dict[str, str]:
        """Return the fingerprint of the function's module and of what it imports of the user's."""
        return {"train": fingerprint(study)}

    def provenance(self, asked: Study, study: Study, saved: SavedStudy | None) -> Mapping[str, Any]:
        """Return nothing: kdtune knows nothing of the function's data and models."""
        return {}

    def describe(self, provenance: Mapping[str, Any]) -> Sequence[str]:
        """Return no lines."""
        return []

    def warnings(self, study: Study, count: int) -> Iterator[str]:
        """Yield a sentence if there will be no verdict."""
        if not study.has_plain:
            yield "the study has no baseline (baseline={...}), so there will be no verdict"

    def trainable(self, study: Study) -> Callable[..., None]:
        """Return the function that calls the user's."""
        return run_function_trial


# Driver of a study: checks, Ray, the tuner, resuming.


MAX_CONCURRENT_TRIALS = 10_000
"""Without a limit Tune starts trials one after another; `Capacity` sets a lower one."""
MAX_RESTARTS_WITHOUT_PROGRESS = 3
"""Times that Tune is started again without a trial having ended (Ray's memory monitor kills it)."""


class Interrupted(KeyboardInterrupt):
    """A study stopped before its end; the same command resumes it."""


def run(study: Study, ray_init: dict[str, Any] | None = None) -> Results:
    """Run every configuration of the study in every repeat, or resume where an earlier call ended.

        >>> study = kdtune.Study(
        ...     name="small",
        ...     run=kdtune.Run(data="fashion", lr=0.05, epochs=3),
        ...     space={"alpha": (0.1, 0.5, 1.0)},
        ...     repeats=4,
        ... )
        >>> results = kdtune.run(study)  # a complete study is only read
        >>> results.status
        'complete: 12 runs'

    Args:
        study: The study.
        ray_init: Arguments of `ray.init` in place of those that the study asks for.

    Returns:
        The results, as `kdtune.load` reads them.

    Raises:
        InputError: The study cannot run as asked; raised before any work.
        NodeMismatchError: A machine of the cluster cannot run the study's trials.
        FolderUnusableError: The study's folder, or Ray's, is full, read-only, gone or fails.
        RayLostError: Ray itself has ended; the same call resumes the study.
        LeaseLostError: Another driver has taken over the study on its object store.
        DataChangedError: Images were changed or removed while the study ran.
        Interrupted: Ctrl-C, or the store no longer answers; the same call resumes the study.
    """
    check_packages(study.tracker)
    trackers, command = study.tracker, study.notify
    job: Job = DistillationJob() if study.task.is_distillation else FunctionJob()
    study = job.begin(replace(study, tracker=(), notify=None))
    study = take_objects(study, ray_init)
    folder, mirror = study.folder, Mirror(study)
    with not_writable_by_all(), _outages_as_interrupts(study), ExitStack() as locks:
        if study.uri is not None:
            reach(study.uri)
        locks.enter_context(lock_study(folder))
        locks.enter_context(silence_said(folder))
        locks.enter_context(hold_lease(mirror))
        remove_parts(folder)
        mirror.pull(STUDY, PROVENANCE, COSTS, TEACHER_ACCURACY)
        mirror.pull_folders("epochs")
        study, provenance = _begin(job, study, mirror, ray_init)
        mirror.push(STUDY, PROVENANCE)
        with notified(command, study):
            if provenance is not None:
                if recipe := job.describe(provenance):
                    print_recipe(f"Recipe of {study.uri or folder}:", recipe)
                job.prepare_before_ray(study.absolute(), mirror)
                with ray_session(study, ray_init):
                    _run_all(job, share_objects(study.absolute()), mirror, trackers)
            (folder / STUDY).stat()  # it may have been deleted while the study ran
            finish(folder, mirror, study.run.objects)
    return load(folder)


def _begin(
    job: Job, asked: Study, mirror: Mirror, ray_init: dict[str, Any] | None
) -> tuple[Study, Mapping[str, Any] | None]:
    """Check the study against the machine and its folder, and write what is known at its start.

    Returns:
        The study as it runs or has run, and its provenance; None if no run is left.
    """
    folder = asked.folder
    saved = read_if_saved(folder)
    study = merge_with_saved(asked, saved)
    if saved is None:
        study = job.resolve(study, begun=False)
    lines, _ = read_lines(folder, study)
    if saved is None and lines:
        print(
            f"warning: {folder} has records but no {STUDY}; it is written again, and the "
            f"records are taken for those of this study"
        )
    is_done = Plan(study, lines).is_done
    if saved is not None and not is_done:
        study = job.resolve(study, begun=True)
    mirror.pull(*job.files(study))
    fingerprints = dict(saved.fingerprints) if saved else {}
    if not is_done:
        _check_resources(study, ray_init)
    if not is_done or saved is None or is_moved(study, saved) or study.train is not None:
        fingerprints |= _fingerprints(job, study, saved)
    if is_done:
        write_study(study, fingerprints)
        return study, None
    job.check(study)
    provenance = job.provenance(asked, study, saved)
    write_study(study, fingerprints, provenance)
    return study, provenance


@contextmanager
def _outages_as_interrupts(study: Study) -> Iterator[None]:
    """Raise Interrupted for an outage of the study's store that outlasts all retries.

    Raises:
        FolderUnusableError: A folder of this machine can no longer be used.
    """
    try:
        yield
    except Exception as error:
        if fault := fault_of_driver(error, study.folder):
            raise fault from error
        if study.uri is None or not isinstance(error, OSError):
            raise
        raise Interrupted(str(error)) from error


def _check_resources(study: Study, ray_init: dict[str, Any] | None) -> None:
    """Raise InputError if the machine or the cluster is not what the study asks for."""
    if study.address is None:
        check_local_resources(study, ray_init)
    else:
        check_address(study.address)


def _fingerprints(job: Job, study: Study, saved: SavedStudy | None) -> dict[str, str]:
    """Return the fingerprints of what the trials are made of.

    Raises InputError if one of them cannot work or differs from the saved one.
    """
    fingerprints = job.fingerprints(study)
    check_same(study, saved, fingerprints)
    return fingerprints


def _run_all(job: Job, study: Study, mirror: Mirror, trackers: Sequence[str]) -> None:
    """Prepare what the trials need, then run every trial that is left."""
    capacity = Capacity(study, print)
    study = replace(study, cpus_per_trial=capacity.trial.cpu)
    count = capacity.concurrent_trials()
    plan = Plan(study, read_lines(study.folder, study)[0], count)
    with ProgressDisplay(plan, Cache(study.cache, study.cache_gb)) as display:
        for line in (*job.about_data(study), *preflight(study, capacity.trial)):
            display.print_line(line)
        for sentence in job.warnings(study, count):
            display.print_line(f"warning: {sentence}")
        job.prepare(study, mirror, capacity.trial, display.print_line, display.print_epoch)
        left = "all runs" if plan.runs_left is None else f"{plan.runs_left} runs"
        place = study.uri or study.folder
        display.print_line(f"Running {left}, {count} at a time. Results are written to {place}.")
        with (
            Records(study.folder) as records,
            RecordsUploader(mirror, records) as uploader,
            MachineMonitor(study, capacity.trial) as monitor,
            ExitStack() as stack,
        ):
            callbacks: list[tune.Callback] = [
                stack.enter_context(Tracker(name, study, plan.pruned, display.print_line))
                for name in trackers
            ]
            changes = partial(job.find_changes, study)
            own = (study, plan, display, records, uploader, monitor, capacity, changes)
            recorder = Recorder(*own)
            try:
                so_far = summarised(partial(describe_state, plan), display.print_line)
                with so_far, lost_ray_in_words():
                    _fit_until_done(job, study, plan, capacity, recorder, callbacks)
            finally:
                if recorder.changes:
                    add_warning(study.folder, recorder.changes)
        if found := changes():
            add_warning(study.folder, found)
            mirror.push(PROVENANCE)
            display.print_line(f"warning: {found}")
        if study.until_decided:
            display.print_line(describe_end(plan))


def _fit_until_done(
    job: Job,
    study: Study,
    plan: Plan,
    capacity: Capacity,
    recorder: Recorder,
    trackers: list[tune.Callback],
) -> None:
    """Run Tune until the plan is done.

    Raises:
        DataChangedError: A run has met data that changed, so that others cannot succeed.
        Interrupted: Ctrl-C, or Ray stops again and again without any progress.
    """
    restarts_without_progress = 0
    while not plan.is_done:
        before = recorder.ended_trials
        try:
            _fit(job, study, plan, capacity, recorder, trackers)
        except RuntimeError as error:  # Ray's memory monitor has killed a trial, and fit() with it
            check_local_ray()
            recorder.display.print_line(f"Ray has stopped ({first_line(error)}) and is restarted.")
            if isinstance(error.__cause__, OutOfMemoryError):
                recorder.on_worker_killed()
            crashed = True
        else:
            crashed = False
        plan.requeue_running()
        if recorder.changes and not plan.is_done:
            raise DataChangedError(recorder.changes)
        if not (crashed or plan.is_done):
            raise Interrupted("some runs have not ended")
        progressed = recorder.ended_trials > before
        restarts_without_progress = 0 if progressed else restarts_without_progress + 1
        if restarts_without_progress == MAX_RESTARTS_WITHOUT_PROGRESS:
            raise Interrupted("Ray stops without any progress, and some runs have not ended")


def _fit(
    job: Job,
    study: Study,
    plan: Plan,
    capacity: Capacity,
    recorder: Recorder,
    trackers: list[tune.Callback],
) -> None:
    """Run Tune once."""
    count, resources = capacity.concurrent_trials(), capacity.trial._asdict()
    watch = WorkerWatch(
        lambda trial: recorder.describe(make_run(study, trial.config)),
        recorder.display.print_line,
    )
    tuner = tune.Tuner(
        tune.with_resources(
            partial(job.trainable(study), study=study, concurrent=count), resources
        ),
        tune_config=tune.TuneConfig(
            search_alg=RepeatSearcher(
                plan, capacity.concurrent_trials, lambda: bool(recorder.changes)
            ),
            scheduler=EarlyStopper(plan, study),
            num_samples=-1,
            max_concurrent_trials=MAX_CONCURRENT_TRIALS,
            reuse_actors=True,
            trial_dirname_creator=partial(_folder_name, study=study),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(study.folder),
            callbacks=[recorder, watch, *trackers, TBXLoggerCallback()],
            # Ray's own reporter for notebooks clears what the study has printed, even if verbose=0
            progress_reporter=tune.CLIReporter(),
            failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
            verbose=0,
        ),
    )
    tuner.fit()
    recorder.raise_failure()


def _folder_name(trial: Any, study: Study) -> str:
    return f"{make_run(study, trial.config).trial_id}-{trial.trial_id}"
