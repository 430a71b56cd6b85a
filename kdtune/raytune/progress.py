"""What the terminal shows while a study runs: a live table on a terminal, else lines."""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kdtune.planning.ledger import ConfigState
from kdtune.planning.plan import Plan
from kdtune.planning.standing import active_configs, final_differences, finalists, is_decided
from kdtune.results.tables import cell
from kdtune.statistics.intervals import mean_interval, paired_difference
from kdtune.statistics.sequential import anytime_p
from kdtune.streams.cache import Cache

BEAT_SECONDS = 1.0
LINE_SECONDS = 15.0
ROWS = 8
"""Configurations shown, the best of plain training among them."""


class ProgressDisplay:
    """Lines that stay, above a table of the best configurations and a bar of runs done.

    Args:
        plan: what is shown.
        cache: whose builders are named while they build.
    """

    def __init__(self, plan: Plan, cache: Cache):
        self.console = Console(highlight=False, soft_wrap=True)
        self.plan, self.cache = plan, cache
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[building]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("runs", total=plan.runs_left, building="")
        self._live = Live(self._bar, console=self.console, auto_refresh=False, transient=True)
        self._last = 0.0

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def advance(self) -> None:
        """One more run has ended."""
        self._bar.advance(self._task)

    def beat(self) -> None:
        """Now and then: what is being built, and how the study stands."""
        pause = BEAT_SECONDS if self.console.is_terminal else LINE_SECONDS
        if time.monotonic() - self._last < pause:
            return
        self._last = time.monotonic()
        first = next(self.cache.building(), None)
        text = f"building {first[0]} ({first[1]} of {first[2]})" if first else ""
        if self.console.is_terminal:
            self._bar.update(self._task, building=text)
            self._live.update(Group(board(self.plan), self._bar), refresh=True)
            return
        if text:
            self.line(f"  {text}")
        if text := in_words(self.plan):
            self.line(f"  {text}")


def board(plan: Plan) -> Table:
    """The best configurations that are in question, with their mean ± sd so far."""
    names = plan.study.searched or ["alpha"]
    table = Table(*names, "n", "val acc", caption=in_words(plan), caption_justify="left")
    arms = active_configs(plan.ledger)
    for tried in [*arms.distilled[: ROWS - 1], *arms.baseline[:1]]:
        values = [cell(tried.run.config[name]) for name in names]
        interval = mean_interval(list(tried.scores.values()))
        spread = f" ± {interval.sd:.4f}" if interval.n > 1 else ""
        table.add_row(*values, str(interval.n), f"{interval.mean:.4f}{spread}")
    return table


def in_words(plan: Plan) -> str:
    """Runs by what came of them, the lead over plain training, whether that is decided."""
    counts: dict[str, int] = {}
    for tried in plan.ledger.by_row:
        for status in tried.status.values():
            counts[status] = counts.get(status, 0) + 1
    words = {"completed": "done", "running": "running", "failed": "failed", "pruned": "stopped"}
    parts = [f"{counts[status]} {word}" for status, word in words.items() if status in counts]
    both = finalists(plan.ledger)
    if len(both) == 2:
        parts.append(_lead(plan, *both))
    return ", ".join(parts)


def _lead(plan: Plan, plain: ConfigState, distilled: ConfigState) -> str:
    if final := final_differences(plan.ledger):
        points = 100 * sum(final) / len(final)
        text = f"{points:+.1f} points over {len(final)} final repeats"
        if plan.study.until_decided:
            state = "decided" if is_decided(plan.ledger) else "not decided"
            text += f", {state} (anytime p {anytime_p(final):.2g})"
        return text
    common = sorted(plain.scores.keys() & distilled.scores.keys())
    ours, theirs = ([tried.scores[r] for r in common] for tried in (distilled, plain))
    interval = paired_difference(ours, theirs).interval
    half = f" ± {100 * interval.half_width:.1f}" if interval.n > 1 else ""
    return f"best against plain {100 * interval.mean:+.1f}{half} points over {interval.n} repeats"
