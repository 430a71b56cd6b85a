"""Driver of a study: checks, Ray, the tuner, resuming."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
from kdtune.config.objects import importable_name
from kdtune.config.study import Study, check_objects
from kdtune.config.task import name_of
from kdtune.config.text import DataChangedError, InputError, check_packages, first_line
from kdtune.data.sources import StudyData
from kdtune.planning.plan import Plan
from kdtune.raytune import distillation, folder, machines, progress
from kdtune.raytune.distillation import PreparedStudy
from kdtune.raytune.function import function_epochs, run_trial
from kdtune.raytune.objects import freeze_objects, share_objects
from kdtune.raytune.recorder import MAX_TRIAL_RETRIES, Recorder
from kdtune.raytune.session import check_local_ray, ray_session, summarised
from kdtune.results.results import Results, load
from kdtune.storage.folder import folder_faults_described, lock_study
from kdtune.storage.mirror import Mirror, RecordsUploader, hold_lease, reach
from kdtune.storage.records import Records, read_lines
from kdtune.streams.cache import Cache
from kdtune.tracking import Tracker
from kdtune.training.recipe import resolve_study, with_weights_of_studies

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
        self, plan: Plan, concurrent_trials: Callable[[], int], is_over: Callable[[], bool] = bool
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
        running = len(self.plan.ledger.running)
        if not self.is_over():
            if running >= self.concurrent_trials():
                return None
            if (run := self.plan.next_run()) is not None:
                values = {name: run.value(name) for name in self.plan.study.task.names}
                return values | {"repeat": run.repeat}
        return None if running else Searcher.FINISHED

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
        run = self.study.base_run.sample(**trial.config)
        if self.plan.should_prune(run, result.get("epochs", ())):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)


# The driver: asked study -> resolved -> plan -> trials -> records -> results.


MAX_CONCURRENT_TRIALS = 10_000
"""Without a limit Tune starts trials one after another; `Capacity` sets a lower one."""
MAX_RESTARTS_WITHOUT_PROGRESS = 3
"""Times that Tune is started again without a trial having ended (Ray's memory monitor kills it)."""


class Interrupted(KeyboardInterrupt):
    """A study stopped before its end; the same command resumes it."""


def run(study: Study, ray_init: dict[str, Any] | None = None) -> Results:
    """Run every configuration of the study in every repeat, or resume; see `kdtune.run`."""
    began, trackers, command = time.monotonic(), study.tracker, study.notify
    for name in trackers:
        check_packages(f"--tracker {name} needs", [name], name)
    study = _located(replace(study, tracker=(), notify=None))
    study = freeze_objects(study, ray_init)
    root, mirror = study.folder, Mirror(study)
    with not_writable_by_all(), _outages_as_interrupts(study), ExitStack() as locks:
        if study.uri is not None:
            reach(study.uri)
        locks.enter_context(lock_study(root))
        locks.enter_context(hold_lease(mirror))
        folder.remove_parts(root)
        mirror.pull(STUDY, PROVENANCE, COSTS, TEACHER_ACCURACY)
        mirror.pull_folders("epochs")
        study, prepared = _begin(study, mirror, ray_init)
        mirror.push(STUDY, PROVENANCE)
        try:
            if prepared is not None:
                if prepared.data is not None:
                    distillation.print_and_measure(prepared, prepared.data, mirror)
                with ray_session(prepared.study, ray_init, prepared.photos):
                    shared = share_objects(prepared.study.absolute())
                    _run_trials(replace(prepared, study=shared), mirror, trackers, began)
                print("Writing the results.")
            (root / STUDY).stat()  # it may have been deleted while the study ran
            folder.finish(root, mirror, study.run, None if prepared is None else prepared.data)
        except BaseException as error:
            progress.notify(command, study, error)
            raise
    results = load(root)  # without the lock, which would say that the study still runs
    progress.notify(command, study, results)
    return results


def _located(study: Study) -> Study:
    """Return the study as it is compared with the one that its folder holds: with absolute paths.

    Raises:
        InputError: Other processes or machines cannot import its training function.
    """
    if study.train is None:
        return replace(study, run=with_weights_of_studies(study.run.absolute()))
    if callable(study.train) and importable_name(study.train) is None:
        if study.address is not None or study.uri is not None:
            raise InputError(
                f"train must be importable on every machine of a cluster, but "
                f"{name_of(study.train)} is not; put it into a module (train='module:function')"
            )
        try:
            cloudpickle.dumps(study.train)
        except Exception as error:  # whatever an object of the user raises
            raise InputError(
                f"train cannot be sent to another process ({first_line(error)}); put it into a "
                f"module and give train='module:function'"
            ) from None
    return study


def _begin(
    asked: Study, mirror: Mirror, ray_init: dict[str, Any] | None
) -> tuple[Study, PreparedStudy | None]:
    """Check the study against the machine and its folder, and write what is known at its start.

    Returns:
        The study as it runs or has run; None if no run is left.
    """
    saved, data = folder.read_if_saved(asked.folder), None
    study = asked if saved is None else folder.merge_with_saved(asked, saved)
    lines, _ = read_lines(study.folder, study)
    # raises InputError for configurations of one id, or a sampler
    plan = Plan(study, [] if saved is None else lines)
    is_done = saved is not None and plan.is_done
    if study.train is None:
        if not is_done:  # each setting that follows from data and models gets its value
            check_objects(study)
            data = StudyData(study.run)
            study = resolve_study(study, data, begun=saved is not None)
        mirror.pull(*distillation.files_of_teachers(study))
    if saved is None and lines:
        print(f"warning: {study.folder} has records but no {STUDY}; they are taken as its own")
    if not is_done:
        machines.check_resources(study, ray_init)
    fingerprints = dict(saved.fingerprints) if saved else {}
    if not is_done or saved is None or folder.is_moved(study, saved) or study.train is not None:
        current = machines.fingerprints_of(study, data)
        if saved is not None:
            folder.check_same(study, saved, current)
        fingerprints |= current
    if is_done:
        folder.write_study(study, fingerprints)
        return study, None
    if data is not None:
        prepared = distillation.prepare(asked, study, saved, data)
    else:
        absent = "the study has no baseline (baseline={...}), so there will be no verdict"
        warnings = [] if study.has_plain else [absent]
        trainable = partial(run_trial, function_epochs)
        prepared = PreparedStudy(study, trainable, warnings=warnings)
    folder.write_study(study, fingerprints, prepared.provenance)
    return study, replace(prepared, fingerprints=fingerprints, lines=lines)


@contextmanager
def _outages_as_interrupts(study: Study) -> Iterator[None]:
    """Raise Interrupted for an outage of the study's store that outlasts all retries.

    Raises:
        FolderUnusableError: A folder of this machine can no longer be used.
    """
    try:
        with folder_faults_described(study.folder, in_driver=True):
            yield
    except OSError as error:
        if study.uri is None:
            raise
        raise Interrupted(str(error)) from error


def _run_trials(
    prepared: PreparedStudy, mirror: Mirror, trackers: Sequence[str], began: float
) -> None:
    """Run every trial of the plan that is left, on machines and with teachers that are checked."""
    capacity = machines.Capacity(prepared.study, print)
    study = replace(prepared.study, cpus_per_trial=capacity.trial.cpu)
    count = capacity.concurrent_trials()
    plan = Plan(study, prepared.lines, count)
    with ExitStack() as stack:
        cache = Cache(study.cache, study.cache_gb, owner=str(study.folder))
        display = stack.enter_context(progress.ProgressDisplay(plan, cache))
        write = display.print_line
        inspection = machines.Inspection(
            study, capacity.trial, prepared.fingerprints, prepared.photos, prepared.run_bytes
        )
        lines = machines.preflight(inspection)
        for line in [*lines, *(f"warning: {text}" for text in prepared.warnings)]:
            write(line)
        if prepared.data is not None:
            preparation = distillation.TeacherPreparation(
                study, prepared.data, mirror, capacity.trial, write
            )
            preparation.measure_costs()
            preparation.train_teachers(display.print_epoch)
            preparation.report_teacher_accuracy()
            preparation.time_epochs(plan)
        write(
            f"{progress.describe_start(plan)} Results are written to {study.uri or study.folder}."
        )
        records = stack.enter_context(Records(study.folder, began - plan.ledger.elapsed))
        plan.ledger.elapsed = records.elapsed  # training the teachers has taken time
        uploader = stack.enter_context(RecordsUploader(mirror, records))
        monitor = stack.enter_context(machines.MachineMonitor(inspection))
        sent = [stack.enter_context(Tracker(n, study, plan.pruned, write)) for n in trackers]
        recorder = Recorder(display, uploader, monitor, capacity, prepared.find_changes)
        callbacks = [recorder, *sent, TBXLoggerCallback()]
        try:
            with summarised(partial(progress.describe_state, plan, display.criterion), write):
                _fit_until_done(prepared.trainable, recorder, callbacks)
        finally:
            if recorder.changes:
                folder.add_warning(study.folder, recorder.changes)
        if sentence := prepared.find_changes():
            folder.add_warning(study.folder, sentence)
            mirror.push(PROVENANCE)
            write(f"warning: {sentence}")
        if study.until_decided:
            write(progress.describe_end(plan))


def _fit_until_done(
    trainable: Callable[..., None], recorder: Recorder, callbacks: list[tune.Callback]
) -> None:
    """Run Tune until the plan is done.

    Raises:
        DataChangedError: A run has met data that changed, so that others cannot succeed.
        Interrupted: Ctrl-C, or Ray stops again and again without any progress.
    """
    plan, restarts_without_progress = recorder.plan, 0
    while not plan.is_done:
        before, has_crashed = recorder.ended_trials, False
        try:
            _fit(trainable, recorder, callbacks)
        except RuntimeError as error:  # Ray's memory monitor has killed a trial, and fit() with it
            check_local_ray()
            recorder.display.print_line(f"Ray has stopped ({first_line(error)}) and is restarted.")
            if isinstance(error.__cause__, OutOfMemoryError):
                recorder.on_worker_killed()
            has_crashed = True
        recorder.requeue_running()
        if recorder.changes and not plan.is_done:
            raise DataChangedError(recorder.changes)
        if not (has_crashed or plan.is_done):
            raise Interrupted("some runs have not ended")
        progressed = recorder.ended_trials > before
        restarts_without_progress = 0 if progressed else restarts_without_progress + 1
        if restarts_without_progress == MAX_RESTARTS_WITHOUT_PROGRESS:
            raise Interrupted("Ray stops without any progress, and some runs have not ended")


def _fit(
    trainable: Callable[..., None], recorder: Recorder, callbacks: list[tune.Callback]
) -> None:
    """Run Tune once."""
    study, plan, capacity = recorder.study, recorder.plan, recorder.capacity
    tuner = tune.Tuner(
        tune.with_resources(partial(trainable, study=study), capacity.trial._asdict()),
        tune_config=tune.TuneConfig(
            search_alg=RepeatSearcher(
                plan, capacity.concurrent_trials, lambda: bool(recorder.changes)
            ),
            scheduler=EarlyStopper(plan, study),
            num_samples=-1,
            max_concurrent_trials=MAX_CONCURRENT_TRIALS,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: (
                f"{study.base_run.sample(**trial.config).trial_id}-{trial.trial_id}"
            ),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(study.folder),
            callbacks=callbacks,
            # Ray's own reporter for notebooks clears what the study has printed, even if verbose=0
            progress_reporter=tune.CLIReporter(),
            failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_RETRIES),
            verbose=0,
        ),
    )
    tuner.fit()
    recorder.raise_failure()
