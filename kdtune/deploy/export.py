"""Export of a student of a study: files, checks, int8 and the model card."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.export_flags import check_export
from kdtune.config.files import STUDENTS
from kdtune.deploy.card import CardFacts, card
from kdtune.deploy.check import Agreement, compare, run_all
from kdtune.deploy.description import as_texts, describe
from kdtune.deploy.formats import FORMATS, Exportable, Format
from kdtune.deploy.int8 import OnnxFile, calibration_data, export_int8
from kdtune.deploy.pillow_check import compare_pillow
from kdtune.deploy.recorded import compare_recorded
from kdtune.deploy.subject import Subject
from kdtune.deploy.writing import (
    BEST,
    EARLIER_CARD,
    INT8,
    read_facts,
    writable,
    write_card,
    write_checked,
    write_facts,
)
from kdtune.results.files_kept import exported_config
from kdtune.results.study_results import Results, load

Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What an export has written."""

    file: Path
    agreement: Agreement
    """Of the file with PyTorch."""
    checked_on: str
    """The views in words, such as "test images" or "random images"."""
    int8: Path | None
    """The file in int8, if it was asked for."""
    card: Path


def export(
    place: str | Path,
    format: str = "onnx",
    int8: bool = False,
    repeat: int | None = None,
    say: Say = print,
) -> Exported:
    """Export a student of the best configuration of a study into its students/.

    The file takes views and returns logits; its logits and classes are compared with those of
    PyTorch on the whole of test, or val without it, before it gets its name.

    Args:
        place: folder of the study.
        format: "onnx", "torch-export" or "safetensors".
        int8: also write an ONNX file in int8, and compare it with float32. That takes minutes on
            photographs, so the file in float32 and the model card are written before.
        repeat: of the student; by default the lowest that is there.
        say: is given each line of what was done.

    Raises:
        InputError: the study has no students, the student cannot be loaded or exported, a package
            is missing, or the folder cannot be written.
        ExportMismatchError: the exported file does not compute what the student does.
    """
    check_export(format, int8)
    chosen = FORMATS[format]
    chosen.check()
    results = _load_study(place)
    subject = Subject.of(results, repeat)
    folder = results.folder / STUDENTS
    if int8:
        calibration_data(subject)  # before any work
    _warn_of_another_best(results, exported_config(results.folder, results.study), say)
    with writable(folder):
        file = folder / f"{BEST}{chosen.suffix}"
        facts = describe(results, subject.student, subject.signature, chosen.title)
        templates: list[Any] = []
        agreement = _write(subject, chosen, file, facts, say, templates.append)
        target, edited = _write_card(subject, facts)
        kept = f"; the edited one is now {EARLIER_CARD}" if edited else ""
        say(f"Wrote the model card {target}{kept}.")
        small = folder / f"{INT8}{chosen.suffix}" if int8 else None
        if small is not None:
            for line in export_int8(subject, OnnxFile(file, *templates), small, facts, say):
                say(line)
            _write_card(subject, facts)
            say(f"Wrote {small} and added it to the model card.")
    return Exported(file, agreement, subject.checked_on, small, target)


def _write_card(subject: Subject, facts: dict[str, Any]) -> tuple[Path, bool]:
    """Write the model card of all files; return it, and whether an edited one was kept."""
    results = subject.results
    folder = results.folder / STUDENTS
    files = read_facts(folder, exported_config(results.folder, results.study))
    return write_card(folder, card(CardFacts(subject, facts, files)))


def _load_study(place: str | Path) -> Results:
    """Return the study of a folder on this machine."""
    if "://" in str(place):
        raise InputError(
            f"STUDY must be a folder on this machine, but got {place}; copy the study here first"
        )
    return load(place)


def _warn_of_another_best(results: Results, exported: str, say: Say) -> None:
    """Say so if students/ holds another configuration than the best one of now."""
    best = results.best()
    if best is not None and exported and exported != best:
        say(
            f"warning: {STUDENTS}/ holds the students of {results.label(exported)}, but the best "
            f"configuration is now {results.label(best)}; repeat the study's command to update it"
        )


def _write(
    subject: Subject,
    chosen: Format,
    file: Path,
    facts: dict[str, Any],
    say: Say,
    keep_template: Callable[[Any], None],
) -> Agreement:
    """Write a file and the JSON beside it, after a check against PyTorch."""
    say(f"Exporting repeat {subject.student.repeat} and checking it on {subject.checked_on}.")
    own = Exportable(subject.student, subject.signature, as_texts(facts), keep_template)
    found: list[tuple[Agreement, Tensor]] = []

    def check(part: Path) -> None:
        both = [subject.student.logits, chosen.read(own, part)]
        mine, other = run_all(both, subject.batches())
        agreement = compare(mine, other, subject.checked_on)
        found.append((agreement, mine))

    write_checked(file, lambda part: chosen.write(own, part), check)
    agreement, logits = found[0]
    say(f"Wrote {file}: {chosen.title}, {describe_signature(subject)}.")
    say(_describe_check(subject, agreement))
    notes = [_describe_check(subject, agreement), compare_recorded(subject, logits)]
    notes.append(compare_pillow(subject, logits, chosen.read(own, file)))
    notes = [line for line in notes if line]
    for line in notes[1:]:
        say(line)
    checked = {"on": subject.checked_on, **vars(agreement)}
    write_facts(file, facts | {"check": checked, "notes": notes})
    return agreement


def describe_signature(subject: Subject) -> str:
    """Return input and output of an exported file in words."""
    own, classes = subject.signature, len(subject.student.classes)
    shape = ", ".join(["batch", *map(str, own.shape)])
    return f"from {own.name}, {own.type_name} [{shape}], to logits [batch, {classes}]"


def _describe_check(subject: Subject, agreement: Agreement) -> str:
    """Return what a file was checked on, and how close it is to PyTorch, as a sentence."""
    tied = agreement.ties
    same = "the same class for each" + (
        f" but {tied}, whose two largest logits are equal but for rounding" if tied else ""
    )
    text = (
        f"{agreement.count:,} {subject.checked_on} against PyTorch: {same}, largest difference of "
        f"the logits {agreement.largest_difference:.2g} (largest logit "
        f"{agreement.largest_logit:.3g})."
    )
    if subject.views is None:
        return (
            f"warning: the file could NOT be checked on the study's data, since {subject.reason}. "
            f"Checked on {text}"
        )
    return f"Checked on all {text}"
