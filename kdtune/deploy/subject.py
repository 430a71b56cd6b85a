"""The student that is exported, with its study and data; the JSON files and the model card."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from kdtune.config.files import write_text
from kdtune.config.text import InputError
from kdtune.data.dataset import Data
from kdtune.data.folder import verify
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.deploy.onnx import BATCH, Signature, calibration_index
from kdtune.results.results import Results
from kdtune.storage.records import read_saved
from kdtune.students.trained import TrainedStudent, load_student

# The student that is exported, with its study, its data and its input.


RANDOM_VIEWS = 256
"""Random views that a file is checked on if the study's data are gone."""


@dataclass(frozen=True)
class Subject:
    """A student to export, with its study and the data that it was trained and evaluated on."""

    results: Results
    student: TrainedStudent
    signature: Signature
    data: Data | None
    """None if they cannot be used, see `data_fault`."""
    data_fault: str
    """Why the data cannot be used, as a sentence; else ""."""

    @staticmethod
    def of(results: Results, repeat: int | None) -> "Subject":
        """Load a student of a study, and its data if they can be used.

        Raises:
            InputError: the student cannot be loaded, or its input is not known.
        """
        student = load_student(results.folder, repeat)
        try:
            data = _load_data(results, student)
            sample = next(_views(data, "val", torch.arange(1), student).batches())
        except InputError as error:
            fault = str(error).rstrip(".")
            return Subject(results, student, Signature.of(student, None), None, fault)
        return Subject(results, student, Signature.of(student, sample), data, "")

    def of_repeat(self, repeat: int) -> "Subject":
        """Return the student of another repeat as a subject.

        The data are read again if they could not be used, and with folds, where each repeat has
        another train and val.

        Raises:
            InputError: the student cannot be loaded.
        """
        if self.data is None or self.results.design.folds is not None:
            return Subject.of(self.results, repeat)
        return replace(self, student=load_student(self.results.folder, repeat))

    def require_data(self) -> Data:
        """Return the data, without which there is no int8.

        Raises:
            InputError: they cannot be used.
        """
        if self.data is None:
            raise InputError(
                f"--int8 needs the study's data, to calibrate and to compare with float32, but "
                f"{self.data_fault}; put the data back, or leave --int8 out"
            )
        return self.data

    @property
    def split(self) -> str:
        """The split that files are checked and evaluated on: test, or val if there is no test."""
        return "test" if self.data is not None and "test" in self.data.splits else "val"

    @property
    def labels(self) -> Tensor:
        """Classes of the split's examples, int64 [N]."""
        return self.require_data().splits[self.split].labels

    @property
    def examples(self) -> str:
        """What an example is called: "images", or "examples" of other data."""
        return self.results.task.examples

    @property
    def checked_on(self) -> str:
        """The views that a file is checked on, in words, such as "test images"."""
        if self.data is None:
            return f"random {self.signature.name}"
        return f"{self.split} {self.examples}"

    @property
    def resizes(self) -> bool:
        """Whether users must resize images for the exported model.

        True for images if the data cannot be used.
        """
        inputs = None if self.data is None else self.data.splits[self.split].inputs
        if isinstance(inputs, Tensor):
            return tuple(inputs.shape[1:]) != self.student.input.shape
        return self.signature.name == "images"

    def batches(self) -> Iterator[Tensor]:
        """Yield the views that a file is checked on: all of the split, or random ones."""
        if self.data is None:
            yield from self.signature.random(RANDOM_VIEWS).split(BATCH)
        else:
            index = torch.arange(len(self.labels))
            yield from _views(self.data, self.split, index, self.student).batches()

    def calibration(self) -> Tensor:
        """Return views of train examples that the student saw, for calibration, [B, ...]."""
        data = self.require_data()
        index = data.subset(self.student.record.configured_run)
        view = next(_views(data, "train", index[:1], self.student).batches())
        chosen = calibration_index(index, view.numel())
        return torch.cat(list(_views(data, "train", chosen, self.student).batches()))


def _load_data(results: Results, student: TrainedStudent) -> Data:
    """Return the data of the student's study.

    Raises:
        InputError: the data are missing, cannot be read, or are not those of the study.
    """
    run = replace(student.record.configured_run, repeat=student.repeat)
    data = load_data(run)
    recorded = read_saved(results.folder).fingerprints.get("data")
    if recorded and data.study_fingerprint != recorded:
        raise InputError(f"{run.data} holds other data than the study was run with")
    verify(data)
    return data


def _views(data: Data, split: str, index: Tensor, student: TrainedStudent) -> Views:
    """Return views of examples as the student sees them without augmentation."""
    run = student.record.configured_run
    size = student.image_size or 0  # data that are no images have no size
    return Views(data.splits[split], index, run, size)


# The files beside an exported file: its JSON file, and the model card.


BEST, INT8 = "best", "best-int8"
"""Names of the exported files, without suffix."""
CARD = "README.md"


class Facts(BaseModel, strict=True):
    """Fields of the JSON file beside an exported file that the model card shows."""

    file: str
    format: str
    config_id: str
    repeat: int
    notes: list[str] = []


def write_facts(file: Path, facts: Mapping[str, Any]) -> None:
    """Write the JSON file beside an exported file, such as best.onnx.json."""
    facts = {"file": file.name, **facts, "bytes": file.stat().st_size}
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    write_text(file.with_name(f"{file.name}.json"), f"{text}\n")


def read_facts(folder: Path, config_id: str) -> list[Facts]:
    """Return the description of each exported file in students/, float32 before int8.

    Args:
        folder: students/.
        config_id: of the students; files of another configuration are left out.
    """
    described = []
    for file in sorted(folder.glob(f"{BEST}*.json"), key=lambda f: (INT8 in f.name, f.name)):
        with suppress(OSError, ValueError):  # damaged, or not written by kdtune
            facts = Facts.model_validate_json(file.read_bytes())
            is_there = facts.file == file.stem and (folder / file.stem).is_file()
            if is_there and facts.config_id == config_id:
                described.append(facts)
    return described


def write_card(folder: Path, text: str, keep: bool) -> str:
    """Write the model card into students/; return the new name of an earlier one, or "".

    Args:
        folder: students/.
        text: of the card.
        keep: whether a card with another text, which may be an edited one, is renamed to
            README.old.md, or to README.old-2.md and so on if there is one.
    """
    file, earlier = folder / CARD, ""
    if keep and file.is_file() and file.read_text(encoding="utf-8") != text:
        names = ("README.old.md", *(f"README.old-{number}.md" for number in range(2, 1_000)))
        earlier = next((name for name in names if not (folder / name).exists()), names[-1])
        file.replace(folder / earlier)
    write_text(file, text)
    return earlier
