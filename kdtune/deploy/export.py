"""Export of a student of a study: formats, files and checks."""

import copy
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kdtune.config.files import STUDENTS, atomic_write, writing
from kdtune.config.text import InputError, check_packages
from kdtune.deploy import onnx as onnx_files
from kdtune.deploy.card import as_texts, card, describe_check, describe_file
from kdtune.deploy.int8 import export_int8
from kdtune.deploy.onnx import Graph, Predict, compare_logits, run_all
from kdtune.deploy.subject import BEST, CARD, Subject, read_facts, write_card, write_facts
from kdtune.models.weights import saved_state
from kdtune.results.results import load
from kdtune.results.warnings import exported_config

# Formats of exported students: one entry of a table for each.


METADATA_FILE = "kdtune.json"
"""Extra file with the metadata in a file of torch.export."""
Metadata = Mapping[str, str]


@dataclass(frozen=True)
class ExportFormat:
    """A format: how a student's file is written, and how it is read again to check it.

    `write` may return what int8 needs of the file: the template of its ONNX model.
    """

    suffix: str
    title: str
    """The format in words, with its version if it has one."""
    write: Callable[[Subject, Metadata, Path], Any]
    read: Callable[[Subject, Path], Predict]


def _write_onnx(subject: Subject, metadata: Metadata, file: Path) -> Any:
    models = onnx_files.to_onnx(Graph(subject.student), subject.signature)
    onnx_files.write_onnx(models.optimized, file, metadata)
    return models.template


def _write_program(subject: Subject, metadata: Metadata, file: Path) -> None:
    """Write a program of torch.export; its metadata are an extra file."""
    program = onnx_files.trace(Graph(subject.student), subject.signature)
    # a buffer, since torch.export wants the suffix .pt2, which the temporary file has not
    content = io.BytesIO()
    with onnx_files.exporting("--format safetensors may do"):
        extra = {METADATA_FILE: json.dumps(dict(metadata))}
        torch.export.save(program, content, extra_files=extra)
    file.write_bytes(content.getvalue())


def _read_program(subject: Subject, file: Path) -> Predict:
    with onnx_files.exporting("--format safetensors may do"):
        module: Any = torch.export.load(io.BytesIO(file.read_bytes())).module()
    return lambda views: module(views)


def _write_weights(subject: Subject, metadata: Metadata, file: Path) -> None:
    """Write the weights under the names of the network's layers."""
    save_file(saved_state(subject.student.net), file, dict(metadata))


def _read_weights(subject: Subject, file: Path) -> Predict:
    student = copy.deepcopy(subject.student)
    for value in student.net.state_dict().values():
        value.zero_()  # so that nothing but the file decides
    student.net.load_state_dict(load_file(file))
    return student.logits


FORMATS = {
    "onnx": ExportFormat(
        ".onnx",
        f"ONNX, opset {onnx_files.OPSET}",
        _write_onnx,
        lambda _, file: onnx_files.predictor(file, torch.get_num_threads()),
    ),
    "torch-export": ExportFormat(
        ".pt2", f"torch.export, PyTorch {torch.__version__}", _write_program, _read_program
    ),
    "safetensors": ExportFormat(
        ".safetensors", "safetensors, weights alone", _write_weights, _read_weights
    ),
}
"""Formats by name, those of --format."""


# Export of a student of a study: files, checks, int8 and the model card.


_WriteLine = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What an export has written."""

    file: Path
    int8: Path | None
    """The file in int8, if it was asked for."""
    card: Path


def export(
    study: str | Path,
    format: str = "onnx",
    int8: bool = False,
    repeat: int | None = None,
    write: _WriteLine = print,
) -> Exported:
    """Export a student of the best configuration of a study into its students/.

    The file takes views and returns logits; its logits and classes are compared with those of
    PyTorch on the whole of test, or val without it, before it gets its name.

    Args:
        study: its folder.
        format: "onnx", "torch-export" or "safetensors".
        int8: also write an ONNX file in int8, and compare it with float32. That takes minutes on
            photographs, so the file in float32 and the model card are written before.
        repeat: of the student; by default the lowest that is there.
        write: is given each line of what was done.

    Raises:
        InputError: the study has no students, the student cannot be loaded or exported, a package
            is missing, or the folder cannot be written.
        ExportMismatchError: the exported file does not compute what the student does.
    """
    chosen = FORMATS[format]
    if format == "onnx":
        check_packages("--format onnx and --int8 need", onnx_files.PACKAGES, "export")
    if "://" in str(study):
        raise InputError(
            f"STUDY must be a folder on this machine, but got {study}; copy the study here first"
        )
    results = load(study)
    subject = Subject.of(results, repeat)
    folder = results.folder / STUDENTS
    if int8:
        subject.require_data()  # before any work
    config_id, best = exported_config(results.folder, results.study), results.best()
    if best is not None and config_id and config_id != best:
        write(
            f"warning: {STUDENTS}/ holds the students of {results.label(config_id)}, but the best "
            f"configuration is now {results.label(best)}; repeat the study's command to update it"
        )
    with writing(folder, "copy the study's folder to another place and export there"):
        file = folder / f"{BEST}{chosen.suffix}"
        facts = describe_file(subject, chosen.title)
        template = _write(subject, chosen, file, facts, write)
        text = card(subject, facts, read_facts(folder, config_id))
        earlier = write_card(folder, text, keep=True)
        kept = f"; the earlier one is now {earlier}" if earlier else ""
        write(f"Wrote the model card {folder / CARD}{kept}.")
        small = export_int8(subject, file, template, facts, write) if int8 else None
        if small is not None:
            write_card(folder, card(subject, facts, read_facts(folder, config_id)), keep=False)
            write(f"Wrote {small} and added it to the model card.")
    return Exported(file, small, folder / CARD)


def _write(
    subject: Subject, chosen: ExportFormat, file: Path, facts: dict[str, Any], write: _WriteLine
) -> Any:
    """Write a file and the JSON beside it, after a check against PyTorch.

    Returns:
        The template of the ONNX model, if there is one.
    """
    student, views = subject.student, subject.checked_on
    write(f"Exporting repeat {student.repeat} and checking it on {views}.")
    with atomic_write(file) as part:
        template = chosen.write(subject, as_texts(facts), part)
        both = [student.logits, chosen.read(subject, part)]
        logits, exported = run_all(both, subject.batches())
        agreement = compare_logits(logits, exported, views)
    shape = ", ".join(["batch", *map(str, subject.signature.shape)])
    write(
        f"Wrote {file}: {chosen.title}, from {subject.signature.name}, "
        f"{subject.signature.type_name} [{shape}], to logits [batch, {len(student.classes)}]."
    )
    notes = describe_check(subject, agreement, logits, chosen.read(subject, file))
    for line in notes:
        write(line)
    write_facts(file, facts | {"check": {"on": views, **vars(agreement)}, "notes": notes})
    return template
