"""Command lines, experiments and the recipe of teachers: what is refused.

What command lines parse to is frozen in tests/goldens.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from kdtune.config.cli import parse, parse_baseline, parse_command
from kdtune.config.fields import teacher_recipe
from kdtune.config.run import Run
from kdtune.config.text import InputError


def test_flags_of_several_numbers_are_one_value() -> None:
    words = ["--teacher-mean", "0.1", "0.2", "0.3", "--teacher-size", "64", "--eval-crop", "0.9"]
    study = parse("search", words)
    run = study.run
    assert (run.teacher_mean, run.teacher_size, run.eval_crop) == ((0.1, 0.2, 0.3), 64, 0.9)
    assert study.space == parse("search", []).space  # nothing more is searched
    with pytest.raises(InputError, match=r"teacher_std must lie in \[0.000001, 1\], .*58.4"):
        parse("teacher", ["--teacher-std", "58.4", "57.1", "57.4"])


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


def test_flags_count_as_given_and_values_do_not() -> None:
    study = parse("search", ["--teacher_weights", "none", "--name", "cache"])  # as tyro takes them
    assert set(study.flags) == {"teacher_weights", "name"}
    assert study.run.teacher_epochs is None  # these weights have a recipe of their own


def test_a_baseline_is_one_configuration() -> None:
    with pytest.raises(InputError, match=r"^--baseline must be .*each name once, but got alpha"):
        parse_baseline("alpha=1,alpha=0.5")


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
