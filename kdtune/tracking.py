"""Trackers: a study that runs is sent to MLflow or Weights & Biases by a callback of Ray Tune.

Ray's own callbacks for both are not used. That for MLflow makes two requests for each metric of
each epoch, within Tune's loop: a server that is down stops the study. That for W&B starts two
processes for each trial, ends failed trials like completed ones, and says nothing if W&B cannot be
reached.

May import config, storage and results. Only the driver in raytune imports it.
"""

import os
import re
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from ray import tune

from kdtune.config.study import Study
from kdtune.config.text import first_line
from kdtune.results.frames import config_label

END_SECONDS = 120.0
"""Longest time that a study waits at its end for a tracker to receive the rest."""
RETRY_SECONDS = 10.0
"""Time between two attempts to reach a tracker that has failed."""


@dataclass(eq=False)
class TrackedTrial:
    """A trial as trackers show it."""

    id: str
    """Of Ray Tune; a trial that another call of the study continues has another one there."""
    name: str
    group: str
    """The configuration in words, the same for all of its repeats."""
    parameters: dict[str, Any]
    """The hyperparameters that have an effect, repeat and config_id."""
    status: str = "running"
    """running, completed, pruned, failed or interrupted."""
    error: str | None = None
    last_epoch: int = -1
    """The last one that has been reported; a trial that resumes reports earlier ones again."""


class Tracker(tune.Callback):
    """Tune callback that sends each trial to a tracker.

    The client is called in a thread, one event after the other; an event that fails is tried again
    until it succeeds. So a tracker that is slow, silent or down costs a warning, and never a trial.
    A context manager: leaving it waits for the tracker to receive the rest.

    Args:
        name: Of the tracker, see `CLIENTS`.
        study: The study.
        pruned: The trial_ids of the runs that were pruned, to which others are added.
        print_line: Gets lines for the terminal, from another thread.
    """

    def __init__(
        self, name: str, study: Study, pruned: Set[str], print_line: Callable[[str], None]
    ):
        self.name, self.study, self.pruned, self.print_line = name, study, pruned, print_line
        self._client = CLIENTS[name](study)
        self._trials: dict[str, TrackedTrial] = {}
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closing, self._reason = Event(), ""
        self._thread = Thread(target=self._send, daemon=True)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def __enter__(self) -> "Tracker":
        self._events.put(self._connect)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for trial_id in list(self._trials):
            self._end(trial_id, "interrupted")
        self._events.put(None)
        self._closing.set()
        self._thread.join(END_SECONDS)
        if self._thread.is_alive() or not self._events.empty():
            reason = self._reason or f"no answer in {END_SECONDS:.0f} s"
            self.print_line(
                f"warning: {self.name} has not received everything ({reason}); the results in "
                f"the study's folder are complete"
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin the run of a trial; one whose worker has died goes on in the same run."""
        if trial.trial_id not in self._trials:
            new = self._trials[trial.trial_id] = self._describe(trial)
            self._events.put(partial(self._client.start, new))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Send the epochs that a trial reports."""
        tracked = self._trials[trial.trial_id]
        tracked.error = result.get("error") or tracked.error
        for epoch in result.get("epochs", ()):
            if epoch["number"] > tracked.last_epoch:
                tracked.last_epoch = epoch["number"]
                log = partial(self._client.log, tracked, epoch["number"], _metrics(epoch))
                self._events.put(log)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """End the run of a trial that completed, was pruned or reported an error."""
        run = self.study.base_run.sample(**trial.config)
        status = "pruned" if run.trial_id in self.pruned else "completed"
        self._end(trial.trial_id, "failed" if self._trials[trial.trial_id].error else status)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """End the run of a trial whose worker died too often."""
        if trial.trial_id in self._trials:  # else its worker did not even start
            self._end(trial.trial_id, "failed")

    def _end(self, trial_id: str, status: str) -> None:
        trial = self._trials.pop(trial_id)
        trial.status = status
        self._events.put(partial(self._client.end, trial))

    def _describe(self, trial: Any) -> TrackedTrial:
        run: Any = self.study.base_run.sample(**trial.config)
        values = {name: value for name, value in run.config.items() if value is not None}
        names = self.study.searched or (["alpha"] if "alpha" in run.config else list(run.config))
        group = config_label(run.config, names, prefix="")
        parameters = {name: run.value(name) for name in self.study.task.groups}
        parameters |= values | {"repeat": run.repeat, "config_id": run.config_id}
        return TrackedTrial(trial.trial_id, f"{group}, repeat {run.repeat}", group, parameters)

    def _connect(self) -> None:
        self.print_line(f"{self.name}: {_without_credentials(self._client.connect())}")

    def _send(self) -> None:
        """Call the client for one event after the other; one that fails is tried again."""
        event = self._events.get()
        while event is not None:
            try:
                event()
            except Exception as error:  # whatever the client of a tracker raises
                is_first = not self._reason
                self._reason = _without_credentials(f"{type(error).__name__}: {first_line(error)}")
                if is_first:
                    self.print_line(
                        f"warning: {self.name} has failed ({self._reason}); the study goes on, and "
                        f"{self.name} is tried again"
                    )
                if self._closing.is_set():
                    return
                self._closing.wait(RETRY_SECONDS)
            else:
                event = self._events.get()


def _metrics(epoch: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a reported epoch by SPLIT/NAME, and its wall time."""
    named = {
        f"{split}/{name}": float(value)
        for split, metrics in epoch["splits"].items()
        for name, value in metrics.items()
        if value is not None and name != "n_examples"
    }
    return {"seconds": float(epoch["seconds"])} | named


def _without_credentials(text: str) -> str:
    """Return the text without the user names and passwords of its URLs."""
    return re.sub(r"://[^/\s@]+@", "://", text)


MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's own are 120 s, 7 retries, each after twice the time, and a line printed for each run.
Variables that are set are kept."""
MLFLOW_PAGE = "runs?workflowType=machine_learning&compareRunsMode=CHART"
"""Without it, MLflow 3 opens its page for language models, or a table without metrics."""
MLFLOW_STATUS = {"completed": "FINISHED", "failed": "FAILED"}
"""MLflow's status; all others are KILLED. The tag `status` has kdtune's."""
MAX_TEXT = 5000
"""Characters of a tag or a parameter; MLflow's limit for tags."""


class MlflowRuns:
    """Runs of an MLflow experiment, one per trial, with the configuration as a tag.

    MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and MLflow's other variables are respected.
    """

    def __init__(self, study: Study):
        self.study = study
        self.run_ids: dict[TrackedTrial, str] = {}

    def connect(self) -> str:
        """Find or create the experiment."""
        from mlflow import MlflowClient

        for name, value in MLFLOW_DEFAULTS.items():
            os.environ.setdefault(name, value)
        self.client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.study.name
        self.experiment = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        if not self.experiment:
            other = self.client.get_experiment_by_name(name)
            self.experiment = other.experiment_id if other else self.client.create_experiment(name)
        uri = self.client.tracking_uri.rstrip("/")
        if not uri.startswith("http"):
            return f"experiment {name} of {uri}"
        return f"{uri}/#/experiments/{self.experiment}/{MLFLOW_PAGE}"

    def start(self, trial: TrackedTrial) -> None:
        """Create a run with the trial's parameters."""
        from mlflow.entities import Param

        if trial not in self.run_ids:  # a second call only repeats the request that failed
            tags = {"config": trial.group, "mlflow.source.name": "kdtune"}
            names = ("config_id", "repeat", "student")
            tags |= {n: str(trial.parameters[n]) for n in names if n in trial.parameters}
            run = self.client.create_run(self.experiment, tags=tags, run_name=trial.name)
            self.run_ids[trial] = run.info.run_id
        params = [Param(_allowed(n), str(v)[:MAX_TEXT]) for n, v in trial.parameters.items()]
        self.client.log_batch(self.run_ids[trial], params=params)

    def log(self, trial: TrackedTrial, epoch: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of an epoch in one request."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(_allowed(n), value, now, epoch) for n, value in metrics.items()]
        self.client.log_batch(self.run_ids[trial], metrics=points)

    def end(self, trial: TrackedTrial) -> None:
        """Set the status of the run, and why the trial failed."""
        run_id = self.run_ids[trial]
        if trial.error is not None:
            self.client.set_tag(run_id, "error", trial.error[:MAX_TEXT])
        self.client.set_tag(run_id, "status", trial.status)
        self.client.set_terminated(run_id, MLFLOW_STATUS.get(trial.status, "KILLED"))


def _allowed(name: str) -> str:
    """Return a name with the characters that MLflow does not allow replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)


WANDB_TIMEOUT_SECONDS = 30.0
"""Longest wait for the server at the start and at the end of a run."""


class WandbRuns:
    """Runs of a project of Weights & Biases, one per trial, grouped by configuration.

    WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_DIR and the other variables are respected.
    """

    def __init__(self, study: Study):
        self.study = study
        self.runs: dict[TrackedTrial, Any] = {}

    def connect(self) -> str:
        """Read the settings; no connection is made before the first run."""
        import wandb

        settings = wandb.setup().settings
        self.project = settings.project or self.study.name
        is_online = (settings.mode or "online") == "online"
        return f"project {self.project} ({settings.base_url if is_online else 'offline'})"

    def start(self, trial: TrackedTrial) -> None:
        """Begin a run with the trial's parameters."""
        import wandb

        self.runs[trial] = wandb.init(
            id=trial.id,
            name=trial.name,
            group=trial.group,
            project=self.project,
            config=trial.parameters,
            tags=[f"repeat {trial.parameters['repeat']}"],
            reinit="create_new",
            settings=wandb.Settings(
                init_timeout=WANDB_TIMEOUT_SECONDS,
                finish_timeout=WANDB_TIMEOUT_SECONDS,
                console="off",
                silent=True,
                x_disable_stats=True,
                disable_git=True,
            ),
        )

    def log(self, trial: TrackedTrial, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch as those of a step."""
        self.runs[trial].log({**metrics, "epoch": epoch}, step=epoch)

    def end(self, trial: TrackedTrial) -> None:
        """End the run, with the status in its summary and, unless completed, as a tag."""
        run = self.runs[trial]
        run.summary["status"] = trial.status
        if trial.error is not None:
            run.summary["error"] = run.notes = trial.error
        if trial.status != "completed":
            run.tags = (*(run.tags or ()), trial.status)
        run.finish(exit_code=int(trial.status in ("failed", "interrupted")))
        del self.runs[trial]


CLIENTS: dict[str, type[MlflowRuns | WandbRuns]] = {"mlflow": MlflowRuns, "wandb": WandbRuns}
"""Client of each tracker, by the names of `config.study.TrackerName`. Each of its methods may raise
anything, and is then called again."""
