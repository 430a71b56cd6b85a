"""What is refused, what is printed, and docs/conventions.md against the table.

The formulas themselves: tests/training/test_conventions.py.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kdtune.convert
from kdtune.config.conventions import CONVENTIONS, convert, converted_training
from kdtune.config.text import InputError
from kdtune.convert import parse as parse_convert

DOCS = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text(encoding="utf-8")


def printed(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the command prints."""
    assert kdtune.convert.main(parse_convert(line.split())) == 0
    return capsys.readouterr().out.splitlines()


def test_documented_example_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    line, shown = re.findall(r"^    \$ python -m kdtune.convert (.+)\n    (.+)$", DOCS, re.M)[0]
    assert printed(line, capsys)[0] == shown
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `(--[^`]+)` \| (\S+) \|$", DOCS, re.M)
    assert len(rows) >= 13
    for words, flags, scale in rows:
        first, _, sentence, *_ = printed(f"--from {words}", capsys)
        assert first == flags
        expected = "The losses are equal" if scale == "1" else f"is {scale} times this one"
        assert expected in sentence
    assert {words.split()[0] for words, *_ in rows} == set(CONVENTIONS) - {"kd_lib"}


def test_documented_tools() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (.+) \| (.+) \| (.+) \|$", DOCS, re.M)
    assert rows[1:] == [(n, c.title, c.formula, c.signature) for n, c in CONVENTIONS.items()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--from repdistiller alpha=1 kdT=4", "kd_T=4, beta=0), but got kdT; did you mean kd_T?"),
        (
            "--from repdistiller alpha=1 kd_T=0",
            "kd_T must be a number from 1e-09 to 1e+09, but got kd_T=0",
        ),
        (
            "--from repdistiller alpha=nan",
            "alpha must be 0 or a number from 1e-09 to 1e+09, but got",
        ),
        ("--from repdistiller alpha=inf", "but got alpha=inf"),
        ("--from repdistiller alpha=1 beta=2", "no alpha and temperature make kdtune's loss equal"),
        ("--from repdistiller alpha=1 kd_T=1e4", r"temperature must lie in [0.0001, 1000]"),
        ("--from torchdistill alpha=Non temperature=1", "must be None or 0 or a number from 1e-09"),
        ("--from timm kd_distill_type=hard", "must be logit or feature or token, but got"),
        ("--from deit distillation_type=soft", "num_classes must be given, 2 or more"),
        ("--from keras --lr 0", "lr must lie in (0, 1000000000], but got lr=0"),
    ],
)
def test_what_is_refused(line: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        kdtune.convert.main(parse_convert(line.split()))
    assert words in str(refused.value) and "\n" not in str(refused.value)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_alpha_and_scale_give_the_weights_back(ce: float, distill: float) -> None:
    found = convert("repdistiller", {"gamma": repr(ce), "alpha": repr(distill)})
    alpha = found.hyperparameters["alpha"]
    assert isinstance(alpha, float)
    assert found.scale * alpha == pytest.approx(ce, rel=1e-12)
    assert found.scale * (1 - alpha) == pytest.approx(distill, rel=1e-9)


def test_training_of_a_loss_ten_times_as_large() -> None:
    """By hand; SGD's lr * weight_decay stays."""
    theirs = {"lr": 0.05, "weight_decay": 5e-4, "clip_norm": 5.0}
    sgd = converted_training(10, "sgd", theirs)
    assert sgd == pytest.approx({"lr": 0.5, "weight_decay": 5e-5, "clip_norm": 0.5})
    assert converted_training(10, "nesterov", theirs) == sgd
    adamw = converted_training(10, "adamw", theirs)
    assert adamw == pytest.approx({"lr": 0.05, "weight_decay": 5e-4, "clip_norm": 0.5})


def test_hyperparameters_without_effect_are_left_out() -> None:
    only_labels = convert("repdistiller", {"alpha": "0"})
    assert only_labels.hyperparameters == {"alpha": 1.0}
    assert (
        "label_smoothing" not in convert("timm", {"task_loss_weight": "0"}).hyperparameters
    )  # at alpha = 0
