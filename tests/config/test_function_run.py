"""Studies of training functions: their configurations, checks and JSON.

References: configurations and ids worked out by hand.
"""

import hashlib
import json
import math
import re
from typing import Any

import own_functions
import pytest

from kdtune.config.cli import parse, study_flags
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError

SPACE = {"alpha": (0.1, 1.0), "temperature": (1, 4), "my knob": ("a", "b")}


def make(**changes: Any) -> Study:
    own: dict[str, Any] = {"train": own_functions.wave, "space": SPACE, "baseline": {"alpha": 1.0}}
    return Study(**own | {"unless": {"temperature": {"alpha": 1.0}}} | changes)


def test_a_hyperparameter_without_effect_makes_no_configuration() -> None:
    configs = [run.config for run in make().runs()]
    distilled = [{"alpha": 0.1, "temperature": t, "my knob": k} for t in (1, 4) for k in ("a", "b")]
    assert configs == [*distilled, *({**c, "alpha": 1, "temperature": None} for c in distilled[:2])]
    assert [run.is_baseline for run in make().runs()] == [False] * 4 + [True] * 2
    text = json.dumps({"alpha": 1, "my knob": "a", "temperature": None})
    assert make().runs()[4].config_id == hashlib.sha256(text.encode()).hexdigest()[:8]
    assert make().searched == ["alpha", "temperature", "my knob"]


def test_a_grid_gets_the_baseline_that_its_lists_lack() -> None:
    lists = {"alpha": (0.1, 0.5), "lr": (1, 2)}
    with_baseline = make(space=lists, unless={})
    assert [r.config["alpha"] for r in with_baseline.runs()] == [0.1, 0.1, 0.5, 0.5, 1, 1]
    assert with_baseline.has_plain
    without = make(space=lists, unless={}, baseline={})
    assert len(without.runs()) == 4 and not without.has_plain
    two = make(space=lists, unless={}, baseline={"alpha": 0.5, "lr": 2})
    assert [r.is_baseline for r in two.runs()] == [False, False, False, True]


def test_names_and_json() -> None:
    study = make()
    assert study.name == "wave" and json.loads(study.to_json())["train"] == "own_functions:wave"
    again = Study.from_json(study.to_json())
    assert [r.config_id for r in again.runs()] == [r.config_id for r in study.runs()]
    assert "run" not in json.loads(study.to_json())
    distilling = json.loads(Study().to_json())
    assert not {"train", "metric", "mode", "baseline", "unless", "epochs"} & distilling.keys()


def test_a_function_of_a_script_has_the_name_of_its_file(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import kdtune\n"
        "def train(config, repeat):\n    yield {'val/acc': 1}\n"
        "study = kdtune.Study(train=train, space={'alpha': (0.5, 1)}, baseline={'alpha': 1})\n"
    )
    study = parse("search", [str(file), "--alpha", "0.1", "0.2", "--repeats", "3"])
    assert json.loads(study.to_json())["train"] == "mine:train"
    assert study.values("alpha") == (0.1, 0.2) and study.repeats == 3
    ranged = parse("search", [str(file), "--alpha", "0.1..1", "--search", "random"])
    assert ranged.values("alpha") == Range(0.1, 1)


def test_commands_of_distillation_refuse_it(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import kdtune\n"
        "study = kdtune.Study(train='m:f', space={'alpha': (0.5, 1)}, baseline={'alpha': 1})\n"
    )
    with pytest.raises(InputError, match=r"kdtune.teacher is for distillation"):
        parse("teacher", [str(file)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "wave"}, "train must be a function or module:function, but got 'wave'"),
        ({"train": 3}, "train must be a function or module:function, but got 3"),
        ({"space": {}}, "space must have at least one hyperparameter of train, but is empty"),
        ({"space": {"repeat": (1, 2)}}, "must have a name of 1 to 64 letters"),
        (
            {"space": {"alpha": (1.0, None)}, "unless": {}},
            "alpha must have finite numbers or texts",
        ),
        ({"baseline": {"beta": 1}}, r"baseline must name hyperparameters of the space \(alpha, "),
        ({"unless": {"alpha": {"beta": 1}}}, r"unless of alpha must name hyperparameters"),
        (
            {"unless": {"alpha": {"temperature": 1}, "temperature": {"alpha": 1}}},
            "unless must not make hyperparameters depend on each other",
        ),
        ({"space": {"alpha": (1.0, math.inf)}, "unless": {}}, "alpha must have finite numbers"),
        ({"metric": "acc"}, 'metric must be "val/NAME"'),
        ({"metric": "val/seconds"}, "a metric must not be named seconds"),
        (
            {"baseline": {"alpha": 1.0, "temperature": 1}},
            "baseline must not name temperature, which has no effect",
        ),
        ({"metric": "val/auc"}, 'mode must be "max" or "min" for metric=\'val/auc\''),
        ({"mode": "up"}, "mode must be one of max, min"),
        ({"stop_early": True}, "stop_early must know how many epochs train yields; give epochs=N"),
        ({"run": Run(lr=0.5)}, "run is for distillation, but the study has train="),
        ({"max_ms": 1.0}, "max_ms and max_params are limits on students"),
        ({"baseline": {"alpha": 0.3}, "plain_share": 0.0}, "baseline must lie in the space"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message if "(" in message else re.escape(message)):
        make(**changes)


def test_fields_of_functions_are_refused_without_one() -> None:
    with pytest.raises(InputError, match=r"metric is for a study of your own training function"):
        Study(metric="val/nll")
    with pytest.raises(InputError, match=r"baseline is for a study of your own training function"):
        Study(baseline={"alpha": 1})


def test_a_configuration_in_which_the_baseline_has_no_effect_is_none() -> None:
    """Plan and tables agree: both look at the values that have an effect."""
    study = make(baseline={"temperature": 1})
    configs = {run.is_baseline: run.config for run in study.runs()}
    assert configs[True]["temperature"] == 1 and configs[True]["alpha"] == 0.1
    assert not any(run.is_baseline for run in study.runs() if run.config["temperature"] is None)


def test_words_of_a_command_line_do_not_stand_for_truth_values() -> None:
    space = {"flag": (True, False), "mixed": ("sqrt", 0.5), "depth": (1, 2)}
    study = make(space=space, baseline={}, unless={})
    flags = {flag.name for flag in study_flags("search", study)}
    assert "depth" in flags and not {"flag", "mixed"} & flags


def test_a_number_of_repeats_ends_the_experiments_own_auto(tmp_path) -> None:
    """The budget goes with it, as for distillation."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import kdtune\n"
        "study = kdtune.Study(train='m:f', space={'alpha': (0.5, 1)}, baseline={'alpha': 1},\n"
        "    until_decided=True, budget='40runs')\n"
    )
    study = parse("search", [str(file), "--repeats", "3"])
    assert (study.repeats, study.until_decided, study.budget) == (3, False, None)
    assert parse("search", [str(file)]).until_decided
