"""Fine-tuned teachers: which one a folder holds, and what makes it another.

Paths do not: a folder of images or a file of weights that has moved is the same by its content.
"""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import SMALL
from photos import photo, save, save_photos
from safetensors.torch import load_file
from tiny_run import TINY

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.models.registry import build, build_model
from kdtune.models.weights import RECORD, WEIGHTS, save_weights
from kdtune.results.warnings import find_teacher_faults
from kdtune.streams.views import Resources
from kdtune.training import teachers
from kdtune.training.loop import Checkpoint
from kdtune.training.recipe import resolve
from kdtune.training.teachers import (
    describe_training,
    find_unmeasured,
    fine_tune,
    fine_tuning_run,
    is_ready,
    load_teacher,
    measure_accuracy,
    recorded_recipe,
    with_members,
)

DATA = Path(__file__).parents[1] / "data"
MODEL = "cifar_resnet20"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A teacher from a file of weights, fine-tuned on a folder of images, and its folder."""
    root = tmp_path_factory.mktemp("tuned")
    save_photos(root / "images", 3)
    weights = root / "initial.safetensors"
    save_weights(build(MODEL, "none", 2, seed=7).net, weights)
    run = Run(data=str(root / "images"), teacher=MODEL, teacher_weights=str(weights), batch_size=3)
    run = replace(run, teacher_epochs=1, orientation="stored")  # as in version 0.1
    assert not is_ready(run, root / "teacher")
    list(fine_tune(run, root / "teacher", Resources()))
    assert is_ready(run, root / "teacher")
    return run, root / "teacher"


def test_a_teacher_stays_the_same_where_its_files_have_moved(
    tuned: tuple[Run, Path], tmp_path: Path
) -> None:
    run, folder = tuned
    shutil.copytree(run.data, tmp_path / "images")
    shutil.copy(run.teacher_weights, tmp_path / "renamed.safetensors")
    shutil.copytree(folder, tmp_path / "teacher")
    there = replace(run, data=str(tmp_path / "images"))
    # a finished teacher does not need the file it began with
    for name in ("renamed.safetensors", "initial.safetensors"):
        moved = replace(there, teacher_weights=str(tmp_path / name))
        assert is_ready(moved, folder) and is_ready(moved, tmp_path / "teacher")
        assert load_teacher(moved, load_data(moved), tmp_path / "teacher").fingerprint()


def test_other_content_is_another_teacher(tuned: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = tuned
    other = tmp_path / "initial.safetensors"
    save_weights(build(MODEL, "none", 2, seed=8).net, other)
    pixels = shutil.copytree(run.data, tmp_path / "images")
    save(photo(99), pixels / "train" / "ant" / "0.png")
    changes: list[dict[str, Any]] = [
        {"teacher_weights": str(other)},  # of the same name
        *({"data": str(pixels)}, {"teacher_batch_size": 2}, {"teacher_epochs": 2}, {"seed": 1}),
        *({"teacher_lr": 0.1}, {"teacher": "factories:photo_student"}, {"teacher_weights": "none"}),
    ]
    for change in changes:
        assert not is_ready(replace(run, **change), folder), change
        with pytest.raises(InputError, match="holds another teacher"):
            next(fine_tune(replace(run, **change), folder, Resources()))
    edited = shutil.copy(run.teacher_weights, tmp_path / "edited.safetensors")
    assert is_ready(replace(run, teacher_weights=str(edited)), folder)
    save_weights(build(MODEL, "none", 2, seed=9).net, Path(edited))
    os.utime(edited, (1, 1))
    assert not is_ready(replace(run, teacher_weights=str(edited)), folder)


def test_what_only_a_student_has_makes_no_other_teacher(tuned: tuple[Run, Path]) -> None:
    run, _ = tuned

    def recipe(run: Run, **changes: object) -> dict[str, object]:
        return recorded_recipe(resolve(replace(run, **changes)), load_data(run))

    student = {"student": "cifar_resnet20", "trainable": "head", "train_images": 4, "repeat": 3}
    student |= {"loss": "dkd", "alpha": 0.1, "temperature": 2.0, "dkd_beta": 3.0, "lr": 0.5}
    student |= {"epochs": 9, "momentum": 0.1, "optimizer": "adamw", "batch_size": 7}
    student |= {"warmup_epochs": 3, "clip_norm": 1.0, "ema": 0.9, "lr_milestones": (0.5,)}
    assert recipe(run, **student) == recipe(run)
    adamw = replace(run, teacher_optimizer="adamw")
    assert recipe(adamw, teacher_momentum=0.1) == recipe(adamw)  # momentum has no effect there
    assert recipe(adamw) != recipe(run)
    assert recipe(run, teacher_lr_milestones=(0.5,)) == recipe(run)  # its schedule has none
    multistep = replace(run, teacher_schedule="multistep")
    assert recipe(multistep, teacher_lr_milestones=(0.5,)) != recipe(multistep)


def test_a_teacher_of_version_0_1_is_known(tuned: tuple[Run, Path], tmp_path: Path) -> None:
    """Its record has neither the weights' hash nor the fields that came later."""
    run, folder = tuned[0], shutil.copytree(tuned[1], tmp_path / "teacher")
    record = json.loads((folder / RECORD).read_text())
    fields = asdict(fine_tuning_run(resolve(run)))
    written = json.loads((DATA / "study_v0_1" / "teacher" / RECORD).read_text())["run"]
    fields = {name: fields[name] for name in written}
    old = {"run": fields, "data": record["data"], "classes": record["classes"]}
    (folder / RECORD).write_text(json.dumps(old))
    assert is_ready(run, folder)
    shutil.copy(run.teacher_weights, tmp_path / "renamed.safetensors")
    assert is_ready(replace(run, teacher_weights=str(tmp_path / "renamed.safetensors")), folder)
    assert not is_ready(replace(run, teacher_weights="none"), folder)
    assert not is_ready(replace(run, teacher_lr=0.5), folder)
    for damaged in ("{", '{"run": {"no": 1}}'):
        (folder / RECORD).write_text(damaged)
        with pytest.raises(InputError, match=r"is damaged \(.*\); remove that folder"):
            is_ready(run, folder)


def test_head_only_changes_nothing_of_the_backbone(tuned: tuple[Run, Path], tmp_path: Path) -> None:
    """Weights, running statistics and counters: batch norm is in eval mode by default."""
    run = replace(tuned[0], teacher_trainable="head", teacher_lr=1.0)
    list(fine_tune(run, tmp_path, Resources()))
    before, after = load_file(str(run.teacher_weights)), load_file(tmp_path / WEIGHTS)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # the gradients of the biases of two equally frequent classes may cancel
    assert {"fc.weight"} <= changed <= {"fc.weight", "fc.bias"}
    text = describe_training(resolve(run), load_data(run))
    # by hand: 64 features x 2 classes + 2
    assert "only the head fc, 130 of 269,202 parameters; batch norm eval" in text


KEEPS_BEST = replace(
    SMALL, teacher_epochs=4, teacher_keep="best", teacher_schedule="constant", teacher_lr=0.2
)


@pytest.fixture(scope="module")
def kept_best(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A teacher of which the best epoch is kept, and its accuracy on val by epoch."""
    folder = tmp_path_factory.mktemp("best")
    epochs = list(fine_tune(KEEPS_BEST, folder, Resources()))
    return folder, [float(epoch.splits["val"]["acc"] or 0) for epoch in epochs]


def test_the_best_epoch_is_kept(kept_best: tuple[Path, list[float]], tmp_path: Path) -> None:
    """Its weights are those of a training that ended there: the learning rate is constant."""
    folder, accs = kept_best
    best = accs.index(max(accs))
    assert best < len(accs) - 1, "else nothing is tested"
    record = json.loads((folder / RECORD).read_text())
    assert (record["kept_epoch"], record["val"]["acc"]) == (best, max(accs))
    assert [epoch["val"] for epoch in record["history"]] == accs
    assert [epoch["epoch"] for epoch in record["history"]] == list(range(len(accs)))
    shorter = replace(KEEPS_BEST, teacher_epochs=best + 1, teacher_keep="last")
    list(fine_tune(shorter, tmp_path, Resources()))
    ended, kept = load_file(tmp_path / WEIGHTS), load_file(folder / WEIGHTS)
    assert all(torch.equal(ended[name], kept[name]) for name in ended)


def test_the_best_epoch_survives_a_kill(
    kept_best: tuple[Path, list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every save of the state, training is cut off and resumed."""
    monkeypatch.setattr(Checkpoint, "MAX_AGE_SECONDS", 0.0)  # a state after each epoch

    class Killed(Exception):
        """Ends the process as far as the training is concerned."""

    def die() -> None:
        raise Killed

    for _ in range(KEEPS_BEST.teacher_epochs or 0):
        with pytest.raises(Killed):
            list(fine_tune(KEEPS_BEST, tmp_path, Resources(), die))
    assert not (tmp_path / WEIGHTS).exists()
    list(fine_tune(KEEPS_BEST, tmp_path, Resources()))
    folder, _ = kept_best
    for name in (WEIGHTS, RECORD):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with a fine-tuned teacher that has a preprocessing of its own."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    run = replace(SMALL, teacher_mean=(0.5,), teacher_std=(0.25,), teacher_epochs=2)
    list(fine_tune(run, folder / "teacher", Resources()))
    return folder


def test_the_folder_of_a_study_is_its_teacher(other: Path, tmp_path: Path) -> None:
    begun = replace(SMALL, teacher_weights=str(other), teacher_epochs=None)
    run = resolve(begun)
    assert run.teacher_epochs == 0
    assert run.teacher_weights == str(other / "teacher" / WEIGHTS)
    teacher = load_teacher(run, load_data(run), tmp_path)
    assert (teacher.preprocessing.mean, teacher.preprocessing.std) == ((0.5,), (0.25,))
    described = build_model(run, "teacher", 3, seed=0, weights="none")  # sizes, records
    assert described.preprocessing == teacher.preprocessing and described.has_normalization
    flagged = load_teacher(replace(run, teacher_mean=(0.1,)), load_data(run), tmp_path)
    assert (flagged.preprocessing.mean, flagged.preprocessing.std) == ((0.1,), (0.25,))
    # the file alone suffices, under any name
    alone = shutil.copy(other / "teacher" / WEIGHTS, tmp_path / "renamed.safetensors")
    moved = resolve(replace(begun, teacher_weights=str(alone)))
    assert moved.teacher_epochs == 0
    assert load_teacher(moved, load_data(moved), tmp_path).fingerprint() == teacher.fingerprint()


def test_a_teacher_of_an_earlier_version_is_known_by_the_record_beside_it() -> None:
    for name in ("study_v0_1", "study_schema_2"):
        run = replace(TINY, teacher="kdtune.models:fashion_teacher", teacher_epochs=None)
        run = resolve(replace(run, teacher_weights=str(DATA / name)))
        assert run.teacher_epochs == 0
        assert load_teacher(run, load_data(run), Path()).preprocessing.mean == (0.286,)


def test_a_folder_without_the_teacher_that_is_asked_for(
    other: Path, tuned: tuple[Run, Path], tmp_path: Path
) -> None:
    asked = replace(SMALL, teacher_weights=str(other), teacher_epochs=None)
    # for other classes it is fine-tuned, as pretrained weights are
    assert resolve(replace(asked, data=tuned[0].data)).teacher_epochs == 10
    wrong = resolve(replace(asked, teacher="cifar_resnet20"))
    words = "holds the teacher factories:tiny_teacher, but --teacher is cifar_resnet20; give"
    with pytest.raises(InputError, match=words):
        load_teacher(wrong, load_data(wrong), Path())
    with pytest.raises(InputError, match=r"holds no teacher\.safetensors; give the fi"):
        resolve(replace(SMALL, teacher_weights=str(tmp_path)))
    for place in ("teacher", "teacher/a-5-123456"):
        shutil.copytree(other / "teacher", tmp_path / place)
    with pytest.raises(InputError, match=r"with one fine-tuned teacher, but .* holds .*a-5-123456"):
        resolve(replace(SMALL, teacher_weights=str(tmp_path)))


@pytest.mark.parametrize(("most", "of"), [(20, None), (9, 20)])
def test_accuracy_is_that_of_a_plain_loop(
    other: Path, monkeypatch: pytest.MonkeyPatch, most: int, of: int | None
) -> None:
    """The images have the size of the model's input, so nothing is resized."""
    monkeypatch.setattr(teachers, "MAX_TRAIN_IMAGES", most)
    run = resolve(replace(SMALL, teacher_weights=str(other), teacher_epochs=0, train_images=20))
    (measured,) = measure_accuracy(run, [run], other, Resources(), StudyData(run))
    data = load_data(run)
    model = load_teacher(run, data, other)
    model.eval()
    for split, value in measured.splits.items():
        images, labels = data.splits[split].inputs, data.splits[split].labels
        assert value.of == (of if split == "train" else None)
        if split == "train":
            chosen = data.subset(replace(run, train_images=most))
            images, labels = images[chosen], labels[chosen]
        with torch.no_grad():
            logits = model.net((images.float() / 255 - 0.5) / 0.25)
        assert (value.correct, value.n) == (int((logits.argmax(1) == labels).sum()), len(labels))
        assert value.largest_class == max(labels.tolist().count(k) for k in range(3))
    assert list(measured.splits) == ["train", "val", "test"]


def test_accuracy_is_measured_once(tmp_path: Path) -> None:
    run = resolve(replace(SMALL, teacher_epochs=1))
    list(fine_tune(run, tmp_path, Resources()))
    known = measure_accuracy(run, [run], tmp_path, Resources(), StudyData(run))
    assert find_unmeasured(run, [run], tmp_path, known, StudyData(run)) == []
    fewer = replace(run, train_images=30)
    assert find_unmeasured(fewer, [fewer], tmp_path, known, StudyData(run)) == [fewer]
    save_weights(build(run.teacher, "none", 3, seed=5).net, tmp_path / WEIGHTS)
    assert find_unmeasured(run, [run], tmp_path, known, StudyData(run)) == [run]


@pytest.mark.parametrize(
    ("values", "layer", "rows", "words"),
    [
        ({}, "4.weight", [0, 1, 2], []),
        (
            {},
            "4.weight",
            [1, 2, 0],
            ["another order than those of the data: its class 2 for images of 0, its class 0 for"],
        ),
        ({}, "0.weight", [2, 1, 0], ["the order BGR of its channels makes 100.0% of 60 images"]),
        (
            {"teacher_mean": (0.9,), "teacher_std": (0.1,)},
            "4.weight",
            [0, 1, 2],
            ["of 60 images of train in place of 33.3% right. Give --teacher-mean and"],
        ),
    ],
)
def test_what_is_wrong_with_a_teacher_that_is_wrong(
    tmp_path: Path, values: dict[str, Any], layer: str, rows: list[int], words: list[str]
) -> None:
    """Its classes in another order, weights for BGR, or a mean and std of other images."""
    net = build("factories:colour_teacher", "none", 3, seed=0).net
    state = net.state_dict()
    for name in (layer, "4.bias") if layer == "4.weight" else (layer,):
        state[name].copy_(state[name][rows] if name != "0.weight" else state[name][:, rows])
    save_weights(net, file := tmp_path / "weights.safetensors")
    run = replace(SMALL, data="blobs:colours", teacher="factories:colour_teacher", **values)
    run = resolve(replace(run, teacher_weights=str(file), student="factories:photo_student"))
    measured = measure_accuracy(run, [run], tmp_path, Resources(), StudyData(run))
    faults = list(find_teacher_faults(measured))
    assert len(faults) == len(words) and all(w in f for w, f in zip(words, faults, strict=True))


def test_an_ensemble_and_its_members_have_an_accuracy_each(tmp_path: Path) -> None:
    names = ["factories:tiny_teacher", "factories:tiny_student"]
    run = resolve(replace(SMALL, teacher="+".join(names)))
    members = with_members([run])
    assert [member.teacher for member in members] == [*names, run.teacher]
    measured = measure_accuracy(run, members, tmp_path, Resources(), StudyData(run))
    data = load_data(run)
    models = [load_teacher(member, data, tmp_path) for member in run.teacher_members]
    val = data.splits["val"]
    with torch.no_grad():  # the mean probability
        shares = [model.eval()(val.inputs).softmax(1) for model in models]
    correct = int(((shares[0] + shares[1]).argmax(1) == val.labels).sum())
    assert measured[2].splits["val"].correct == correct
