"""Fine-tuned teachers: which one a folder holds, and what makes it another.

Paths do not: a folder of images or a file of weights that has moved is the same by its content.
A teacher may be a file of its outputs: without augmentation a study with it equals the study with
the network, bit for bit.
"""

import json
import os
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from blobs import NOWHERE, SMALL
from photos import photo, save, save_photos
from safetensors.torch import load_file
from tiny_run import TINY

from kdtune import teacher as teacher_command
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.models.registry import build, build_model
from kdtune.models.weights import RECORD, WEIGHTS, save_weights
from kdtune.raytune.folder import check_same, is_moved
from kdtune.results.warnings import find_teacher_faults
from kdtune.storage.records import SavedStudy
from kdtune.streams.views import Resources
from kdtune.training import recipe, teachers
from kdtune.training.loop import Checkpoint
from kdtune.training.recipe import StudyModels, resolve, resolve_study
from kdtune.training.run import check_run, check_study, distill
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


def test_a_teacher_is_the_same_with_moved_files(tuned: tuple[Run, Path], tmp_path: Path) -> None:
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


def test_the_folder_of_a_study_of_any_version_is_its_teacher(other: Path, tmp_path: Path) -> None:
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
    for name in ("study_v0_1", "study_schema_2"):
        run = replace(TINY, teacher="kdtune.models:fashion_teacher", teacher_epochs=None)
        run = resolve(replace(run, teacher_weights=str(DATA / name)))
        assert run.teacher_epochs == 0
        assert load_teacher(run, load_data(run), Path()).preprocessing.mean == (0.286,)


def test_a_folder_without_the_teacher(other: Path, tuned: tuple[Run, Path], tmp_path: Path) -> None:
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


DOCS = Path(__file__).parents[2] / "docs" / "teachers.md"
PLAIN = replace(SMALL, train_images=30, augment="none", epochs=2)
BLOBS = load_data(PLAIN)
SUBSET = BLOBS.subset(replace(PLAIN, train_draw="study"))
UNUSED = np.setdiff1d(np.arange(41), SUBSET.numpy())
"""Images of train that the run does not learn from."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of the run's teacher, t.parquet and t.npz."""
    folder = tmp_path_factory.mktemp("outputs")
    for suffix in ("parquet", "npz"):
        file = folder / f"t.{suffix}"
        counts = teachers.dump_teacher(resolve(PLAIN), NOWHERE, Resources(), file, BLOBS)
        assert counts == {"train": 41, "val": 30, "test": 24}
    return folder


def with_file(run: Run, file: Path) -> Run:
    return replace(run, teacher=str(file), teacher_weights="default", teacher_epochs=0)


def results(run: Run, folder: Path) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Return all metrics of all epochs, and the weights of the student at the end."""
    epochs = list(distill(run, NOWHERE, Resources(), folder))
    return [epoch.splits for epoch in epochs], load_file(folder / "student.safetensors")


@pytest.mark.parametrize(("suffix", "trainable"), [("parquet", "all"), ("npz", "head")])
def test_a_file_equals_its_network(made: Path, tmp_path: Path, suffix: str, trainable: Any) -> None:
    run = replace(PLAIN, trainable=trainable, alpha=0.2)
    metrics, weights = results(run, tmp_path / "network")
    of_file, same = results(with_file(run, made / f"t.{suffix}"), tmp_path / "file")
    assert of_file == metrics and metrics[0]["val"]["teacher_acc"] is not None
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    frames = [pd.read_parquet(tmp_path / n / "predictions.parquet") for n in ("network", "file")]
    numbers = [frame.drop(columns="trial_id") for frame in frames]
    pd.testing.assert_frame_equal(*numbers, check_exact=True)
    other, _ = results(replace(run, alpha=0.9), tmp_path / "other")
    assert other != metrics  # so the teacher matters
    accuracies = [
        teachers.measure_accuracy(each, [each], NOWHERE, Resources(), StudyData(each))[0].splits
        for each in map(resolve, (run, with_file(run, made / f"t.{suffix}")))
    ]
    assert accuracies[0] == accuracies[1] and set(accuracies[0]) == {"train", "val", "test"}


@pytest.mark.parametrize(("factor", "shift"), [(1, 0), (1, 1), (2, 0)])
def test_probabilities_as_logits(made: Path, tmp_path: Path, factor: float, shift: float) -> None:
    """Named if they lie between 0 and 1 and have the sum 1; a shift or a factor leaves one."""
    arrays = dict(np.load(made / "t.npz"))
    for name in ("train_logits", "val_logits", "test_logits"):
        p = factor * torch.from_numpy(arrays[name]).softmax(1).numpy()
        arrays[name] = p + shift * np.linspace(-1, 1, p.shape[1])  # whose sum is 0
    np.savez(tmp_path / "t.npz", **arrays)
    run = resolve(with_file(PLAIN, tmp_path / "t.npz"))
    records = teachers.measure_accuracy(run, [run], NOWHERE, Resources(), StudyData(run))
    assert any("as prob" in x for x in find_teacher_faults(records)) == ((factor, shift) == (1, 0))


def test_the_baseline_may_augment_and_is_measured_on_val(made: Path, tmp_path: Path) -> None:
    network = replace(PLAIN, alpha=1.0, augment="crop")
    metrics, weights = results(with_file(network, made / "t.npz"), tmp_path / "file")
    wanted, same = results(network, tmp_path / "network")
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert [epoch["val"] for epoch in metrics] == [epoch["val"] for epoch in wanted]
    assert metrics[0]["train"]["agreement"] is None


def test_a_moved_file_is_the_same_study_an_edited_one_is_not(made: Path, tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes((made / "t.npz").read_bytes())
    asked = Study(run=with_file(PLAIN, made / "t.npz"))
    study, moved = (
        resolve_study(Study(run=with_file(PLAIN, f / "t.npz")), StudyData(PLAIN))
        for f in (made, tmp_path)
    )
    saved = SavedStudy(study, check_study(study, load_data(study.run)))
    assert asked.run.config_id == moved.run.config_id and is_moved(moved, saved)
    check_same(moved, saved, check_study(moved, load_data(moved.run)))
    arrays = dict(np.load(tmp_path / "t.npz"))
    arrays["val_logits"][3, 2] += 1
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match=r"the teacher t.npz .* has changed since"):
        check_same(moved, saved, check_study(moved, load_data(moved.run)))


def of_val(table: pd.DataFrame, *numbers: int) -> pd.Index:
    return table.index[table.split == "val"][list(numbers)]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.drop(of_val(t, 3, 8)), r"but lacks some: 2 \(val 3, val 8\)"),
        (lambda t: t.drop(SUBSET[:5].numpy()), r"student learns from .* some: 5 \(train "),
        (lambda t: t[t.split != "test"], r"lacks some: 24 \(test 0, test 1, test 2, \.\.\.\)"),
        (lambda t: t.assign(example=t.example + 1), r"has others: 3 \(train 41, val 30, test 24"),
        (lambda t: pd.concat([t, t.loc[of_val(t, 0)]]), r"example, but has more: 1 \(val 0\)"),
        (lambda t: t.assign(file="a.png"), "name all examples by split and index"),
        (lambda t: t.drop(UNUSED), None),
    ],
)
def test_rows_that_do_not_match_the_examples_are_refused(
    edit: Callable[[pd.DataFrame], pd.DataFrame], message: str | None, made: Path, tmp_path: Path
) -> None:
    edit(pd.read_parquet(made / "t.parquet")).to_parquet(file := tmp_path / "t.parquet")
    run = with_file(PLAIN, file)
    if message is None:
        check_run(replace(run, train_draw="study"))
        message = r"--train-draw study needs .* lacks some: 11 \(train "
    with pytest.raises(InputError, match=message):
        check_run(run)


def test_an_index_of_other_data_is_refused(made: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(made / "t.npz"))
    arrays["kdtune"] = np.array(str(arrays["kdtune"]).replace(BLOBS.fingerprint, "0" * 16))
    np.savez(tmp_path / "t.npz", **arrays)
    text = replace(PLAIN, data="own_data:text", train_images=None)
    for run, file, message in (
        (text, made, "must be a list of the 4 classes of the data"),
        (replace(PLAIN, folds=4), made, "name the examples by file, .* leave out --folds"),
        (PLAIN, tmp_path, rf"of the same data as .* {BLOBS.fingerprint}\)"),
    ):
        with pytest.raises(InputError, match=message):
            check_run(with_file(run, file / "t.npz"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images without val: eight of each of two classes in train, one in test."""
    for name, count in (("train", 8), ("test", 1)):
        for seed in range(2 * count):
            save(photo(seed), tmp_path / "photos" / name / "ab"[seed % 2] / f"{seed:02d}.png")
    return tmp_path / "photos"


def of_photos(photos: Path, image_size: int = 32) -> Run:
    resnet = {"teacher": "cifar_resnet20", "student": "cifar_resnet20"}
    return replace(PLAIN, data=str(photos), train_images=None, image_size=image_size, **resnet)


def outputs(run: Run, file: Path) -> dict[str, torch.Tensor]:
    run = with_file(run, file)
    return teachers.load_output_teacher(run, load_data(run)).logits


def test_files_are_matched_by_name_whatever_the_split(photos: Path, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(18, 2)).astype(np.float32)
    files = [file.relative_to(photos).as_posix() for file in sorted(photos.rglob("*.png"))]
    frame = pd.DataFrame({"file": files, "logits": list(numbers)})
    frame.sample(frac=1, random_state=0).to_parquet(file := tmp_path / "t.parquet")
    run, of_file = of_photos(photos), dict(zip(files, numbers.tolist(), strict=True))
    for other in (run, replace(run, folds=2, repeat=1), replace(run, seed=1)):
        logits, data = outputs(other, file), load_data(with_file(other, file))
        assert set(logits) == {"train", "val", "test"}
        for split, values in logits.items():
            inputs = data.splits[split].inputs
            names = [Path(str(path)).relative_to(photos).as_posix() for path in inputs]
            assert values.tolist() == [of_file[name] for name in names]
    frame.assign(file=f"{photos}/" + frame.file).to_parquet(whole := tmp_path / "whole.parquet")
    assert torch.equal(outputs(run, whole)["val"], outputs(run, file)["val"])
    wrong = frame.file.replace("train/a/00.png", "train/a/99.png")
    frame.assign(file=wrong).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"but has others: 1 \(train/a/99.png\)"):
        outputs(run, tmp_path / "other.parquet")


def test_an_index_without_a_val_needs_the_record_of_a_dump(photos: Path, tmp_path: Path) -> None:
    run = of_photos(photos)
    count = {split: len(each) for split, each in load_data(run).splits.items()}
    arrays = {f"{split}_logits": np.eye(2)[[0, 1] * (n // 2)] for split, n in count.items()}
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match="by file, since their index depends on how val is cut"):
        outputs(run, tmp_path / "t.npz")
    network = resolve(replace(run, teacher_epochs=0))
    teachers.dump_teacher(network, tmp_path, Resources(), tmp_path / "dump.npz", load_data(network))
    file = with_file(run, tmp_path / "dump.npz")
    assert teachers.load_output_teacher(file, load_data(file)).record is not None
    assert not recipe.find_other_cuts(Study(run=resolve(file)), load_data(file))
    other = Study(run=resolve(replace(file, seed=1)))
    assert "with another val than this" in recipe.find_other_cuts(other, load_data(other.run))[0]


def test_the_views_of_a_dump_are_the_defaults_of_its_study(photos: Path, tmp_path: Path) -> None:
    run = of_photos(photos, image_size=40)
    network = resolve(replace(run, teacher_epochs=0, eval_crop=0.7, eval_interpolation="bicubic"))
    teachers.dump_teacher(network, tmp_path, Resources(), tmp_path / "t.npz", load_data(network))
    asked = Study(run=with_file(replace(run, image_size=None), tmp_path / "t.npz"))
    study = resolve_study(asked, StudyData(run))
    assert (study.run.eval_crop, study.run.eval_interpolation) == (0.7, "bicubic")
    data = load_data(study.run)
    models = StudyModels.of(study, data)
    record = recipe.transforms_of(study, data, models, ())
    assert record["views"]["image_size"] == 40
    assert list(record["models"]) == ["student cifar_resnet20"]
    assert not list(recipe.find_other_views(study, data, models))
    other = replace(study, run=replace(study.run, image_size=48, eval_crop=0.7))
    (sentence, *_) = recipe.find_other_views(other, data, StudyModels.of(other, data))
    assert "(image_size 40 → 48)" in sentence


def test_the_command_writes_the_file_and_refuses_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(PLAIN, teacher_weights="none", teacher_epochs=0)
    study = Study(name="one", out=str(tmp_path), run=run, dump=str(tmp_path / "t.npz"))
    assert teacher_command.main(study) == 0
    assert f"--teacher {tmp_path / 't.npz'} --augment none" in capsys.readouterr().out
    cases = [
        ({"dump": "t.csv"}, "must be a .parquet or .npz file"),
        ({"dump": str(tmp_path / "no" / "t.npz")}, "in a folder that exists"),
        ({"run": replace(run, folds=3)}, "leave out --folds"),
        ({"run": replace(run, teacher_epochs=1, teachers=2)}, "but the study has 2"),
    ]
    for fields, message in cases:
        with pytest.raises(InputError, match=message):
            teacher_command.main(replace(study, **fields))


def documented(start: str, end: str) -> dict[str, Any]:
    """Run the lines of docs/teachers.md between two others; return their names."""
    _, _, rest = DOCS.read_text("utf-8").partition(start)
    exec(textwrap.dedent(rest.partition(end)[0]), scope := {})
    return scope


@pytest.mark.usefixtures("here")
def test_the_documented_lines_write_a_teacher() -> None:
    pytest.importorskip("sklearn.neighbors")
    scope = documented("    # write_outputs.py\n", "\nFor a folder")
    run = replace(TINY, augment="none")
    check_run(with_file(run, Path("outputs.npz")))
    logits = outputs(run, Path("outputs.npz"))["val"]
    wanted = scope["model"].predict_proba(scope["x"]["val"])
    assert logits.softmax(1).numpy() == pytest.approx(wanted, abs=1e-6)


def test_the_documented_lines_for_an_api_write_a_teacher(
    photos: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in list(photos.rglob("*.png")):
        file.rename(file.with_suffix(".jpg"))
    (here / "my_api.py").write_text("def classify(file): return [(file.parent.name, 0.9)]\n")
    monkeypatch.syspath_prepend(here)
    documented("    # write_top.py\n", "\n## Formats")
    run = with_file(of_photos(photos), here / "outputs.parquet")
    check_run(run)
    labels = load_data(run).splits["val"].labels
    p = outputs(run, here / "outputs.parquet")["val"].softmax(1)
    assert p[torch.arange(len(labels)), labels].numpy() == pytest.approx(0.9, rel=1e-6)
