"""Records of trials as they run, and a watch over those that hang."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from ray import tune

from kdtune.config.fields import Value
from kdtune.config.files import CHECKPOINT
from kdtune.config.records import read_teacher_accuracy
from kdtune.config.task import BaseRun
from kdtune.config.text import DataChangedError, FolderUnusableError
from kdtune.planning.ledger import phase_of
from kdtune.raytune.function import shown_names
from kdtune.raytune.machines import Capacity, MachineMonitor
from kdtune.raytune.progress import ProgressDisplay
from kdtune.raytune.session import check_local_ray
from kdtune.results.warnings import VIEWS, OnViews
from kdtune.storage.folder import MARK
from kdtune.storage.mirror import RecordsUploader

# A Tune callback that writes each trial's start, epochs and end, and passes them to the plan.


MAX_TRIAL_RETRIES = 2
"""Times that a trial whose worker died is started again."""
MAX_LOST_MACHINES = 20
"""Machines that a run may lose, such as spot machines, before each loss counts as a failure."""
OUT_OF_GPU_MEMORY = ("out of memory", "ALLOC_FAILED")
"""Words in the errors of PyTorch and of cuBLAS."""
OUT_OF_MEMORY = (*OUT_OF_GPU_MEMORY, "can't allocate memory", "MemoryError")
"""Words in errors: those of a GPU, of PyTorch on a CPU and of Python."""
_ADVICE = "it needs a smaller batch size or a smaller model"
ALONE = f"; no other run ran beside it: {_ADVICE}"
OWN_GPU = f"; no other run shared its GPU: {_ADVICE}"
NODE_LOST_PHRASES = ("its node has died", "ActorUnavailableError", "temporarily unavailable")
"""Phrases in Ray's messages about a machine that was lost or does not answer. There is no exception
class for it."""


def _deferring(method: Callable[..., None]) -> Callable[..., None]:
    """Keep the failure of a callback that writes records, until the next step raises it.

    Of most callbacks Tune prints what they raise, and goes on or raises its text.
    """

    @wraps(method)
    def call(self: "Recorder", *args: Any, **info: Any) -> None:
        if self._failure is None:  # after it nothing can be recorded
            try:
                method(self, *args, **info)
            except (OSError, FolderUnusableError) as error:
                self._failure = error

    return call


class Recorder(tune.Callback):
    """Tune callback that writes each trial's start, epochs and end, and shows the progress.

    The plan gets the same records that are written, so it can be rebuilt from them. The recorder
    closes none of its arguments.

    Args:
        display: Shows the progress of the plan, which gets the records.
        uploader: Uploads the records that are written to the study's object store.
        monitor: Names the machines that join or are lost.
        capacity: Says how many trials may run at a time; fewer once memory has not sufficed.
        find_changes: Returns a sentence on data that have changed since the study began, or "".
    """

    def __init__(
        self,
        display: ProgressDisplay,
        uploader: RecordsUploader,
        monitor: MachineMonitor,
        capacity: Capacity,
        find_changes: Callable[[], str] = str,
    ):
        self.capacity = capacity
        self.display, self.plan, self.study = display, display.plan, display.plan.study
        self.records, self.uploader, self.monitor = uploader.records, uploader, monitor
        self.find_changes, self.changes = find_changes, ""
        self.attempts: dict[str, int] = {}
        self.errors: dict[str, str] = {}
        self.nodes: dict[str, str] = {}
        self.ended_trials = 0
        self.scores: dict[str, float] = {}
        self.watch = SilenceWatch(display.print_line)
        self._warnings: set[str] = set()
        self._started: set[str] = set()
        """Ids of Tune's trials that have started; a run that is requeued has several."""
        self._not_started: Counter[str] = Counter()
        self._lost_machines: Counter[str] = Counter()
        self._failure: Exception | None = None
        self._views = set[tuple[Value | None, ...]]()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Update display, uploads and the list of machines; Tune calls this all the time.

        Raises:
            FolderUnusableError: A folder that a trial writes to can no longer be used.
            OSError: The records can no longer be written.
        """
        self.raise_failure()
        self.display.refresh()
        self.uploader.tick()
        self.watch.poll()
        for line in self.monitor.poll():
            self.display.print_line(line)

    def raise_failure(self) -> None:
        """Raise why nothing more can be recorded, if so."""
        if self._failure is not None:
            raise self._failure

    @_deferring
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a trial starts, or starts again; before, the round of finals it begins."""
        run = self.study.base_run.sample(**trial.config)
        attempt = self.attempts.get(run.trial_id, -1) + 1
        self.attempts[run.trial_id] = attempt
        self._started.add(trial.trial_id)
        self.watch.hear(self.describe(run))
        if (round_ := self.plan.round_begun_by(run)) is not None:
            self.plan.add_record(self.records.finalists(round_))
        self.plan.add_record(self.records.start(run, attempt, phase_of(run.repeat)))

    @_deferring
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record the epochs that a trial reports, or keep why it failed."""
        run = self.study.base_run.sample(**trial.config)
        self.nodes[run.trial_id] = result["hostname"]
        process = f"process {result['pid']} on {result['hostname']}"
        self.watch.hear(self.describe(run), process)
        if error := result.get("error"):
            self.errors[run.trial_id] = error
        for warning in result.get("warnings", ()):
            if warning not in self._warnings:
                self._warnings.add(warning)
                self.display.print_line(f"warning: {result['hostname']}: {warning}")
        for epoch in result.get("epochs", ()):
            if epoch["number"] == 0 and self.study.task.is_distillation:
                self._print_views(run, epoch["splits"].get("train", {}))
            for line in self.records.epoch(run, self.attempts[run.trial_id], epoch):
                self.plan.add_record(line)
            self.scores[run.trial_id] = epoch["splits"]["val"][self.study.task.score]
        if error and error.startswith(MARK):  # the study cannot go on, and the run is not at fault
            raise FolderUnusableError(f"{result['hostname']}: {error.removeprefix(MARK)}")

    def _print_views(self, run: BaseRun, train: Mapping[str, Any]) -> None:
        """Print the accuracy of a run's teacher on the views of train, once for each kind of views.

        Args:
            run: The run.
            train: Metrics of its first epoch.
        """
        kind = tuple(run.config[name] for name in VIEWS)
        if kind in self._views:
            return
        self._views.add(kind)
        seen = OnViews.of_run(read_teacher_accuracy(self.study.folder), run, train)
        for line in [] if seen is None else seen.lines:
            self.display.print_line(line)

    @_deferring
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the end of a trial that completed, was pruned, or reported an error."""
        run = self.study.base_run.sample(**trial.config)
        error = self.errors.pop(run.trial_id, None)
        if error is not None and is_out_of_memory(error):
            has_own_gpu = self.capacity.trial.gpu >= 1
            if not (has_own_gpu and is_out_of_memory(error, OUT_OF_GPU_MEMORY)):
                if not self.retry_with_fewer([run]):
                    self._fail_alone(run, error)
                return
            error += OWN_GPU
        status = "pruned" if run.trial_id in self.plan.pruned else "completed"
        self._end(run, status if error is None else "failed", error)

    def retry_with_fewer(self, killed: Sequence[BaseRun]) -> bool:
        """Retry runs for which memory did not suffice, with half as many at a time.

        Returns:
            False if only one ran, which nothing can help.
        """
        running = len(self.plan.ledger.running)
        if running <= 1:
            return False
        fewer = self.capacity.lower(running // 2, [run.trial_id for run in killed])
        for run in killed:
            self._requeue(run)
        named = "; ".join(map(self.describe, killed))
        self.display.print_line(
            f"  {named}: out of memory while {running} runs ran at a time; retried with {fewer} at "
            f"a time"
        )
        return True

    def on_worker_killed(self) -> None:
        """Act on a run that Ray's memory monitor has killed, with Tune's whole loop.

        Which of several it was is not known: all are retried, with half as many at a time. A run
        that it kills although it runs alone has failed.
        """
        running = list(self.plan.ledger.running.values())
        if running and not self.retry_with_fewer(running):
            if self.attempts.get(running[0].trial_id) is None:
                return  # it had not started
            text = "Ray's memory monitor killed it for lack of memory"
            self._fail_alone(running[0], text)

    def _fail_alone(self, run: BaseRun, error: str) -> None:
        """Record a run for which memory does not suffice although no other runs.

        It was this run, not their number, so as many as before may run again.
        """
        self._end(run, "failed", error + ALONE)
        if self.capacity.restore(run.trial_id):
            self.display.print_line("  as many runs at a time again as before it")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Do not count the death of a worker as the trial's failure if its machine was lost."""
        run = self.study.base_run.sample(**trial.config)
        self.watch.forget(self.describe(run))
        if self._may_lose_machine(run, trial):
            trial.run_metadata.num_failures -= 1

    @_deferring
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a trial's worker died too often or did not start.

        Raises:
            RayLostError: It died with the local Ray, without which no worker starts.
        """
        check_local_ray()
        run = self.study.base_run.sample(**trial.config)
        if self._may_lose_machine(run, trial):  # before the trial started, or after its last retry
            self._requeue(run)
        elif trial.trial_id in self._started:
            self._end(run, "failed", f"its worker died {MAX_TRIAL_RETRIES + 1} times")
        elif self._not_started[run.trial_id] < MAX_TRIAL_RETRIES:  # Tune retries started ones only
            self._not_started[run.trial_id] += 1
            self._requeue(run)
        else:
            self.on_trial_start(iteration, trials, trial)
            self._end(run, "failed", f"its worker did not start, {MAX_TRIAL_RETRIES + 1} times")

    def _may_lose_machine(self, run: BaseRun, trial: Any) -> bool:
        """Return True if the trial's worker died with its machine, unless the run may be the cause.

        On a cloud each machine that a run takes down would be replaced by a new one.
        """
        error = Path(trial.error_file or "")
        text = error.read_text(errors="replace") if error.is_file() else ""
        last = text.rsplit("Failure #", 1)[-1]
        if not any(phrase in last for phrase in NODE_LOST_PHRASES):
            return False
        self._lost_machines[run.trial_id] += 1
        return self._lost_machines[run.trial_id] <= MAX_LOST_MACHINES

    def requeue_running(self) -> None:
        """Put all runs in flight back into the plan's queue, because Ray has stopped."""
        for run in self.plan.ledger.running.values():
            self.watch.forget(self.describe(run))
        self.plan.requeue_running()

    def _requeue(self, run: BaseRun) -> None:
        self.watch.forget(self.describe(run))
        self.plan.requeue(run)

    def _end(self, run: BaseRun, status: str, error: str | None) -> None:
        self.watch.forget(self.describe(run))
        node = self.nodes.get(run.trial_id)
        attempt = self.attempts[run.trial_id]
        self.plan.add_record(self.records.end(run, attempt, status, error, node))
        self.ended_trials += 1
        if str(error).startswith(DataChangedError.__name__):
            self.changes = self.changes or self.find_changes()
        if status != "failed":  # the student is kept, the state of the optimiser is not
            state = f"trials/{run.trial_id}/{CHECKPOINT}"
            (self.study.folder / state).unlink(missing_ok=True)
            self.uploader.delete_later(state)
        score = self.scores.get(run.trial_id, math.nan)
        pruned = " (pruned)" if status == "pruned" else ""
        text = error or f"val {self.study.task.score} {score:.4f}{pruned}"
        self.display.advance(f"  {self.describe(run)}: {text}", failed=status == "failed")

    def describe(self, run: BaseRun) -> str:
        """Return the name of a run for people."""
        values = {**run.config, "repeat": run.repeat}
        names = [*shown_names(self.study), "repeat"]
        return ", ".join(f"{name} {values[name]}" for name in names if values[name] is not None)


def is_out_of_memory(error: str, phrases: Sequence[str] = OUT_OF_MEMORY) -> bool:
    """Return True if the error of a run is that of a GPU or machine without memory left."""
    return any(words in error for words in phrases)


# A watch over runs that hang, which Ray does not have: it notices a process that ends, not one that
# is stopped or waits for ever.


SILENT_SECONDS = 600.0
"""A run without an epoch for so long is named, if no epoch of the study was nearly as long."""
SILENT_EPOCHS = 10
"""The silence of such a run in times of the longest before."""
_POLL_SECONDS = 2.0
AWAY_SECONDS = 30.0
"""A driver that has not polled for so long was suspended or busy itself."""


class SilenceWatch:
    """Names the runs that have reported no epoch for too long.

    Args:
        write: Gets a line about each.
    """

    def __init__(self, write: Callable[[str], None]):
        self._write_line = write
        self._heard: dict[str, float] = {}
        self._processes: dict[str, str] = {}
        self._named: set[str] = set()
        self._longest = 0.0
        self._polled = time.monotonic()

    def hear(self, name: str, process: str = "its process") -> None:
        """Note that a run begins, or has reported an epoch."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._heard.get(name, now))
        self._heard[name], self._processes[name] = now, process
        self._named.discard(name)

    def forget(self, name: str) -> None:
        """Watch a run no longer, until it is heard again."""
        self._heard.pop(name, None)

    def poll(self) -> None:
        """Name the runs that are silent; called all the time.

        Raises:
            RayLostError: A process of the local Ray itself has ended.
        """
        now = time.monotonic()
        if now - self._polled < _POLL_SECONDS:
            return
        check_local_ray()
        was_away = now - self._polled > AWAY_SECONDS
        self._polled = now
        limit = max(SILENT_SECONDS, SILENT_EPOCHS * self._longest)
        for name, heard in self._heard.items():
            if was_away:  # what was reported meanwhile has not been read yet
                self._heard[name] = now
            elif now - heard > limit and name not in self._named:
                self._named.add(name)  # once, until it is heard again
                self._write_line(
                    f"warning: {name}: no epoch for {(now - heard) / 60:.0f} minutes; if "
                    f"{self._processes[name]} hangs, end it (kill -9): the run resumes from its "
                    f"last checkpoint"
                )
