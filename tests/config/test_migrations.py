"""Schemas of study.json: what version 0.1 wrote, the present one, a newer one."""

import dataclasses
import json

import pytest

from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import Range
from kdtune.config.migrations import SCHEMA, migrate
from kdtune.config.run import Run
from kdtune.config.study import Study

STUDY = Study(name="x", space={"lr": Range(0.01, 1, log=True), "alpha": (0.5, 1)}, search="tpe")


def schema_1(study: Study) -> dict:
    """Version 0.1's study.json: the fields of the study, without those that came later."""
    values = dataclasses.asdict(study)
    del values["run"]["dkd_alpha"], values["run"]["dkd_beta"]
    return json.loads(json.dumps(values))


def test_schema_1_is_read() -> None:
    assert Study.from_json(json.dumps(schema_1(STUDY))) == STUDY


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


def test_schema_2_has_the_study_and_what_it_is_made_of() -> None:
    values = json.loads(STUDY.to_json({"data": "d"}))
    assert values["schema"] == SCHEMA == 2
    assert values["fingerprints"] == {"data": "d"}
    assert values["run"]["epochs"] == STUDY.run.epochs
    assert migrate(values) == values
    assert Study.from_json(STUDY.to_json({"data": "d"})) == STUDY


def test_a_newer_schema_is_refused_in_one_sentence() -> None:
    values = json.loads(STUDY.to_json()) | {"schema": SCHEMA + 1, "new field": 1}
    with pytest.raises(InputError, match=r"newer version of kdtune \(schema 3, .*update") as caught:
        Study.from_json(json.dumps(values))
    assert "\n" not in str(caught.value)
