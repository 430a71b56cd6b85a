"""Checks of schedules: decays, and warm-ups in a study's configurations."""

from typing import Any

import pytest

from kdtune.config.cli import parse
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError


def test_decays_on_the_command_line() -> None:
    words = ["--schedule", "multistep", "--lr-milestones", "0.5", "0.75"]
    run = parse("search", [*words, "--teacher-lr-milestones", "0.9"]).run
    assert (run.lr_milestones, run.teacher_lr_milestones) == ((0.5, 0.75), (0.9,))
    assert parse("teacher", ["--teacher-lr-milestones", "0.9"]).run.lr_milestones == (
        *(0.625, 0.75, 0.875),
    )


@pytest.mark.parametrize("name", ["lr_milestones", "teacher_lr_milestones"])
@pytest.mark.parametrize("decays", [(0.5, 0.5), (0.75, 0.5), (0.5, 1.0), (0.0, 0.5), ()])
def test_decays_that_are_not_ascending_shares_are_refused(name: str, decays: Any) -> None:
    with pytest.raises(InputError, match=f"{name} must .* but got {name}="):
        Run(**{name: decays})


REFUSED = [
    (Run(epochs=5, warmup_epochs=5), {}),
    (Run(epochs=5), {"warmup_epochs": (0, 7)}),
    (Run(epochs=5), {"epochs": (5, 20), "warmup_epochs": (0, 5)}),
    (Run(epochs=9, warmup_epochs=5), {"epochs": Range(5, 20)}),
    (Run(epochs=9), {"epochs": Range(5, 20), "warmup_epochs": Range(0, 5)}),
    (Run(epochs=5, warmup_epochs=5), {"schedule": ("onecycle", "cosine")}),
]
ALLOWED = [
    (Run(epochs=5, warmup_epochs=4), {}),
    # no configuration has the values of the run
    (Run(epochs=5, warmup_epochs=5), {"epochs": (6, 20)}),
    (Run(), {"epochs": (200,), "warmup_epochs": (0, 30)}),
    (Run(epochs=5, warmup_epochs=5, schedule="onecycle"), {}),
    (Run(epochs=9), {"epochs": Range(6, 20), "warmup_epochs": Range(0, 5)}),
]


def study_of(run: Run, space: Any) -> Study:
    is_range = any(isinstance(values, Range) for values in space.values())
    return Study(run=run, space=space, search="random" if is_range else "grid")


@pytest.mark.parametrize(("run", "space"), REFUSED)
def test_a_warm_up_as_long_as_the_training_is_refused(run: Run, space: Any) -> None:
    with pytest.raises(InputError, match=r"--warmup-epochs must be less than --epochs, but got"):
        study_of(run, space)


@pytest.mark.parametrize(("run", "space"), ALLOWED)
def test_a_shorter_warm_up_is_allowed(run: Run, space: Any) -> None:
    assert study_of(run, space).run == run


def test_the_error_on_the_command_line() -> None:
    with pytest.raises(InputError) as error:
        parse(
            "search", ["--epochs", "10", "20", "--warmup-epochs", "0", "10", "--schedule", "step"]
        )
    assert str(error.value) == (
        "--warmup-epochs must be less than --epochs, but got --warmup-epochs 10 with --epochs 10; "
        "give fewer epochs of warm-up, or more epochs"
    )
