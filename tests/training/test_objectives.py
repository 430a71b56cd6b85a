"""Objectives by name: the user's own, sums of two, and those that cannot work."""

import sys
from pathlib import Path

import pytest
import torch
from random_logits import LABELS, K, close, pair

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.training.losses import check_objective, check_searched, objective

SOUND = {
    "cosine": ("", "1 - torch.nn.functional.cosine_similarity(student, teacher).mean()"),
    "tempered": (
        ", *, temperature, dkd_beta",
        "((student - teacher) / temperature).square().mean() * dkd_beta",
    ),
}
"""By name: what follows (student, teacher, labels, and what is returned."""
NO_GRADIENT = "must have a finite gradient"
FAULTS = {
    "misspelt": (
        (", *, temprature=1.0", "student.sum()"),
        "keyword-only parameters of .*misspelt must be fields of .*temprature",
    ),
    "more": (
        (", other", "student.sum()"),
        r"must be a function \(student, teacher, labels, \*, hyperparameters\)",
    ),
    "rows": (("", "student.sum(1)"), r"must return a scalar tensor, but got \[4\]"),
    "number": (("", "1.0"), "must return a scalar tensor, but got float"),
    "nan": (("", "(student - student).sum() / 0"), "must be finite, but got nan"),
    "dead": (("", "student.detach().sum()"), NO_GRADIENT),
    "foreign": (("", "teacher.clone().requires_grad_().sum()"), NO_GRADIENT),
    "steep": (("", "(student - student).abs().sqrt().sum()"), NO_GRADIENT),
    "raises": (
        ("", '{}["weights"]'),
        r"failed on random logits of shape \[4, 5\]: KeyError: 'weights' .*line \d+",
    ),
    "weighed": (
        (", *, loss_weight", "loss_weight * (student - teacher).square().mean()"),
        "must not take loss_weight, which has an effect of its own",
    ),
    "smoothed": (
        (", *, label_smoothing", "label_smoothing * student.sum()"),
        "must not take label_smoothing, which has an effect of its own",
    ),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    functions = SOUND | {name: function for name, (function, _) in FAULTS.items()}
    lines = ["import torch", "constant = 3"]
    for name, (more, value) in functions.items():
        lines += [f"def {name}(student, teacher, labels{more}):", f"    return {value}"]
    (tmp_path / "own_objectives.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_objectives", raising=False)
    return "own_objectives"


def test_an_objective_of_the_user(own: str) -> None:
    student, teacher = pair()
    cosine = Run(loss=f"{own}:cosine")
    check_objective(cosine, K)
    want = 1 - (student * teacher).sum(1) / student.norm(dim=1) / teacher.norm(dim=1)
    close(objective(cosine)(student, teacher, LABELS), want.mean())
    tempered = Run(loss=f"{own}:tempered", temperature=2, dkd_beta=3)
    check_objective(tempered, K)
    want = 3 * (student - teacher).square().mean() / 4
    close(objective(tempered)(student, teacher, LABELS), want)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, message) for name, (_, message) in FAULTS.items()),
        ("constant", "must be a function, but it is of type int"),
        ("absent", "cannot be imported: AttributeError"),
        ("nan+kl", "the objective own_objectives:nan must be finite"),
    ],
)
def test_an_objective_that_cannot_work_is_refused(name: str, message: str, own: str) -> None:
    with pytest.raises(InputError, match=message):
        check_objective(Run(loss=f"{own}:{name}"), K)


def test_searching_what_an_objective_of_the_user_does_not_take(own: str) -> None:
    check_searched(["kl", f"{own}:tempered"], ["temperature", "dkd_beta", "lr"])
    check_searched(["kl", f"{own}:cosine"], ["lr", "alpha"])
    check_searched(["mse", "kl"], ["temperature", "lr"])
    check_searched([f"{own}:cosine+kl"], ["temperature", "loss_weight"])
    with pytest.raises(InputError, match=r"temperature is searched, but the objective .*:cosine"):
        check_searched(["kl", f"{own}:cosine"], ["lr", "temperature"])
    with pytest.raises(InputError, match=rf"dkd_beta is searched, .* parameter of {own}:cosine$"):
        check_searched([f"{own}:cosine+kl"], ["dkd_beta"])


def test_a_sum_has_both_terms_with_their_hyperparameters(own: str) -> None:
    def value(loss: str, **weights: float) -> torch.Tensor:
        return objective(Run(loss=loss, temperature=2, **weights))(*pair(), LABELS)

    tempered = f"{own}:tempered"
    check_objective(Run(loss=f"dkd+{tempered}", temperature=2, dkd_beta=3, loss_weight=5), K)
    got = value(f"dkd+{tempered}", dkd_beta=3, loss_weight=5)
    close(got, value("dkd", dkd_beta=3) + 5 * value(tempered, dkd_beta=3))
