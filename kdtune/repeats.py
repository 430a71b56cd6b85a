"""Which trial next: a Ray Tune Searcher that hands out configurations x repeats.

Configuration by configuration with the repeats inside, so that trials that run at once are of
different repeats and build different streams. It keeps no state of its own on disk: it is made
anew from what the records still lack.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from kdtune.config import HYPERPARAMETERS, Run, Study


def missing_runs(study: Study, done: Iterable[str]) -> list[Run]:
    """The runs of the study, in the order to run them, whose trial_id is not among those done."""
    ended = set(done)
    runs = [replace(run, repeat=r) for run in study.runs() for r in range(study.repeats)]
    return [run for run in runs if run.trial_id not in ended]


class RepeatSearcher(Searcher):
    """Hands out the given runs, each once, as many at a time as there is room for."""

    def __init__(self, runs: Iterable[Run], room: Callable[[], int]):
        super().__init__()
        self.waiting, self.room = deque(runs), room
        self.running: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that is never made

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Metric, mode and space are the study's, not the tuner's."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The configuration and repeat of the next trial; None to wait; or that there is none."""
        if not self.waiting:
            return Searcher.FINISHED
        if len(self.running) >= self.room():
            return None
        self.running.add(trial_id)
        run = self.waiting.popleft()
        return {name: getattr(run, name) for name in (*HYPERPARAMETERS, "repeat")}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """One fewer runs."""
        self.running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records say what is left."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
