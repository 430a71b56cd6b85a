"""Progress of a study on a terminal: a live table, or lines if the output is no terminal."""

import math
import time

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from kdtune.planning.ledger import ConfigState
from kdtune.planning.plan import Plan
from kdtune.planning.standing import (
    Finalists,
    active_configs,
    describe_decision,
    final_differences,
    finalists,
)
from kdtune.raytune.reporter import shown_names
from kdtune.results.comparison import Criterion
from kdtune.results.tables import cell
from kdtune.statistics.intervals import mean_interval, paired_difference
from kdtune.streams.cache import Cache
from kdtune.training.progress import Progress, describe_build

REFRESH_SECONDS = 1.0
"""Time between two updates of the live table."""
MAX_ROWS = 8
"""Configurations in the live table; the best one without distillation is always among them."""


class ProgressDisplay(Progress):
    """Lines that stay, above a table of the best configurations and a bar of the ended runs.

    A context manager: the table is shown until the context is left.

    Args:
        plan: The plan whose runs are shown.
        cache: The cache that says what is being built for it.
    """

    def __init__(self, plan: Plan, cache: Cache):
        super().__init__()
        self.plan, self.cache = plan, cache
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[building]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("runs", total=plan.runs_left, building="")
        self._live = Live(self._bar, console=self.console, auto_refresh=False, transient=True)
        self._refreshed = 0.0
        self._last_line = 0.0  # the first refresh prints a line

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def advance(self) -> None:
        """Count one more ended run."""
        self._bar.advance(self._task)

    def refresh(self) -> None:
        """Show what is being built and the state of the study, if an update is due."""
        if not self.console.is_terminal:
            if self.is_line_due():
                for text in filter(None, (self._building(), describe_state(self.plan))):
                    self.print_line(f"  {text}")
        elif time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            self._bar.update(self._task, building=self._building())
            self._live.update(Group(make_table(self.plan), self._bar), refresh=True)

    def _building(self) -> str:
        first = next(self.cache.building(), None)
        return describe_build(*first) if first else ""


def make_table(plan: Plan) -> Table:
    """Return the best active configurations with their mean ± sd so far."""
    names, task = shown_names(plan.study), plan.study.task
    score = f"val {task.score}"
    table = Table(*names, "n", score, caption=describe_state(plan), caption_justify="left")
    students = active_configs(plan.ledger).values()
    each = max(2, MAX_ROWS // max(1, len(students)))
    best = (
        state for arms in students for state in (*arms.distilled[: each - 1], *arms.baseline[:1])
    )
    for state in best:
        values = [cell(state.run.config[name]) for name in names]
        interval = mean_interval([task.sign * score for score in state.scores.values()])
        spread = f" ± {interval.sd:.4f}" if interval.n > 1 else ""
        table.add_row(*values, str(interval.n), f"{interval.mean:.4f}{spread}")
    return table


def describe_state(plan: Plan) -> str:
    """Return the number of runs by status, the lead over the baseline and whether it is decided."""
    counts: dict[str, int] = {}
    for state in plan.ledger.by_row:
        for status in state.status.values():
            counts[status] = counts.get(status, 0) + 1
    parts = [
        f"{counts[status]} {status}"
        for status in ("completed", "running", "failed", "pruned", "dropped")
        if status in counts
    ]
    pairs = finalists(plan.ledger)
    for pair in pairs:
        if pair.baseline is not None and pair.distilled is not None:
            student = f"{pair.baseline.arm.group}: " * (len(pairs) > 1)
            parts.append(student + _describe_lead(plan, pair, pair.baseline, pair.distilled))
    return ", ".join(parts)


def _describe_lead(
    plan: Plan, pair: Finalists, baseline: ConfigState, distilled: ConfigState
) -> str:
    criterion = Criterion(task=plan.study.task)
    scale, unit = criterion.scale, " points" * criterion.in_points
    if final := final_differences(plan.ledger, pair):
        mean = scale * criterion.sign * sum(final) / len(final)
        text = f"{mean:{_form(criterion)}}{unit} over {len(final)} final repeats"
        if plan.study.until_decided:
            text += f", {describe_decision(plan.ledger, pair)}"
        return text
    common = sorted(baseline.scores.keys() & distilled.scores.keys())
    sign, form = scale * criterion.sign, _form(criterion)
    ours, theirs = ([sign * state.scores[r] for r in common] for state in (distilled, baseline))
    interval = paired_difference(ours, theirs).interval
    ends = f"{interval.low:{form}} to {interval.high:{form}}"
    has_none = math.isnan(interval.low) or plan.study.run.folds is not None  # other images each
    shown = "" if has_none else f" (95% CI for these {criterion.task.examples} {ends})"
    lead = f"{interval.mean:{form}}{unit}{shown} over {interval.n} repeats"
    best = "best distilled" if criterion.task.is_distillation else "best"
    return f"{best} minus best baseline {lead}"


def _form(criterion: Criterion) -> str:
    return "+.1f" if criterion.in_points else "+.3g"
