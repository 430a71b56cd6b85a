"""The file of the models' costs, and limits on them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from study_folders import cost

from kdtune.config.files import COSTS
from kdtune.config.records import Limits, read_costs, write_costs
from kdtune.config.text import InputError


def test_costs_survive_their_file(tmp_path: Path) -> None:
    costs = [cost("a"), replace(cost("b", "teacher"), flops=None, latency_ms_iqr=None)]
    write_costs(tmp_path, costs)
    assert read_costs(tmp_path) == costs


def test_a_missing_or_damaged_file_has_no_costs(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == []
    for text in ("", "{", "[]", "{}", '{"models": 3}', '{"models": [{"role": "student"}]}'):
        (tmp_path / COSTS).write_text(text)
        assert read_costs(tmp_path) == []


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    write_costs(tmp_path, [cost("a")])
    saved = json.loads((tmp_path / COSTS).read_text())
    saved["models"][0]["energy"] = 3.0
    (tmp_path / COSTS).write_text(json.dumps(saved))
    assert read_costs(tmp_path) == [cost("a")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_ms": 0}, "max_ms must lie in .*, but got max_ms=0"),
        ({"max_ms": float("nan")}, "max_ms must be a finite number"),
        ({"max_params": 0}, "max_params must lie in .*, but got max_params=0"),
    ],
)
def test_impossible_limits_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**values)


def test_limits_fall_back_one_by_one() -> None:
    assert not Limits() and Limits(max_params=1)
    assert Limits(2.0).or_else(Limits(3.0, 10)) == Limits(2.0, 10)
