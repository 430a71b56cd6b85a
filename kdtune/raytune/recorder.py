"""Writes each trial's start, epochs and end as Ray Tune learns of them, and tells the plan."""

import math
from pathlib import Path
from typing import Any

from ray import tune

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import phase_of
from kdtune.planning.plan import Plan
from kdtune.raytune.machine_monitor import MachineMonitor
from kdtune.raytune.progress import ProgressDisplay
from kdtune.raytune.trial import run_of
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.records import Records
from kdtune.training.run import CHECKPOINT

RETRIES = 2
"""Times that a trial whose worker died is started again."""
LOST = ("its node has died", "ActorUnavailableError", "temporarily unavailable")
"""Ray's words for a machine that is gone, or that does not answer; no class of error tells it."""


class Recorder(tune.Callback):
    """Writes each trial's start, epochs and end as Tune learns of them, and shows the progress.

    The plan takes the very lines that are written, so it can be made anew from them.
    """

    def __init__(self, study: Study, plan: Plan, show: ProgressDisplay, mirror: Mirror):
        self.study, self.plan, self.show = study, plan, show
        self.records = Records(study.folder)
        self.uplink = RecordsUploader(mirror, self.records)
        self.watch = MachineMonitor(study)
        self.attempts: dict[str, int] = {}
        self.errors: dict[str, str] = {}
        self.nodes: dict[str, str] = {}
        self.ends = 0
        self.accuracy: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never made

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop turns."""
        self.show.beat()
        self.uplink.tick()
        for line in self.watch.tick():
            self.show.line(line)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or starts again."""
        run = run_of(self.study, trial.config)
        attempt = self.attempts.get(run.trial_id, -1) + 1
        self.attempts[run.trial_id] = attempt
        self.plan.take(self.records.start(run, attempt, phase_of(run.repeat)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reports epochs, or why it failed."""
        run = run_of(self.study, trial.config)
        self.nodes[run.trial_id] = result["hostname"]
        if result.get("error"):
            self.errors[run.trial_id] = result["error"]
        for epoch in result.get("epochs", ()):
            attempt = self.attempts[run.trial_id]
            number, seconds, splits = epoch["number"], epoch["seconds"], epoch["splits"]
            for line in self.records.epoch(run, attempt, number, seconds, splits):
                self.plan.take(line)
            self.accuracy[run.trial_id] = splits["val"]["acc"]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has run to its end, or to its error."""
        run = run_of(self.study, trial.config)
        error = self.errors.get(run.trial_id)
        stopped = "pruned" if run.trial_id in self.plan.stopped else "completed"
        self._end(run, stopped if error is None else "failed", error)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker has died; with its machine, that is no failure of the trial."""
        if lost_machine(trial):
            trial.run_metadata.num_failures -= 1

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker has died too often, or did not start."""
        run = run_of(self.study, trial.config)
        if lost_machine(trial):  # before it started, or after as many deaths as it may have
            self.plan.give_back(run)
        elif run.trial_id in self.attempts:
            self._end(run, "failed", f"its worker died {RETRIES + 1} times")
        else:
            self.on_trial_start(iteration, trials, trial)
            self._end(run, "failed", "its worker did not start")

    def _end(self, run: Run, status: str, error: str | None) -> None:
        node = self.nodes.get(run.trial_id)
        attempt = self.attempts[run.trial_id]
        self.plan.take(self.records.end(run, attempt, status, error, node))
        self.ends += 1
        if status != "failed":  # the student is kept, the optimiser's state is not
            (self.study.folder / "trials" / run.trial_id / CHECKPOINT).unlink(missing_ok=True)
            self.uplink.delete_later(f"trials/{run.trial_id}/{CHECKPOINT}")
        names = [*(self.study.searched or ["alpha"]), "repeat"]
        shown = {**run.config, "repeat": run.repeat}
        text = ", ".join(f"{n} {shown[n]}" for n in names if shown[n] is not None)
        accuracy = self.accuracy.get(run.trial_id, math.nan)
        stopped = " (stopped early)" if status == "pruned" else ""
        self.show.line(f"  {text}: " + (error or f"val acc {accuracy:.4f}{stopped}"))
        self.show.advance()


def lost_machine(trial: Any) -> bool:
    """Whether Ray says that the trial's worker died because its machine did, or is cut off."""
    error = Path(trial.error_file or "")
    if not error.is_file():
        return False
    last = error.read_text(errors="replace").rsplit("Failure #", 1)[-1]
    return any(words in last for words in LOST)
