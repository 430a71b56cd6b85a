"""docs/conventions.md against the table, and laws.

The formulas: tests/training/test_conventions.py. What is printed and refused: tests/goldens.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kdtune.convert
from kdtune.config.conventions import CONVENTIONS, convert, converted_training
from kdtune.convert import parse as parse_convert

DOCS = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text(encoding="utf-8")


def printed(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the command prints."""
    assert kdtune.convert.main(parse_convert(line.split())) == 0
    return capsys.readouterr().out.splitlines()


def test_the_documented_example_settings_and_tools(capsys: pytest.CaptureFixture[str]) -> None:
    line, shown = re.findall(r"^    \$ python -m kdtune.convert (.+)\n    (.+)$", DOCS, re.M)[0]
    assert printed(line, capsys)[0] == shown
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `(--[^`]+)` \| (\S+) \|$", DOCS, re.M)
    for words, flags, scale in rows:
        first, _, sentence, *_ = printed(f"--from {words}", capsys)
        assert first == flags
        expected = "The losses are equal" if scale == "1" else f"is {scale} times this one"
        assert expected in sentence
    assert {words.split()[0] for words, *_ in rows} == set(CONVENTIONS) - {"kd_lib"}
    tools = re.findall(r"^\| `(\S+)` \| (.+) \| (.+) \| (.+) \|$", DOCS, re.M)
    assert tools[1:] == [(n, c.title, c.formula, c.signature) for n, c in CONVENTIONS.items()]


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_alpha_and_scale_give_the_weights_back(ce: float, distill: float) -> None:
    converted = convert("repdistiller", {"gamma": repr(ce), "alpha": repr(distill)})
    alpha = converted.hyperparameters["alpha"]
    assert isinstance(alpha, float)
    assert converted.scale * alpha == pytest.approx(ce, rel=1e-12)
    assert converted.scale * (1 - alpha) == pytest.approx(distill, rel=1e-9)


def test_training_of_a_loss_ten_times_as_large() -> None:
    """By hand; SGD's lr * weight_decay stays."""
    theirs = {"lr": 0.05, "weight_decay": 5e-4, "clip_norm": 5.0}
    sgd = converted_training(10, "sgd", theirs)
    assert sgd == pytest.approx({"lr": 0.5, "weight_decay": 5e-5, "clip_norm": 0.5})
    assert converted_training(10, "nesterov", theirs) == sgd
    adamw = converted_training(10, "adamw", theirs)
    assert adamw == pytest.approx({"lr": 0.05, "weight_decay": 5e-4, "clip_norm": 0.5})
