"""Model card of an exported student: students/README.md, as the Hugging Face Hub shows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdtune import __version__
from kdtune.config.names import name_of_data
from kdtune.deploy.description import Resize, trial_of
from kdtune.deploy.graph import Signature
from kdtune.deploy.markdown import code, escape, front_matter, table
from kdtune.deploy.snippets import onnx_lines
from kdtune.deploy.subject import Subject
from kdtune.results.files_kept import exported_config
from kdtune.results.student_classes import student_classes
from kdtune.results.study_results import Results
from kdtune.results.tables import interval_text
from kdtune.statistics.intervals import wilson_interval
from kdtune.storage.records import read_provenance
from kdtune.students.trained import TrainedStudent

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
