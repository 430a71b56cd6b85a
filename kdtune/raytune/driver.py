"""Driver of a study: checks, Ray, the tuner, resuming."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.logger import TBXLoggerCallback

from kdtune.config.errors import DataChangedError, first_line
from kdtune.config.files import COSTS, PROVENANCE, STUDY, TEACHER_ACCURACY, not_writable_by_all
from kdtune.config.study import Study
from kdtune.config.trackers import check_packages
from kdtune.planning.plan import Plan
from kdtune.raytune.adapters import EarlyStopper, RepeatSearcher
from kdtune.raytune.distillation import DistillationJob
from kdtune.raytune.job import Job
from kdtune.raytune.lost_ray import check_local_ray, lost_ray_in_words
from kdtune.raytune.machine_monitor import MachineMonitor
from kdtune.raytune.machines import Capacity, check_local_resources
from kdtune.raytune.notify import notified
from kdtune.raytune.objects import take_objects
from kdtune.raytune.own_function import FunctionJob
from kdtune.raytune.preflight import preflight
from kdtune.raytune.progress import ProgressDisplay, describe_end, describe_state, print_recipe
from kdtune.raytune.recorder import MAX_RETRIES, Recorder
from kdtune.raytune.reporter import make_run
from kdtune.raytune.session import check_address, ray_session
from kdtune.raytune.shared_objects import share_objects
from kdtune.raytune.silent_folder import silence_said
from kdtune.raytune.stop_signals import summarised
from kdtune.raytune.study_folder import add_warning, finish, remove_parts, write_study
from kdtune.raytune.study_identity import check_same, is_moved, merge_with_saved, read_if_saved
from kdtune.raytune.tracker_processes import tracked
from kdtune.raytune.worker_watch import WorkerWatch
from kdtune.results.study_results import Results, load
from kdtune.storage.lease import hold_lease
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.object_store import reach
from kdtune.storage.records import Records, SavedStudy, read_lines
from kdtune.storage.study_lock import lock_study
from kdtune.storage.unusable_folder import fault_of_driver
from kdtune.streams.cache import Cache

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
        with notified(command, study), tracked(trackers, folder):
            if provenance is not None:
                if recipe := job.describe(provenance):
                    print_recipe(f"Recipe of {study.uri or folder}:", recipe)
                job.prepare_before_ray(study.absolute(), mirror)
                with ray_session(study, ray_init):
                    _run_all(job, share_objects(study.absolute()), mirror)
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


def _run_all(job: Job, study: Study, mirror: Mirror) -> None:
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
        ):
            changes = partial(job.find_changes, study)
            own = (study, plan, display, records, uploader, monitor, capacity, changes)
            recorder = Recorder(*own)
            try:
                so_far = summarised(partial(describe_state, plan), display.print_line)
                with so_far, lost_ray_in_words():
                    _fit_until_done(job, study, plan, capacity, recorder)
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
    job: Job, study: Study, plan: Plan, capacity: Capacity, recorder: Recorder
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
            _fit(job, study, plan, capacity, recorder)
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


def _fit(job: Job, study: Study, plan: Plan, capacity: Capacity, recorder: Recorder) -> None:
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
            callbacks=[recorder, watch, TBXLoggerCallback()],
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
