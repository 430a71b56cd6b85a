"""Driver of a study: checks, Ray, the tuner, resuming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError
from ray.tune.logger import TBXLoggerCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from kdtune.config.files import COSTS, PROVENANCE, STUDY, TEACHER_ACCURACY, not_writable_by_all
from kdtune.config.objects import importable_name
from kdtune.config.study import (
    Study,
    check_objects,
    check_packages,
    describe_fixed_students,
    flags_without_effect,
)
from kdtune.config.task import name_of
from kdtune.config.text import DataChangedError, InputError, UserError, first_line
from kdtune.data.checks import (
    Contents,
    data_record,
    describe_data,
    find_changes,
)
from kdtune.data.dataset import Data
from kdtune.data.sources import StudyData
from kdtune.planning.plan import Plan
from kdtune.raytune.folder import add_warning, finish, remove_parts, write_study
from kdtune.raytune.function import function_epochs, make_run, run_trial
from kdtune.raytune.identity import check_same, is_moved, merge_with_saved, read_if_saved
from kdtune.raytune.machines import (
    Capacity,
    Inspection,
    MachineMonitor,
    check_local_resources,
    fingerprints_of,
    preflight,
    read_data,
)
from kdtune.raytune.objects import freeze_objects, share_objects
from kdtune.raytune.progress import (
    ProgressDisplay,
    describe_end,
    describe_state,
    notify,
    outcome_of_error,
    outcome_of_results,
    print_recipe,
)
from kdtune.raytune.recorder import MAX_TRIAL_RETRIES, Recorder
from kdtune.raytune.session import (
    check_address,
    check_local_ray,
    folder_watch,
    ray_errors_in_words,
    ray_session,
    summarised,
)
from kdtune.raytune.teachers import Preparation, measure_before_ray
from kdtune.raytune.trial import distillation_epochs, files_of_teachers
from kdtune.results.results import Results, load
from kdtune.storage.folder import folder_faults_described, lock_study
from kdtune.storage.mirror import Mirror, RecordsUploader, hold_lease, reach
from kdtune.storage.records import Records, SavedStudy, read_lines
from kdtune.streams.cache import Cache
from kdtune.tracking.callbacks import Tracker
from kdtune.training.recipe import (
    RecipeRow,
    StudyModels,
    find_faults,
    format_recipe,
    numbered,
    recipe_rows,
    resolve_study,
    teachers,
    transforms_of,
    with_weights_of_studies,
)
from kdtune.training.teacher import find_other_views, missing_teachers

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


# The driver: asked study -> resolved -> plan -> trials -> records -> results.


RUN_BYTES_PER_STUDENT_BYTE = 9
"""Size of a trial's files in sizes of its student: three states, while one of them is written, each
with the weights and up to two moments of the optimiser. The student's own file comes after them."""
MAX_CONCURRENT_TRIALS = 10_000
"""Without a limit Tune starts trials one after another; `Capacity` sets a lower one."""
MAX_RESTARTS_WITHOUT_PROGRESS = 3
"""Times that Tune is started again without a trial having ended (Ray's memory monitor kills it)."""


class Interrupted(KeyboardInterrupt):
    """A study stopped before its end; the same command resumes it."""


@dataclass(frozen=True)
class Prepared:
    """A study with trials left, and what was made of it once, before Ray."""

    study: Study
    """Resolved: every default is known."""
    fingerprints: Mapping[str, str]
    """Of what its trials are made of."""
    trainable: Callable[..., None]
    """Function(config, study), which Ray calls for each trial."""
    data: StudyData | None = None
    """None with a training function of the user's own."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What provenance.json says of the trials."""
    warnings: Sequence[str] = ()
    """Sentences on what makes the study slower or less useful."""
    run_bytes: int = 0
    """Size of the files of one trial."""

    def find_changes(self) -> str:
        """Return a sentence on data that have changed meanwhile, or ""."""
        return "" if self.data is None else find_changes(self.data.with_extra(self.data.run))


def run(study: Study, ray_init: dict[str, Any] | None = None) -> Results:
    """Run every configuration of the study in every repeat, or resume; see `kdtune.run`."""
    check_packages(study.tracker)
    trackers, command = study.tracker, study.notify
    study = freeze_objects(_located(replace(study, tracker=(), notify=None)), ray_init)
    folder, mirror = study.folder, Mirror(study)
    with not_writable_by_all(), _outages_as_interrupts(study), ExitStack() as locks:
        if study.uri is not None:
            reach(study.uri)
        locks.enter_context(lock_study(folder))
        locks.enter_context(folder_watch(folder))
        locks.enter_context(hold_lease(mirror))
        remove_parts(folder)
        mirror.pull(STUDY, PROVENANCE, COSTS, TEACHER_ACCURACY)
        mirror.pull_folders("epochs")
        study, prepared = _begin(study, mirror, ray_init)
        mirror.push(STUDY, PROVENANCE)
        try:
            if prepared is not None:
                _run_prepared(prepared, mirror, trackers, ray_init)
            (folder / STUDY).stat()  # it may have been deleted while the study ran
            finish(folder, mirror, study.run, None if prepared is None else prepared.data)
        except BaseException as error:
            notify(command, study, outcome_of_error(error))
            raise
    results = load(folder)  # without the lock, which would say that the study still runs
    notify(command, study, outcome_of_results(results))
    return results


def _run_prepared(
    prepared: Prepared, mirror: Mirror, trackers: Sequence[str], ray_init: dict[str, Any] | None
) -> None:
    """Print the recipe of a study, start Ray and run the trials that are left."""
    study = prepared.study
    if recipe := prepared.provenance.get("recipe"):
        rows = format_recipe([RecipeRow(**row) for row in recipe])
        print_recipe(f"Recipe of {study.uri or study.folder}:", rows)
    if prepared.data is not None:
        measure_before_ray(study.absolute(), prepared.data, mirror)
    with ray_session(study, ray_init):
        shared = share_objects(study.absolute())
        _run_all(replace(prepared, study=shared), mirror, trackers)


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


def _begin(
    asked: Study, mirror: Mirror, ray_init: dict[str, Any] | None
) -> tuple[Study, Prepared | None]:
    """Check the study against the machine and its folder, and write what is known at its start.

    Returns:
        The study as it runs or has run; None if no run is left.
    """
    folder, data = asked.folder, None
    saved = read_if_saved(folder)
    study = merge_with_saved(asked, saved)
    if saved is None:
        study, data = _resolve(study, begun=False)
    lines, _ = read_lines(folder, study)
    if saved is None and lines:
        print(
            f"warning: {folder} has records but no {STUDY}; it is written again, and the "
            f"records are taken for those of this study"
        )
    is_done = Plan(study, lines).is_done
    if saved is not None and not is_done:
        study, data = _resolve(study, begun=True)
    if study.train is None:
        mirror.pull(*files_of_teachers(study))
    fingerprints = dict(saved.fingerprints) if saved else {}
    if not is_done:
        if study.address is None:
            check_local_resources(study, ray_init)
        else:
            check_address(study.address)
    if not is_done or saved is None or is_moved(study, saved) or study.train is not None:
        current = fingerprints_of(study, data or read_data(study))
        check_same(study, saved, current)
        fingerprints |= current
    if is_done:
        write_study(study, fingerprints)
        return study, None
    if data is None:
        absent = "the study has no baseline (baseline={...}), so there will be no verdict"
        warnings = [] if study.has_plain else [absent]
        trainable = partial(run_trial, function_epochs)
        prepared = Prepared(study, fingerprints, trainable, warnings=warnings)
    else:
        prepared = prepare(asked, study, saved, fingerprints, data)
    write_study(study, fingerprints, prepared.provenance)
    return study, prepared


def _resolve(study: Study, begun: bool) -> tuple[Study, StudyData | None]:
    """Return the study with a value for each setting that follows from data and models; the data.

    A training function of the user's own has neither.
    """
    if study.train is not None:
        return study, None
    check_objects(study)
    data = StudyData(study.run)
    return resolve_study(study, data, begun), data


def prepare(
    asked: Study,
    study: Study,
    saved: SavedStudy | None,
    fingerprints: Mapping[str, str],
    data: StudyData,
) -> Prepared:
    """Make what a study of distillation with trials left needs, before Ray.

    Args:
        asked: The study as it was asked for.
        study: The study as it is run.
        saved: What its folder holds.
        fingerprints: Of what the trials are made of.
        data: Its data.

    Raises:
        InputError: A finished teacher is damaged, or others may write the cache.
    """
    Cache(study.cache, study.cache_gb).check()
    missing_teachers(study.run, numbered(study, teachers(study)), study.folder / "teacher", data)
    study_data = data.with_extra(study.run)
    models = StudyModels.of(study, study_data)
    rows = recipe_rows(asked, study, saved.study if saved else None, study_data, models)
    faults = find_faults(study, study_data)
    provenance = {
        "classes": study_data.classes,
        "data_set": data_record(study_data),
        "recipe": [row._asdict() for row in rows],
        **transforms_of(study, study_data, models, faults),
    }
    epochs = partial(distillation_epochs, contents=Contents.of(data))
    return Prepared(
        study,
        fingerprints,
        partial(run_trial, epochs),
        data,
        provenance,
        list(find_warnings(study, study_data, models, faults)),
        run_bytes=RUN_BYTES_PER_STUDENT_BYTE * max(model.nbytes for _, model in models.students),
    )


@contextmanager
def _outages_as_interrupts(study: Study) -> Iterator[None]:
    """Raise Interrupted for an outage of the study's store that outlasts all retries.

    Raises:
        FolderUnusableError: A folder of this machine can no longer be used.
    """
    try:
        with folder_faults_described(study.folder, in_driver=True):
            yield
    except UserError:
        raise
    except Exception as error:
        if study.uri is None or not isinstance(error, OSError):
            raise
        raise Interrupted(str(error)) from error


def _run_all(prepared: Prepared, mirror: Mirror, trackers: Sequence[str]) -> None:
    """Prepare what the trials need, then run every trial that is left."""
    capacity = Capacity(prepared.study, print)
    study = replace(prepared.study, cpus_per_trial=capacity.trial.cpu)
    count = capacity.concurrent_trials()
    plan = Plan(study, read_lines(study.folder, study)[0], count)
    with ExitStack() as stack:
        display = stack.enter_context(ProgressDisplay(plan, Cache(study.cache, study.cache_gb)))
        write = display.print_line
        photos = False
        if prepared.data is not None:
            data = prepared.data.with_extra(study.run)
            photos = data.photos
            for line in describe_data(data):
                write(line)
        inspection = Inspection(
            study, capacity.trial, prepared.fingerprints, photos, prepared.run_bytes
        )
        for line in preflight(inspection):
            write(line)
        for sentence in prepared.warnings:
            write(f"warning: {sentence}")
        if prepared.data is not None:
            preparation = Preparation(study, prepared.data, mirror, capacity.trial, write)
            preparation.measure_costs()
            preparation.train_teachers(display.print_epoch)
            preparation.gate_teachers()
        left = "all runs" if plan.runs_left is None else f"{plan.runs_left} runs"
        place = study.uri or study.folder
        write(f"Running {left}, {count} at a time. Results are written to {place}.")
        records = stack.enter_context(Records(study.folder))
        recorder = Recorder(
            study,
            plan,
            display,
            records,
            stack.enter_context(RecordsUploader(mirror, records)),
            stack.enter_context(MachineMonitor(inspection)),
            capacity,
            prepared.find_changes,
        )
        callbacks: list[tune.Callback] = [
            recorder,
            *(stack.enter_context(Tracker(name, study, plan.pruned, write)) for name in trackers),
            TBXLoggerCallback(),
        ]
        try:
            with summarised(partial(describe_state, plan), write), ray_errors_in_words():
                _fit_until_done(prepared.trainable, recorder, callbacks)
        finally:
            if recorder.changes:
                add_warning(study.folder, recorder.changes)
        if changes := prepared.find_changes():
            add_warning(study.folder, changes)
            mirror.push(PROVENANCE)
            write(f"warning: {changes}")
        if study.until_decided:
            write(describe_end(plan))


def find_warnings(
    study: Study, data: Data, models: StudyModels, faults: Sequence[str]
) -> Iterator[str]:
    """Yield a sentence for what makes a study of distillation slower or less useful.

    Args:
        study: The study, resolved.
        data: Its data, with any images without labels.
        models: Its models.
        faults: Of `find_faults`.
    """
    other_views = list(find_other_views(study, data, models))
    count_used = len({run.teacher_number for run in numbered(study, teachers(study))})
    yield from flags_without_effect(study)
    yield from data.warnings
    yield from faults
    yield from other_views
    yield from describe_fixed_students(study)
    if fault := Cache(study.cache, study.cache_gb).fault():
        yield fault
    if count_used < study.run.teachers:
        yield f"--repeats {study.repeats} uses only {count_used} of --teachers {study.run.teachers}"
    if not study.has_plain:
        yield (
            "the study has no baseline without distillation (alpha = 1), so there will be no "
            "verdict"
        )


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
        before = recorder.ended_trials
        try:
            _fit(trainable, recorder, callbacks)
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
            trial_dirname_creator=partial(_folder_name, study=study),
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


def _folder_name(trial: Any, study: Study) -> str:
    return f"{make_run(study, trial.config).trial_id}-{trial.trial_id}"
