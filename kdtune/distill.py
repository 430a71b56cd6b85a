"""Train one student with one teacher and print the epochs.

python -m kdtune.distill [EXPERIMENT.py] [--flags]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("distill")  # refuses wrong flags before torch is loaded; does not return

from dataclasses import replace

from kdtune.config.fields import check
from kdtune.config.study import Study
from kdtune.data.sources import StudyData
from kdtune.streams.views import with_precision
from kdtune.teacher import LocalTraining
from kdtune.training.recipe import Progress, describe_config, resolve
from kdtune.training.run import check_run, distill
from kdtune.training.teachers import missing_teachers


def main(study: Study) -> int:
    """Run one distillation and print its epochs; fine-tune the teacher first if there is none.

    Raises InputError if the run is not possible.
    """
    data, root, progress = StudyData(study.run), study.folder / "teacher", Progress()
    study = with_precision(study)
    run = resolve(study.run, data=data)
    study = replace(study, run=run)
    check(run, "repeat", run.repeat >= 0, "be 0 or more")
    training = LocalTraining.of(study, data, progress)
    for warning in check_run(run, data):
        progress.print_line(f"warning: {warning}")
    for teacher, folder in missing_teachers(run, run.teacher_members, root, data):
        training.train_teacher(teacher, folder)
    training.report_accuracy(study, [run])
    progress.print_line(
        f"Training the student {run.student}: repeat {run.repeat}, {describe_config(run)}."
    )
    for epoch in distill(run, root, training.resources, data=data):
        progress.print_line(epoch)
    return 0
