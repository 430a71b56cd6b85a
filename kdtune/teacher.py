"""Fine-tune the teacher of a study.

python -m kdtune.teacher [EXPERIMENT.py] [--flags]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("teacher")  # refuses wrong flags before torch is loaded; does not return

from kdtune.config.errors import InputError
from kdtune.config.study import Study
from kdtune.data.folder import verify
from kdtune.data.sources import load_data
from kdtune.streams.resources import local_resources
from kdtune.training.progress import Progress
from kdtune.training.teacher import (
    WEIGHTS,
    describe_training,
    fine_tune,
    initial_teacher,
    is_ready,
    probe_teacher,
)


def main(study: Study) -> int:
    """Fine-tune the teacher of a study and print its epochs; do nothing if it is ready.

    Raises InputError if there is nothing to fine-tune, or the data or the model do not fit.
    """
    run, folder, progress = study.run, study.folder / "teacher", Progress()
    resources = local_resources(study, progress.show_build)
    if run.teacher_epochs == 0:
        raise InputError(
            "--teacher-epochs must be at least 1 to fine-tune a teacher, but got "
            "--teacher-epochs 0, which takes the teacher's weights as they are"
        )
    if is_ready(run, folder):
        progress.print_line(f"the teacher is ready: {folder / WEIGHTS}")
        return 0
    verify(load_data(run.data))
    probe_teacher(run, initial_teacher(run))
    progress.print_line(describe_training(run))
    for epoch in fine_tune(run, folder, resources):
        progress.print_line(epoch)
    progress.print_line(f"Wrote the teacher to {folder / WEIGHTS}.")
    return 0
