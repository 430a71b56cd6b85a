"""kdtune.distill: what a process keeps from run to run leaks nothing; what it leaves and says."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from reference import plain_loop
from torch.optim import SGD

from kdtune.config.errors import InputError
from kdtune.config.files import PREDICTIONS
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.distill import main
from kdtune.models.classifier import Classifier
from kdtune.models.registry import build
from kdtune.models.weights import save_weights
from kdtune.streams.resources import Resources
from kdtune.training.progress import Progress
from kdtune.training.run import STUDENT, _teacher_at_hand, distill, make_student, student_at_start

LIBRARY = "mobilenet_v3_small"
CPU = torch.device("cpu")
NOWHERE = Path("no-teacher-folder")


def state(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.net.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("student", [LIBRARY, "factories:tiny_student"])
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_what_befalls_a_student_does_not_reach_the_next(
    trainable: str, student: str, tiny: Run
) -> None:
    run = replace(tiny, student=student, trainable=trainable)
    built = state(make_student(run))
    for _ in range(3):
        with student_at_start(run, CPU) as start, pytest.raises(RuntimeError):
            model = start.student
            assert equal(state(model), built) and model.precision == run.precision
            assert start.print == model.fingerprint(with_head=False)
            assert all(p.grad is None for p in model.parameters())
            model.freeze(head=False) if trainable == "head" else None
            model(torch.zeros(4, 1, 40, 40, dtype=torch.uint8)).sum().backward()
            SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
            assert not equal(state(model), built)
            raise RuntimeError
    for other in (replace(run, repeat=1), replace(run, seed=1)):
        with student_at_start(other, CPU) as start:
            assert not equal(state(start.student), built)


def test_the_recipe_makes_no_other_teacher_but_other_weights_do(
    tiny: Run, teacher_folder: Path, tmp_path: Path
) -> None:
    """A process keeps its teacher, however the optimiser's fields are searched."""
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    list(distill(replace(tiny, epochs=1), folder, Resources()))
    before = _teacher_at_hand.cache_info()
    searched = replace(tiny, epochs=1, optimizer="sgd", weight_decay=0.1, batch_size=32)
    list(distill(searched, folder, Resources()))
    after = _teacher_at_hand.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)

    other = build(tiny.teacher, "none", 10, seed=5)
    save_weights(other.net, folder / "teacher.safetensors")
    (epoch,) = distill(replace(tiny, epochs=1), folder, Resources())
    *_, (_, want) = plain_loop(replace(tiny, epochs=1), folder)
    assert epoch.splits["val"]["teacher_acc"] == want["teacher_acc"]


def test_of_two_runs_at_once_each_has_its_own_student(tiny: Run) -> None:
    run = replace(tiny, student=LIBRARY)
    with student_at_start(run, CPU) as one, student_at_start(run, CPU) as other:
        assert one.student is not other.student
        assert equal(state(one.student), state(other.student))


def test_another_file_of_weights_makes_another_student(tiny: Run, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    run = replace(tiny, student=LIBRARY, student_weights=str(file))
    for seed in (1, 2):
        save_weights(build(LIBRARY, "none", 10, seed=seed).net, file)
        with student_at_start(run, CPU) as start:
            assert equal(state(start.student), state(make_student(run)))


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_a_run_of_a_library_model_is_the_same_after_others(trainable: str, tiny: Run) -> None:
    small = replace(tiny, student=LIBRARY, image_size=32, train_images=20, epochs=2)
    run = replace(small, trainable=trainable, teacher_epochs=0)
    first, *_ = (list(distill(replace(run, lr=lr), NOWHERE, Resources())) for lr in (0.01, 0.1))
    again = list(distill(run, NOWHERE, Resources()))
    assert [epoch.splits for epoch in again] == [epoch.splits for epoch in first]


def test_predictions_are_those_of_the_student_that_is_left(
    tiny: Run, teacher_folder: Path, tmp_path: Path
) -> None:
    list(distill(tiny, teacher_folder, Resources(), tmp_path))
    frame = pd.read_parquet(tmp_path / PREDICTIONS)
    data = load_data(tiny.data)
    student = build(tiny.student, str(tmp_path / STUDENT), len(data.classes), seed=0)
    student.place(CPU, "fp32").set_mode(False)
    for name in ("val", "test"):
        split = data.splits[name]
        views = next(Views(split, torch.arange(len(split)), tiny, 28).batches(len(split)))
        with torch.no_grad():
            right = student(views).argmax(1) == split.labels
        assert frame.query("split == @name").correct.tolist() == right.tolist()
    *_, (_, means) = plain_loop(tiny, teacher_folder)
    assert frame.query("split == 'val'").correct.mean() == means["acc"]


def test_more_gpus_than_there_are_is_refused(tiny: Run, tmp_path: Path) -> None:
    study = Study(run=tiny, out=str(tmp_path), gpus=torch.cuda.device_count() + 1)
    with pytest.raises(InputError, match=f"{study.gpus} GPUs are asked for, but this machine has"):
        main(study)
    assert not any(tmp_path.iterdir())


def test_it_says_what_is_being_built(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtune.training.progress.LINE_SECONDS", 0.0)
    study = Study(run=tiny, out=str(tmp_path), gpus=0, cache_gb=0)
    assert main(study) == 0
    said = capsys.readouterr().out
    assert "building views, repeat 0, epoch 0 (64 of 75)" in said
    assert "building logits, repeat 0, epoch 2 (64 of 75)" in said
    assert said.count("epoch   ") == tiny.teacher_epochs + tiny.epochs


def test_what_takes_a_moment_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.watch("logits, val", 1, 500)
    progress.watch("logits, val", 500, 500)
    assert not capsys.readouterr().out
