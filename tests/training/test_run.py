"""One run: models that a process keeps, resuming, the files it writes, the checks before it."""

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import factories
import pandas as pd
import pytest
import torch
from blobs import CPU, NOWHERE, RUN, SMALL, blobs
from photos import save_photos, write_table
from reference import build_teacher, plain_loop
from safetensors.torch import load_file
from tiny_run import TINY
from torch import nn
from torch.optim import SGD

from kdtune.config.files import PREDICTIONS
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import METRICS, find_metric
from kdtune.config.text import Diverged, InputError
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.models.classifier import Classifier
from kdtune.models.registry import build
from kdtune.models.weights import WEIGHTS, save_weights
from kdtune.raytune.folder import check_same
from kdtune.results.frames import read_examples
from kdtune.storage.records import SavedStudy
from kdtune.streams.cache import Cache
from kdtune.streams.views import Resources
from kdtune.training.epoch import Predictions, save_predictions
from kdtune.training.recipe import Progress, StudyModels, check_weights, resolve
from kdtune.training.run import (
    STUDENT,
    check_objectives,
    check_run,
    check_study,
    distill,
    initial_student,
    make_student,
    time_epoch,
)
from kdtune.training.teachers import fine_tune, initial_teacher

LIBRARY = "cifar_resnet20"
"""Of the models that are no functions of the user: their students are kept and reset."""


def state(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.net.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_time_of_an_epoch_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that a pass of the student moves on by a unit, and one of the teacher by 10.

    A step of a whole batch is measured, of 16 images, and passes of 32; where a unit is a second,
    of 4 images.
    """
    now, data, cpu = [0.0], load_data(TINY), torch.device("cpu")
    monkeypatch.setattr("kdtune.training.run.timer", lambda: now[0])

    def ticking(make: Any, seconds: float, classes: int) -> nn.Module:
        net: nn.Module = make(classes)
        net.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + seconds))
        return net

    models = {name: getattr(factories, name) for name in ("tiny_student", "tiny_teacher")}
    for unit, batch, many in ((1e-3, 16, 32), (1.0, 4, 4)):
        for (name, make), units in zip(models.items(), (1, 10), strict=True):
            monkeypatch.setattr(factories, name, partial(ticking, make, units * unit))
        step, forward, shared = 75 / batch, 500 / many, 75 * 10 / many  # 75 images, 500 on val
        of_run = (unit * (step + forward), unit * shared, 0)
        assert time_epoch(resolve(TINY), data, cpu, 1) == pytest.approx(of_run)
        alone = (of_run[0], 0, 0)
        assert time_epoch(resolve(TINY), data, cpu, 1, has_teacher=False) == pytest.approx(alone)
        still = resolve(replace(TINY, augment="none"))
        assert time_epoch(still, data, cpu, 1) == pytest.approx((of_run[0], 0, of_run[1]))
        head = resolve(replace(TINY, trainable="head", batch_norm="train"))
        # only passes take time on this clock
        of_head = (0, unit * (shared + 75 / many), unit * forward)
        assert time_epoch(head, data, cpu, 1) == pytest.approx(of_head, abs=1e-9)


def test_a_teacher_is_kept_for_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process keeps its teacher while the fields of the student's optimiser change."""
    run = replace(SMALL, epochs=1, teacher_epochs=1)
    list(fine_tune(run, tmp_path, Resources()))
    list(distill(run, tmp_path, Resources()))
    monkeypatch.setattr("kdtune.training.teachers.load_teacher", None)  # which is not called again
    searched = replace(run, optimizer="adamw", weight_decay=0.1, batch_size=32)
    list(distill(searched, tmp_path, Resources()))
    monkeypatch.undo()

    save_weights(build(run.teacher, "none", 3, seed=5).net, tmp_path / WEIGHTS)
    (epoch,) = distill(run, tmp_path, Resources())
    *_, want = plain_loop(run, tmp_path)
    assert epoch.splits["val"]["kl"] == pytest.approx(want.metrics["val"]["kl"], rel=1e-5)


def test_a_table_gives_the_students_of_its_folder_and_files_are_named(tmp_path: Path) -> None:
    save_photos(tmp_path / "insects", 3)
    write_table(tmp_path / "insects")
    run = replace(RUN, teacher=LIBRARY, student=LIBRARY, epochs=1)
    students = []
    for data, groups in (("insects", "(.).png"), ("insects/t.csv", None)):
        of_data = replace(run, data=str(tmp_path / data), groups=groups)
        list(distill(of_data, NOWHERE, Resources(), tmp_path))
        students.append(load_file(tmp_path / STUDENT))
        frame = pd.read_parquet(tmp_path / PREDICTIONS)
        assert frame.file.tolist() == [f"val/{n}/{i}.png" for n in ("ant", "bee") for i in range(3)]
        assert frame.label.tolist() == [0] * 3 + [1] * 3 and frame.group.tolist() == list("012012")
    assert equal(*students)


def test_a_file_of_predictions_without_a_teacher(tmp_path: Path) -> None:
    data = blobs()
    own = Predictions.of(torch.eye(3)[data.splits["val"].labels], None, data.splits["val"].labels)
    save_predictions(RUN, data, {"val": own}, tmp_path / PREDICTIONS)
    frame = pd.read_parquet(tmp_path / PREDICTIONS)
    assert frame.teacher.isna().all() and frame.correct.all() and len(frame) == 30
    assert "group" not in frame
    (tmp_path / "trials" / "t").mkdir(parents=True)
    (tmp_path / PREDICTIONS).rename(tmp_path / "trials" / "t" / PREDICTIONS)
    assert read_examples(tmp_path, ["t"], METRICS["acc"], "val")["t"].mean() == 1
    for of_teacher in ("agreement", "kl", "gap"):
        assert not read_examples(tmp_path, ["t"], METRICS[of_teacher], "val")


OWN = """
from torch.nn.functional import kl_div, log_softmax

def soft(student, teacher, labels, *, temperature):
    q, p = (log_softmax(z / temperature, 1) for z in (student, teacher))
    return kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2

def number(student, teacher, labels):
    return 1.0
"""


@pytest.mark.parametrize("student", [LIBRARY, "factories:tiny_student"])
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_training_a_student_does_not_change_the_next(trainable: str, student: str) -> None:
    run = replace(SMALL, student=student, trainable=trainable)
    data = load_data(run)
    built = state(make_student(run, data))
    for _ in range(2):
        with initial_student(run, data, CPU) as initial, pytest.raises(RuntimeError):
            model = initial.student
            assert equal(state(model), built) and model.precision == run.precision
            assert initial.fingerprint == model.fingerprint(with_head=False)
            assert all(p.grad is None for p in model.parameters())
            with initial_student(run, data, CPU) as at_once:
                assert at_once.student is not model and equal(state(at_once.student), built)
            model.freeze(head=False) if trainable == "head" else None
            model(torch.zeros(4, 1, 40, 40, dtype=torch.uint8)).sum().backward()
            SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
            assert not equal(state(model), built)
            raise RuntimeError
    for other in (replace(run, repeat=1), replace(run, seed=1)):
        with initial_student(other, data, CPU) as initial:
            assert not equal(state(initial.student), built)


def test_another_file_of_weights_makes_another_student(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    run = replace(SMALL, student=LIBRARY, student_weights=str(file))
    for seed in (1, 2):
        save_weights(build(LIBRARY, "none", 3, seed=seed).net, file)
        with initial_student(run, load_data(run), CPU) as initial:
            assert equal(state(initial.student), state(make_student(run, load_data(run))))


def test_a_run_of_a_library_model_is_the_same_after_others() -> None:
    """Students are kept and reset; each run has an average and a projector of its own."""
    run = replace(
        SMALL, student=LIBRARY, train_images=18, epochs=1, ema=0.9, loss="kl+features_mse"
    )
    first, *_ = (list(distill(replace(run, lr=lr), NOWHERE, Resources())) for lr in (run.lr, 0.1))
    again = list(distill(run, NOWHERE, Resources()))
    assert [epoch.splits for epoch in again] == [epoch.splits for epoch in first]


EVERY_OPTION = {
    **{"optimizer": "nesterov", "schedule": "multistep", "warmup_epochs": 2, "clip_norm": 0.5},
    **{"ema": 0.9, "loss": "kl+features_cosine"},
}


def test_a_run_resumes_exactly_where_it_was_cut(tmp_path: Path) -> None:
    run = replace(SMALL, **EVERY_OPTION, student="factories:dropout_student", image_size=24)
    resources = Resources(cache=Cache(tmp_path / "cache", 1))
    whole = list(distill(run, NOWHERE, resources, tmp_path / "whole"))
    cut = distill(run, NOWHERE, resources, tmp_path / "cut")
    next(cut), next(cut)  # the first epoch is on disk once the second is asked for
    cut.close()
    rest = list(distill(run, NOWHERE, resources, tmp_path / "cut"))
    assert [e.splits for e in rest] == [e.splits for e in whole]
    for name in (STUDENT, PREDICTIONS):
        files = [tmp_path / folder / name for folder in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    names = make_student(run, load_data(run)).net.state_dict().keys()
    assert load_file(tmp_path / "cut" / STUDENT).keys() == names  # a projector is not saved


def test_many_steps_that_fp16_leaves_out_are_said(tmp_path: Path) -> None:
    """A loss times 10^6 needs more halvings of the gradients' scale than usual."""
    run = replace(SMALL, precision="fp16", epochs=1, batch_size=2, loss="dkd", lr=1e-9)
    for beta, number in ((8.0, 0), (1e6, 1)):
        said, folder = list[str](), tmp_path / str(number)
        each = replace(run, dkd_beta=beta)
        (epoch,) = distill(each, NOWHERE, Resources(), folder, write=said.append)
        words = f"{epoch.skipped_steps} steps of epoch 0 were left out: gradients were not finite"
        assert [text.startswith(words) for text in said] == [True] * number
        assert (f"{epoch.skipped_steps} steps left out" in str(epoch)) == (epoch.skipped_steps > 0)


@pytest.mark.parametrize("deciding", ["acc", "recall:b", "auc", "blobs:right"])
def test_predictions_are_those_of_the_saved_student(tmp_path: Path, deciding: str) -> None:
    run = replace(SMALL, ema=0.9)
    folder, decides = tmp_path / "trials" / run.trial_id, find_metric(deciding, "abc")
    *_, last = distill(run, NOWHERE, Resources(), folder, metric=decides)
    frame = pd.read_parquet(folder / PREDICTIONS)
    assert (frame.trial_id == run.trial_id).all() and frame.file.isna().all()
    data = load_data(run)
    student = build(run.student, str(folder / STUDENT), len(data.classes), seed=0)
    teacher = build_teacher(run, NOWHERE, data)
    for model in (student, teacher):
        model.place(CPU, "fp32").set_mode(False)
    for name in ("val", "test"):
        split = data.splits[name]
        views = next(Views(split, torch.arange(len(split)), run, 8).batches(len(split)))
        with torch.no_grad():
            p, target = student(views).softmax(1), teacher(views).argmax(1)
        rows = frame.query("split == @name")
        assert rows.example.tolist() == list(range(len(split)))
        assert rows.label.tolist() == split.labels.tolist()
        assert rows.predicted.tolist() == p.argmax(1).tolist()  # p: students/test_students
        assert rows.teacher.tolist() == target.tolist()
        assert rows.correct.tolist() == (p.argmax(1) == split.labels).tolist()
    # whatever comparisons over images use is what the loop has recorded
    recorded = last.splits["val"]
    for name, metric in (METRICS | {decides.name: decides}).items():
        values = read_examples(tmp_path, [run.trial_id], metric, "val")
        if metric.of_example is None:
            assert not values
            continue
        value = recorded[name] if metric.derived is None else metric.derived(recorded)
        assert values[run.trial_id].mean() == pytest.approx(value, rel=1e-4), name
        assert len(values[run.trial_id]) == recorded["n_examples"]


def test_a_metric_that_cannot_be_computed() -> None:
    absent = replace(blobs(), classes=tuple("abcd"))
    for metric, data, words in (
        ("recall:bee", blobs(), "must name a class of the data, but there is no bee; did you mean"),
        ("top5_acc", blobs(), "must be left out with 3 classes"),
        ("auc", absent, "got nan of shape [30] for random outputs on val, which has no example "),
        ("blobs:nowhere", blobs(), "blobs:nowhere cannot be imported"),
        ("blobs:not_a_number", blobs(), "blobs:not_a_number must be a finite number, or one for"),
    ):
        with pytest.raises(InputError) as caught:
            check_study(Study(run=SMALL, metric=metric), data)
        assert words in str(caught.value)
    own = Study(run=SMALL, metric="blobs:right", mode="min")
    assert "metric blobs:right" in check_study(own, blobs()) and own.task.sign == -1
    with pytest.raises(Diverged, match="not_a_number on val became nan in epoch 0; it must be a"):
        list(distill(SMALL, NOWHERE, Resources(), metric=find_metric("blobs:not_a_number")))


def test_a_run_with_an_objective_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "objectives_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would hide an edit within a second
    run = replace(SMALL, loss="objectives_of_mine:soft", temperature=2.0, epochs=1)
    check_run(run)
    users, built_in = (
        [epoch.splits for epoch in distill(each, NOWHERE, Resources())]
        for each in (run, replace(run, loss="kl"))
    )
    assert users == built_in

    def fingerprints(run: Run, **space: Any) -> dict[str, str]:
        return check_objectives(Study(run=run, space=space), classes=3)

    with pytest.raises(InputError, match="must return a scalar tensor, but got float"):
        check_run(replace(run, loss="objectives_of_mine:number"))
    before = fingerprints(run, temperature=(1.0, 4.0))
    assert list(before) == ["objective objectives_of_mine:soft"]
    assert fingerprints(replace(run, loss="kl")) == {}
    assert fingerprints(replace(run, loss=f"mse+{run.loss}")) == before
    (tmp_path / "objectives_of_mine.py").write_text(OWN.replace("temperature**2", "4"))
    monkeypatch.delitem(sys.modules, "objectives_of_mine")  # as in another process
    after, saved = fingerprints(run), SavedStudy(Study(run=run), before)
    with pytest.raises(InputError, match=r"the objective objectives_of_mine:soft .*has changed"):
        check_same(Study(run=run), saved, after)
    check_same(Study(run=run), saved, before)


SHIFTED = """
from strength import LEVEL
def shifted(image, generator):
    return image.roll(int(torch.randint(LEVEL, (), generator=generator)), 2)
import torch
"""


def test_an_augmentation_of_the_user_is_the_same_on_two_machines_until_its_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "augmentations_of_mine.py").write_text(SHIFTED)
    (tmp_path / "strength.py").write_text("LEVEL = 3")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    run = resolve(replace(SMALL, augment="augmentations_of_mine:shifted", epochs=1))
    study, data = Study(run=run), load_data(run)

    def train(machine: str) -> tuple[Any, set[str]]:
        epochs = list(distill(run, NOWHERE, Resources(cache=Cache(tmp_path / machine, 1))))
        return epochs[0].splits, {file.name for file in tmp_path.glob(f"{machine}/views/*/*")}

    saved = SavedStudy(study, check_study(study, data))
    metrics, views = train("one")
    assert train("two") == (metrics, views) and len(views) == 3
    (tmp_path / "strength.py").write_text("LEVEL = 8")
    for module in ("augmentations_of_mine", "strength"):  # as in another process
        monkeypatch.delitem(sys.modules, module)
    others, more = train("two")
    assert others != metrics and len(more - views) == 1
    with pytest.raises(InputError, match=r"the augmentation augmentations_of_mine:shifted .* chan"):
        check_same(study, saved, check_study(study, data))


def statistics_of_a_batch(classes: int) -> nn.Module:
    """A model that cannot learn from one example."""
    layers = (nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))
    return nn.Sequential(*layers)


LONELY = {"train_images": 33, "teacher_train_images": 33, "teacher_batch_size": 16}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"student": "torch.nn:Identity"}, "must have a Linear or Conv2d"),
        (
            {"student": f"{__name__}:statistics_of_a_batch", **LONELY},
            r"on a batch of one example \(Expected more than 1 .* but --batch-size 16 makes",
        ),
        (
            {"teacher": f"{__name__}:statistics_of_a_batch", **LONELY},
            "but --teacher-batch-size 16 makes such a batch of 33 examples; give another",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:the model .* has no preprocessing")
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], sentence: str) -> None:
    run = replace(SMALL, teacher_epochs=1)
    with pytest.raises(InputError, match=sentence):
        check_run(replace(run, **changes))
    if changes.get("student", ":").endswith("batch"):
        check_run(replace(run, **changes, batch_norm="eval"))
        check_run(replace(run, **changes | {"train_images": 34}))


def with_weights_of_its_own(classes: int) -> nn.Module:
    net = factories.tiny_student(classes)
    weight = net[0].weight  # type: ignore[index]
    nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    return net


LOADED = {"student": f"{__name__}:with_weights_of_its_own"}


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, ["is random, so its head alone learns"]),
        ({"student": "cifar_resnet20"}, ["is random"]),
        (LOADED, []),
        (LOADED | {"optimizer": "sgd", "lr": 0.01}, ["at most 0.01; .* about 0.1: .* 0.01 0.1"]),
        (LOADED | {"batch_norm": "train"}, ["frozen layers is in train mode .--batch-n"]),
        ({"batch_norm": "train"}, ["frozen layers is in train mode", "is random"]),
        ({"trainable": "all", "batch_norm": "train"}, []),
    ],
)
def test_a_frozen_backbone_must_be_worth_something(changes: dict, sentences: list[str]) -> None:
    run, data = replace(TINY, **{"trainable": "head"} | changes), load_data(TINY)

    def check(run: Run, is_new: bool) -> list[str]:
        study = Study(run=run)
        return check_weights(study, StudyModels.of(study, data), data, is_new)

    found = check(run, is_new=False)
    assert len(found) == len(sentences)
    assert all(re.search(part, text) for part, text in zip(sentences, found, strict=True))
    if "random" not in str(sentences):
        assert check(run, is_new=True) == found
        return
    with pytest.raises(InputError, match=r"--trainable all.*--allow-random-backbone"):
        check(run, is_new=True)
    assert check(replace(run, allow_random_backbone=True), is_new=True) == found


def test_the_checks_name_what_the_run_is_made_of() -> None:
    study, data = Study(run=resolve(SMALL)), load_data(SMALL)
    assert check_study(study, data) == {
        "data": data.fingerprint,
        "teacher": initial_teacher(study.run, data).fingerprint(),
        "student": make_student(study.run, data).fingerprint(),
    }
    assert check_study(study, data, fingerprints=False) == {}


def test_a_build_that_takes_long_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, lines in ((60.0, 0), (0.0, 1)):
        monkeypatch.setattr("kdtune.training.recipe.LINE_SECONDS", seconds)
        Progress().show_build("logits, val", 64, 500)
        assert capsys.readouterr().out.count("building logits, val (64 of 500)") == lines
