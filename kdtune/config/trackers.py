"""Trackers by name: the packages that they need, and the flags of `python -m kdtune.track`."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated, Literal, get_args

from kdtune.config.errors import InputError
from kdtune.config.fields import Setting, check_fields

TrackerName = Literal["mlflow", "wandb"]
"""Trackers that a study can be sent to; the package and the extra of each have its name."""


def check_names(names: Sequence[str]) -> None:
    """Raise InputError unless each is the name of a tracker, given once."""
    known = get_args(TrackerName)
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"tracker must be one of {', '.join(known)}, but got {name!r}{hint}")
    if len(set(names)) < len(names):
        raise InputError(f"tracker must name each tracker once, but got {' '.join(names)}")


def check_packages(names: Sequence[str]) -> None:
    """Raise InputError unless the package of each tracker is installed."""
    for name in names:
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder, such as that of wandb's runs
            raise InputError(f"--tracker {name} needs {name}: pip install 'kdtune[{name}]'")


@dataclass(frozen=True)
class TrackFlags:
    """Send the records of a study to a tracker: what the tracker lacks, and the conclusion.

    `python -m kdtune.search --tracker NAME` does it while the study runs. This command is for a
    study that ran without, or while the tracker could not be reached.
    """

    run: Annotated[str, Setting(place=True)]
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
        check_names(self.tracker)
        check_packages(self.tracker)
        if self.follow and len(self.tracker) > 1:
            raise InputError("--follow must have one tracker; start a process for each")
