"""Send a study to a tracker, MLflow or Weights & Biases.

python -m kdtune.track runs/fashion --tracker mlflow [wandb]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("track")  # refuses wrong flags before the clients are loaded; does not return

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pandas as pd
from filelock import FileLock, Timeout

from kdtune.config.files import check_links
from kdtune.config.study import TrackFlags
from kdtune.config.text import InputError, first_line
from kdtune.reporting.build import write
from kdtune.results.comparison import completed, csv_text
from kdtune.results.results import Results, load
from kdtune.storage.mirror import fetch
from kdtune.storage.records import is_running, read_study
from kdtune.tracking.sync import Conclusion, Sync

COMPLETE = "complete"
"""What a search writes to the standard input of --follow once a study is complete."""
LOCK_SECONDS = 120.0
"""Longest wait for a process of an earlier search that still sends its last records."""


def main(flags: TrackFlags) -> int:
    """Send the study to each tracker; return the exit code: 1 if one has not got everything."""
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
    trials = completed(results.search_trials)
    metrics = [name for name in trials if name.endswith("@last") and trials[name].notna().any()]
    groups = trials.groupby(["config_id", "label"], sort=False)
    frame = groups[metrics].agg(["mean", "std"])
    frame.columns = [f"{name.removesuffix('@last')}/{what}" for name, what in frame.columns]
    frame.insert(0, "repeats", groups.size())
    return frame.reset_index()
