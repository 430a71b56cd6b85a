"""Check of a study before it is run: `python -m kdtune.search --check`. Needs no Ray."""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from kdtune.config.fields import Value
from kdtune.config.files import atomic_write
from kdtune.config.records import read_teacher_accuracy
from kdtune.config.run import Run
from kdtune.config.study import Study, check_objects
from kdtune.config.task import Range
from kdtune.config.text import Diverged, time_text
from kdtune.data.checks import describe_data
from kdtune.data.sources import StudyData
from kdtune.planning.plan import Plan
from kdtune.results.warnings import OnViews
from kdtune.results.words import count_of, recipe_lines, sentence
from kdtune.storage.records import read_lines
from kdtune.teacher import LocalTraining
from kdtune.training import recipe
from kdtune.training.epoch import Metrics
from kdtune.training.recipe import Progress, StudyModels, resolve_study
from kdtune.training.run import check_objectives, check_study, distill, find_warnings, time_epochs
from kdtune.training.teachers import missing_teachers

MIN_STEPS = 20
"""Training steps by which it is judged whether a student diverges."""
NO_LR = 1e-12
"""Learning rate with which a student stays as it is."""
MAX_RISE = 1.1
"""Cross-entropy of the first steps above which a student diverges, in units of that before. In the
default study it is at most 1.0, with 100 times the learning rate at least 1.17 (three repeats)."""


class Findings(Progress):
    """Lines of a check. Warnings are not printed, but kept for the page at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []

    def print_line(self, text: object) -> None:
        """Print a line that stays, or keep a warning that is not there yet."""
        warning = str(text).removeprefix("warning: ")
        if warning == str(text):
            super().print_line(text)
        elif warning not in self.sentences:
            self.sentences.append(warning)


def check_recipe(asked: Study, study: Study, saved: Study | None) -> int:
    """Print what would be wrong with a study, without running it.

    The cache gets what runs need. Nothing else is written but, for a study that has not begun, the
    checkpoint of a teacher that is fine-tuned here: the study takes it from there if the teacher's
    recipe is still the same.

    Args:
        asked: The study as it was asked for.
        study: The same, as it continues the saved one.
        saved: The study that its folder holds.

    Returns:
        The exit code: 1 if there is a finding.

    Raises:
        InputError: The study cannot run.
    """
    check_objects(study)
    Plan(study)  # raises InputError for a sampler that cannot be made
    data, findings = StudyData(study.run), Findings()
    study = resolve_study(study, data, begun=saved is not None)
    write, whole = findings.print_line, data.with_extra(study.run)
    on_machine = replace(study, gpus=study.gpus if study.address is None else None)
    training = LocalTraining.of(on_machine, data, findings)
    check_objectives(study, len(whole.classes))
    check_study(study, whole, fingerprints=False)
    models = StudyModels.of(study, whole)
    write(f"Recipe of {study.uri or study.folder}:")
    rows = recipe.recipe_rows(asked, study, saved, whole, models)
    lines = recipe_lines(study, rows, whole, training.resources.device.type, asked.verbose)
    for line in (*lines, *describe_data(whole)):
        write(line)
    faults = recipe.find_faults(study, whole)
    faults += recipe.check_weights(study, models, whole, is_new=saved is None)
    for warning in find_warnings(study, whole, models, faults):
        write(f"warning: {warning}")
    with TemporaryDirectory() as folder:
        copy = replace(study, out=folder)
        _prepare_teachers(study, copy, training, keeps=saved is None)
        _try_students(study, copy.folder, training)
    number = count_of(len(findings.sentences), "finding") if findings.sentences else "no finding"
    write(f"\nCheck of {study.uri or study.folder}: {number}.")
    for i, text in enumerate(findings.sentences, 1):
        write(f"{i}. {text}")
    if not findings.sentences:
        write(f"The same command without --check runs the study{_time_left(study, saved, data)}.")
    return 1 if findings.sentences else 0


def _time_left(study: Study, saved: Study | None, data: StudyData) -> str:
    """Return how long the runs left take one at a time, by one step; "" where that is unknown."""
    plan = Plan(study, read_lines(study.folder, study)[0] if saved is not None else ())
    runs = {run.group: run for run in study.runs()}
    plan.ledger.expected = time_epochs(study, runs, data)
    if not (expected := plan.expected_seconds):
        return ""
    return f": {time_text(expected)} for its runs, one at a time"


def _prepare_teachers(study: Study, copy: Study, training: LocalTraining, keeps: bool) -> None:
    """Fine-tune the teachers of the first repeat that are missing, and print their accuracy.

    Args:
        study: The study.
        copy: The same with another folder, in which teachers and their accuracy are written.
        training: Trains and measures them.
        keeps: Whether the study gets the checkpoints.
    """
    source, root = study.absolute().folder / "teacher", copy.folder / "teacher"
    if source.is_dir():
        shutil.copytree(source, root, copy_function=os.symlink)
    first = [run for run in recipe.numbered(study, recipe.teachers(study)) if run.repeat == 0]
    for run, folder in missing_teachers(study.run, first, root, training.data):
        target = source / folder.relative_to(root)
        on_save = partial(_keep_checkpoints, folder, target) if keeps else lambda: None
        training.train_teacher(run, folder, on_save)
    first = [run for run in recipe.numbered(study, recipe.whole_teachers(study)) if run.repeat == 0]
    training.report_accuracy(copy, first)


def _keep_checkpoints(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.checkpoint.pt"):
        with atomic_write(target / file.name) as part:
            shutil.copyfile(file, part)


def _try_students(study: Study, folder: Path, training: LocalTraining) -> None:
    """Train each student for an epoch, without distillation and with it, and print its loss.

    What is tried is where most goes wrong: of lists the largest learning rate and temperature and
    the smallest alpha, of ranges the middle. The folder has the teachers and their accuracy.
    """

    def hardest(name: str, choose: Callable[..., Value]) -> Value:
        values = study.values(name)
        if isinstance(values, Range):
            product, total = values.low * values.high, values.low + values.high
            return math.sqrt(product) if values.log else total / 2
        return choose(values)

    default = study.default
    assert isinstance(default, Run)  # noqa: S101 - the study is of distillation
    values = {name: hardest(name, max) for name in ("lr", "temperature")}
    measured, write = read_teacher_accuracy(folder), training.progress.print_line
    alphas = dict.fromkeys([1.0] * study.has_plain + [hardest("alpha", min)])
    for student in recipe.students(study):
        before = None
        for alpha in alphas:
            run = default.sample(student=student.student, alpha=alpha, **values)
            shown = {n: run.config[n] for n in ("loss", "alpha", "temperature", "lr")}
            words = ", ".join(f"{name} {value}" for name, value in shown.items() if value)
            name = f"{run.student} ({words})"
            try:
                if before is None:
                    _, before = _first_epoch(replace(run, lr=NO_LR), folder, training)
                metrics, after = _first_epoch(run, folder, training)
            except Diverged as error:
                write(f"warning: {name}: {error}")
                continue
            slots = {"name": name, "before": before, "after": after, "lr": run.lr / 10}
            write(sentence("first loss", **slots))
            if after > MAX_RISE * before:
                write(f"warning: {sentence('loss rises', **slots)}")
            seen = OnViews.of_run(measured, run, metrics)
            for line in [] if seen is None else seen.lines:
                write(line)


def _first_epoch(run: Run, folder: Path, training: LocalTraining) -> tuple[Metrics, float]:
    """Return metrics on train of a run's first epoch, and the cross-entropy in nats.

    If an epoch has fewer than `MIN_STEPS` steps, that is the largest of several. The whole schedule
    of the learning rate passes in them, but for a warm-up, which they are.
    """
    data = training.data
    steps = math.ceil(len(data.of(run).subset(run)) / run.batch_size)
    epochs = math.ceil(MIN_STEPS / steps)
    warmup = min(epochs, run.warmup_epochs)
    short = replace(run, epochs=epochs + warmup, warmup_epochs=warmup)
    trained = islice(distill(short, folder / "teacher", training.resources, data=data), epochs)
    metrics = [epoch.splits["train"] for epoch in trained]
    return metrics[0], max(values["ce"] or 0.0 for values in metrics)
