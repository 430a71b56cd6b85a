"""What a run that diverges is blamed on: the teacher, the student, the objective or the lr."""

from dataclasses import replace

import pytest
import torch
from blobs import RUN, blobs, new_stream, new_student

from kdtune.config.run import Run
from kdtune.config.text import Diverged, InputError
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher
from kdtune.models.registry import build
from kdtune.streams.views import Resources
from kdtune.training import teachers
from kdtune.training.loop import train
from kdtune.training.losses import check_objective

NAN = "hostile_models:nan_for_many"


def trained(run: Run, student: Classifier | None = None) -> None:
    """Train on the blobs with the run's teacher."""
    student = student or new_student(run)
    list(train(run, student, new_stream(run, student)))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"teacher": NAN}, f"the logits of the teacher {NAN} are NaN or infinite for 41 of"),
        (
            {"student": NAN},
            f"the logits of {NAN} are NaN or infinite for 16 of 16 examples before its first "
            f"training step",
        ),
        (
            {"loss": "hostile_models:is_nan_for_many"},
            "the objective hostile_models:is_nan_for_many is NaN or infinite for a batch of train",
        ),
        ({"lr": 1e3, "loss": "mse"}, "a lower lr may help$"),
        ({"lr": 1e3, "loss": "mse", "precision": "bf16"}, "a lower lr .*, or --precision fp32$"),
    ],
)
def test_the_culprit_is_named(changes: dict[str, object], cause: str) -> None:
    with pytest.raises(Diverged, match=rf"became .* in epoch 0; {cause}"):
        trained(replace(RUN, **changes))  # type: ignore[arg-type]


def test_an_exit_in_training_is_no_success() -> None:
    with pytest.raises(InputError, match=r"exits_in_training, or .* ended: it calls sys"):
        trained(replace(RUN, student="hostile_models:exits_in_training"))
    with pytest.raises(InputError, match=r"objective .*exits_late, ended: it calls sys\.exit\(0\)"):
        trained(replace(RUN, loss="hostile_models:exits_late"))


def test_a_student_learns_where_gradients_are_turned_off() -> None:
    student = new_student(RUN)
    before = student.head.weight.clone()
    with torch.no_grad():  # as a script for inference does for its whole process
        trained(replace(RUN, epochs=1), student)
    assert not torch.equal(student.head.weight, before)


def test_the_accuracy_of_a_teacher_without_finite_logits_is_not_measured() -> None:
    run = replace(RUN, teacher=NAN)
    teacher = Teacher.of([build(run.teacher, "none", 3, seed=0)])
    with pytest.raises(InputError, match=r"NaN or infinite for 30 of 30 examples of val \(first"):
        teachers.evaluate(run, blobs(), teacher, Resources(), ["val"])


def test_an_objective_must_leave_its_arguments_and_have_a_slope() -> None:
    with pytest.raises(InputError, match="has changed teacher in place"):
        check_objective(Run(loss="hostile_models:changes_the_teacher"), 3)
    with pytest.warns(UserWarning, match="has_no_slope with respect to .* is 0 for random logits"):
        check_objective(Run(loss="hostile_models:has_no_slope"), 3)
