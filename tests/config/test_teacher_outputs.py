"""A teacher that is a file, as a run and a study have it."""

from dataclasses import replace
from typing import Any

import pytest

from kdtune.config.cli import parse
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError

FILE = Run(teacher="a/x.parquet", augment="none")


def test_the_name_is_that_of_the_file_and_the_path_is_its_weights() -> None:
    assert (FILE.teacher, FILE.teacher_weights, FILE.teacher_epochs) == (
        *("x.parquet", "a/x.parquet"),
        0,
    )
    assert FILE.weights_of("teacher") == "a/x.parquet"
    again = replace(FILE, lr=0.1)
    assert (again.teacher, again.teacher_weights) == (FILE.teacher, FILE.teacher_weights)
    assert replace(FILE, teacher="b/y.npz").teacher_weights == "b/y.npz"
    assert Run(teacher="x.npz", augment="none").teacher_weights == "x.npz"
    absolute = str(FILE.absolute().teacher_weights)
    assert absolute.startswith("/") and absolute.endswith("/a/x.parquet")


def test_a_moved_file_is_the_same_configuration() -> None:
    moved = replace(FILE, teacher="elsewhere/x.parquet")
    assert moved.config_id == FILE.config_id and moved != FILE
    renamed = replace(FILE, teacher_weights=("x.parquet=b/renamed.parquet",))
    assert renamed.weights_of("teacher") == "b/renamed.parquet"
    assert renamed.config_id == FILE.config_id


def test_a_space_may_list_files_and_networks() -> None:
    run = Run(data="photos", augment="none", teacher_weights="none", teacher_epochs=0)
    study = Study(run=run, space={"teacher": ("resnet50", "a/x.parquet", "b/y.npz")})
    assert study.space["teacher"] == ("resnet50", "x.parquet", "y.npz")
    weights = {run.teacher: run.weights_of("teacher") for run in study.runs()}
    assert weights == {"resnet50": "none", "x.parquet": "a/x.parquet", "y.npz": "b/y.npz"}
    assert Study.from_json(study.to_json()) == study
    more = replace(study, run=FILE, space={"teacher": ("x.parquet", "resnet50")})
    assert more.run.teacher_weights == ("x.parquet=a/x.parquet",)


def test_the_recipe_of_the_default_study_is_not_asked_of_a_file() -> None:
    study = parse("search", ["--teacher", "a/x.npz", "--augment", "none"])
    assert study.run.teacher_epochs == 0 and study.run.teacher_lr is None
    assert study.run.weights_of("teacher").endswith("/a/x.npz")
    assert parse("teacher", ["--dump", "x.npz"]).dump == "x.npz"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"augment": "crop"}, "--augment must be none .* but it is crop"),
    ({"mixup": 0.2}, "--mixup must be 0 .* but it is 0.2"),
    ({"cutmix": 1.0}, "--cutmix must be 0 .* but it is 1"),
    ({"extra": "more", "extra_share": 0.5}, "--extra-share must be 0"),
    ({"teacher_epochs": 3}, "--teacher-epochs must be 0 .* but it is 3"),
    ({"teachers": 2}, "--teachers must be 1 with a teacher that is a file"),
    ({"teacher": "resnet50+x.parquet"}, "no file in an ensemble"),
    ({"teacher": "x.parquet+resnet50"}, "no file in an ensemble"),
    ({"teacher": "a=1.parquet"}, "a file without = in its name"),
    ({"teacher_weights": "w.pt"}, "--teacher-weights must be left out"),
    ({"teacher_weights": "b/y.parquet"}, "was renamed, give .*x.parquet=b/y.parquet"),
    ({"student": "x.parquet"}, "--student must be a network"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_a_file_cannot_do_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Run(**{"teacher": "x.parquet", "augment": "none", **fields})


def test_training_without_the_teacher_may_augment() -> None:
    run = Run(teacher="x.parquet", alpha=1.0, augment="trivial", mixup=0.2)
    with pytest.raises(InputError, match="--augment must be none"):
        replace(run, alpha=0.9)


def test_outputs_of_a_file_are_not_dumped() -> None:
    wanted = "--dump needs a teacher that is a network, but x.parquet is a file of outputs already"
    with pytest.raises(InputError, match=wanted):
        Study(run=FILE, dump="copy.npz")
    network = Run(data="photos", augment="none", teacher_weights="none", teacher_epochs=0)
    with pytest.raises(InputError, match=wanted):
        Study(run=network, space={"teacher": ("resnet50", "x.parquet")}, dump="copy.npz")
    with pytest.raises(InputError, match="--dump needs a teacher that is a network"):
        parse("teacher", ["--teacher", "no/x.npz", "--augment", "none", "--dump", "y.npz"])


def test_files_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"different names, but got a/x.npz and b/x.npz"):
        Study(space={"teacher": ("a/x.npz", "b/x.npz")})
