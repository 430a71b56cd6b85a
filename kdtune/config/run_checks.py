"""Checks of a run's configuration that involve more than the type and bounds of one field."""

from typing import TYPE_CHECKING

from kdtune.config import effects
from kdtune.config.errors import InputError
from kdtune.config.fields import check
from kdtune.config.names import check_weights

if TYPE_CHECKING:
    from kdtune.config.run import Run


def check_run(run: "Run") -> None:
    """Raise InputError if loss, weights, repeat or teachers of a run cannot be as given."""
    allowed = f"{', '.join(effects.objective_names())} or module:function"
    check(run, "loss", effects.is_objective(run.loss), f"be one of {allowed}")
    check_weights("teacher_weights", run.teacher_weights)
    check_weights("student_weights", run.student_weights)
    fits = run.repeat >= -run.teachers or run.folds is not None
    check(run, "repeat", fits, f"be {-run.teachers} or more")
    if run.teachers > 1 and run.folds is not None:
        raise InputError(
            f"--teachers must be 1 with --folds, since each repeat then has its own teacher, but "
            f"got --teachers {run.teachers}; leave out one of them"
        )
    if run.teachers > 1 and run.teacher_epochs == 0:
        raise InputError(
            f"--teachers must be 1 with --teacher-epochs 0, since all teachers would be the same, "
            f"but got --teachers {run.teachers}; fine-tune them (--teacher-epochs 10)"
        )
