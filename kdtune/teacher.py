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
from kdtune.training.recipe import resolve_study, teachers
from kdtune.training.teacher import (
    WEIGHTS,
    describe_training,
    fine_tune,
    initial_teacher,
    missing_teachers,
    probe_teacher,
    teacher_place,
)


def main(study: Study) -> int:
    """Fine-tune the teacher of a study and print its epochs; do nothing if it is ready.

    Raises InputError if there is nothing to fine-tune, or the data or the model do not fit.
    """
    study = resolve_study(study)
    root, progress = study.folder / "teacher", Progress()
    resources = local_resources(study, progress.show_build)
    if study.run.teacher_epochs == 0:
        raise InputError(
            "--teacher-epochs must be at least 1 to fine-tune a teacher, but got "
            "--teacher-epochs 0, which takes the teacher's weights as they are"
        )
    for own in teachers(study):
        folder = root / teacher_place(study.run, own)
        if not missing_teachers(study.run, [own], root):
            progress.print_line(f"the teacher is ready: {folder / WEIGHTS}")
            continue
        verify(load_data(own))
        probe_teacher(own, initial_teacher(own))
        progress.print_line(describe_training(own))
        for epoch in fine_tune(own, folder, resources):
            progress.print_line(epoch)
        progress.print_line(f"Wrote the teacher to {folder / WEIGHTS}.")
    return 0
