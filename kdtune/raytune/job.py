"""What a study's trials are, for its driver: checks, preparations, and the function of a trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kdtune.config.study import Study
from kdtune.raytune.machines import TrialResources
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import SavedStudy

Say = Callable[[str], None]
"""Prints a line on the terminal."""


class Job(ABC):
    """Steps of a driver that depend on the kind of trials, in the order of their calls.

    An adapter without state: every method is given the study as it is by then.
    """

    def begin(self, study: Study) -> Study:
        """Return the study as it is compared with the one that its folder holds."""
        return study

    def resolve(self, study: Study, begun: bool) -> Study:
        """Return the study with a value for each setting that follows from data and models.

        Args:
            study: That has trials left.
            begun: Whether its folder already holds it.
        """
        return study

    def files(self, study: Study) -> list[str]:
        """Return the names of files in the study's folder that trials need."""
        return []

    @abstractmethod
    def fingerprints(self, study: Study) -> dict[str, str]:
        """Return content hashes of what the trials are made of.

        Raises InputError if one of them cannot work.
        """

    def check(self, study: Study) -> None:
        """Raise InputError if a study that has trials left cannot run."""
        return None

    @abstractmethod
    def provenance(self, asked: Study, study: Study, saved: SavedStudy | None) -> Mapping[str, Any]:
        """Return what provenance.json says of the trials, see `study_folder.write_study`.

        Args:
            asked: The study as it was asked for.
            study: The study as it is run, with trials left.
            saved: What its folder holds.
        """

    @abstractmethod
    def describe(self, provenance: Mapping[str, Any]) -> Sequence[str]:
        """Return lines for the terminal that say what is run."""

    def prepare_before_ray(self, study: Study, mirror: Mirror) -> None:
        """Do what is to be done before Ray's workers use the machine."""
        return None

    def about_data(self, study: Study) -> Sequence[str]:
        """Return lines for the terminal about the data."""
        return []

    def warnings(self, study: Study, count: int) -> Iterator[str]:
        """Yield a sentence for what makes a study of so many concurrent trials less useful."""
        yield from ()

    def prepare(
        self, study: Study, mirror: Mirror, trial: TrialResources, say: Say, say_epoch: Say
    ) -> None:
        """Make what all trials need, such as the teacher.

        Args:
            study: The study.
            mirror: Of its folder.
            trial: What a trial uses.
            say: Gets each line.
            say_epoch: Gets the lines about epochs of a teacher.
        """
        return None

    @abstractmethod
    def trainable(self, study: Study) -> Callable[..., None]:
        """Return function(config, study, concurrent), which Ray calls for each trial."""

    def find_changes(self, study: Study) -> str:
        """Return a sentence on data that have changed while the study ran; "" if none have."""
        return ""
