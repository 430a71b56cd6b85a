"""Lists, ranges, training functions, command lines and experiments, by hand and by laws.

What command lines parse to is frozen in tests/goldens.
"""

import hashlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import own_functions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.config.cli import parse, parse_baseline, parse_command, study_flags
from kdtune.config.fields import teacher_recipe
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range, covers, including
from kdtune.config.text import InputError


def test_text_that_is_no_range_and_values_off_its_scale() -> None:
    for text in ("5", "1..", "..2", "1..2:ln", "1..2..3", "1...2", "1:2", "a..b"):
        with pytest.raises(ValueError, match=r"\S"):
            Range.parse(text, float)
    with pytest.raises(InputError, match=r"epochs must be whole numbers or .*, but got 1\.5\.\.3"):
        parse("search", ["--epochs", "1.5..3"])
    with pytest.raises(InputError, match=r"^--baseline must be .*each name once, but got alpha"):
        parse_baseline("alpha=1,alpha=0.5")
    odds = Range(0.01, 0.9, logit=True)
    assert including(odds, 0.99) == Range(0.01, 0.99, logit=True)
    assert including(odds, 1.0) == Range(0.01, 1.0) and including(odds, 0.0) == Range(0.0, 0.9)
    assert including(Range(0.1, 1, log=True), 0) == Range(0, 1)


@pytest.mark.parametrize(
    ("ends", "scale", "words"),
    [
        *((ends, {}, "LOW < HIGH") for ends in ((1, 1), (2, 1), (0, math.inf), (math.nan, 1))),
        ((0, 0.5), {"log": True}, "begin above 0 with :log, .* but got 0..0.5:log"),
        *(
            (ends, {"logit": True}, f"between 0 and 1, .*got {ends[0]:g}..{ends[1]:g}:logit")
            for ends in ((0, 0.5), (0.5, 1), (-1, 0.5), (2, 3), (0, 1))
        ),
        ((0.1, 0.9), {"log": True, "logit": True}, "have one scale"),
    ],
)
def test_what_is_no_range(ends: tuple[float, float], scale: dict[str, bool], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Range(*ends, **scale)


@given(st.floats(5e-324, 0.5), st.floats(0.51, 1, exclude_max=True))
def test_what_is_printed_is_read_again(low: float, high: float) -> None:
    for scale in ({}, {"log": True}, {"logit": True}):
        printed = Range(low, high, **scale)
        assert str(printed).endswith(":logit") == ("logit" in scale)
        assert Range.parse(str(printed), float) == printed


@pytest.mark.parametrize(
    ("wide", "narrow", "holds"),
    [
        ((1, 2, 3), (3, 1), True),
        ((1, 2), (3,), False),
        ((1, 2), Range(1, 2), False),
        (Range(1, 4), Range(1, 4, log=True), True),
        (Range(1, 4), Range(2, 5), False),
        (Range(0, 1), (0.1, 1), True),
        (Range(0, 1), Range(0.1, 0.9, logit=True), True),
        (Range(0.1, 0.9, logit=True), (0.5, 1.0), False),
    ],
)
def test_covers(wide, narrow, holds: bool) -> None:  # type: ignore[no-untyped-def]
    assert covers(wide, narrow) is holds


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
    written = json.loads(study.to_json())
    assert study.name == "wave" and written["train"] == "own_functions:wave"
    again = Study.from_json(study.to_json())
    assert [r.config_id for r in again.runs()] == [r.config_id for r in study.runs()]
    distilling = json.loads(Study().to_json())
    assert "run" not in written and not {"train", "metric", "baseline"} & distilling.keys()


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "wave"}, "train must be a function or module:function, but got 'wave'"),
        ({"space": {"repeat": (1, 2)}}, "must have a name of 1 to 64 letters"),
        (
            {"baseline": {"beta": 1}},
            "of baseline must be one of alpha, temperature, my knob, but got beta",
        ),
        (
            {"unless": {"alpha": {"temperature": 1}, "temperature": {"alpha": 1}}},
            "unless must not make hyperparameters depend on each other",
        ),
        (
            {"space": {"alpha": (1.0, math.inf)}, "unless": {}},
            "alpha must have texts as values, or",
        ),
        ({"metric": "val/seconds"}, "with a NAME of letters, digits and _, other than kind, "),
        (
            {"baseline": {"alpha": 1.0, "temperature": 1}},
            "baseline must not name temperature, which has no effect",
        ),
        ({"metric": "val/auc"}, 'mode must be "max" or "min" for metric=\'val/auc\''),
        ({"stop_early": True}, r"stop_early must know how many epochs train yields \(epochs=N"),
        ({"run": Run(lr=0.5)}, "run must be left out with train=..., whose own settings"),
        ({"max_ms": 1.0}, "max_ms must be left out with train=..., since it is for"),
        ({"baseline": {"alpha": 0.3}, "plain_share": 0.0}, "baseline must lie in the space"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message if "(" in message else re.escape(message)):
        make(**changes)


def test_words_of_a_command_line_do_not_stand_for_truth_values() -> None:
    space = {"flag": (True, False), "mixed": ("sqrt", 0.5), "depth": (1, 2)}
    study = make(space=space, baseline={}, unless={})
    flags = {flag.name for flag in study_flags("search", study)}
    assert "depth" in flags and not {"flag", "mixed"} & flags


def test_flags_of_several_numbers_are_one_value_and_count_as_given() -> None:
    words = ["--teacher-mean", "0.1", "0.2", "0.3", "--teacher-size", "64", "--eval-crop", "0.9"]
    study = parse("search", words)
    run = study.run
    assert (run.teacher_mean, run.teacher_size, run.eval_crop) == ((0.1, 0.2, 0.3), 64, 0.9)
    assert study.space == parse("search", []).space  # nothing more is searched
    with pytest.raises(InputError, match=r"teacher_std must lie in \[0.000001, 1\], .*58.4"):
        parse("teacher", ["--teacher-std", "58.4", "57.1", "57.4"])
    study = parse("search", ["--teacher_weights", "none", "--name", "cache"])  # as tyro takes them
    assert set(study.flags) == {"teacher_weights", "name"}
    assert study.run.teacher_epochs is None  # these weights have a recipe of their own


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search --stop-early --no-stop-early", "but got --stop-early twice; leave out one"),
        (f"search {'a' * 256}.py", "EXPERIMENT must be a path"),
    ],
)
def test_words_that_contradict_each_other(line: str, message: str) -> None:
    command, *words = line.split()
    with pytest.raises(InputError, match=re.escape(message)):
        parse_command(command, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import sys; sys.exit(0)", r"it calls sys\.exit\(0\) \(.*own\.py, line 1\); leave the"),
        ("class Odd(BaseException): ...\nraise Odd('odd')", r"Odd: odd \(.*line 2\)"),
        (f"study = {'x' * 200!r}", r"but got 'x+\.\.\.$"),
    ],
)
def test_an_experiment_that_cannot_be_one_is_refused(
    tmp_path: Path, content: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    file = tmp_path / "own.py"
    file.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        parse("search", [str(file)])
    assert "own.py" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "want"),
    [
        ("pretrained", {}, {"optimizer": "sgd", "lr": 1e-3, "epochs": 10, "batch_norm": "train"}),
        ("pretrained", {"trainable": "head"}, {"lr": 1e-1, "batch_norm": "eval"}),
        ("pretrained", {"optimizer": "adamw"}, {"lr": 1e-4, "weight_decay": 1e-2}),
        ("pretrained", {"trainable": "head", "batch_norm": "train"}, {"batch_norm": "train"}),
        ("random", {}, {"optimizer": "adamw", "lr": 1e-3, "schedule": "onecycle", "epochs": 30}),
        ("random", {"optimizer": "sgd"}, {"lr": 0.1, "weight_decay": 1e-4}),
        ("finished", {}, {"epochs": 0, "optimizer": "sgd"}),
        ("finished", {"epochs": 3}, {"epochs": 3}),
        ("random", {"lr": 0.5, "epochs": 1}, {"lr": 0.5, "epochs": 1}),
    ],
)
def test_recipe(kind: Any, given: dict[str, Any], want: dict[str, Any]) -> None:
    recipe = teacher_recipe(kind, given)
    assert {name: recipe[name] for name in want} == want
    assert all(hasattr(Run(), f"teacher_{name}") for name in recipe)
