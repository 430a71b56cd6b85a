"""Driver of a study: checks, Ray, the tuner, resuming."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.logger import TBXLoggerCallback

from kdtune.config.errors import InputError
from kdtune.config.files import PROVENANCE, STUDY
from kdtune.config.study import Study
from kdtune.planning.plan import Plan
from kdtune.planning.standing import final_differences, is_decided
from kdtune.raytune.adapters import EarlyStopper, RepeatSearcher
from kdtune.raytune.machines import Capacity
from kdtune.raytune.preflight import preflight
from kdtune.raytune.progress import ProgressDisplay
from kdtune.raytune.recorder import RETRIES, Recorder
from kdtune.raytune.session import check_machine, ray_session
from kdtune.raytune.study_folder import finish, only_driver, write_study
from kdtune.raytune.study_identity import check_same, is_moved, merge_with_saved, read_if_saved
from kdtune.raytune.trial import run_of, run_trial, train_teacher
from kdtune.results.study_results import Results, load
from kdtune.statistics.sequential import anytime_p
from kdtune.storage.lease import hold_lease
from kdtune.storage.mirror import Mirror
from kdtune.storage.object_store import reach
from kdtune.storage.records import SavedStudy, read_lines
from kdtune.streams.cache import Cache
from kdtune.training.run import check, check_objectives
from kdtune.training.teacher import RECORD, WEIGHTS, is_ready

MAX_CONCURRENT_TRIALS = 10_000
"""Without a limit Tune would start trials one after another; what there is room for is less."""


FITS = 3
"""Times that Tune is started again without a trial having ended (Ray's memory monitor kills it)."""


class Interrupted(KeyboardInterrupt):
    """The study has stopped before its end; the same command goes on."""


def run(study: Study, ray_init: dict[str, Any] | None = None) -> Results:
    """Run every configuration of the study in every repeat; goes on where an earlier call stopped.

    Args:
        study: what to run.
        ray_init: arguments of ray.init in place of those the study asks for.

    Returns:
        The results, as `kdtune.load` reads them.

    Raises:
        InputError: the study cannot run as asked; said before any work.
        Interrupted: Ctrl-C, or a store that does not answer any more; the same call goes on.
    """
    study = replace(study, run=study.run.absolute())
    folder, mirror = study.folder, Mirror(study)
    with _outages_told(study), ExitStack() as held:
        if study.uri is not None:
            reach(study.uri)
        _hold(held, folder, mirror)  # before anything is read: another driver may be writing
        if study.uri is not None:
            mirror.pull(STUDY, PROVENANCE, f"teacher/{WEIGHTS}", f"teacher/{RECORD}")
            mirror.pull_folders("epochs")
        saved = read_if_saved(folder)
        study = merge_with_saved(study, saved)
        is_done = Plan(study, read_lines(folder)[0]).is_done
        made_of = dict(saved.fingerprints) if saved else {}
        if not is_done:
            made_of |= _check(study, saved, ray_init)
        elif is_moved(study, saved):
            made_of |= _fingerprints(study, saved)
        write_study(study, made_of)
        mirror.push(STUDY, PROVENANCE)
        if not is_done:
            with ray_session(study, ray_init):
                _run_all(study.absolute(), mirror)
        finish(folder, mirror)
    return load(folder)


def _hold(held: ExitStack, folder: Path, mirror: Mirror) -> None:
    """Have the study for this process alone until the stack is left."""
    held.enter_context(only_driver(folder))
    held.enter_context(hold_lease(mirror))


@contextmanager
def _outages_told(study: Study) -> Iterator[None]:
    """An outage that outlasts all patience ends a study on a store as Ctrl-C does."""
    try:
        yield
    except OSError as error:
        if study.uri is None:
            raise
        raise Interrupted(str(error)) from error


def _check(
    study: Study, saved: SavedStudy | None, ray_init: dict[str, Any] | None
) -> dict[str, str]:
    """Return the study's fingerprints; raise InputError if it cannot run, or not as it began."""
    check_machine(study, ray_init)
    fingerprints = _fingerprints(study, saved)
    is_ready(study.run, study.folder / "teacher")  # raises where what is there is damaged
    return fingerprints


def _fingerprints(study: Study, saved: SavedStudy | None) -> dict[str, str]:
    """Return the fingerprints of data, models and objectives; raise InputError if one changed."""
    own_objectives = check_objectives(study)
    fingerprints: dict[str, str] = {}
    choices: Any = study.values("trainable")
    for trainable in choices:
        fingerprints = check(replace(study.run, trainable=trainable)) | own_objectives
    check_same(study, saved, fingerprints)
    return fingerprints


def _run_all(study: Study, mirror: Mirror) -> None:
    """The teacher, then every run that is left."""
    cache = Cache(study.cache, study.cache_gb)
    room = Capacity(study, print)
    count = room.trials()
    plan = Plan(study, read_lines(study.folder)[0], count)
    with ProgressDisplay(plan, cache) as show:
        for line in preflight(study):
            show.line(line)
        if fault := cache.fault():
            show.line(f"warning: {fault}")
        if not study.has_plain:
            show.line("no plain training (alpha = 1) in the study: no verdict will be possible")
        _make_teacher(study, room.needs, show)
        left = "runs" if plan.runs_left is None else f"{plan.runs_left} runs"
        show.line(f"{left}, {count} at a time, into {study.uri or study.folder}")
        recorder = Recorder(study, plan, show, mirror)
        with closing(recorder.records):
            try:
                _fit_all(study, plan, room, recorder)
            finally:
                recorder.uplink.flush()
        if study.until_decided:
            show.line(_how_it_ended(plan))


def _how_it_ended(plan: Plan) -> str:
    """Whether --repeats auto ended with a decision or with its budget."""
    final = final_differences(plan.ledger)
    seen = f"{len(final)} final repeats, anytime-valid p = {anytime_p(final):.2g}"
    if is_decided(plan.ledger):
        return f"decided at level {plan.study.level:g}: {seen}"
    if plan.ledger.cost.reaches(plan.study.budget):
        return f"not decided: the budget of {plan.study.budget} is spent ({seen})"
    return f"not decided: there are no two finalists to compare ({seen})"


def _make_teacher(study: Study, needs: dict[str, float], show: ProgressDisplay) -> None:
    """Fine-tune the teacher in a Ray task that has ended, and given back its GPU, on return."""
    if is_ready(study.run, study.folder / "teacher"):
        return
    show.line(f"teacher {study.run.teacher}: {study.run.teacher_epochs} epochs")
    task = ray.remote(num_cpus=needs["cpu"], num_gpus=needs["gpu"], num_returns="streaming")
    epochs: Any = task(train_teacher).remote(study)
    try:
        for reference in epochs:
            show.line(f"  {ray.get(reference)}")
    except ray.exceptions.RayTaskError as error:
        raise InputError(f"the teacher could not be fine-tuned: {error.cause}") from error


def _fit_all(study: Study, plan: Plan, room: Capacity, recorder: Recorder) -> None:
    """Run Tune until the plan is done."""
    barren = 0
    while not plan.is_done:
        before = recorder.ends
        try:
            _fit(study, plan, room, recorder)
        except RuntimeError as error:  # Ray's memory monitor has killed a trial, and with it fit()
            recorder.show.line(f"Ray has stopped ({str(error).splitlines()[0]}); starting it again")
            stopped = True
        else:
            stopped = False
        plan.requeue_running()
        if not (stopped or plan.is_done):
            raise Interrupted("runs are left")
        barren = barren + 1 if recorder.ends == before else 0
        if barren == FITS:
            raise Interrupted("Ray stops without any progress; runs are left")


def _fit(study: Study, plan: Plan, room: Capacity, recorder: Recorder) -> None:
    tuner = tune.Tuner(
        tune.with_resources(partial(run_trial, study=study), room.needs),
        tune_config=tune.TuneConfig(
            search_alg=RepeatSearcher(plan, room.trials),
            scheduler=EarlyStopper(plan, study),
            num_samples=-1,
            max_concurrent_trials=MAX_CONCURRENT_TRIALS,
            reuse_actors=True,
            trial_dirname_creator=partial(_dirname, study=study),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(study.folder),
            callbacks=[recorder, TBXLoggerCallback()],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            verbose=0,
        ),
    )
    tuner.fit()


def _dirname(trial: Any, study: Study) -> str:
    return f"{run_of(study, trial.config).trial_id}-{trial.trial_id}"
