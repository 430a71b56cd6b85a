"""Between Ray Tune and the plan: a Searcher that hands out its runs, a scheduler that stops some.

Neither keeps a state of its own, on disk or in memory: the plan follows from the records.
"""

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from kdtune.config.hyperparameters import HYPERPARAMETERS
from kdtune.config.study import Study
from kdtune.planning.plan import Plan
from kdtune.raytune.trial import run_of


class RepeatSearcher(Searcher):
    """Hands out the plan's runs, each once, as many at a time as there is room for."""

    def __init__(self, plan: Plan, room: Callable[[], int]):
        super().__init__()
        self.plan, self.room = plan, room

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that is never made

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Metric, mode and space are the study's, not the tuner's."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The configuration and repeat of the next trial; None to wait; or that there is none."""
        if len(self.plan.ledger.running) >= self.room():
            return None
        run = self.plan.next_run()
        if run is not None:
            return {name: getattr(run, name) for name in (*HYPERPARAMETERS, "repeat")}
        return None if self.plan.ledger.running else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to learn: the recorder tells the plan what it writes down."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records say what is left."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class EarlyStopper(FIFOScheduler):
    """Stops the runs that the plan says have fallen behind."""

    def __init__(self, plan: Plan, study: Study):
        super().__init__()
        self.plan, self.study = plan, study

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial that reports epochs goes on. Asked before they are written down."""
        run = run_of(self.study, trial.config)
        if self.plan.should_prune(run, result.get("epochs", ())):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)
