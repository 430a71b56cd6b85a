"""The commands of a study, one after the other as a user runs them, in seconds."""

import re
from pathlib import Path

import pytest
from factories import tiny_teacher
from own_data import clothes

import kdtune.analysis
import kdtune.distill
import kdtune.search
import kdtune.teacher
from kdtune.config.cli import parse, parse_command
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.models.weights import save_weights

TEACHER = "--teacher-epochs 1 --gpus 0 --teacher factories:tiny_teacher --cache"
STUDENT = "--train-images 300 --epochs 2 --student factories:tiny_student"


def test_images_of_val_in_train_and_weights_for_other_classes_are_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = dict.fromkeys(("train", "val"), clothes()["train"])
    monkeypatch.setattr("own_data.shared", lambda: shared, raising=False)
    save_weights(tiny_teacher(7), file := here / "weights.safetensors")
    words = f"{TEACHER} {here / 'cache'} --data own_data:shared --teacher-weights {file}"
    assert kdtune.teacher.main(parse("teacher", words.split())) == 0
    words += " --student factories:tiny_student --student-weights none --epochs 1"
    assert kdtune.distill.main(parse("distill", words.split())) == 0
    text = capsys.readouterr().out
    assert text.count("warning: 200 of the 200 images in val are also in") == 2
    assert text.count(f"warning: the weights {file} of factories:tiny_teacher are for 7 class") == 2


@pytest.mark.usefixtures("in_this_process")
def test_teacher_then_distill_then_search_then_analysis(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdtune.planning.proposals.export_for_optuna", lambda *_: None)  # is slow
    teacher = f"{TEACHER} {here / 'cache'}"
    student = f"{teacher} {STUDENT}"

    def printed(module: object, argument: object) -> str:
        assert module.main(argument) == 0  # type: ignore[attr-defined]
        return capsys.readouterr().out

    first = printed(kdtune.teacher, parse("teacher", teacher.split()))
    assert "epoch   0" in first and "teacher.safetensors" in first
    again = printed(kdtune.teacher, parse("teacher", teacher.split()))
    assert "the teacher is ready" in again

    text = printed(kdtune.distill, parse("distill", f"{student} --alpha 0.2".split()))
    assert text.count("epoch ") == 2 and "alpha 0.2" in text
    assert text.count("student") == 2 and "mixup" not in text  # "the student NAME"

    line = f"{student} --alpha 0.1 1 --repeats 3"
    text = printed(kdtune.search, parse("search", line.split()))
    assert "epoch " not in text  # the teacher was there
    assert "significant difference" in text or "Distillation" in text

    for line in ("", "--pooled --strict --by alpha --format json"):
        flags = parse_command("analysis", ["runs/fashion", *line.split()])
        assert "0.1" in printed(kdtune.analysis, flags)


def test_a_check_trains_the_teacher_and_first_steps_and_the_study_goes_on_from_there(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = f"{TEACHER} {here / 'cache'}".replace("epochs 1", "epochs 3")
    line = f"{teacher} --student factories:tiny_student --alpha 0.2 --temperature 2"

    def checked(words: str) -> tuple[int, str]:
        code = kdtune.search.main(parse("search", f"{words} --check".split()))
        return code, capsys.readouterr().out

    code, text = checked(line)
    assert code == 0 and text.endswith("Check of runs/fashion: no finding.\n")
    assert "Recipe of runs/fashion:" in text and "Accuracy of the teacher" in text
    firsts = re.findall(r"First epoch of \S+ \((.*)\)", text)
    assert firsts == ["alpha 1, lr 0.02", "loss kl, alpha 0.2, temperature 2, lr 0.02"]
    assert [f.name for f in Path("runs/fashion").glob("**/*") if f.is_file()] == [
        f.name for f in Path("runs/fashion/teacher").glob("*.checkpoint.pt")
    ]
    # with its seconds, which are others if it is trained again; a later one may not be saved
    first = re.compile(r"^epoch   0 .*", re.M)
    epoch = first.findall(text)
    code, text = checked(f"{line} --lr 0.001 2")  # the largest lr; no other teacher is trained
    assert code == 1 and "lr 2) worse: its cross-entropy on train rises" in text
    assert first.findall(text) == epoch
    code, text = checked(f"{line} --teacher-lr 0.03")  # another teacher, which is not refused
    assert code == 0 and first.findall(text) != epoch
    with pytest.raises(InputError, match="so its head alone learns"):
        checked(f"{line} --trainable head")
    # the teacher of the first check: it is not trained again
    assert kdtune.teacher.main(parse("teacher", teacher.split())) == 0
    assert first.findall(capsys.readouterr().out) == epoch
    with pytest.raises(InputError, match="check must be left out"):
        kdtune.run(Study(check=True))
