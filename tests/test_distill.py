"""kdtune.distill: what a process keeps from run to run leaks nothing; what it leaves and says."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from reference import plain_loop

from kdtune.config import InputError, Run, Study
from kdtune.data import load_data
from kdtune.distill import (
    PREDICTIONS,
    STUDENT,
    Progress,
    distill,
    main,
    make_student,
    student_at_start,
)
from kdtune.models import Classifier, build
from kdtune.resources import Resources
from kdtune.views import Views
from kdtune.weights import save_weights

LIBRARY = "mobilenet_v3_small"


def state(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.net.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("student", [LIBRARY, "factories:tiny_student"])
def test_what_befalls_a_student_does_not_reach_the_next(student: str, tiny: Run) -> None:
    run = replace(tiny, student=student)
    built = state(make_student(run))
    for _ in range(3):
        model, student_print = student_at_start(run)
        assert equal(state(model), built)
        assert student_print == model.fingerprint(with_head=False)
        assert all(p.requires_grad for p in model.parameters()) and model.training
        model.freeze().set_mode(False)
        model.place(torch.device("cpu"), "bf16")
        with torch.no_grad():
            for value in model.net.state_dict().values():
                value += 1
    assert not equal(state(student_at_start(replace(run, repeat=1))[0]), built)
    assert not equal(state(student_at_start(replace(run, seed=1))[0]), built)


def test_another_file_of_weights_makes_another_student(tiny: Run, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    run = replace(tiny, student=LIBRARY, student_weights=str(file))
    for seed in (1, 2):
        save_weights(build(LIBRARY, "none", 10, seed=seed).net, file)
        assert equal(state(student_at_start(run)[0]), state(make_student(run)))


def test_predictions_are_those_of_the_student_that_is_left(
    tiny: Run, teacher_folder: Path, tmp_path: Path
) -> None:
    list(distill(tiny, teacher_folder, Resources(), tmp_path))
    frame = pd.read_parquet(tmp_path / PREDICTIONS)
    data = load_data(tiny.data)
    student = build(tiny.student, str(tmp_path / STUDENT), len(data.classes), seed=0)
    student.place(torch.device("cpu"), "fp32").set_mode(False)
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
    monkeypatch.setattr("kdtune.distill.LINE_SECONDS", 0.0)
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
