"""Views of a study's data: of the split that judges an exported student, and of train."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.data.dataset import Data
from kdtune.data.folder import verify
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.deploy.quantize import calibration_index
from kdtune.results.study_results import Results
from kdtune.storage.records import read_saved
from kdtune.students.trained import TrainedStudent


@dataclass(frozen=True)
class StudyViews:
    """The data that a student was trained and judged on, as it sees them without augmentation."""

    data: Data
    split: str
    """The split that judges: test, or val if there is no test."""
    student: TrainedStudent

    @property
    def labels(self) -> Tensor:
        """Classes of the split's examples, int64 [N]."""
        return self.data.splits[self.split].labels

    @property
    def examples(self) -> str:
        """What an example is called: "images", or "examples" of other data."""
        return "examples" if self.data.kind == "tensors" else "images"

    @property
    def sizes_differ(self) -> bool:
        """Whether examples have another shape than views; True for files."""
        inputs = self.data.splits[self.split].inputs
        shape = self.student.input.shape
        return not isinstance(inputs, Tensor) or tuple(inputs.shape[1:]) != shape

    def batches(self) -> Iterator[Tensor]:
        """Yield all views of the split, in its order."""
        yield from self._views(self.split, torch.arange(len(self.labels))).batches()

    def calibration(self) -> Tensor:
        """Return views of train for calibration, [B, ...], of those that the student saw."""
        own = self.student.record.configured_run
        index = self.data.subset(own)
        one = next(self._views("train", index[:1]).batches())
        chosen = calibration_index(index, one.numel())
        return torch.cat(list(self._views("train", chosen).batches()))

    def of(self, student: TrainedStudent) -> "StudyViews":
        """Return the same data, as another repeat's student sees them; data are not read again.

        It must not be used with folds, whose repeats have other splits.
        """
        return StudyViews(self.data, self.split, student)

    def _views(self, split: str, index: Tensor) -> Views:
        run = self.student.record.configured_run
        return Views(self.data.splits[split], index, run, self.student.image_size or 0)


def find_views(results: Results, student: TrainedStudent) -> StudyViews:
    """Return the views of the student's study.

    Raises:
        InputError: the data are gone, cannot be read, or are not those of the study.
    """
    run = replace(student.record.configured_run, repeat=student.repeat)
    data = load_data(run)
    recorded = read_saved(results.folder).fingerprints.get("data")
    if recorded and data.study_fingerprint != recorded:
        raise InputError(f"{run.data} holds other data than the study was run with")
    verify(data)
    return StudyViews(data, "test" if "test" in data.splits else "val", student)
