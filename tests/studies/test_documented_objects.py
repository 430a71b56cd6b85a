"""The example of docs/extending.md is a study that can run."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from kdtune.data.sources import load_data
from kdtune.raytune.objects import freeze_objects
from kdtune.training.recipe import resolve_study
from kdtune.training.run import check_study

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_example_passes_all_checks() -> None:
    pytest.importorskip("sklearn")
    _, _, rest = DOCS.read_text("utf-8").partition("    # digits.py\n")
    code = textwrap.dedent(rest.partition("\n- **A function")[0])
    scope: dict[str, Any] = {"__name__": "example"}
    exec(code, scope)
    study = freeze_objects(scope["study"])
    assert study.run.student == "object:make_student" and study.run.data == "object:data"
    assert set(check_study(resolve_study(study), load_data(study.run))) == {
        "data",
        "teacher",
        "student",
    }
    assert len(study.runs()) * study.repeats == 24
