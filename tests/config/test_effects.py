"""Effects and ids of hyperparameters.

References: ids that version 0.1 gave, computed with it; the effects of a table of objectives made
up here; and the law that a new hyperparameter changes no id.
"""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

import pytest

from kdtune.config import fields as effects
from kdtune.config.fields import Hyperparameter, searchable
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import DISTILLATION, HYPERPARAMETERS, complete
from kdtune.config.text import InputError

IDS_OF_VERSION_0_1: list[tuple[dict[str, Any], str]] = [
    ({}, "849b9475"),
    ({"alpha": 1.0}, "7ffc37aa"),
    ({"alpha": 0, "loss": "mse"}, "41158ddb"),
    ({"loss": "mse", "temperature": 2}, "c104bb91"),
    ({"alpha": 0.1, "temperature": 4.5}, "c3e4aacf"),
    (
        {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.01, "schedule": "onecycle"}
        | {"epochs": 60, "batch_size": 64, "train_images": 300},
        "a185d764",
    ),
    ({"trainable": "head", "batch_norm": "eval", "schedule": "cosine"}, "65c8d0ad"),
    ({"lr_step_size": 3, "lr_gamma": 0.5, "momentum": 0}, "ec4b1cfa"),
]


@dataclass(frozen=True)
class LaterRun(Run):
    """A run of a later version, with two more hyperparameters."""

    smoothing: Annotated[float, Hyperparameter(low=0, below=1, neutral=0.0)] = 0.0
    rotation: Annotated[float, Hyperparameter(low=0, when={"smoothing": (0.1, 0.2)})] = 3.0


@pytest.mark.parametrize(("values", "config_id"), IDS_OF_VERSION_0_1)
def test_ids_are_those_of_version_0_1(values: dict[str, Any], config_id: str) -> None:
    assert Run(**values).config_id == config_id


@pytest.mark.parametrize("values", [values for values, _ in IDS_OF_VERSION_0_1])
def test_a_new_hyperparameter_changes_no_id(values: dict[str, Any]) -> None:
    old = Run(**values).config_id
    assert LaterRun(**values).config_id == old
    assert LaterRun(**values, rotation=5).config_id == old  # without effect
    assert LaterRun(**values, smoothing=0.3).config_id != old
    turned = {LaterRun(**values, smoothing=0.1, rotation=r).config_id for r in (3, 4)}
    assert len(turned) == 2


def test_a_later_hyperparameter_without_a_neutral_value_always_counts() -> None:
    ids = {Run(loss="mine:objective", dkd_beta=b).config_id for b in (1, 8)}
    assert len(ids) == 2


def test_the_order_of_columns_is_that_of_version_0_1() -> None:
    assert HYPERPARAMETERS[:14] == (
        *("loss", "alpha", "temperature", "optimizer", "lr", "momentum", "weight_decay"),
        *("schedule", "lr_step_size", "lr_gamma", "epochs", "batch_size", "trainable"),
        "batch_norm",
    )
    assert set(HYPERPARAMETERS) == set(searchable(Run))
    # the order in which a search draws them: another one would propose other configurations
    assert DISTILLATION.deciding == ("alpha", "loss", "optimizer", "schedule")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objectives `kl` and, of other parameters, `dkd` and `cosine`."""

    def kl(student, teacher, labels, *, temperature): ...
    def dkd(student, teacher, labels, *, temperature, dkd_alpha, dkd_beta): ...
    def cosine(student, teacher, labels): ...

    module = ModuleType("table_of_objectives")
    module.OBJECTIVES = {"kl": kl, "dkd": dkd, "cosine": cosine}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(effects, "OBJECTIVES", module.__name__)
    effects.objective_parameters.cache_clear()
    yield
    effects.objective_parameters.cache_clear()


OF_ANY = {
    *("temperature", "dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma", "nkd_gamma"),
    "loss_weight",
}
"""Parameters that a user's own objective may take, without that which is None by default."""


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("loss", "effective"),
    [
        ("kl", {"temperature"}),
        ("dkd", {"temperature", "dkd_alpha", "dkd_beta"}),
        ("cosine", set()),
        ("mine:objective", OF_ANY - {"loss_weight"}),
        ("kl+cosine", {"temperature", "loss_weight"}),
        ("cosine+dkd", {"temperature", "dkd_alpha", "dkd_beta", "loss_weight"}),
        ("cosine+mine:objective", OF_ANY),
    ],
)
def test_the_signature_of_an_objective_says_what_has_an_effect(loss: str, effective: set) -> None:
    of_objective = {n for n, setting in searchable(Run).items() if setting.of_objective}
    config = Run(loss=loss).config
    assert {name for name in of_objective if config[name] is not None} == effective
    assert all(Run(loss=loss, alpha=1).config[name] is None for name in of_objective)


@pytest.mark.usefixtures("table")
def test_the_table_says_which_losses_there_are() -> None:
    with pytest.raises(InputError, match="loss must be one of kl, dkd, cosine or module:function"):
        Run(loss="mse")
    study = Study(run=Run(loss="dkd"), space={"dkd_beta": (1, 2), "alpha": (0.5, 1)})
    assert len(study.runs()) == 3
    with pytest.raises(InputError, match="dkd_beta is searched, but has no effect"):
        Study(run=Run(loss="cosine"), space={"dkd_beta": (1, 2)})


def test_a_users_own_objective_is_not_imported() -> None:
    assert Run(loss="no_such_module:objective").config["temperature"] == 4
    assert "no_such_module" not in sys.modules


def test_a_record_of_an_earlier_version_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {name: value for name, value in Run().config.items() if not name.startswith("dkd")}
    assert complete(old) == Run().config
    assert complete(Run(loss="mine:objective").config) == Run(loss="mine:objective").config
    broken = {**old, "optimizer": "unknown"}  # what is recorded stays as it is
    assert complete(broken)["momentum"] == old["momentum"]


def test_a_completed_record_has_neutral_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.config import task as home

    monkeypatch.setattr(home, "Run", LaterRun)
    monkeypatch.setattr(home, "HYPERPARAMETERS", effects.hyperparameters_of(LaterRun))
    completed = complete(Run().config)
    assert completed == LaterRun().config
    assert (completed["smoothing"], completed["rotation"]) == (0, None)
