"""A teacher that is only a file: equal to its network, matched with the data, refused if it fails.

The law: without augmentation a study with a dump equals the study with the network, bit for bit.
"""

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from blobs import NOWHERE, SMALL
from photos import photo, save
from safetensors.torch import load_file
from tiny_run import TINY

from kdtune import teacher as teacher_command
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.raytune.folder import check_same, is_moved
from kdtune.results.warnings import find_teacher_faults
from kdtune.storage.records import SavedStudy
from kdtune.streams.views import Resources
from kdtune.training import recipe, teachers
from kdtune.training.recipe import StudyModels, resolve, resolve_study
from kdtune.training.run import check_run, check_study, distill

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
def test_the_file_equals_the_network_bit_for_bit(
    made: Path, tmp_path: Path, suffix: str, trainable: Any
) -> None:
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
def test_probabilities_under_the_name_of_logits(
    made: Path, tmp_path: Path, factor: float, shift: float
) -> None:
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


def test_a_moved_file_is_the_same_study_and_an_edited_one_is_not(
    made: Path, tmp_path: Path
) -> None:
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
