"""Runs that are dropped from a study, and restored: records appended while no driver runs it.

A dropped run stays in the records, counts in no table, and is not run again unless
`--rerun-dropped` asks for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from kdtune.config.errors import InputError
from kdtune.config.files import CHECKPOINT, EPOCHS, TRIALS, delete_states
from kdtune.storage.fetch import fetch
from kdtune.storage.lease import hold_lease
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import Mark, Records, is_running, read_lines, read_study
from kdtune.storage.schema import Line
from kdtune.storage.study_lock import lock_study


class _Standing(NamedTuple):
    """Runs of a study by trial_id."""

    started: dict[str, Line]
    dropped: dict[str, Line]


def mark_trials(
    place: str, drop: Sequence[str], restore: Sequence[str], reason: str | None = None
) -> None:
    """Drop runs of a study and restore dropped ones; all of them, or none if one is refused.

    Args:
        place: Folder of the study, or its URI on an object store.
        drop: Ids of the trials to drop.
        restore: Ids of dropped trials that count again, with the results that they had.
        reason: Why; recorded and shown with the runs.

    Raises:
        InputError: A driver runs the study, or a trial is not in a state to be dropped or restored.
    """
    wanted: dict[Mark, list[str]] = {
        "drop": list(dict.fromkeys(drop)),
        "restore": list(dict.fromkeys(restore)),
    }
    if both := set(drop) & set(restore):
        raise InputError(
            f"--drop and --restore must name different runs, but both name {min(both)}"
        )
    with _hold(place) as (folder, mirror):
        standing = _read_standing(folder)
        for kind, trials in wanted.items():
            _check(kind, trials, standing, place)
        with Records(folder) as records:
            for kind, trials in wanted.items():
                for trial in trials:
                    records.mark(kind, standing.started[trial], reason)
        mirror.push(EPOCHS)
        for trial in drop:  # a run that is dropped for a fault must not continue from its state
            delete_states(folder / TRIALS / trial / CHECKPOINT)
            mirror.delete(f"{TRIALS}/{trial}/{CHECKPOINT}")


@contextmanager
def _hold(place: str) -> Iterator[tuple[Path, Mirror]]:
    """Hold the lock of a study, on a store its lease; yield its folder with current records."""
    if "://" in place:
        copy = fetch(place)
        _refuse_if_running(copy.is_running, place)
        uri, mark, options = place.partition("?")
        out, _, name = uri.rstrip("/").rpartition("/")
        study = replace(read_study(copy.folder), out=f"{out}{mark}{options}", name=name)
        folder = study.folder
    else:
        folder = Path(place).expanduser()
        study = read_study(folder)
        _refuse_if_running(is_running(folder), place)
        if study.uri is not None and folder.resolve() == study.folder.resolve():
            raise InputError(f"{place} is a copy of {study.uri}; give that URI instead")
        study = replace(study, out=str(folder.resolve().parent), name=folder.resolve().name)
    mirror = Mirror(study)
    with lock_study(folder), hold_lease(mirror):
        mirror.pull_folders(EPOCHS)
        yield folder, mirror


def _refuse_if_running(running: bool, place: str) -> None:
    if running:
        raise InputError(
            f"--drop and --restore need a study that is not running, but {place} is; wait for its "
            f"end, or stop it with Ctrl-C"
        )


def _read_standing(folder: Path) -> _Standing:
    standing = _Standing({}, {})
    for line in read_lines(folder)[0]:
        if line["kind"] == "start":
            standing.started[line["trial_id"]] = line
        if line["kind"] == "drop":
            standing.dropped[line["trial_id"]] = line
        elif line["kind"] in ("start", "restore"):
            standing.dropped.pop(line["trial_id"], None)
    return standing


def _check(kind: Mark, trials: Sequence[str], standing: _Standing, place: str) -> None:
    """Raise InputError unless all trials are in a state to be dropped or restored."""
    for trial in trials:
        if trial not in standing.started:
            near = get_close_matches(trial, standing.started, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"--{kind} must be the trial_id of runs of {place}, but got {trial}{hint}"
            )
        if kind == "drop" and trial in standing.dropped:
            raise InputError(
                f"--drop must be runs that are not dropped yet, but got {trial}; --restore {trial} "
                f"undoes it"
            )
        if kind == "restore" and trial not in standing.dropped:
            names = ", ".join(standing.dropped) or "there are none"
            raise InputError(f"--restore must be dropped runs ({names}), but got {trial}")
