"""The student that is exported, with its study and data, and the writing of its files."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor

from kdtune.config.files import STUDY, atomic_write, check_links
from kdtune.config.text import DAMAGED, InputError, first_line
from kdtune.data.dataset import Data
from kdtune.data.folder import verify
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.deploy.onnx import BATCH, Signature, calibration_index
from kdtune.results.results import Results
from kdtune.storage.records import read_saved
from kdtune.students.loading import load_student
from kdtune.students.trained import TrainedStudent

# Views of a study's data: of the split that judges an exported student, and of train.


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
        index = self.data.subset(self.student.record.configured_run)
        view = next(self._views("train", index[:1]).batches())
        chosen = calibration_index(index, view.numel())
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


# The student that is exported, with its study, its data and its input.


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


# Writing of exported files: aside, checked, then under their own names.


BEST, INT8 = "best", "best-int8"
CARD, EARLIER_CARD = "README.md", "README.old.md"
_SEAL = "<!-- written by kdtune.export, {} -->\n"
"""Last line of a model card, with the digest of all before it."""


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Check that files can be written into a folder; errors of writing become sentences.

    Raises:
        InputError: they cannot, or it is a link inside a study's folder.
    """
    if (folder.parent / STUDY).is_file():
        check_links(folder.parent)
    try:
        with TemporaryFile(dir=folder):
            pass
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(
            f"{folder} must be a folder that can be written, but is not ({reason}); copy the "
            f"study's folder to another place and export there"
        ) from error


def write_facts(file: Path, facts: Mapping[str, Any]) -> None:
    """Write the JSON file beside an exported file, such as best.onnx.json."""
    facts = {"file": file.name, **facts, "bytes": file.stat().st_size}
    with atomic_write(file.with_name(f"{file.name}.json")) as part:
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        part.write_text(f"{text}\n", encoding="utf-8")


def read_facts(folder: Path, config_id: str) -> list[dict[str, Any]]:
    """Return what is said of each exported file in students/, by the JSON files beside them.

    Args:
        folder: students/.
        config_id: of the students; files of another configuration are left out.
    """
    described = []
    for file in sorted(folder.glob(f"{BEST}*.json"), key=lambda f: (INT8 in f.name, f.name)):
        with suppress(OSError, *DAMAGED):  # or not ours
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts["config_id"] == config_id and _are_facts(facts, folder):
                described.append(facts)
    return described


def _are_facts(facts: Mapping[str, Any], folder: Path) -> bool:
    """Return True if facts have what a card shows of a file, and the file is in the folder."""
    name, notes = facts["file"], facts.get("notes", [])
    texts = isinstance(notes, list) and all(
        isinstance(text, str) for text in (name, facts["format"], *notes)
    )
    return (
        texts
        and type(facts["repeat"]) is int
        and Path(name).name == name
        and (folder / name).is_file()
    )


def write_card(folder: Path, text: str) -> tuple[Path, bool]:
    """Write the model card into students/; return its file and whether an earlier one was kept.

    A card that was edited since kdtune wrote it is renamed to README.old.md.
    """
    file = folder / CARD
    edited = file.is_file() and not _is_sealed(file.read_text(encoding="utf-8"))
    if edited:
        file.replace(folder / EARLIER_CARD)
    with atomic_write(file) as part:
        part.write_text(_sealed(f"{text.rstrip()}\n\n"), encoding="utf-8")
    return file, edited


def _sealed(text: str) -> str:
    return text + _SEAL.format(hashlib.sha256(text.encode()).hexdigest()[:16])


def _is_sealed(text: str) -> bool:
    *lines, _ = text.splitlines(keepends=True) or [""]
    return _sealed("".join(lines)) == text
