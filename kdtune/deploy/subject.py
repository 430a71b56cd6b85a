"""The student that is exported, with its study, its data and its input."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.deploy.check import BATCH
from kdtune.deploy.graph import Signature
from kdtune.deploy.study_views import StudyViews, find_views
from kdtune.results.study_results import Results
from kdtune.students.loading import load_student
from kdtune.students.trained import TrainedStudent

RANDOM_VIEWS = 256
"""Random views that a file is checked on if the study's data are gone."""


@dataclass(frozen=True)
class Subject:
    """A student, its study and its data."""

    results: Results
    student: TrainedStudent
    views: StudyViews | None
    """None if the study's data are gone."""
    reason: str
    """Why they are gone, as a sentence; else ""."""
    signature: Signature

    @staticmethod
    def of(results: Results, repeat: int | None) -> "Subject":
        """Load a student of a study, and its data if they are there.

        Raises:
            InputError: the student cannot be loaded, or its input is not known.
        """
        student = load_student(results.folder, repeat)
        views, reason, sample = None, "", None
        try:
            views = find_views(results, student)
            sample = next(views.batches())
        except InputError as error:
            reason = str(error).rstrip(".")
        return Subject(results, student, views, reason, Signature.of(student, sample))

    def of_repeat(self, repeat: int) -> "Subject":
        """Return the student of another repeat, with its data, which only folds read again.

        Raises:
            InputError: the student cannot be loaded.
        """
        if self.views is None or self.results.design.folds is not None:
            return Subject.of(self.results, repeat)
        student = load_student(self.results.folder, repeat)
        return replace(self, student=student, views=self.views.of(student))

    @property
    def checked_on(self) -> str:
        """The views that a file is checked on, in words, such as "test images"."""
        if self.views is None:
            return f"random {self.signature.name}"
        return f"{self.views.split} {self.views.examples}"

    def batches(self) -> Iterator[Tensor]:
        """Yield the views that a file is checked on: all of the split, or random ones."""
        if self.views is None:
            yield from self.signature.random(RANDOM_VIEWS).split(BATCH)
        else:
            yield from self.views.batches()

    @property
    def resizes(self) -> bool:
        """Whether images have another size than views, so that they are resized before the graph.

        True if that is not known.
        """
        if self.views is None or self.views.data.kind == "files":
            return self.signature.name == "images"
        return self.views.sizes_differ
