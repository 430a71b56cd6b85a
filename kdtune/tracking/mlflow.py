"""Runs of an MLflow experiment: one per configuration, with a nested run for each repeat.

Nothing is kept here: tags of the runs say which trial they are and which records they have.
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and MLflow's other variables are respected.
"""

import getpass
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from kdtune.tracking.sync import VERDICT, Conclusion, Tracker, TrialUpdate, parameters

DEFAULTS = {
    **{"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's own are 120 s, 7 retries, each after twice the time, and a line printed for each run.
Variables that are set are kept."""
PAGE = "runs?workflowType=machine_learning&compareRunsMode=CHART"
"""Without it, MLflow 3 opens its page for language models, or a table without metrics."""
MAX_METRICS = 900
"""Metrics in one request; the server takes 1000."""
MAX_TEXT = 5000
"""Characters of a tag or a parameter; MLflow's limit for tags."""
STATUS = {"running": "RUNNING", "completed": "FINISHED", "failed": "FAILED"}
"""MLflow's status; all others are KILLED, such as pruned and interrupted trials. The tag `status`
has kdtune's."""
STUDY, TRIAL, POSITION = "kdtune.study", "kdtune.trial", "kdtune.position"
PARENT, DESCRIPTION = "mlflow.parentRunId", "mlflow.note.content"


class MlflowTracker(Tracker):
    """Client of an MLflow server, or of a database file without a server."""

    title = "MLflow"

    def connect(self) -> str:
        """Find or create the experiment; find the runs of this study by their tags."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        self.client = MlflowClient()
        self.runs: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.trials: set[str] = set()
        self.experiment = self._find_experiment()
        for run in self._find_runs():
            name = run.data.tags[TRIAL]
            self.runs[name], self.states[name] = run.info.run_id, run.info.status
            if PARENT in run.data.tags:
                self.trials.add(name)
                self.positions[name] = run.data.tags.get(POSITION, "")
        place = self.client.tracking_uri
        if not place.startswith("http"):
            return f"experiment {self.experiment} of {place}"
        return f"{place.rstrip('/')}/#/experiments/{self.experiment}/{PAGE}"

    def _find_experiment(self) -> str:
        if own_id := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return own_id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.study.name
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    def _find_runs(self) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], f"tags.`{STUDY}` = '{self.study_id}'", page_token=token
            )
            yield from page
            if not (token := page.token):
                return

    def send(self, update: TrialUpdate) -> None:
        """Send the metrics, then the status, then the position: a retry begins with the metrics.

        MLflow's databases take the same metric of the same time only once.
        """
        trial, start = update.trial_id, update.start
        parent = self._run_of_config(update)
        if trial not in self.runs:
            facts = self.facts(start)
            name = f"{facts['config']}, repeat {start['repeat']}"
            self._create(trial, name, start["time"], {**facts, PARENT: parent})
            self.trials.add(trial)
            self._log(trial, params={**parameters(start), "repeat": start["repeat"]})
        metrics = [
            Metric(key, value, int(1000 * point.time), point.epoch)
            for point in update.points
            for key, value in point.metrics.items()
        ]
        for i in range(0, len(metrics), MAX_METRICS):
            self.client.log_batch(self.runs[trial], metrics=metrics[i : i + MAX_METRICS])
        own = {"status": update.status, POSITION: update.position}
        if update.error is not None or self.states[trial] == "FAILED":  # it is run again
            own["error"] = update.error or ""
        self._set_status(trial, STATUS.get(update.status, "KILLED"), update.time)
        own |= {"node": update.node} if update.node else {}
        self._log(trial, tags=own)
        self.positions[trial] = update.position

    def _run_of_config(self, update: TrialUpdate) -> str:
        """Return the run_id of the configuration's run, created if need be and running."""
        config_id = update.start["config_id"]
        if config_id not in self.runs:
            facts = self.facts(update.start)
            tags = {k: v for k, v in facts.items() if k not in ("repeat", "phase")}
            self._create(config_id, facts["config"], update.start["time"], tags)
            self._log(config_id, params=parameters(update.start))
        self._set_status(config_id, "RUNNING", update.time)
        return self.runs[config_id]

    def pause(self) -> None:
        """Mark all runs that are running as killed."""
        for name, state in list(self.states.items()):
            if state == "RUNNING":
                if name in self.trials:
                    self._log(name, tags={"status": "interrupted"})
                self._set_status(name, "KILLED")

    def conclude(self, conclusion: Conclusion) -> None:
        """Give each configuration's run its means, and the run "verdict" the conclusion."""
        for row in conclusion.configs.to_dict("records"):
            if row["config_id"] in self.runs:
                self._log(row["config_id"], metrics=means(row))
        if VERDICT not in self.runs:
            self._create(VERDICT, VERDICT, None, {"phase": VERDICT})
        self._log(VERDICT, tags={DESCRIPTION: conclusion.verdict})
        for path in conclusion.files:
            if path.is_dir():
                self.client.log_artifacts(self.runs[VERDICT], str(path), path.name)
            else:
                self.client.log_artifact(self.runs[VERDICT], str(path))
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            verdict = conclusion.verdict[:MAX_TEXT]  # the experiment is this study's own
            self.client.set_experiment_tag(self.experiment, DESCRIPTION, verdict)
        for name in self.states.keys() - self.trials:
            self._set_status(name, "FINISHED")

    def _create(self, name: str, title: str, begun: float | None, tags: Mapping[str, str]) -> None:
        own = {**tags, STUDY: self.study_id, TRIAL: name, "mlflow.source.name": "kdtune"}
        with suppress(KeyError, OSError):  # a user without a name
            own["mlflow.user"] = getpass.getuser()
        start = None if begun is None else int(1000 * begun)
        run = self.client.create_run(self.experiment, start, own, title)
        self.runs[name], self.states[name] = run.info.run_id, "RUNNING"

    def _log(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(
            self.runs[name],
            [Metric(k, v, now, 0) for k, v in (metrics or {}).items()],
            [Param(_allowed(k), str(v)[:MAX_TEXT]) for k, v in (params or {}).items()],
            [RunTag(k, v[:MAX_TEXT]) for k, v in (tags or {}).items()],
        )

    def _set_status(self, name: str, state: str, at: float | None = None) -> None:
        if self.states[name] == state:
            return
        if state == "RUNNING":
            self.client.update_run(self.runs[name], status=state)
        else:
            end = None if at is None else int(1000 * at)
            self.client.set_terminated(self.runs[name], state, end)
        self.states[name] = state


def means(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the means over repeats of a configuration under the names of its trials' metrics.

    The standard deviation of val/acc is val_sd/acc: MLflow's page has a section of charts for each
    beginning of a name.
    """
    named = {"repeats": float(row["repeats"])}
    for key, value in row.items():
        split, *rest = key.split("/")
        if rest[-1:] == ["mean"] and not math.isnan(value):
            named["/".join([split, *rest[:-1]])] = float(value)
        elif rest[-1:] == ["std"] and not math.isnan(value):
            named["/".join([f"{split}_sd", *rest[:-1]])] = float(value)
    return named


def _allowed(name: str) -> str:
    """Return a name with the characters that MLflow does not allow replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)
