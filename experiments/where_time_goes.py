"""Where the time of the default study goes: a table whose rows sum to its wall time.

    python experiments/where_time_goes.py        # about two minutes on two idle cores

The study runs cold: in a temporary folder, with an empty cache. The functions of `DRIVER` and
`TRIAL` are timed; where one calls another, the inner one counts. While trials run, a row is the
mean over the workers, one per core: their seconds divided by their number.
"""

import functools
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil

from kdtune import search
from kdtune.config.study import fashion
from kdtune.raytune import distillation

IMPORTS, TRIALS, REST = "imports", "trials", "all else in the driver"
DRIVER = {
    "kdtune.raytune.driver:_begin": "checks, data and recipe",
    "kdtune.raytune.driver:distillation.print_and_measure": "cost of the models",
    "kdtune.raytune.session:ray.init": "start of Ray",
    "kdtune.raytune.driver:machines.preflight": "check of the machine",
    "kdtune.raytune.distillation:TeacherPreparation.train_teachers": "teacher",
    "kdtune.raytune.distillation:TeacherPreparation.report_teacher_accuracy": "its accuracy",
    "kdtune.raytune.driver:_fit_until_done": TRIALS,
    "kdtune.raytune.session:ray.shutdown": "end of Ray",
    "kdtune.raytune.driver:folder.finish": "tables, students and summary",
}
"""Phases of the driver by function, module:name."""
TRIAL = {
    "kdtune.streams.views:Chunks.get": "trials: streams (views, teacher's logits)",
    "kdtune.training.loop:_train_epoch": "trials: training",
    "kdtune.training.loop:_evaluate": "trials: evaluation",
    "kdtune.training.loop:Checkpoint.save": "trials: checkpoints",
    "kdtune.training.run:save_weights": "trials: students and predictions",
    "kdtune.training.run:save_predictions": "trials: students and predictions",
}
"""Phases of a trial by function."""
SETUP, REPORTS = "trials: teacher, student and data of a run", "trials: reports to Tune"
START, BETWEEN = "workers: start and imports", "workers: between two trials"
END = "workers: after their last trial"


class Clock:
    """Seconds by phase, and when each phase began first and ended last."""

    def __init__(self, phase: str, since: float):
        self.phases, self.since = [phase], since
        self.seconds: dict[str, float] = defaultdict(float)
        self.spans: dict[str, tuple[float, float]] = {}

    def change(self) -> float:
        """Add the time since the last change to the present phase; return the time."""
        now = time.time()
        self.seconds[self.phases[-1]] += now - self.since
        self.since = now
        return now

    def watch(self, functions: Mapping[str, str]) -> None:
        """Replace functions by such as are in their phase while they run."""
        for target, phase in functions.items():
            module, _, path = target.partition(":")
            home, _, name = path.rpartition(".")
            owner: Any = import_module(module)
            owner = attrgetter(home)(owner) if home else owner
            setattr(owner, name, self.watched(getattr(owner, name), phase))

    def watched(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """Return a function that is in a phase while it runs."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            began = self.change()
            self.phases.append(phase)
            try:
                return function(*arguments, **named)
            finally:
                self.spans[phase] = (self.spans.get(phase, (began,))[0], self.change())
                self.phases.pop()

        return call


def timed_epochs(study: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    """Yield the epochs of a trial; write the seconds of its phases.

    A worker gets this function and what it uses by value, since they are of `__main__`; the module
    of kdtune there still has its own function.
    """
    clock: Any = getattr(distillation, "clock", None)
    if clock is None:
        clock = Clock("", 0.0)
        clock.watch(TRIAL)
        setattr(distillation, "clock", clock)  # noqa: B010 - an attribute that mypy does not know
    clock.phases, clock.since, clock.seconds = [SETUP], time.time(), defaultdict(float)
    began = clock.since
    for epoch in distillation.distillation_epochs(study, *arguments, **named):
        clock.change()
        clock.phases.append(REPORTS)
        yield epoch
        clock.change()
        clock.phases.pop()
    line = {"began": began, "ended": clock.change(), "seconds": clock.seconds}
    with Path(study.out, f"{os.getpid()}.jsonl").open("a") as file:
        print(json.dumps(line), file=file)


def of_workers(folder: Path, began: float, ended: float) -> dict[str, float]:
    """Return the phases of the time in which trials ran, as means over the workers.

    Args:
        folder: With a file of each worker, a line per trial.
        began: When Tune was started.
        ended: When it ended.
    """
    files = list(folder.glob("*.jsonl"))
    rows: dict[str, float] = defaultdict(float)
    for file in files:
        trials = [json.loads(text) for text in file.read_text().splitlines()]
        parts = [phase for trial in trials for phase in trial["seconds"].items()]
        parts += [(START, trials[0]["began"] - began), (END, ended - trials[-1]["ended"])]
        parts += [(BETWEEN, after["began"] - before["ended"]) for before, after in pairwise(trials)]
        for phase, seconds in parts:
            rows[phase] += seconds / len(files)
    return rows


def table(seconds: Mapping[str, float]) -> str:
    """Return seconds by phase as a table in Markdown, with their sum."""
    total = sum(seconds.values())
    rows = [*seconds.items(), ("**all**", total)]
    lines = [f"| {name} | {value:.1f} | {value / total:.0%} |" for name, value in rows]
    return "\n".join(["| phase | seconds | share |", "|---|--:|--:|", *lines])


def main() -> None:
    """Run the default study and print the table."""
    clock = Clock(IMPORTS, psutil.Process().create_time())
    clock.change()
    clock.phases = [REST]
    distillation.distillation_epochs = timed_epochs  # type: ignore[assignment]
    clock.watch(DRIVER)
    with tempfile.TemporaryDirectory() as name:
        search.main(replace(fashion(), out=name, cache=f"{name}/cache", gpus=0))
        clock.change()
        rows = dict(clock.seconds)
        del rows[TRIALS]
        print(table(rows | of_workers(Path(name), *clock.spans[TRIALS])))


if __name__ == "__main__":
    main()
