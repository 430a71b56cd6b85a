"""One sentence for each thing that can be wrong with an export."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_students import FASHION, run_here
from study_folders import draw, make

from kdtune.config.text import InputError
from kdtune.deploy.export import export
from kdtune.export import parse as parse_export


def refused(place: object, *words: str) -> str:
    """Return the sentence with which an export is refused."""
    with pytest.raises(InputError) as error:
        flags = parse_export([str(place), *words])
        export(flags.study, flags.format, flags.int8, flags.repeat, say=str)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_places_without_students(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none")
    assert "must be a folder on this machine" in refused("s3://bucket/runs/x")
    waiting = make(tmp_path / "waiting", {0.5: [None], 1.0: [None]})
    assert "no run has completed" in refused(waiting.folder)
    made = make(tmp_path / "made", draw({0.5: 0.05, 1.0: 0.0}, 2), keep="none")
    assert "--keep none" in refused(made.folder)


def test_students_that_cannot_be_loaded(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "repeat must be one of 0, 1, 2" in refused(fashion, "--repeat", "9")
    file = fashion / "students" / "repeat-00.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert "repeat-00.safetensors" in refused(fashion)
    file.write_bytes(whole)
    record = fashion / "students" / "students.json"
    values = json.loads(record.read_text())
    values["model"] |= {"name": "gone_factories:net", "file": "/elsewhere/gone_factories.py"}
    record.write_text(json.dumps(values))
    assert "/elsewhere/gone_factories.py" in refused(fashion)


def test_without_the_extra(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before any work; the other formats do not need it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *own: None if "onnx" in name else real(name, *own)
    )
    assert "pip install 'kdtune[export]'" in refused(fashion)
    assert not (fashion / "students" / "best.onnx").exists()
    assert export(fashion, "safetensors", say=str).file.exists()


def test_a_folder_that_cannot_be_written(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> None:  # root may write anywhere, so that chmod would prove nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kdtune.deploy.subject.TemporaryFile", denied)
    sentence = refused(fashion, "--format", "safetensors")
    assert "can be written, but is not (Permission denied); copy the study's folder" in sentence


def test_a_model_that_cannot_be_traced(made: Path) -> None:
    """The weights can still be exported."""
    run = replace(FASHION, student="factories:wilful_student")
    study = run_here(run, made, "wilful", repeats=1).folder
    for format in ("onnx", "torch-export"):
        sentence = refused(study, "--format", format)
        assert "the student cannot be exported (" in sentence
        assert "--format safetensors" in sentence
    assert export(study, "safetensors", say=str).agreement.largest_difference == 0
    shutil.rmtree(study)
