"""Fine-tuned teachers: which one a folder holds, and what makes it another.

Paths do not: a folder of images or a file of weights that has moved is the same by its content.
"""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.models.registry import build
from kdtune.models.weights import save_weights
from kdtune.streams.resources import Resources
from kdtune.training.teacher import (
    RECORD,
    WEIGHTS,
    fine_tune,
    is_ready,
    load_teacher,
    teacher_recipe,
    teacher_run,
)

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            for i in range(3):
                file = tmp_path / "images" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 12), (70 * i, 90 * (name == "ants"), 0)).save(file)
    return tmp_path / "images"


@pytest.fixture
def run(images: Path, tmp_path: Path) -> Run:
    """A teacher from a file of weights, on a folder of images."""
    weights = tmp_path / "initial.safetensors"
    save_weights(build("mobilenet_v3_small", "none", 2, seed=7).net, weights)
    return Run(
        data=str(images),
        image_size=32,
        teacher="mobilenet_v3_small",
        teacher_weights=str(weights),
        teacher_epochs=1,
        batch_size=3,
    )


def test_a_teacher_stays_the_same_where_its_files_have_moved(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    assert not is_ready(run, folder)
    list(fine_tune(run, folder, Resources()))
    assert is_ready(run, folder)

    moved = tmp_path / "elsewhere"
    shutil.copytree(run.data, moved / "images")
    shutil.copy(run.teacher_weights, moved / "renamed.safetensors")
    shutil.copytree(folder, moved / "teacher")
    there = replace(run, data=str(moved / "images"))
    assert is_ready(replace(there, teacher_weights=str(moved / "renamed.safetensors")), folder)
    # a finished teacher does not need the file it began with
    assert is_ready(replace(there, teacher_weights=str(moved / "initial.safetensors")), folder)
    shutil.rmtree(run.data)
    there = replace(there, teacher_weights=str(moved / "renamed.safetensors"))
    assert is_ready(there, moved / "teacher")
    assert load_teacher(there, moved / "teacher").fingerprint()


def test_other_content_is_another_teacher(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    list(fine_tune(run, folder, Resources()))
    other = tmp_path / "other" / "initial.safetensors"
    other.parent.mkdir()
    save_weights(build("mobilenet_v3_small", "none", 2, seed=8).net, other)
    pixels = shutil.copytree(run.data, tmp_path / "other" / "images")
    Image.new("RGB", (12, 12), (1, 2, 3)).save(pixels / "train" / "ants" / "0.png")
    changed = {
        "weights of the same name": replace(run, teacher_weights=str(other)),
        "images": replace(run, data=str(pixels)),
        "recipe": replace(run, teacher_batch_size=2),
        "epochs": replace(run, teacher_epochs=2),
        "lr": replace(run, teacher_lr=0.1),
        "model": replace(run, teacher="mobilenet_v3_large"),
        "no weights": replace(run, teacher_weights="none"),
        "seed": replace(run, seed=1),
    }
    for what, another in changed.items():
        assert not is_ready(another, folder), what
        with pytest.raises(InputError, match="holds another teacher"):
            next(fine_tune(another, folder, Resources()))
    save_weights(build("mobilenet_v3_small", "none", 2, seed=9).net, Path(run.teacher_weights))
    os.utime(run.teacher_weights, (1, 1))
    assert not is_ready(run, folder), "the file was edited"


def test_what_only_a_student_has_makes_no_other_teacher(run: Run) -> None:
    student = {"student": "resnet18", "trainable": "head", "train_images": 4, "repeat": 3}
    student |= {"loss": "dkd", "alpha": 0.1, "temperature": 2.0, "dkd_beta": 3.0, "lr": 0.5}
    student |= {"epochs": 9, "momentum": 0.1, "optimizer": "adamw", "batch_size": 7}
    assert teacher_recipe(replace(run, **student)) == teacher_recipe(run)
    adamw = replace(run, teacher_optimizer="adamw")
    # momentum has no effect there
    assert teacher_recipe(replace(adamw, teacher_momentum=0.1)) == teacher_recipe(adamw)
    assert teacher_recipe(adamw) != teacher_recipe(run)


def test_a_teacher_of_version_0_1_is_known(run: Run, tmp_path: Path) -> None:
    """Its record has neither the weights' hash nor the fields that came later."""
    folder = tmp_path / "teacher"
    list(fine_tune(run, folder, Resources()))
    record = json.loads((folder / RECORD).read_text())
    fields = asdict(teacher_run(run))
    written = json.loads((DATA / "study_v0_1" / "teacher" / RECORD).read_text())["run"]
    fields = {name: fields[name] for name in written}
    old = {"run": fields, "data": record["data"], "classes": record["classes"]}
    (folder / RECORD).write_text(json.dumps(old))
    assert is_ready(run, folder)
    shutil.copy(run.teacher_weights, tmp_path / "renamed.safetensors")
    assert is_ready(replace(run, teacher_weights=str(tmp_path / "renamed.safetensors")), folder)
    assert not is_ready(replace(run, teacher_weights="none"), folder)
    assert not is_ready(replace(run, teacher_lr=0.5), folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"run": 3, "data": ""}', '{"run": {"no": 1}}'])
def test_a_damaged_record_is_said(content: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(content)
    save_weights(torch.nn.Linear(2, 2), tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=r"is damaged \(.*\); remove that folder"):
        is_ready(run, tmp_path)


def test_an_interrupted_fine_tuning_resumes(run: Run, tmp_path: Path) -> None:
    run = replace(run, teacher_epochs=2)
    whole = list(fine_tune(run, tmp_path / "whole", Resources()))
    cut = fine_tune(run, tmp_path / "cut", Resources())
    next(cut), next(cut)
    cut.close()
    saved: list[int] = []
    rest = list(fine_tune(run, tmp_path / "cut", Resources(), lambda: saved.append(1)))
    assert [e.splits for e in rest] == [e.splits for e in whole] and saved
    for name in (WEIGHTS, RECORD):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == [RECORD, WEIGHTS]
