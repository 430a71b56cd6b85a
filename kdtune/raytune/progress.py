"""Progress of a study: live table, lines, notification, trackers."""

import io
import os
import subprocess
import tempfile
import time
from collections import Counter
from signal import SIGKILL
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from kdtune.config.study import Study
from kdtune.config.text import first_line, printable, time_text
from kdtune.planning import ledger
from kdtune.planning.plan import Plan
from kdtune.raytune.function import shown_names
from kdtune.results.comparison import Criterion
from kdtune.results.formatting import cell
from kdtune.results.results import Results, task_of
from kdtune.results.words import count_of, sentence, undecidable_sentence
from kdtune.statistics.intervals import mean_interval, paired_difference
from kdtune.streams.cache import Cache
from kdtune.training.recipe import Progress, describe_build

# Output of a notebook's cell that is replaced at each update.
#
# IPython is imported where it is used: kdtune does not need it, and a notebook has it.


class NotebookOutput:
    """Text below a notebook's cell that an update replaces, as a terminal redraws its last lines.

    A saved notebook holds the last text only.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._text = ""

    def show(self, text: str) -> None:
        """Show a text in place of the last one."""
        if text == self._text:
            return
        self._text = text
        content = {"text/plain": text}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


# Progress of a study: a live table on a terminal or in a notebook, otherwise lines.


REFRESH_SECONDS = 1.0
"""Time between two updates of the live table."""
_MAX_ROWS = 8
"""Configurations in the live table; the best one without distillation is always among them."""


class ProgressDisplay(Progress):
    """Lines that stay, above a table of the best configurations and a bar of the ended runs.

    A context manager: the table is shown until the context is left. In a notebook the table is one
    output that is replaced at each update and stays at the end. There only failed runs have a line
    that stays, since all output of a cell is saved.

    Args:
        plan: The plan whose runs are shown.
        cache: The cache that says what is being built for it.
    """

    def __init__(self, plan: Plan, cache: Cache):
        super().__init__()
        self.plan, self.cache, self.criterion = plan, cache, deciding_criterion(plan)
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[now]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("runs", total=plan.runs_left, now="")
        self._live = Live(self._bar, console=self.console, auto_refresh=False, transient=True)
        self._output, self._epoch = NotebookOutput(), NotebookOutput()
        self._latest = ""
        self._refreshed = 0.0
        self._last_line = 0.0  # the first refresh prints a line

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self.in_notebook:
            self._show_in_notebook()

    def print_epoch(self, text: str) -> None:
        """Print a line about an epoch of a teacher; in a notebook it replaces the last one."""
        if self.in_notebook:
            self._epoch.show(text)
        else:
            self.print_line(text)

    def advance(self, text: str, failed: bool = False) -> None:
        """Count one more ended run.

        Args:
            text: The line about it.
            failed: Whether it failed.
        """
        if failed or not self.in_notebook:
            self.print_line(text)
        self._latest = text
        self._bar.advance(self._task)

    def refresh(self) -> None:
        """Show what is being built and the state of the study, if an update is due."""
        if not (self.in_notebook or self.console.is_terminal):
            if self.is_line_due():
                parts = (describe_state(self.plan, self.criterion), describe_time_left(self.plan))
                for text in filter(None, (self._building(), ", ".join(filter(None, parts)))):
                    self.print_line(f"  {text}")
        elif time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            now = [describe_time_left(self.plan), self._building()]
            if self.in_notebook:
                self._show_in_notebook(*now, self._latest.strip())
                return
            self._bar.update(self._task, now=", ".join(filter(None, now)))
            state = Text(describe_state(self.plan, self.criterion), style="dim italic")
            self._live.update(Group(make_table(self.plan), state, self._bar), refresh=True)

    def _show_in_notebook(self, *now: str) -> None:
        """Show the table, the state of the study, and lines about what it does now."""
        task, state = self._bar.tasks[0], describe_state(self.plan, self.criterion)
        planned = "" if task.total is None else f" of {task.total:g}"
        state = f"{task.completed:g}{planned} runs ended: {state}".removesuffix(": ")
        plain: Any = {"color_system": None, "force_jupyter": False, "force_terminal": False}
        console = Console(file=io.StringIO(), width=100, **plain)
        with console.capture() as shown:
            console.print(make_table(self.plan))
        lines = [*shown.get().rstrip().splitlines(), *filter(None, (state, *now))]
        self._output.show("\n".join(line.rstrip() for line in lines))

    def _building(self) -> str:
        first = next(self.cache.building(), None)
        return describe_build(first.what, first.done, first.total) if first else ""


def deciding_criterion(plan: Plan) -> Criterion:
    """Return the criterion by which a study decides, from what its folder says of its data."""
    return Criterion(task=task_of(plan.study, plan.study.folder))


def make_table(plan: Plan) -> Table:
    """Return the best active configurations with their mean ± sd so far."""
    names, task = shown_names(plan.study), plan.study.task
    table = Table(*names, "n", f"val {task.score}")
    students = ledger.active_configs(plan.ledger).values()
    each = max(2, _MAX_ROWS // max(1, len(students)))
    best = (
        state for arms in students for state in (*arms.distilled[: each - 1], *arms.baseline[:1])
    )
    for state in best:
        config = state.run.task.resolved(state.run.config)
        values = [cell(config[name]) for name in names]
        interval = mean_interval([task.sign * score for score in state.scores.values()])
        spread = f" ± {interval.sd:.4f}" if interval.n > 1 else ""
        table.add_row(*values, str(interval.n), f"{interval.mean:.4f}{spread}")
    return table


def describe_state(plan: Plan, criterion: Criterion) -> str:
    """Return the number of runs by status, the lead over the baseline and whether it is decided."""
    counts = Counter(status for state in plan.ledger.by_row for status in state.status.values())
    parts = [
        f"{counts[status]} {status}"
        for status in ("completed", "running", "failed", "pruned", "dropped")
        if status in counts
    ]
    pairs = ledger.finalists(plan.ledger)
    for pair in pairs:
        if lead := _describe_lead(plan, pair, criterion):
            parts.append(f"{pair.states[0].arm.group}: " * (len(pairs) > 1) + lead)
    return ", ".join(parts)


def describe_start(plan: Plan) -> str:
    """Return how many runs there are to do, and how long that is expected to take."""
    left = "all runs" if plan.runs_left is None else f"{plan.runs_left} runs"
    text = f"Running {left}, {plan.concurrency} at a time"
    if (seconds := plan.expected_seconds) is None:
        return f"{text}."
    return f"{text}: {time_text(seconds)} (estimate from one training step of each student)."


def describe_time_left(plan: Plan) -> str:
    """Return an estimate of the time left, from the epochs so far; "" where nothing is known."""
    left, cost, seconds = plan.epochs_left, plan.ledger.cost, plan.expected_seconds
    if not left or not cost.epochs:
        return ""
    if seconds is None:
        seconds = left * cost.seconds / cost.epochs / max(1, len(plan.ledger.running))
    # the time between epochs is not counted
    return f"{time_text(seconds)} left (estimate from {count_of(cost.epochs, 'epoch')})"


def describe_end(plan: Plan) -> str:
    """Return why --repeats auto ended: with a decision, with its budget, or for lack of images."""
    pairs, criterion = ledger.decisions(plan.ledger), deciding_criterion(plan)
    tests = [(decision.test, decision.level) for decision in pairs]
    return sentence(
        "auto ended",
        decisions=pairs,
        study=plan.study,
        is_decided=ledger.is_decided(plan.ledger),
        is_spent=plan.ledger.cost.reaches(plan.study.budget),
        limits=[undecidable_sentence(t.images, t.least_decidable(n), criterion) for t, n in tests],
    )


def _describe_lead(plan: Plan, pair: ledger.Finalists, criterion: Criterion) -> str:
    baseline, distilled = pair.baseline, pair.distilled
    if baseline is None or distilled is None:
        return ""
    sign = criterion.scale * criterion.sign
    if final := ledger.final_test(plan.ledger, pair).differences:
        mean = sign * sum(final) / len(final)
        of_pair = (d for d in ledger.decisions(plan.ledger) if d.pair.baseline is baseline)
        decision = next(of_pair) if plan.study.until_decided else None
        facts: dict[str, Any] = {"mean": mean, "n": len(final), "decision": decision}
        return sentence("final lead", criterion=criterion, **facts)
    common = sorted(baseline.scores.keys() & distilled.scores.keys())
    ours, theirs = ([sign * state.scores[r] for r in common] for state in (distilled, baseline))
    interval = paired_difference(ours, theirs).interval
    return sentence("lead", criterion=criterion, interval=interval, folds=plan.study.run.folds)


# The command of --notify, which is run once at the end of a study.


NOTIFY_SECONDS = 60.0
"""Longest time that the command may take."""
MAX_VARIABLE = 10_000
"""Characters of KDTUNE_VERDICT; systems limit the size of the environment."""


def describe_outcome(end: Results | BaseException) -> tuple[str, str]:
    """Return how a study has ended, and the conclusion in words or why there is none.

    The first is completed, failed (no run has completed, or an error) or interrupted.
    """
    if isinstance(end, KeyboardInterrupt):
        reason = f" ({end})" if str(end) else ""
        return "interrupted", f"The study was interrupted{reason}."
    if isinstance(end, BaseException):
        return "failed", f"The study failed: {type(end).__name__}: {first_line(end)}"
    has_completed = "completed" in set(end.trials.status)
    return "completed" if has_completed else "failed", end.verdict()


def notify(command: str | None, study: Study, end: Results | BaseException) -> None:
    """Run the command, if there is one; one that fails or takes too long is a warning.

    It gets the verdict on its standard input and in environment variables. No text of the study
    becomes part of the command, so nothing in a verdict can be run.
    """
    if command is None:
        return
    status, verdict = describe_outcome(end)
    variables = {
        "KDTUNE_STUDY": study.name,
        "KDTUNE_FOLDER": study.uri or str(study.folder.absolute()),
        "KDTUNE_STATUS": status,
        "KDTUNE_VERDICT": verdict.replace("\0", "")[:MAX_VARIABLE],
    }
    with tempfile.TemporaryFile() as output:  # a process in the background would hold a pipe
        try:
            process = subprocess.Popen(  # noqa: S602 - the user's own command
                command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
                start_new_session=True,
            )
            process.communicate(f"{verdict}\n".encode(), NOTIFY_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, SIGKILL)
            process.wait()
            print(f"warning: --notify was ended after {NOTIFY_SECONDS:.0f} s")
        except OSError as error:
            print(f"warning: --notify cannot be run ({error})")
        else:
            if process.returncode != 0:
                output.seek(0)
                last = output.read().decode(errors="replace").strip().splitlines()[-1:]
                reason = "".join(f": {printable(line[:200])}" for line in last)
                print(f"warning: --notify ended with exit code {process.returncode}{reason}")
