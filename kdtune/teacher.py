"""Fine-tune the teacher of a study.

python -m kdtune.teacher [EXPERIMENT.py] [--flags] [--dump FILE]
"""

if __name__ == "__main__":
    from kdtune.config.cli import start

    start("teacher")  # refuses wrong flags before torch is loaded; does not return

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kdtune.config.fields import check
from kdtune.config.records import TeacherAccuracy
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import Diverged, InputError
from kdtune.data.folder import verify
from kdtune.data.sources import StudyData
from kdtune.models.weights import WEIGHTS
from kdtune.results.warnings import check_teachers
from kdtune.streams.views import Resources, local_resources
from kdtune.training import recipe, teachers
from kdtune.training.recipe import Progress, numbered, resolve_study, whole_teachers
from kdtune.training.run import describe_fine_tuning


def main(study: Study) -> int:
    """Fine-tune the teachers of a study, as far as they are not ready; print their accuracy.

    With --dump write the outputs of the teacher into a file, fine-tuned or not.

    Raises InputError if there is nothing to do, or the data or the model do not fit.
    """
    file = None if study.dump is None else Path(study.dump).expanduser()
    data = StudyData(study.run)
    study = resolve_study(study, data)
    if file is not None:
        teachers.check_dump(study, file)
    study = replace(study, repeats=max(study.repeats, study.run.teachers))  # train all N
    root, training = study.folder / "teacher", LocalTraining.of(study, data, Progress())
    write = training.progress.print_line
    is_tuned = study.run.teacher_epochs != 0 or file is not None
    check(study.run, "teacher_epochs", is_tuned, "be at least 1 to fine-tune a teacher")
    if study.run.teacher_epochs:
        _train_missing(study, root, training)
    runs = numbered(study, whole_teachers(study))
    if file is not None:  # it has the outputs for views of the teacher's own size
        runs = [teachers.with_views_of_teacher(run, data.of(run)) for run in runs]
    training.report_accuracy(study, runs)
    if file is not None:
        counts = teachers.dump_teacher(runs[0], root, training.resources, file, data.of(runs[0]))
        shown = ", ".join(f"{split} {count:,}" for split, count in counts.items())
        write(
            f"Wrote the teacher's logits to {file} ({shown}). kdtune.search uses them with "
            f"--teacher {file} --augment none."
        )
    if study.run.teacher_epochs:
        is_one = len(numbered(study, recipe.teachers(study))) == 1
        weights = study.folder if is_one else "FILE, one of those above"
        write(
            f"kdtune.search with the same --name and teacher flags uses it. Other studies of these "
            f"classes do with --teacher {study.run.teacher} --teacher-weights {weights}."
        )
    return 0


def _train_missing(study: Study, root: Path, training: "LocalTraining") -> None:
    """Fine-tune the teachers that are not ready."""
    data, write = training.data, training.progress.print_line
    whole = data.of(study.run)
    models = [(run, recipe.untrained_teacher(run, whole)) for run in recipe.teachers(study)]
    for sentence in recipe.describe_weights(recipe.StudyModels([], models), whole):
        write(f"warning: {sentence}")
    for run in numbered(study, recipe.teachers(study)):
        folder = root / teachers.teacher_folder(study.run, run)
        if not teachers.missing_teachers(study.run, [run], root, data):
            write(f"the teacher is ready: {folder / WEIGHTS}")
            continue
        data_of_run = data.of(run)
        verify(data_of_run)
        teachers.probe_teacher(run, data_of_run, teachers.initial_teacher(run, data_of_run))
        training.train_teacher(run, folder)
        write(f"Wrote the teacher to {folder / WEIGHTS}.")


@dataclass(frozen=True)
class LocalTraining:
    """Training on this machine, without Ray: what it trains on, with what, and who prints it."""

    data: StudyData
    resources: Resources
    progress: Progress

    @staticmethod
    def of(study: Study, data: StudyData, progress: Progress) -> "LocalTraining":
        """Return the training of a study; raise InputError if this machine cannot do it."""
        photos = data.of(study.run).photos
        return LocalTraining(data, local_resources(study, photos, progress.show_build), progress)

    def train_teacher(
        self, run: Run, folder: Path, on_save: Callable[[], None] = lambda: None
    ) -> None:
        """Fine-tune a teacher and print its epochs; raise InputError if its training diverges."""
        write, data = self.progress.print_line, self.data.of(run)
        write(teachers.describe_training(run, data))
        write(describe_fine_tuning(run, data, self.resources))
        try:
            for epoch in teachers.fine_tune(run, folder, self.resources, on_save, write, self.data):
                for line in teachers.epoch_lines(run, epoch):
                    write(line)
        except Diverged as error:
            raise InputError(f"the teacher could not be trained: {error} (--teacher-lr)") from None

    def report_accuracy(self, study: Study, runs: list[Run]) -> None:
        """Print warnings of the data and the accuracy of teachers; measure what is not recorded.

        Args:
            study: The study, resolved.
            runs: Its run with each teacher.

        Raises:
            InputError: One is less accurate than --teacher-min-acc.
        """
        run, data, whole = study.run, self.data, self.data.with_extra(study.run)
        for fault in (*whole.warnings, *recipe.find_faults(study, whole)):
            self.progress.print_line(f"warning: {fault}")
        root, runs = study.folder / "teacher", teachers.with_members(runs)

        def measure(recorded: list[TeacherAccuracy]) -> list[TeacherAccuracy]:
            missing = teachers.find_unmeasured(run, runs, root, recorded, data)
            return teachers.measure_accuracy(run, missing, root, self.resources, data)

        keys, least = [teachers.key_of(each) for each in runs], run.teacher_min_acc
        check_teachers(study.folder, keys, measure, least, self.progress.print_line)
