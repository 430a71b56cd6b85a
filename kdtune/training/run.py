"""One distillation run: one student learns from one teacher."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from kdtune.config.files import CHECKPOINT, PREDICTIONS, STUDENT
from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.data.folder import verify
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier, probe
from kdtune.models.registry import build
from kdtune.models.user_source import source_digest
from kdtune.models.weights import save_weights
from kdtune.streams.resources import Resources
from kdtune.streams.stream import Stream
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.loop import train
from kdtune.training.metrics import Epoch
from kdtune.training.objectives import OBJECTIVES, check_objective, check_searched
from kdtune.training.predictions import save_predictions
from kdtune.training.teacher import WEIGHTS, initial_teacher, load_teacher, probe_teacher

MAX_IDLE_STUDENT_BYTES = 2**30
"""Memory of the students that a process keeps for later runs, together."""


def distill(
    run: Run,
    teacher: Path,
    resources: Resources,
    folder: Path | None = None,
    on_save: Callable[[], None] = lambda: None,
) -> Iterator[Epoch]:
    """Distil the run's teacher into its student; yield an epoch at a time.

    Args:
        run: The configuration; at alpha = 1 the teacher is only measured.
        teacher: Folder of the fine-tuned teacher (not used if `run.teacher_epochs` is 0).
        resources: Device, cache and loader workers.
        folder: Where the checkpoint and, at the end, the student's weights and its predictions are
            written. A run whose checkpoint is there resumes. None: nothing is written.
        on_save: Called after each save of the checkpoint, for instance to upload it.
    """
    data = load_data(run.data)
    frozen = _cached_teacher(_TeacherKey.of(run, teacher, resources.device))
    with initial_student(run, resources.device) as initial:
        student = initial.student
        stream = Stream(
            run, data, student, frozen.model, resources, frozen.fingerprint, initial.fingerprint
        )
        if folder is None:
            yield from train(run, student, stream)
            return
        folder.mkdir(parents=True, exist_ok=True)
        for epoch in train(run, student, stream, Checkpoint(folder / CHECKPOINT, on_save)):
            yield epoch
        save_weights(student.net, folder / STUDENT)
        save_predictions(run, data, epoch.predictions, folder / PREDICTIONS)


@dataclass(frozen=True)
class _TeacherKey:
    """Everything that a finished teacher depends on."""

    run: Run
    """With defaults for all fields that the teacher does not depend on."""
    folder: Path
    modified_ns: int
    """When the file of its weights was written; 0 if there is none."""
    device: torch.device

    @staticmethod
    def of(run: Run, folder: Path, device: torch.device) -> "_TeacherKey":
        names = ("data", "teacher", "teacher_weights", "precision", "seed")
        own = replace(Run(), **{name: getattr(run, name) for name in names})
        own = replace(own, teacher_epochs=min(run.teacher_epochs, 1))
        file = folder / WEIGHTS if run.teacher_epochs else Path(run.teacher_weights).expanduser()
        return _TeacherKey(own, folder, _modified_ns(file), device)


@dataclass(frozen=True)
class _FrozenTeacher:
    model: Classifier
    fingerprint: str


@lru_cache(maxsize=1)
def _cached_teacher(key: _TeacherKey) -> _FrozenTeacher:
    """Return the teacher on its device; a process keeps the last one for its next run."""
    model = load_teacher(key.run, key.folder).place(key.device, key.run.precision)
    return _FrozenTeacher(model, model.fingerprint())


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
    def of(run: Run, device: torch.device) -> "InitialStudent":
        """Build the student of `make_student` on the device."""
        student = make_student(run).place(device, run.precision)
        own = f"net.{student.head_name}." if run.trainable == "head" else "net."
        trained = [p for name, p in student.named_parameters() if name.startswith(own)]
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


@contextmanager
def initial_student(run: Run, device: torch.device) -> Iterator[InitialStudent]:
    """Lend the student of `make_student` to one run, for the duration of the context.

    A process keeps the students it has built, one per repeat, and resets each after its run:
    building and hashing a ResNet18 took 0.11 s of a short run of 0.13 s with a frozen backbone. The
    student of a user's factory is built for each run, since its module may keep a state that
    `reset` does not know.
    """
    if ":" in run.student:
        yield InitialStudent.of(run, device)
        return
    weights = (run.student_weights, _modified_ns(Path(run.student_weights).expanduser()))
    idle = _idle_students(run.student, weights, run.data, run.precision, run.trainable, device)
    # removed while in use: two runs of one process never share a student
    initial = idle.pop((run.seed, run.repeat), None) or InitialStudent.of(run, device)
    try:
        yield initial
    finally:
        if initial.nbytes * (len(idle) + 1) <= MAX_IDLE_STUDENT_BYTES:
            initial.reset()
            idle[run.seed, run.repeat] = initial


@lru_cache(maxsize=1)
def _idle_students(*kind: object) -> dict[tuple[int, int], InitialStudent]:
    """Return the students of one kind that no run is using, by seed and repeat."""
    return {}


def clear_cached_models() -> None:
    """Drop the teacher and the students that this process keeps for its next runs."""
    _cached_teacher.cache_clear()
    _idle_students.cache_clear()


def check(run: Run, fingerprints: bool = True) -> dict[str, str]:
    """Raise InputError, before any work, if the run's data, models or objective cannot work.

    Returns the fingerprints of its data, teacher (before any fine-tuning) and student; an empty
    dict without `fingerprints`, which hash all weights.
    """
    data = load_data(run.data)
    verify(data)
    data.subset(run)
    check_objective(run, len(data.classes))
    teacher, student = initial_teacher(run), make_student(run)
    made_of: dict[str, str] = {}
    if fingerprints:  # before the models are probed, which changes running statistics
        made_of = {"data": data.fingerprint}
        made_of |= {"teacher": teacher.fingerprint(), "student": student.fingerprint()}
    views = probe_teacher(run, teacher, student)
    probe(student, views, len(data.classes), whole=run.trainable == "all")
    return made_of


def check_objectives(study: Study) -> dict[str, str]:
    """Raise InputError, before any work, if an objective of the study cannot work.

    That includes one of the user's own that does not take a hyperparameter that is searched.
    Returns the fingerprints of the user's own objectives, as "objective module:function": they
    change with the source of the function's module and of the user's modules that it imports.
    """
    classes = len(load_data(study.run.data).classes)
    losses = [str(loss) for loss in study.values("loss")]  # type: ignore[union-attr]
    for loss in losses:
        check_objective(replace(study.run, loss=loss), classes)
    check_searched(losses, study.searched)
    own = [loss for loss in losses if loss not in OBJECTIVES]
    modules = {loss: import_module(loss.partition(":")[0]) for loss in own}
    no_net = torch.nn.Module()
    return {f"objective {loss}": source_digest(modules[loss], no_net)[:16] for loss in own}


def make_student(run: Run) -> Classifier:
    """Build the student with the initial weights of its repeat, the same for all configurations."""
    classes = len(load_data(run.data).classes)
    seed = derive_seed("init", run.seed, run.repeat)
    return build(run.student, run.student_weights, classes, seed=seed)


def _modified_ns(file: Path) -> int:
    """Return the time of a file's last change in nanoseconds; 0 if there is no such file."""
    return file.stat().st_mtime_ns if file.is_file() else 0
