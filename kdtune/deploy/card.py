"""Model card of an exported student, and what its file says about itself."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdtune import __version__
from kdtune.config.fields import name_of_data
from kdtune.config.files import TURNS, oriented
from kdtune.config.run import Orientation
from kdtune.config.text import printable
from kdtune.deploy.onnx import OUTPUT, Agreement, Predict, Signature
from kdtune.deploy.subject import Facts, Subject
from kdtune.models.classifier import describe_preprocessing
from kdtune.results.comparison import completed
from kdtune.results.examples import configuration_record, student_classes, trial_metrics
from kdtune.results.formatting import interval_words
from kdtune.results.frames import read_predictions
from kdtune.results.warnings import exported_config
from kdtune.statistics.intervals import wilson_interval
from kdtune.storage.records import read_provenance
from kdtune.training.recipe import describe_config

# What an exported file says about itself: input, preprocessing, classes, origin and metrics.


@dataclass(frozen=True)
class Resize:
    """From an image of any size to the input: resize the shorter side, then crop the centre."""

    shorter_side: int
    crop: int
    interpolation: str
    mode: str
    """Mode of Pillow, "RGB" or "L" (grey)."""
    orientation: Orientation | None = None
    """Whether an image is first rotated and mirrored as its EXIF data say; None: it is."""

    @staticmethod
    def of(subject: Subject) -> "Resize | None":
        """Return the steps of a student; None if it takes no images."""
        taken, shape = subject.student.input, subject.signature.shape
        if (resizing := taken.resizing) is None:
            return None
        size, mode = shape[-1], "L" if shape[0] == 1 else "RGB"
        short = round(size / resizing.crop)
        return Resize(short, size, resizing.interpolation, mode, taken.orientation)

    @property
    def words(self) -> str:
        """The steps in words."""
        rotate = "" if self.orientation == "stored" else "rotate as the EXIF data say, "
        return (
            f"{rotate}convert to {self.mode}, resize the shorter side to {self.shorter_side} "
            f"pixels ({self.interpolation}), crop the central {self.crop} x {self.crop}"
        )


def describe_file(subject: Subject, title: str) -> dict[str, Any]:
    """Return what is written into an exported file and into the JSON file beside it.

    Args:
        subject: the student that is exported.
        title: the format in words.
    """
    results, student, signature = subject.results, subject.student, subject.signature
    steps, record = student.preprocessing, student.record
    in_graph = "nothing"
    if steps is not None:
        shrinks = steps.size is not None and steps.size < signature.shape[-1]
        # views are never enlarged
        in_graph = describe_preprocessing(steps if shrinks else replace(steps, size=None))
    resize, trial = Resize.of(subject), trial_of(subject)
    metrics = {} if trial is None else trial_metrics(trial)
    weights = Path(record.model.weights).name
    return {
        "study": results.study.name,
        "data": name_of_data(results.study.run.data),
        "model": student.name,
        "config_id": exported_config(results.folder, results.study),
        "repeat": student.repeat,
        "classes": list(student.classes),
        "input": {
            "name": signature.name,
            "dtype": signature.type_name,
            "shape": ["batch", *signature.shape],
        },
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", len(student.classes)]},
        "image_size": student.image_size,
        "resize": vars(resize) | {"words": resize.words} if resize is not None else None,
        "mean": None if steps is None else list(steps.mean),
        "std": None if steps is None else list(steps.std),
        "in_graph": in_graph,
        # computed anew if an earlier version of kdtune wrote students.json
        "metrics": {
            "configuration": record.configuration or configuration_record(results),
            "student": student.metrics["student"] or metrics,
        },
        "initial_weights": {"weights": weights, "licence": record.model.licence},
        "format": title,
        "kdtune_version": __version__,
        "study_versions": dict(record.versions),
    }


def trial_of(subject: Subject) -> "pd.Series[Any] | None":
    """Return the row of a student's trial in `Results.trials`; None if there is none."""
    trials = completed(subject.results.trials)
    config = exported_config(subject.results.folder, subject.results.study)
    rows = trials[(trials.config_id == config) & (trials["repeat"] == subject.student.repeat)]
    return rows.iloc[0] if len(rows) else None


def as_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as metadata of a file: texts as they are, all others as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
        if value is not None
    }


# Texts of others in Markdown and YAML, which must mean nothing to either. The templates apply these
# as filters.


_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
_BLOCK = re.compile(r"^(#+|[-+](?=\s|$)|[-=]+$|\d+(?=[.)](?:\s|$)))")
"""What begins a heading, a list, a quotation or an underline at the start of a line."""


def escape(text: object) -> str:
    """Return a text that Markdown shows as it is: one line, no markup, no HTML, no links."""
    line = printable(" ".join(str(text).split()))
    line = _SPECIAL.sub(r"\\\1", line)
    line = _BLOCK.sub(lambda match: "".join(f"&#{ord(c)};" for c in match[0]), line)
    # the Hub makes links of addresses without brackets, too
    return re.sub(r"(?i)\b(https?|ftp)://", r"\1&#58;//", line).replace("www.", "www\\.")


def code(text: object) -> str:
    """Return a text as a code span; backticks, which would end it, become apostrophes."""
    line = printable(" ".join(str(text).split())).replace("`", "'")
    # a cell of a table ends at a bar, also in code
    return f"`{line}`".replace("|", "\\|")


def yaml_value(value: Any) -> str:
    """Return a value for YAML as JSON, which YAML includes."""
    return printable(json.dumps(value, ensure_ascii=False))  # YAML has the escapes of `printable`


@cache
def templates() -> Environment:
    """Return the templates: of the model card, of its lines of Python, of sentences."""
    environment = Environment(  # noqa: S701 - Markdown and Python, not HTML
        loader=PackageLoader("kdtune.deploy"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(md=escape, code=code, yaml=yaml_value)
    return environment


def sentences() -> Any:
    """Return the macros of the sentences about an export."""
    return templates().get_template("sentences.txt").module


def onnx_lines(signature: Signature, resize: Resize | None, resizes: bool) -> str:
    """Return lines of Python that predict the class of one image without kdtune and PyTorch.

    They need onnxruntime, NumPy and Pillow, and read an image as `data.dataset.decode` does.

    Args:
        signature: input of the file.
        resize: steps from an image to a view; None if the data are no images.
        resizes: whether images have to be resized, since not all have the size of a view.
    """
    template = templates().get_template("predict.txt")
    return template.render(
        name=signature.name,
        dtype=signature.type_name,
        shape=signature.shape,
        resize=resize,
        resizes=resizes,
        turns=TURNS,
    )


def pillow_view(file: str, resize: Resize) -> NDArray[np.uint8]:
    """Return the view that these lines make of an image file, uint8 [C, S, S]."""
    short, size = resize.shorter_side, resize.crop
    with Image.open(file) as opened:
        image = oriented(opened, resize.orientation).convert(resize.mode)
    shorter = min(image.size)
    if shorter != short:
        to = tuple(short if side == shorter else int(short * side / shorter) for side in image.size)
        image = image.resize((to[0], to[1]), Image.Resampling[resize.interpolation.upper()])
    left, top = (round((side - size) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return pixels[None] if resize.mode == "L" else pixels.transpose(2, 0, 1)


# The model card, students/README.md, as the Hugging Face Hub shows it.


MAX_CLASSES = 50
"""Classes in the table; of more, those with the lowest accuracy."""


def card(subject: Subject, facts: Mapping[str, Any], files: Sequence[Facts]) -> str:
    """Return the model card of an exported student as Markdown.

    Args:
        subject: the student.
        facts: see `describe_file`.
        files: what the JSON file beside each exported file says.
    """
    results, student = subject.results, subject.student
    resize = Resize.of(subject)
    split = "test" if "test" in facts["metrics"]["student"] else "val"
    data_set = {"examples": {}, "extra": None} | read_provenance(results.folder).get("data_set", {})
    images = sum(data_set["examples"].get(split, {}).values())
    classes = student_classes(results, facts["config_id"], student.repeat, student.classes, split)
    repeats = int(classes.repeats.max()) if len(classes) else 0
    if len(classes) > MAX_CLASSES:
        classes = classes.nsmallest(MAX_CLASSES, "accuracy")
    text = (
        templates()
        .get_template("card.md")
        .render(
            subject=subject,
            facts=facts,
            files=files,
            has_onnx=any(f.file == "best.onnx" and f.repeat == student.repeat for f in files),
            lines=onnx_lines(subject.signature, resize, subject.resizes),
            resize=resize,
            data_set=data_set,
            teacher_accuracy=_teacher_accuracy(subject),
            recipe=describe_config(student.record.configured_run),
            split=split,
            accuracy=_accuracy(facts, split, images),
            mean=_mean_accuracy(facts, split),
            verdict=" ".join(results.verdict().split("\n")),
            classes=classes.to_dict("records"),
            repeats=repeats,
            versions={"kdtune (export)": __version__} | dict(student.record.versions),
        )
    )
    return f"{text}\n"


def _accuracy(facts: Mapping[str, Any], split: str, images: int) -> dict[str, Any] | None:
    """Return the accuracy of this student on a split with its Wilson interval over images."""
    value = facts["metrics"]["student"].get(split, {}).get("acc")
    if value is None:
        return None
    low, high = wilson_interval(round(value * images), images) if images else (0.0, 1.0)
    return {"value": value, "images": images, "low": low, "high": high}


def _mean_accuracy(facts: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the mean accuracy of the configuration's repeats and its interval in words."""
    mean = facts["metrics"]["configuration"].get("accuracy", {}).get(split, {})
    if mean.get("mean") is None:
        return {"mean": None}
    low, high = (math.nan if mean[end] is None else mean[end] for end in ("low", "high"))
    return dict(mean) | {"interval": interval_words(low, high, 100).replace("+", "")}


def _teacher_accuracy(subject: Subject) -> tuple[str, float] | None:
    """Return a split and the accuracy of the student's teacher there; None if it is not known."""
    trial = trial_of(subject)
    for split in ("test", "val"):
        value = None if trial is None else trial.get(f"{split}/teacher_acc@last")
        if value is not None and not pd.isna(value):
            return split, float(value)
    return None


# What the check of a file has found: against PyTorch, the study's record, and Pillow.


def describe_check(
    subject: Subject, agreement: Agreement, logits: Tensor, predict: Predict
) -> list[str]:
    """Return sentences on the check of an exported file.

    Args:
        subject: the student.
        agreement: of the file with PyTorch.
        logits: of PyTorch on the split that judges, [N, K].
        predict: the exported file.
    """
    agrees = sentences().check(agreement, subject)
    notes = [agrees, compare_recorded(subject, logits), compare_pillow(subject, logits, predict)]
    return [note for note in notes if note]


# Comparison of a student with the predictions that its study recorded.


EXPECTED = 0.99
"""Share of equal classes below which something is wrong: another machine or precision changes the
class of few images, other weights or another preprocessing that of many."""


def compare_recorded(subject: Subject, logits: Tensor) -> str:
    """Return how many classes are those that the study recorded, as a sentence.

    Args:
        subject: the student.
        logits: of PyTorch on the split that judges, [N, K].

    Returns:
        The sentence; "" if the study has no such record.
    """
    trial = trial_of(subject)
    if subject.data is None or trial is None:
        return ""
    columns = ["split", "example", "predicted"]
    frame = read_predictions(subject.results.folder, [trial.trial_id], columns)
    if "predicted" not in frame:  # gone, or of version 0.1
        return ""
    recorded = frame[frame.split == subject.split].set_index("example")["predicted"]
    numbers = subject.data.numbers(subject.split).numpy()
    if len(recorded) != len(numbers) or not recorded.index.isin(numbers).all():
        return ""
    same = int(np.sum(recorded.loc[numbers].to_numpy() == logits.argmax(1).numpy()))
    text = f"The study recorded the same class for {same:,} of {len(numbers):,}."
    if same >= EXPECTED * len(numbers):
        return text
    return f"warning: {text} The precision, the model's code or a library was another one."


# Check of the lines that resize images with Pillow instead of torchvision.


def compare_pillow(subject: Subject, logits: Tensor, predict: Predict) -> str:
    """Return how Pillow's views of the image files differ from kdtune's, as a sentence.

    Both resize with fixed-point numbers, but round some pixels differently.

    Args:
        subject: the student.
        logits: of PyTorch on kdtune's views of the split that judges, [N, K].
        predict: the exported file, which gets Pillow's views.
    """
    resize = Resize.of(subject)
    files = None if subject.data is None else subject.data.splits[subject.split].inputs
    if resize is None or not isinstance(files, tuple):
        return ""
    largest, same, start = 0, 0, 0
    for batch in subject.batches():
        part = slice(start, start + len(batch))
        pillow = torch.from_numpy(np.stack([pillow_view(file, resize) for file in files[part]]))
        largest = max(largest, int((pillow.int() - batch.int()).abs().max()))
        with torch.no_grad():
            classes = predict(pillow).argmax(1)
        same += int((logits[part].argmax(1) == classes).sum())
        start = part.stop
    return (
        f"Resized by Pillow, as {subject.checked_on} are in the lines of README.md, {same:,} of "
        f"{len(files):,} get the same class (pixels differ by at most {largest} of 255)."
    )
