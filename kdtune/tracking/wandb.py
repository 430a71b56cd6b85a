"""Runs of a project of Weights & Biases: one per trial, grouped by configuration.

WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_DIR and the other variables are respected. What
wandb has taken is on this machine's disk, also without a network (`wandb sync` uploads it): a file
in the study's folder says up to which record.
"""

import json
from typing import Any

import wandb

from kdtune.config.files import atomic_write
from kdtune.tracking.sync import VERDICT, Conclusion, Tracker, TrialUpdate, parameters

FILE = "wandb.json"
"""In the study's folder: place → trial_id → position of the last record that wandb has taken."""
TIMEOUT_SECONDS = 30.0
"""Longest wait for the server at the start and at the end of a run."""


class WandbTracker(Tracker):
    """Client of Weights & Biases, or of its local files if WANDB_MODE is offline."""

    title = "W&B"

    def connect(self) -> str:
        """Read which records wandb has taken; no connection is made before the first run."""
        self.open: dict[str, Any] = {}
        settings = wandb.setup().settings
        mode = settings.mode or "online"
        self.project = settings.project or self.study.name
        where = "offline" if mode != "online" else settings.base_url
        self.place = f"{where} {settings.entity or ''}/{self.project} {self.study_id}"
        self.positions = self._read().get(self.place, {})
        return f"project {self.project} ({where})"

    def send(self, update: TrialUpdate) -> None:
        """Log the epochs as steps; end the run if the trial has ended."""
        trial = update.trial_id
        run = self.open.get(trial) or self._open(update)
        for point in update.points:
            if point.epoch >= run.starting_step:  # the server has the earlier ones
                run.log({**point.metrics, "epoch": point.epoch}, step=point.epoch)
        run.summary["status"] = update.status
        if update.error is not None:
            run.summary["error"] = update.error
            run.notes = update.error
        if update.node is not None:
            run.summary["node"] = update.node
        if update.status != "running":
            if update.status != "completed":
                run.tags = (*(run.tags or ()), update.status)
            self.open.pop(trial).finish(exit_code=int(update.status == "failed"))
        self.positions[trial] = update.position
        self._write()

    def _open(self, update: TrialUpdate) -> Any:
        """Return the run of a trial; on the server one that was begun earlier is continued."""
        start, facts = update.start, self.facts(update.start)
        run = self._init(
            update.trial_id,
            name=f"{facts['config']}, repeat {start['repeat']}",
            group=facts["config"],
            job_type=facts["phase"],
            tags=[f"repeat {start['repeat']}", *filter(None, [facts.get("student")])],
            config={
                **parameters(start),
                "repeat": start["repeat"],
                "config_id": start["config_id"],
            },
        )
        self.open[update.trial_id] = run
        return run

    def _init(self, name_of_id: str, **own: Any) -> Any:
        quiet = wandb.Settings(
            init_timeout=TIMEOUT_SECONDS,
            finish_timeout=TIMEOUT_SECONDS,
            console="off",
            silent=True,
            x_disable_stats=True,
            disable_git=True,
        )
        return wandb.init(
            id=f"{self.study_id}-{name_of_id}",
            project=self.project,
            resume="allow",
            reinit="create_new",
            settings=quiet,
            **own,
        )

    def pause(self) -> None:
        """End the runs of trials that have not ended; they are continued if the study is."""
        for run in self.open.values():
            run.summary["status"] = "interrupted"
            run.finish(exit_code=1)
        self.open = {}

    def conclude(self, conclusion: Conclusion) -> None:
        """Write the run "verdict": the conclusion as notes, the table, the page, all as files."""
        self.pause()
        run = self._init(VERDICT, name=VERDICT, job_type=VERDICT, notes=conclusion.verdict)
        run.summary["verdict"] = conclusion.verdict
        run.log({"configurations": wandb.Table(dataframe=conclusion.configs)})
        artifact = wandb.Artifact(f"{self.study.name}-report", type="report")
        for path in conclusion.files:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name)
                continue
            artifact.add_file(str(path))
            if path.suffix == ".html":
                run.log({"report": wandb.Html(path.read_text(encoding="utf-8"), inject=False)})
        run.log_artifact(artifact)
        run.finish()

    def _read(self) -> dict[str, dict[str, str]]:
        file = self.folder / FILE
        if not file.exists():
            return {}
        places: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
        return places

    def _write(self) -> None:
        places = {**self._read(), self.place: self.positions}
        with atomic_write(self.folder / FILE) as part:
            part.write_text(json.dumps(places), encoding="utf-8")
