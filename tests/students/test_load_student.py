"""Where students are loaded from, and one sentence for each thing that can be wrong there."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torchvision
from s3_service import S3
from study_folders import draw, edit_json, make

import kdtune
from kdtune.config.records import SCHEMA
from kdtune.config.text import InputError
from kdtune.data.sources import load_fashion
from kdtune.models.registry import build
from kdtune.models.weights import licence_of
from kdtune.results.results import Results
from kdtune.storage.store import Store

OLDER = Path(__file__).parents[1] / "data"
IMAGES = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)


@pytest.fixture
def copied(fashion: Results, tmp_path: Path) -> Path:
    return shutil.copytree(fashion.folder / "students", tmp_path / "mine")


def refused(place: object, repeat: int | None = None) -> str:
    """Return the sentence with which a place is refused."""
    with pytest.raises(InputError) as error:
        kdtune.load_student(place, repeat)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit_json(folder / "students.json", change)


def test_every_way_to_name_the_same_student(fashion: Results, copied: Path) -> None:
    want = kdtune.load_student(copied, 1)(IMAGES)
    file = copied / "repeat-01.safetensors"
    for place in (fashion.folder, fashion.folder / "students", str(copied), fashion, fashion.study):
        torch.testing.assert_close(kdtune.load_student(place, 1)(IMAGES), want)
    assert kdtune.load_student(file).repeat == 1
    assert not torch.equal(kdtune.load_student(copied)(IMAGES), want)  # repeat 0


def test_the_default_is_the_lowest_repeat_not_the_best(copied: Path) -> None:
    (copied / "repeat-00.safetensors").rename(copied / "repeat-07.safetensors")

    def better(values: dict[str, Any]) -> None:
        values["students"][0] |= {"repeat": 7, "file": "repeat-07.safetensors"}
        values["students"][0]["metrics"]["val"]["acc"] = 1.0

    edit(copied, better)
    assert kdtune.load_student(copied).repeat == 1
    assert kdtune.load_student(copied, 7).metrics["student"]["val"]["acc"] == 1.0


def test_a_study_on_an_object_store(s3: S3, fashion: Results, tmp_path: Path) -> None:
    uri = f"s3://kdtune/{tmp_path.name}"
    store = Store(f"{uri}/fashion")
    for file in sorted((fashion.folder / "students").iterdir()):
        store.put(file, f"students/{file.name}")
    want = kdtune.load_student(fashion.folder, 1)(IMAGES)
    for place in (f"{uri}/fashion", f"{uri}/fashion/students"):
        torch.testing.assert_close(kdtune.load_student(place, 1)(IMAGES), want)
    study = replace(fashion.study, out=uri)
    torch.testing.assert_close(kdtune.load_student(study, 1)(IMAGES), want)
    assert "one of 0, 1, 2" in refused(study, 3)
    assert "has no folder students/" in refused(f"{uri}/nothing")
    assert "cannot be read" in refused("s3://no-such-bucket-of-kdtune/x")


@pytest.mark.parametrize("name", ["study_v0_1", "study_schema_2", "study_schema_3"])
def test_students_of_earlier_versions(name: str, tmp_path: Path) -> None:
    """They predict as recorded, also from a copy of students/ alone."""
    folder = OLDER / name
    copied = shutil.copytree(folder / "students", tmp_path / "mine")
    results = kdtune.load(folder)
    trial = results.trials[results.trials.config_id == results.best()].iloc[0]
    frame = pd.read_parquet(folder / "trials" / trial.trial_id / "predictions.parquet")
    val = load_fashion().splits["val"]
    rows = frame[frame.split == "val"].sort_values("example")
    for place in (folder, copied):
        student = kdtune.load_student(place, int(trial["repeat"]))
        p = student(val.inputs)
        assert (p.argmax(1) == val.labels).tolist() == rows.correct.tolist()
        if "p_predicted" in rows:  # not in version 0.1
            want = torch.tensor(rows.p_predicted.to_numpy())
            torch.testing.assert_close(p.max(1).values, want, rtol=0, atol=1e-6)
        assert student.classes[:2] == ("T-shirt", "Trouser")
        assert student.metrics == {"configuration": {}, "student": {}}


def test_earlier_students_of_other_data_need_their_study(tmp_path: Path) -> None:
    """For the names of the classes, and to be told the image size, which version 0.1 lacks."""
    around = shutil.copytree(OLDER / "study_schema_3", tmp_path / "study")
    folder = around / "students"
    edit(folder, lambda values: values.update(data="torchvision:KMNIST"))
    assert kdtune.load_student(around).classes[0] == "T-shirt"
    copied = shutil.copytree(folder, tmp_path / "mine")
    assert "the names of the classes are not known" in refused(copied)
    edit(folder, lambda values: values.pop("preprocessing"))
    edit(folder, lambda values: values.update(image_size=None))
    assert "image size of these students is not known" in refused(around)


def test_places_without_students(fashion: Results, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    for name in ("missing", "empty", "notes.txt"):
        sentence = refused(tmp_path / name)
        assert sentence.startswith("STUDENT must be a study's folder, its students/")
        assert sentence.endswith(f", but {tmp_path / name} is none")
    ended = make(tmp_path / "ended", draw({0.5: 0.05, 1.0: 0.0}, 2)).folder
    assert "is written when a study of distillation is complete" in refused(ended)
    folder = shutil.copytree(fashion.folder / "students", tmp_path / "mine")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert "is none" in refused(folder)


def test_a_record_that_is_damaged_newer_or_missing(copied: Path) -> None:
    file = copied / "students.json"
    edit(copied, lambda values: values["model"].update(name="factories:unknown"))
    assert "cannot be imported" in refused(copied)
    edit(copied, lambda values: values.update(schema=SCHEMA + 1, classes=3))
    assert "written by a newer version of kdtune" in refused(copied)
    file.write_text("{}")
    assert f"{file} is damaged (" in refused(copied)
    file.unlink()
    for place in (copied, copied / "repeat-00.safetensors"):
        assert "must hold students.json" in refused(place)


def test_damaged_weights(copied: Path) -> None:
    file = copied / "repeat-00.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:50], whole[:-10], b"x" * 500, whole[:-1] + b"\x01"):
        file.write_bytes(content)
        message = refused(copied)
        assert message.startswith(f"{file} is damaged (") and "choose another repeat" in message
    assert "SHA-256" in message
    assert kdtune.load_student(copied, 1).repeat == 1


def test_a_factory_that_is_gone_or_has_changed(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, name = tmp_path / "my_models_of_mine.py", "my_models_of_mine"
    text = "import factories\n\nsmall = lambda k: factories.small_cnn(k, width=2)\n"
    project.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would hide edits within a second
    made = build(f"{name}:small", "none", 10, seed=0)
    model = {"name": made.name, "file": str(project), "source": made.source}
    want = kdtune.load_student(copied)(IMAGES)
    edit(copied, lambda values: values["model"].update(model))
    torch.testing.assert_close(kdtune.load_student(copied)(IMAGES), want)

    del sys.modules[name]
    project.write_text(f"{text}\n\nEPOCHS = 3\n")
    with pytest.warns(UserWarning, match="has changed since the study") as found:
        changed = kdtune.load_student(copied)
    assert str(project) in str(found[0].message)
    torch.testing.assert_close(changed(IMAGES), want)

    for other, words in (
        (text.replace("width=2", "width=3"), "fit .*The source of .* has changed."),
        ("x = 1\n", "has no attribute 'small'"),
    ):
        del sys.modules[name]
        project.write_text(other)
        assert re.search(words, refused(copied))
    del sys.modules[name]
    project.unlink()
    message = refused(copied)
    assert "No module named 'my_models_of_mine'" in message and "PYTHONPATH" in message
    assert f"The module my_models_of_mine, in the study the file {project}, and" in message


def test_licences_of_initial_weights() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_resnet", pretrained=False)
    assert licence_of(net, "timm/test_resnet", "default") == net.pretrained_cfg["license"]
    assert licence_of(net, "timm/test_resnet", "a file.safetensors") == "unknown"
    assert "license" in torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.meta
    assert licence_of(torch.nn.Identity(), "resnet18", "default") == "unknown"
