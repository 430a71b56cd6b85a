"""Send a study to a tracker, MLflow or Weights & Biases.

python -m kdtune.track runs/fashion --tracker mlflow [wandb]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, get_args

from kdtune.config.cli import parse_own_flags, start
from kdtune.config.fields import Setting, check_fields
from kdtune.config.files import check_links
from kdtune.config.study import TrackerName, check_packages, check_trackers
from kdtune.config.text import InputError, first_line

if TYPE_CHECKING:
    import pandas as pd

    from kdtune.results.results import Results
    from kdtune.tracking.sync import Conclusion

COMPLETE = "complete"
"""What a search writes to the standard input of --follow once a study is complete."""
LOCK_SECONDS = 120.0
"""Longest wait for a process of an earlier search that still sends its last records."""


@dataclass(frozen=True)
class TrackFlags:
    """Send the records of a study to a tracker: what the tracker lacks, and the conclusion.

    `python -m kdtune.search --tracker NAME` does it while the study runs. This command is for a
    study that ran without, or while the tracker could not be reached.
    """

    run: Annotated[str, Setting(place=True, metavar="RUN")]
    """Folder of the study, or s3://BUCKET/PREFIX/NAME."""
    tracker: tuple[TrackerName, ...] = ()
    """Trackers: mlflow, wandb (Weights & Biases)."""
    follow: bool = False
    """Send new records until the standard input ends (a search does this); then, if it says
    "complete", the conclusion."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.tracker:
            names = " or ".join(get_args(TrackerName))
            raise InputError(f"--tracker must be given, {names} (or both)")
        check_trackers(self.tracker)
        check_packages(self.tracker)
        if self.follow and len(self.tracker) > 1:
            raise InputError("--follow must have one tracker; start a process for each")


FLAGS = (TrackFlags,)


def parse(words: Sequence[str]) -> TrackFlags:
    """Return what a command line asks for."""
    flags: TrackFlags = parse_own_flags(TrackFlags, "track", words)
    return flags


def main(flags: TrackFlags) -> int:
    """Send the study to each tracker; return the exit code: 1 if one has not got everything."""
    from kdtune.results.results import load
    from kdtune.storage.mirror import fetch
    from kdtune.storage.records import read_study
    from kdtune.tracking.sync import Sync

    folder = fetch(flags.run).folder if "://" in flags.run else Path(flags.run).expanduser()
    check_links(folder)
    study, over = read_study(folder), Event()
    if flags.follow:
        is_complete = _until_input_ends(over)
    else:
        over.set()
        is_complete = partial(_has_ended, folder)
    say = partial(print, file=sys.stdout, flush=True)
    # clients print, too: MLflow a line for each run
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as place:

        def conclude() -> Conclusion | None:
            return make_conclusion(load(folder), Path(place), say) if is_complete() else None

        done = True
        for name in flags.tracker:
            with _lock(folder, name, LOCK_SECONDS if flags.follow else 0):
                done &= Sync(name, study, folder, say).follow(over, conclude)
    return 0 if done else 1


def _has_ended(folder: Path) -> bool:
    """Return True if no search runs the study: what there is, is concluded."""
    from kdtune.storage.records import is_running

    return not is_running(folder)


def _until_input_ends(over: Event) -> Callable[[], bool]:
    """Set the event when the standard input ends, also since the search was killed.

    Returns:
        A function that returns True if the search has written that the study is complete.
    """
    lines: list[str] = []

    def read() -> None:
        lines.extend(line.strip() for line in sys.stdin)
        over.set()

    Thread(target=read, daemon=True).start()
    return lambda: COMPLETE in lines


@contextmanager
def _lock(folder: Path, name: str, timeout: float) -> Iterator[None]:
    """Hold the lock that lets one process at a time send a study to a tracker."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise InputError(
            f"{folder} is being sent to {name} by another process; wait for it to end"
        ) from None
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def make_conclusion(results: Results, place: Path, say: Callable[[str], None]) -> Conclusion:
    """Return the study's conclusion; write its tables, its page and its figures into a folder.

    Args:
        results: The study.
        place: The folder.
        say: Is given a warning if the page cannot be made; the rest is sent without it.
    """
    from kdtune.reporting.build import write
    from kdtune.results.comparison import csv_text
    from kdtune.tracking.sync import Conclusion

    (place / "summary.csv").write_text(csv_text(results.summary()), encoding="utf-8")
    (place / "summary.md").write_text(f"{results.text()}\n", encoding="utf-8")
    try:
        write(results, results.default_criterion, place)
    except Exception as error:  # a report that fails must not keep the verdict from the tracker
        say(f"warning: the report cannot be made ({type(error).__name__}: {first_line(error)})")
    names = ("summary.md", "summary.csv", "report.html", "figures")
    files = [place / name for name in names if (place / name).exists()]
    return Conclusion(results.verdict(), _means(results), files)


def _means(results: Results) -> pd.DataFrame:
    """Return mean and SD of each metric at the last epoch over the repeats of the search.

    A row per configuration: config_id, label, repeats, SPLIT/METRIC/mean and /std.
    """
    from kdtune.results.comparison import completed

    trials = completed(results.search_trials)
    metrics = [name for name in trials if name.endswith("@last") and trials[name].notna().any()]
    groups = trials.groupby(["config_id", "label"], sort=False)
    frame = groups[metrics].agg(["mean", "std"])
    frame.columns = [f"{name.removesuffix('@last')}/{what}" for name, what in frame.columns]
    frame.insert(0, "repeats", groups.size())
    return frame.reset_index()


if __name__ == "__main__":
    start("track")  # does not return
