"""Model card of an exported student, and what its file says about itself."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdtune import __version__
from kdtune.config.fields import name_of_data
from kdtune.config.images import TURNS, oriented
from kdtune.config.run import Orientation
from kdtune.config.text import printable
from kdtune.deploy.onnx import OUTPUT, Predict, Signature
from kdtune.deploy.subject import Subject
from kdtune.models.classifier import Preprocessing, describe_preprocessing
from kdtune.results.comparison import completed, interval_text
from kdtune.results.examples import configuration_record, student_classes, trial_metrics
from kdtune.results.frames import read_predictions
from kdtune.results.results import Results
from kdtune.results.warnings import exported_config
from kdtune.statistics.intervals import wilson_interval
from kdtune.storage.records import read_provenance
from kdtune.students.trained import TrainedStudent

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
    def of(student: TrainedStudent, signature: Signature) -> "Resize | None":
        """Return the steps of a student; None if it takes no images."""
        own, size = student.input.resizing, signature.shape[-1]
        if own is None:
            return None
        mode = "L" if signature.shape[0] == 1 else "RGB"
        short, orientation = round(size / own.crop), student.input.orientation
        return Resize(short, size, own.interpolation, mode, orientation)

    @property
    def words(self) -> str:
        """The steps in words."""
        rotate = "" if self.orientation == "stored" else "rotate as the EXIF data say, "
        return (
            f"{rotate}convert to {self.mode}, resize the shorter side to {self.shorter_side} "
            f"pixels ({self.interpolation}), crop the central {self.crop} x {self.crop}"
        )


def describe(
    results: Results, student: TrainedStudent, signature: Signature, title: str
) -> dict[str, Any]:
    """Return what is written into an exported file and into the JSON file beside it.

    Args:
        results: of the study.
        student: that is exported.
        signature: its input.
        title: the format in words.
    """
    own, record = student.preprocessing, student.record
    resize = Resize.of(student, signature)
    facts: dict[str, Any] = {
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
        "mean": None if own is None else list(own.mean),
        "std": None if own is None else list(own.std),
        "in_graph": "nothing" if own is None else _in_graph(own, signature),
        "metrics": {
            "configuration": configuration_of(results, student),
            "student": _student_metrics(results, student),
        },
        "initial_weights": {
            "weights": Path(record.model.weights).name,
            "licence": record.model.licence,
        },
        "format": title,
        "kdtune_version": __version__,
        "study_versions": dict(record.versions),
    }
    return facts


def _in_graph(own: Preprocessing, signature: Signature) -> str:
    """Return the steps from a view to the network's input in words; views are never enlarged."""
    shrinks = own.size is not None and own.size < signature.shape[-1]
    return describe_preprocessing(own if shrinks else replace(own, size=None))


def configuration_of(results: Results, student: TrainedStudent) -> Mapping[str, Any]:
    """Return the metrics of the student's configuration, as students.json has them.

    They are computed anew if an earlier version of kdtune wrote it.
    """
    return student.record.configuration or configuration_record(results)


def trial_of(results: Results, student: TrainedStudent) -> "pd.Series[Any] | None":
    """Return the row of a student's trial in `Results.trials`; None if there is none."""
    trials = completed(results.trials)
    config = exported_config(results.folder, results.study)
    own = trials[(trials.config_id == config) & (trials["repeat"] == student.repeat)]
    return own.iloc[0] if len(own) else None


def _student_metrics(results: Results, student: TrainedStudent) -> Mapping[str, Any]:
    """Return the metrics of one student by split and name; {} if they are not known."""
    trial = trial_of(results, student)
    return student.metrics["student"] or ({} if trial is None else trial_metrics(trial))


def as_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as metadata of a file: texts as they are, all others as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
        if value is not None
    }


# Text of others in Markdown and YAML: names that mean nothing to either.


_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
_BLOCK = re.compile(r"^(#+|[-+](?=\s|$)|[-=]+$|\d+(?=[.)](?:\s|$)))")
"""What begins a heading, a list, a quotation or an underline at the start of a line."""


def escape(text: object) -> str:
    """Return a text that Markdown shows as it is: one line, no markup, no HTML, no links."""
    line = printable(" ".join(str(text).split()))
    line = _SPECIAL.sub(r"\\\1", line)
    line = _BLOCK.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), line)
    # the Hub makes links of addresses without brackets, too
    return re.sub(r"(?i)\b(https?|ftp)://", r"\1&#58;//", line).replace("www.", "www\\.")


def code(text: object) -> str:
    """Return a text as a code span, in a fence longer than any in the text."""
    line = printable(" ".join(str(text).split()))
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " * line.startswith("`") or " " * line.endswith("`")
    # a cell of a table ends at a bar, also in code
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are escaped already."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def front_matter(values: Mapping[str, Any]) -> str:
    """Return the YAML block at the head of a model card; every value is JSON, which is YAML."""
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    lines = [f"{name}: {printable(text)}" for name, text in texts.items()]  # YAML has these escapes
    return "\n".join(["---", *lines, "---"])


# Lines of Python that run an exported student without kdtune.


PILLOW_NAMES = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}


def onnx_lines(signature: Signature, resize: Resize | None, resizes: bool) -> str:
    """Return lines that predict with onnxruntime, NumPy and Pillow.

    They take the class of one image.

    Args:
        signature: input of the file.
        resize: steps from an image to a view; None if the data are no images.
        resizes: whether images have to be resized, since not all have the size of a view.
    """
    head = ["import json", "import numpy as np", "import onnxruntime"]
    if resize is None:
        shape = ", ".join(map(str, ("B", *signature.shape)))
        body = [
            'session = onnxruntime.InferenceSession("best.onnx")',
            f'inputs = np.load("inputs.npy")  # {signature.type_name} [{shape}]',
        ]
    else:
        head.append("from PIL import Image")
        body = [
            'session = onnxruntime.InferenceSession("best.onnx")',
            *(_resizing(resize) if resizes else _opening("image.png", resize)),
            "pixels = np.asarray(image)",
            f"images = {_as_batch(resize)}  # uint8 [1, {', '.join(map(str, signature.shape))}]",
        ]
    rest = [
        f'(logits,) = session.run(None, {{"{signature.name}": {signature.name}}})',
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
        "print(classes[logits[0].argmax()])",
    ]
    return "\n".join([*head, "", *body, *rest])


def _opening(name: str, resize: Resize) -> Sequence[str]:
    """Return lines that read an image, as `data.decoding.decode` does."""
    if resize.orientation == "stored":
        return [f'image = Image.open("{name}").convert("{resize.mode}")']
    turns = {number: int(turn) for number, turn in TURNS.items()}
    return [  # not ImageOps.exif_transpose, see `config.orientation`
        f'image = Image.open("{name}")',
        "image.load()",
        f"turn = {turns}.get(image.getexif().get(274))",
        "if turn is not None:  # rotated or mirrored, by its EXIF orientation",
        "    image = image.transpose(turn)",
        f'image = image.convert("{resize.mode}")',
    ]


def _as_batch(resize: Resize) -> str:
    return "pixels[None, None]" if resize.mode == "L" else "pixels.transpose(2, 0, 1)[None]"


def _resizing(resize: Resize) -> Sequence[str]:
    """Return lines that read, resize and crop an image, as `data.views.Resizing` does."""
    short, size, mode = resize.shorter_side, resize.crop, PILLOW_NAMES[resize.interpolation]
    return [
        *_opening("image.jpg", resize),
        "short = min(image.size)",
        f"if short != {short}:  # the longer side is rounded down",
        f"    size = tuple({short} if side == short else int({short} * side / short) "
        "for side in image.size)",
        f"    image = image.resize(size, Image.{mode})",
        f"left, top = (round((side - {size}) / 2) for side in image.size)",
        f"image = image.crop((left, top, left + {size}, top + {size}))",
    ]


def pillow_view(file: str, resize: Resize) -> NDArray[np.uint8]:
    """Return the view that these lines make of an image file, uint8 [C, S, S]."""
    short, size = resize.shorter_side, resize.crop
    with Image.open(file) as opened:
        image = oriented(opened, resize.orientation).convert(resize.mode)
    own = min(image.size)
    if own != short:
        to = tuple(short if side == own else int(short * side / own) for side in image.size)
        mode = getattr(Image.Resampling, PILLOW_NAMES[resize.interpolation])
        image = image.resize((to[0], to[1]), mode)
    left, top = (round((side - size) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return pixels[None] if resize.mode == "L" else pixels.transpose(2, 0, 1)


# Model card of an exported student: students/README.md, as the Hugging Face Hub shows it.


MAX_CLASSES = 50
"""Classes in the table; of more, those with the lowest accuracy."""


@dataclass(frozen=True)
class CardFacts:
    """What a model card is made of."""

    subject: Subject
    facts: Mapping[str, Any]
    """See `description.describe`."""
    files: Sequence[Mapping[str, Any]]
    """What the JSON file beside each exported file says."""

    @property
    def has_onnx(self) -> bool:
        """Whether there is an ONNX file of this student."""
        repeat = self.student.repeat
        return any(f["file"] == "best.onnx" and f["repeat"] == repeat for f in self.files)

    @property
    def results(self) -> Results:
        """Of the study."""
        return self.subject.results

    @property
    def student(self) -> TrainedStudent:
        """That was exported."""
        return self.subject.student

    @property
    def signature(self) -> Signature:
        """Input of the files."""
        return self.subject.signature


def card(own: CardFacts) -> str:
    """Return the model card as Markdown; names of the user's are escaped."""
    parts = [_front_matter(own), *_sections(own)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(own: CardFacts) -> Iterator[str]:
    study, student = own.results.study, own.student
    yield f"# {escape(study.name)}"
    yield _introduction(own)
    yield "## Files"
    yield from (_file(own, facts) for facts in own.files)
    yield "## Use"
    if own.has_onnx:
        lines = onnx_lines(own.signature, Resize.of(student, own.signature), own.subject.resizes)
        yield "With `pip install onnxruntime numpy pillow`, without kdtune and PyTorch:"
        yield f"```python\n{lines}\n```"
    yield f"With kdtune: `student = kdtune.load_student(folder, repeat={student.repeat})`."
    yield "## Preprocessing"
    yield _preprocessing(own)
    yield "## Training"
    yield _training(own)
    yield "## Evaluation"
    yield _evaluation(own)
    yield _classes(own)
    yield "## Intended use and limits"
    yield _limits(own)
    yield "## Licence"
    yield _licence(own)
    yield "## Versions"
    yield _versions(own)


def _file(own: CardFacts, facts: Mapping[str, Any]) -> str:
    """Return a file, what it is and what was checked or measured of it."""
    other = facts["repeat"] != own.student.repeat
    whose = f", of the student of repeat {int(facts['repeat'])}" * other
    notes = " ".join(escape(note) for note in facts.get("notes", []))
    return f"{code(facts['file'])}: {escape(facts['format'])}{whose}. {notes}".rstrip()


def _front_matter(own: CardFacts) -> str:
    """Return the metadata of the Hub: tags and the accuracy of this student."""
    results = own.results
    data = name_of_data(results.study.run.data)
    images = own.signature.name == "images"
    values: dict[str, Any] = {
        "license": "unknown",
        "tags": ["knowledge-distillation", "kdtune", *["onnx"] * own.has_onnx],
    }
    if images:
        values["pipeline_tag"] = "image-classification"
    split, accuracy = _judging(own)
    if accuracy is not None:
        task = "image-classification" if images else "other"
        result = {
            "task": {"type": task},
            "dataset": {"name": data, "type": data, "split": split},
            "metrics": [{"type": "accuracy", "value": accuracy}],
        }
        values["model-index"] = [{"name": results.study.name, "results": [result]}]
    return front_matter(values)


def _judging(own: CardFacts) -> tuple[str, float | None]:
    """Return test, or val without it, and the accuracy of this student there."""
    found = own.facts["metrics"]["student"]
    split = "test" if "test" in found else "val"
    return split, found.get(split, {}).get("acc")


def _introduction(own: CardFacts) -> str:
    results, student = own.results, own.student
    run = results.study.run
    label = own.facts["metrics"]["configuration"].get("label", "")
    how = f" ({escape(label)})" if label else ""
    return (
        f"{code(student.name)}, a classifier of {len(student.classes)} classes, trained on "
        f"{code(name_of_data(run.data))} with the best configuration{how} of a study of knowledge "
        f"distillation. This is the student of repeat {student.repeat}, which was not selected by "
        f"its accuracy."
    )


def _preprocessing(own: CardFacts) -> str:
    resize, facts = Resize.of(own.student, own.signature), own.facts
    if resize is None:
        shape = ", ".join(map(str, ("B", *own.signature.shape)))
        return (
            f"None: the input is {own.signature.type_name} \\[{shape}\\], as in the study's data."
        )
    size = f"{resize.crop} x {resize.crop} pixels"
    known = "" if own.subject.resizes else f"Images of {size} are taken as they are. "
    return (
        f"{known}Steps before the file: {resize.words}. The study did not rotate images as their "
        f"EXIF data say.\n\nSteps in the file: bytes are scaled to \\[0, 1\\]; "
        f"{facts['in_graph']}."
    )


def _training(own: CardFacts) -> str:
    """Return data, teacher and recipe."""
    record, run = read_provenance(own.results.folder), own.results.study.run
    counts = record.get("data_set", {}).get("examples", {})
    sizes = ", ".join(f"{sum(n.values()):,} {escape(split)}" for split, n in counts.items())
    labelled = run.train_images and f", {run.train_images:,} of train for the student"
    extra = record.get("data_set", {}).get("extra")
    unlabelled = f", {extra['examples']:,} without labels" if extra else ""
    lines = [
        f"- Data: {code(name_of_data(run.data))}"
        + (f" ({sizes}{labelled or ''}{unlabelled})" if sizes else ""),
        f"- Teacher: {code(own.student.record.configured_run.teacher)}{_teacher_accuracy(own)}",
    ]
    values = own.facts["metrics"]["configuration"].get("hyperparameters", {})
    trained = own.student.record.configured_run
    recipe = {
        name: getattr(trained, name)
        for name in ("loss", "alpha", "temperature", "optimizer", "lr", "schedule", "epochs")
    } | dict(values)
    if trained.alpha == 1:
        recipe = {k: v for k, v in recipe.items() if k not in ("loss", "temperature")}
    text = ", ".join(f"{escape(k)} {escape(v)}" for k, v in recipe.items() if v is not None)
    lines.append(f"- Recipe: {text}")
    if trained.alpha == 1:
        lines.append("- Without a teacher: alpha is 1, so the student learned from labels alone.")
    return "\n".join(lines)


def _teacher_accuracy(own: CardFacts) -> str:
    """Return the accuracy of the student's teacher in words; "" if it is not known."""
    trial = trial_of(own.results, own.student)
    for split in ("test", "val"):
        value = None if trial is None else trial.get(f"{split}/teacher_acc@last")
        if value is not None and not pd.isna(value):
            return f" ({split} accuracy {100 * value:.1f}%)"
    return ""


def _evaluation(own: CardFacts) -> str:
    split, accuracy = _judging(own)
    lines = []
    if accuracy is not None:
        count = _count(own, split)
        low, high = wilson_interval(round(accuracy * count), count) if count else (0.0, 1.0)
        ends = (
            f" (95% CI {100 * low:.1f} to {100 * high:.1f}, Wilson, n = {count:,})" if count else ""
        )
        chosen = "" if split == "test" else ", which selected the configuration (optimistic)"
        lines.append(f"Accuracy of this student on {split}{chosen}: {100 * accuracy:.1f}%{ends}.")
    of_all = own.facts["metrics"]["configuration"].get("accuracy", {}).get(split, {})
    if of_all.get("mean") is not None:
        ends = interval_text(of_all["low"] or float("nan"), of_all["high"] or float("nan"), 100)
        about = f" (95% CI {ends.strip('[]').replace('+', '').replace(', ', ' to ')})"
        lines.append(
            f"Mean over the {of_all['n']} repeats of its configuration: "
            f"{100 * of_all['mean']:.1f}%{about if ends != '-' else ''}."
        )
    verdict = " ".join(own.results.verdict().split("\n"))
    return " ".join(lines) + f"\n\nConclusion of the study: {escape(verdict)}"


def _count(own: CardFacts, split: str) -> int:
    counts = read_provenance(own.results.folder).get("data_set", {}).get("examples", {})
    return sum(counts.get(split, {}).values())


def _classes(own: CardFacts) -> str:
    """Return the table of the accuracy by class; "" without predictions."""
    split, _ = _judging(own)
    config_id = exported_config(own.results.folder, own.results.study)
    found = student_classes(own.results, config_id, own.student.repeat, own.student.classes, split)
    if not len(found):
        return ""
    repeats = int(found.repeats.max())
    shown, note = found, ""
    if len(found) > MAX_CLASSES:
        shown = found.nsmallest(MAX_CLASSES, "accuracy")
        note = f" The {MAX_CLASSES} lowest of {len(found)} classes."
    rows = [list(_class_row(row, repeats)) for _, row in shown.iterrows()]
    head = ["class", f"{split} images", "accuracy (%)", "95% CI"]
    head += [f"mean of {repeats} repeats (%)"] * (repeats > 1)
    return f"Accuracy by class (Wilson intervals of single classes).{note}\n\n{table(head, rows)}"


def _class_row(row: "pd.Series[Any]", repeats: int) -> Iterator[str]:
    yield escape(row["class"])
    yield str(row["images"])
    yield f"{100 * row['accuracy']:.1f}"
    yield f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    if repeats > 1:
        yield f"{100 * row['mean']:.1f}"


def _limits(own: CardFacts) -> str:
    kind = "images" if own.signature.name == "images" else "inputs"
    return (
        f"The model gives each input one of the {len(own.student.classes)} classes above, also if "
        f"it belongs to none of them. Its accuracy holds for {kind} like those of the data that it "
        f"was tested on, and its probabilities are not calibrated further. Check it on data of "
        f"your own before decisions depend on it, for each group that they concern."
    )


def _licence(own: CardFacts) -> str:
    weights = own.facts["initial_weights"]
    start = f"Initial weights: {escape(weights['weights'])}, licence: {escape(weights['licence'])}."
    if weights["weights"] == "none":
        start = "The initial weights were random."
    return (
        f"{start} The licences of the data and of the teacher's weights may bind the student as "
        f"well. Set `license` at the head of this file when you know which it is."
    )


def _versions(own: CardFacts) -> str:
    versions = {"kdtune (export)": __version__} | {
        name: version for name, version in own.student.record.versions.items()
    }
    return ", ".join(f"{escape(name)} {escape(version)}" for name, version in versions.items())


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
    views = subject.views
    trial = trial_of(subject.results, subject.student)
    if views is None or trial is None:
        return ""
    columns = ["split", "example", "predicted"]
    frame = read_predictions(subject.results.folder, [trial.trial_id], columns)
    if "predicted" not in frame:  # gone, or of version 0.1
        return ""
    own = frame[frame.split == views.split].set_index("example")["predicted"]
    numbers = views.data.numbers(views.split).numpy()
    if len(own) != len(numbers) or not own.index.isin(numbers).all():
        return ""
    same = int(np.sum(own.loc[numbers].to_numpy() == logits.argmax(1).numpy()))
    text = f"The study recorded the same class for {same:,} of {len(numbers):,}."
    if same >= EXPECTED * len(numbers):
        return text
    if subject.student.record.configured_run.precision == "bf16":
        return f"{text} It predicted in bfloat16, this file is in float32."
    return f"warning: {text} Has the model's code or a library changed since?"


# Check of the lines that resize images with Pillow instead of torchvision.


def compare_pillow(subject: Subject, logits: Tensor, predict: Predict) -> str:
    """Return how Pillow's views of the image files differ from kdtune's, as a sentence.

    Both resize with fixed-point numbers, but round some pixels differently.

    Args:
        subject: the student.
        logits: of PyTorch on kdtune's views of the split that judges, [N, K].
        predict: the exported file, which gets Pillow's views.
    """
    views = subject.views
    resize = Resize.of(subject.student, subject.signature)
    if views is None or resize is None or views.data.kind != "files":
        return ""
    files = views.data.splits[views.split].inputs
    assert isinstance(files, tuple)  # noqa: S101 - files are a tuple
    largest, same, start = 0, 0, 0
    for batch in views.batches():
        own = _views(files[start : start + len(batch)], resize)
        largest = max(largest, int((own.int() - batch.int()).abs().max()))
        with torch.no_grad():
            other = predict(own).argmax(1)
        same += int((logits[start : start + len(batch)].argmax(1) == other).sum())
        start += len(batch)
    return (
        f"Resized by Pillow, as {subject.checked_on} are in the lines of README.md, {same:,} of "
        f"{len(files):,} get the same class (pixels differ by at most {largest} of 255)."
    )


def _views(files: Sequence[str], resize: Resize) -> Tensor:
    return torch.from_numpy(np.stack([pillow_view(file, resize) for file in files]))
