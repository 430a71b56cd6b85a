"""One distillation run: one student learns from one teacher."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.benchmark import set_torch_threads, timer

from kdtune.config.fields import Role, is_function_name, is_output_file
from kdtune.config.files import CHECKPOINT, PREDICTIONS, STUDENT
from kdtune.config.records import EpochTime
from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study, describe_fixed_students, flags_without_effect
from kdtune.config.task import Metric, Range, ends_of
from kdtune.data.dataset import Data
from kdtune.data.folder import verify
from kdtune.data.sources import StudyData
from kdtune.data.views import check_augmentation, check_mixing, probe_views
from kdtune.models.checks import check_last_batch, probe
from kdtune.models.classifier import Classifier
from kdtune.models.code_hash import source_digest
from kdtune.models.outputs import Model, Teacher, combine, networks
from kdtune.models.registry import PREPROCESSING, build_model
from kdtune.models.weights import save_weights
from kdtune.streams.cache import Cache
from kdtune.streams.stream import Stream
from kdtune.streams.views import INFERENCE_BATCH, Batch, Resources, device_of, view_size
from kdtune.training import recipe, teachers
from kdtune.training.epoch import Epoch, check_features, check_metric, save_predictions
from kdtune.training.loop import Checkpoint, Training, train
from kdtune.training.losses import check_objective, check_searched, class_weights, own_objectives

MAX_IDLE_STUDENT_BYTES = 2**30
"""Memory of the students that a process keeps for later runs, together."""
MAX_IDLE_KINDS = 4
"""Kinds of students, such as the students of a study, of which a process keeps some."""


MAX_SKIPPED = 16
"""Steps that fp16 may leave out in an epoch without a warning, or one of so many: as many halvings
take the scale of the gradients from its first value, 2^16, to 1."""
FEW_IMAGES = 4
"""Images of a step that is measured where one of a whole batch would take more than a second."""
SKIPPED = "were left out: gradients were not finite in fp16; --precision fp32 has a larger range"


def distill(
    run: Run,
    teacher: Path,
    resources: Resources,
    folder: Path | None = None,
    on_save: Callable[[], None] = lambda: None,
    write: Callable[[str], None] = lambda line: None,
    data: StudyData | None = None,
    metric: Metric | None = None,
) -> Iterator[Epoch]:
    """Distil the run's teacher into its student; yield an epoch at a time.

    Args:
        run: The configuration; at alpha = 1 the teacher is only measured.
        teacher: Folder of the fine-tuned teachers, see `teachers.teacher_folder` (not used if
            `run.teacher_epochs` is 0).
        resources: Device, cache and loader workers.
        folder: Where the checkpoint and, at the end, the student's weights and its predictions are
            written. A run whose checkpoint is there resumes. None: nothing is written.
        on_save: Called after each save of the checkpoint, for instance to upload it.
        write: Is given a sentence if a checkpoint cannot be used.
        data: The data of the run's study; None reads them.
        metric: That which decides. None: one that every run records.
    """
    data = data or StudyData(run)
    run = recipe.resolve(run, data=data)
    frozen = _teacher_of(run, data.of(run), teacher, resources.device)
    of_run = data.with_extra(run)
    with initial_student(run, of_run, resources.device) as initial:
        student = initial.student
        stream = Stream(run, of_run, student, frozen, resources, initial.fingerprint)
        if folder is None:
            yield from train(run, student, stream, metric=metric)
            return
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint(folder / CHECKPOINT, on_save, owner=run.trial_id, write=write)
        for epoch in train(run, student, stream, checkpoint, metric):
            if epoch.skipped_steps > max(MAX_SKIPPED, stream.steps_per_epoch / MAX_SKIPPED):
                write(f"{epoch.skipped_steps} steps of epoch {epoch.number} {SKIPPED}")
            yield epoch
        save_weights(student.net, folder / STUDENT)
        save_predictions(run, of_run, epoch.predictions, folder / PREDICTIONS)


MAX_TEACHERS = 2
"""Teachers that a process, which is a worker of Ray or a notebook, keeps for its next runs."""
_teachers: dict[object, Teacher] = {}
"""By everything that a finished teacher depends on; the one used last is the last."""


def _teacher_of(run: Run, data: Data, root: Path, device: torch.device) -> Teacher:
    """Return the run's teacher on its device."""
    # Only these fields: runs that differ in others, such as those of the student, share the
    # teacher. A field that is missing here would give a run the teacher of another one.
    names = ["teacher", "teacher_weights", "objects", "data", "data_root", "download"]
    names += ["columns", "groups", "val_share", "seed", "precision"]
    names += [f"teacher_{name}" for name in PREPROCESSING]
    if is_output_file(run.teacher):  # its rows are matched with the examples of train and val
        names += ["train_images", "train_draw", "folds"] + ["repeat"] * (run.folds is not None)
    # The weights of a fine-tuned teacher are those of its folder, however long it has learned.
    is_tuned = min(run.teacher_epochs or 0, 1)
    members = tuple(
        replace(Run(), **{n: getattr(member, n) for n in names}, teacher_epochs=is_tuned)
        for member in run.teacher_members
    )
    folders = tuple(root / teachers.teacher_folder(run, member) for member in run.teacher_members)
    changed = tuple(map(_modified_ns, teachers.weights_of_members(run, run, root)))
    # objects of Python under one name may be others
    key = (members, folders, changed, run.objects, device)
    if key not in _teachers:
        pairs = zip(members, folders, strict=True)
        models = [teachers.load_teacher(member, data, folder) for member, folder in pairs]
        while len(_teachers) >= MAX_TEACHERS:
            del _teachers[next(iter(_teachers))]
        _teachers[key] = Teacher.of([model.place(device, run.precision) for model in models])
    _teachers[key] = _teachers.pop(key)
    return _teachers[key]


@dataclass(frozen=True)
class InitialStudent:
    """A student with the initial weights of its repeat, and a copy of them."""

    student: Classifier
    fingerprint: str
    """Content hash of its backbone."""
    initial_values: list[tuple[Tensor, Tensor]]
    """Each tensor that a run may change, with a copy of its initial value."""
    nbytes: int
    """Memory of the student and the copies."""

    @staticmethod
    def of(run: Run, data: Data, device: torch.device) -> "InitialStudent":
        """Build the student of `make_student` on the device."""
        student = make_student(run, data).place(device, run.precision)
        prefix = f"net.{student.head_name}." if run.trainable == "head" else "net."
        trained = [p for name, p in student.named_parameters() if name.startswith(prefix)]
        values = [(x, x.detach().clone()) for x in (*trained, *student.buffers())]
        held = (*student.parameters(), *(copy for _, copy in values))
        size = sum(value.nbytes for value in held)
        return InitialStudent(student, student.fingerprint(with_head=False), values, size)

    def reset(self) -> None:
        """Restore the initial values, to the last bit, and drop the gradients."""
        with torch.no_grad():
            for value, copy in self.initial_values:
                value.copy_(copy)
                value.grad = None


_idle: dict[tuple[object, ...], dict[tuple[int, int], InitialStudent]] = {}
"""Students that no run is using, by kind and by seed and repeat."""


@contextmanager
def initial_student(run: Run, data: Data, device: torch.device) -> Iterator[InitialStudent]:
    """Lend the student of `make_student` to one run, for the duration of the context.

    A process keeps the students it has built, one per repeat, and resets each after its run:
    building and hashing a ResNet18 took 0.11 s of a short run of 0.13 s with a frozen backbone. The
    student of a user's factory is built for each run, since its module may keep a state that
    `reset` does not know.
    """
    if ":" in run.student:
        yield InitialStudent.of(run, data, device)
        return
    weights = run.weights_of("student")
    preprocessing = [getattr(run, f"student_{name}") for name in PREPROCESSING]
    source = (run.student, weights, _modified_ns(weights), run.data)
    kind = (*source, *preprocessing, run.precision, run.trainable, device)
    idle = _idle[kind] = _idle.pop(kind, {})  # the kind used last is the last
    while len(_idle) > MAX_IDLE_KINDS:
        del _idle[next(iter(_idle))]
    # removed while in use: two runs of one process never share a student
    initial = idle.pop((run.seed, run.repeat), None) or InitialStudent.of(run, data, device)
    try:
        yield initial
    finally:
        held = sum(student.nbytes for kind in _idle.values() for student in kind.values())
        if held + initial.nbytes <= MAX_IDLE_STUDENT_BYTES:
            initial.reset()
            idle[run.seed, run.repeat] = initial


def clear_cached_models() -> None:
    """Drop the teacher and the students that this process keeps for its next runs."""
    _teachers.clear()
    _idle.clear()


def check_run(run: Run, data: StudyData | None = None) -> list[str]:
    """Raise InputError, before any work, if the run's data, models or objective cannot work.

    Returns the sentences of `recipe.check_weights`.
    """
    data = data or StudyData(run)
    run = recipe.resolve(run, data=data)
    of_run = data.with_extra(run)
    check_objective(run, len(of_run.classes))
    study = Study(name="one", run=run)
    check_study(study, of_run, fingerprints=False)
    return recipe.check_weights(study, recipe.StudyModels.of(study, of_run), of_run, is_new=True)


def check_study(study: Study, data: Data, fingerprints: bool = True) -> dict[str, str]:
    """Raise InputError, before any work, if data, models or objectives cannot work.

    Args:
        study: The study, resolved.
        data: Its data, with any images without labels.
        fingerprints: Whether to hash all weights.

    Returns:
        The fingerprints of its data, its teachers (before any fine-tuning), its students and the
        user's augmentations, "augmentation module:function"; of models that the study did not begin
        with as "teacher NAME" and "student NAME". Empty without `fingerprints`.
    """
    run, begun = study.run, dict(study.run.study_values)
    verify(data)
    sizes = [replace(run, train_images=n) for n in ends_of(study.values("train_images"))]  # type: ignore[arg-type]
    counts = {len(data.subset(each)) for each in sizes}
    if run.budget_per == "steps":
        counts = {max(counts)}
    check_mixing(study, data)
    for weights in map(str, ends_of(study.values("class_weights"))):
        class_weights(replace(run, class_weights=weights), data)
    made_of = {"data": data.study_fingerprint, **check_metric(study, data)}
    if data.extra is not None:
        made_of["extra images"] = data.extra.fingerprint
    # the first of each name, and of each number of images
    by_name = {(each.teacher, each.train_images): each for each in reversed(recipe.teachers(study))}
    of_teachers = [
        (each, teachers.initial_teacher(each, data)) for each in reversed(by_name.values())
    ]
    of_students = [(each, make_student(each, data)) for each in recipe.students(study)]
    if fingerprints:  # before the models are probed, which changes running statistics
        pairs: list[tuple[Role, Run, Model]] = [("teacher", *pair) for pair in of_teachers]
        for role, each, model in [*pairs, *(("student", *pair) for pair in of_students)]:
            name = getattr(each, role)
            key = role if name == begun.get(role, name) else f"{role} {name}"
            made_of[key] = model.fingerprint()
    whole = "head" not in ends_of(study.values("trainable"))
    for _, student in of_students:
        for each, teacher in of_teachers:
            views = teachers.probe_teacher(each, data, teacher, student)
        probe(student, views, len(data.classes), whole=whole)
        batches = study.values("batch_size")
        has_statistics = whole and "train" in study.values("batch_norm")  # type: ignore[operator]
        if has_statistics and study.run.extra is None and not isinstance(batches, Range):
            for count in counts:
                check_last_batch(student, views, count, map(int, batches), "--batch-size")
    check_features(study, [m for _, m in of_teachers], [m for _, m in of_students], views)
    augments = [str(a) for a in ends_of(study.values("augment")) if a is not None]
    for augment in augments:
        check_augmentation(replace(run, augment=augment), data, views.shape[-1])
    users = filter(is_function_name, [*augments, str(run.teacher_augment)])
    made_of |= _fingerprints("augmentation", users)
    return made_of if fingerprints else {}


def find_warnings(
    study: Study, data: Data, models: recipe.StudyModels, faults: Sequence[str]
) -> Iterator[str]:
    """Yield a sentence for what makes a study slower or less useful, `faults` among them.

    Args:
        study: The study, resolved.
        data: Its data, with any images without labels.
        models: Its models.
        faults: Of `recipe.find_faults` and `recipe.check_weights`.
    """
    other_views = list(recipe.find_other_views(study, data, models))
    yield from flags_without_effect(study)
    yield from data.warnings
    yield from faults
    yield from other_views
    yield from describe_fixed_students(study)
    if fault := Cache(study.cache, study.cache_gb).fault():
        yield fault
    used = len({run.teacher_number for run in recipe.numbered(study, recipe.teachers(study))})
    if used < study.run.teachers:
        yield f"--repeats {study.repeats} uses only {used} of --teachers {study.run.teachers}"
    if not study.has_plain:
        absent = "the study has no baseline without distillation (alpha = 1)"
        yield f"{absent}, so there will be no verdict"


def check_objectives(study: Study, classes: int) -> dict[str, str]:
    """Raise InputError, before any work, if an objective of the study cannot work.

    That includes one of the user's own that does not take a hyperparameter that is searched.
    Returns the fingerprints of the user's own objectives, as "objective module:function": they
    change with the source of the function's module and of the user's modules that it imports.
    """
    losses = [str(loss) for loss in study.values("loss")]  # type: ignore[union-attr]
    for loss in losses:
        check_objective(replace(study.run, loss=loss), classes)
    check_searched(losses, study.searched)
    return _fingerprints("objective", own_objectives(losses))


def _fingerprints(noun: str, names: Iterable[str]) -> dict[str, str]:
    """Return fingerprints of the user's functions module:function, as "NOUN module:function"."""
    homes, no_net = {name: name.partition(":")[0] for name in names}, torch.nn.Module()
    return {f"{noun} {n}": source_digest([home], no_net)[:16] for n, home in homes.items()}


def make_student(run: Run, data: Data) -> Classifier:
    """Build the student with the initial weights of its repeat, the same for all configurations."""
    seed = derive_seed("init", run.seed, run.repeat)
    return build_model(run, "student", len(data.classes), seed=seed)


def _modified_ns(weights: str) -> int:
    """Return the time of a file's last change in nanoseconds; 0 if there is no such file."""
    file = Path(weights).expanduser()
    return file.stat().st_mtime_ns if file.is_file() else 0


# One batch of a run, without a stream: what it needs in memory and how long a step takes.


@dataclass(frozen=True)
class OneBatch:
    """A batch of a run on a device, with the models in the modes in which a run uses them."""

    training: Training
    teacher: tuple[Classifier, ...]
    """The members; empty if the teacher is a file of outputs, or there is none."""
    inference: Tensor
    """Views of a forward pass of the teacher."""
    batch: Batch

    @staticmethod
    def of(run: Run, data: Data, device: torch.device, has_teacher: bool = True) -> "OneBatch":
        """Build the models of a resolved run, the teacher before any fine-tuning, and a batch."""
        members = run.teacher_members if has_teacher else ()
        teacher = networks(teachers.initial_teacher(member, data) for member in members)
        student = make_student(run, data).place(device, run.precision)
        for model in teacher:
            model.place(device, run.precision).freeze().set_mode(False)
        student.set_mode(True, run.batch_norm_mode == "train")
        if run.trainable == "head":
            student.freeze(head=False)
        two = probe_views(data, run, view_size(run, data, *teacher, student))
        count = INFERENCE_BATCH[device.type]
        views = two[torch.arange(max(count, run.batch_size)) % len(two)].to(device)
        labels = torch.zeros(run.batch_size, dtype=torch.int64, device=device)
        training = Training.of(run, student, teacher, steps_per_epoch=1)
        return OneBatch(training, teacher, views[:count], Batch(labels, views[: run.batch_size]))

    @torch.no_grad()
    def infer(self, views: Tensor) -> Tensor:
        """Return the teacher's logits, float32 [B, K]; zeros, as large, for those of a file."""
        if not self.teacher:
            return torch.zeros_like(self.training.student(views))
        return combine([member(views) for member in self.teacher])

    def first(self, count: int) -> "OneBatch":
        """Return the same models with the first images of the batch only."""
        batch = replace(self.batch, labels=self.batch.labels[:count], views=self.inference[:count])
        return replace(self, inference=self.inference[:count], batch=batch)

    def steps(self) -> Iterator[Tensor]:
        """Train on the batch again and again, as a run does; yield the losses.

        What frozen models compute of the batch is computed once, before the first step.
        """
        student, views = self.training.student, self.batch.views
        assert views is not None  # noqa: S101 - of images
        batch = replace(self.batch, teacher=self.infer(views))
        with torch.no_grad():
            if self.training.run.compares_features:
                batch = replace(batch, teacher_features=self.teacher[0].features(views))
            if self.training.run.trainable == "head":
                batch = replace(batch, features=student.features(views))
        while True:
            _, losses = self.training.step(batch)
            yield losses.loss.detach()


def time_epoch(
    run: Run, data: Data, device: torch.device, threads: int, has_teacher: bool = True
) -> EpochTime:
    """Return how long an epoch of a run takes, from one measured step.

    Args:
        run: Resolved.
        data: Its data.
        device: Where its trials run; idle.
        threads: Of torch.
        has_teacher: Whether it learns from its teacher; a teacher's own training does not.
    """
    with set_torch_threads(threads):
        whole = OneBatch.of(run, data, device, has_teacher)
        student, size = whole.training.student, whole.inference.shape[-1]
        few = whole.first(FEW_IMAGES)
        few.infer(few.inference)  # the first pass of a model is slower
        expected = _seconds(lambda: few.infer(few.inference)) + _seconds(lambda: next(few.steps()))
        batch = whole if expected * run.batch_size < FEW_IMAGES else few  # less than a second
        count, steps = len(batch.inference), batch.steps()
        next(steps).item()
        step = _seconds(lambda: next(steps).item()) / len(batch.batch.labels)
        view = _seconds(lambda: probe_views(data, run, size)) / 2
        with torch.no_grad():
            forward = _seconds(lambda: student(batch.inference)) / count
            teacher = _seconds(lambda: batch.infer(batch.inference)) / count if has_teacher else 0.0
    frozen = forward if run.trainable == "head" else 0.0
    count, on_val = len(data.subset(run)), len(data.splits["val"])
    training, shared = count * step + on_val * (forward - frozen), count * (view + teacher + frozen)
    if run.augment == "none":
        return EpochTime(training, 0.0, shared + on_val * frozen)
    return EpochTime(training, shared, on_val * frozen)


def time_epochs(study: Study, runs: Mapping[str, Run], data: StudyData) -> dict[str, EpochTime]:
    """Return how long an epoch of runs takes; without those whose step fails, as their trials."""
    times, device, threads = dict[str, EpochTime](), device_of(study), study.cpus_per_trial or 1
    for group, run in runs.items():
        with suppress(Exception):  # of a user's model, or out of memory: its trials say why
            times[group] = time_epoch(run, data.of(run), device, threads)
    return times


def describe_fine_tuning(run: Run, data: Data, resources: Resources) -> str:
    """Return how long it takes to fine-tune a resolved run's teacher, from one measured step."""
    fit, device = teachers.fine_tuning_run(run), resources.device
    try:
        times = time_epoch(fit, data, device, resources.threads, has_teacher=False)
    except Exception:  # of a user's model, or out of memory: the training says why
        return "There is no estimate of its time: one training step failed."
    training, shared, once = times
    seconds = fit.epochs * (training + shared) + once
    return f"About {timedelta(seconds=round(seconds))} (estimate from one training step)."


def _seconds(compute: Callable[[], object]) -> float:
    started = timer()  # waits for the GPU
    compute()
    return timer() - started


def try_batch(run: Run, data: Data, device: torch.device) -> None:
    """Run the teacher on an inference batch and train the student on a batch of the run's size.

    Args:
        run: With the largest batch size of the study, resolved.
        data: Its data.
        device: Where its trials run.
    """
    batch = OneBatch.of(run, data, device)
    batch.infer(batch.inference)
    # in the second step the moments of the optimizer are in memory beside the gradients
    for loss in islice(batch.steps(), 2):
        loss.item()
