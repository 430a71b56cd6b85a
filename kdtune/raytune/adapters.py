"""Ray Tune's searcher and scheduler on top of the plan.

Neither has a state of its own, on disk or in memory: the plan follows from the records.
"""

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from kdtune.config.study import Study
from kdtune.planning.plan import Plan
from kdtune.raytune.reporter import make_run


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
