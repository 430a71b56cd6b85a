"""Schemas of study.json: what version 0.1 wrote, the present one, a newer one."""

import dataclasses
import json
from pathlib import Path

import pytest

from kdtune.config.migrations import SCHEMA, migrate
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError

DATA = Path(__file__).parents[1] / "data"
STUDY = Study(name="x", space={"lr": Range(0.01, 1, log=True), "alpha": (0.5, 1)}, search="tpe")


def schema_1(study: Study) -> dict:
    """Version 0.1's study.json: the fields of the study, without those that came later."""
    values = dataclasses.asdict(study)
    written = json.loads((DATA / "study_v0_1" / "study.json").read_text())
    values["run"] = {name: values["run"][name] for name in written["run"]}
    values["run"] |= {"teacher_epochs": 25, "teacher_lr": 1e-3}
    return json.loads(json.dumps({name: values[name] for name in written}))


def test_ranges_of_before_the_log_odds_scale_are_read() -> None:
    values = json.loads(STUDY.to_json())
    assert values["space"]["lr"].pop("logit") is False
    assert Study.from_json(json.dumps(values)) == STUDY


def test_schema_1_is_read() -> None:
    """The teacher was fine-tuned with the student's settings, and views were cropped like them."""
    study = Study.from_json(json.dumps(schema_1(STUDY)))
    assert (study.name, study.space, study.search) == (STUDY.name, STUDY.space, "tpe")
    run = study.run
    recipe = (run.teacher_optimizer, run.teacher_momentum, run.teacher_schedule)
    assert recipe == ("sgd", 0.9, "step") and (run.teacher_lr_step_size, run.teacher_lr_gamma) == (
        7,
        0.1,
    )
    assert (run.teacher_batch_size, run.teacher_lr, run.teacher_epochs) == (32, 1e-3, 25)
    assert (run.teacher_trainable, run.teacher_batch_norm) == ("all", "train")
    assert (run.augment, run.teacher_augment, run.eval_crop) == ("crop", "crop", 1.0)
    interpolations = (run.eval_interpolation, run.teacher_interpolation, run.student_interpolation)
    assert set(interpolations) == {"bilinear"}


def test_photographs_were_cropped_by_an_eighth_with_resized_crop() -> None:
    values = schema_1(dataclasses.replace(STUDY, run=Run(data="photos")))
    assert migrate(values)["run"]["eval_crop"] == 224 / 256
    values["run"]["augment"] = "crop"
    assert migrate(values)["run"]["eval_crop"] == 1


def test_fingerprints_of_schema_1() -> None:
    found = {"data": "d", "teacher": "t", "student": "s", "python": "3.11"}
    assert migrate(schema_1(STUDY), found)["fingerprints"] == {
        "data": "d",
        "teacher": "t",
        "student": "s",
    }
    own = dataclasses.replace(STUDY, run=Run(teacher="kdtune.models:fashion_teacher"))
    assert migrate(schema_1(own), found)["fingerprints"] == {"data": "d", "student": "s"}
    assert migrate(schema_1(STUDY))["fingerprints"] == {}


def test_schema_4_has_the_study_and_what_it_is_made_of() -> None:
    values = json.loads(STUDY.to_json({"data": "d"}))
    assert values["schema"] == SCHEMA == 4
    assert values["fingerprints"] == {"data": "d"}
    assert values["run"]["epochs"] == STUDY.run.epochs
    assert migrate(values) == values
    assert Study.from_json(STUDY.to_json({"data": "d"})) == STUDY


def test_a_newer_schema_is_refused_in_one_sentence() -> None:
    values = json.loads(STUDY.to_json()) | {"schema": SCHEMA + 1, "new field": 1}
    with pytest.raises(InputError, match=r"newer version of kdtune \(schema 5, .*update") as caught:
        Study.from_json(json.dumps(values))
    assert "\n" not in str(caught.value)


def test_earlier_studies_kept_all_students() -> None:
    values = json.loads(Study().to_json())
    assert Study.from_values(migrate(values)).keep == "best"
    del values["keep"]
    for schema in (1, 2):
        assert migrate({**values, "schema": schema})["keep"] == "all"
