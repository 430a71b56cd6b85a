"""One distillation run: one student from one teacher."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from kdtune.config.files import PREDICTIONS
from kdtune.config.run import Run, derive_seed
from kdtune.data.folder import verify
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier, probe
from kdtune.models.registry import build
from kdtune.models.weights import save_weights
from kdtune.streams.resources import Resources
from kdtune.streams.stream import Stream
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.loop import train
from kdtune.training.metrics import Epoch
from kdtune.training.teacher import WEIGHTS, initial_teacher, load_teacher, probe_teacher

CHECKPOINT = "checkpoint.pt"


STUDENT = "student.safetensors"


START_BYTES = 2**30
"""Students that a process keeps, one a repeat, may have this size together."""


def distill(
    run: Run,
    teacher: Path,
    resources: Resources,
    folder: Path | None = None,
    sent: Callable[[], None] = lambda: None,
) -> Iterator[Epoch]:
    """Distil the run's teacher into its student, an epoch at a time.

    Args:
        run: what to do; alpha = 1 trains plainly and only measures the teacher.
        teacher: folder of the fine-tuned teacher (unused where `run.teacher_epochs` is 0).
        resources: device, cache and loader workers.
        folder: where the state on the way and, at the end, the student's weights and its right
            and wrong predictions are left; a run found there goes on. None: nowhere.
        sent: is called when a new state is there, to bring it to safety.
    """
    data = load_data(run.data)
    model, teacher_print = _teacher_at_hand(*_kind_of_teacher(run, teacher), resources.device)
    with student_at_start(run, resources.device) as start:
        student = start.student
        stream = Stream(run, data, student, model, resources, teacher_print, start.print)
        if folder is None:
            yield from train(run, student, stream)
            return
        folder.mkdir(parents=True, exist_ok=True)
        for epoch in train(run, student, stream, Checkpoint(folder / CHECKPOINT, sent)):
            yield epoch
        save_weights(student.net, folder / STUDENT)
        save_predictions(run, epoch.correct, folder / PREDICTIONS)


def _kind_of_teacher(run: Run, folder: Path) -> tuple[Run, Path, int]:
    """What of a run its teacher hangs on, when it is there: not the recipe; and how new it is."""
    names = ("data", "teacher", "teacher_weights", "precision", "seed")
    own = replace(Run(), **{name: getattr(run, name) for name in names})
    own = replace(own, teacher_epochs=min(run.teacher_epochs, 1))
    made = folder / WEIGHTS if run.teacher_epochs else Path(run.teacher_weights).expanduser()
    return own, folder, made.stat().st_mtime_ns if made.is_file() else 0


@lru_cache(maxsize=1)
def _teacher_at_hand(
    own: Run, folder: Path, changed: int, device: torch.device
) -> tuple[Classifier, str]:
    """The frozen teacher and its fingerprint, kept from one run of a process to the next."""
    model = load_teacher(own, folder).place(device, own.precision)
    return model, model.fingerprint()


@dataclass(frozen=True)
class Start:
    """A student as a repeat starts it, and what it takes to start it again."""

    student: Classifier
    print: str
    """Fingerprint of its backbone."""
    values: list[tuple[Tensor, Tensor]]
    """All that a run may change, and a copy of each."""
    bytes: int
    """Memory that it holds."""

    @staticmethod
    def of(run: Run, device: torch.device) -> "Start":
        """The student that `make_student` builds, on the device."""
        student = make_student(run).place(device, run.precision)
        own = f"net.{student.head_name}." if run.trainable == "head" else "net."
        learns = [p for name, p in student.named_parameters() if name.startswith(own)]
        values = [(x, x.detach().clone()) for x in (*learns, *student.buffers())]
        held = (*student.parameters(), *(copy for _, copy in values))
        size = sum(value.nbytes for value in held)
        return Start(student, student.fingerprint(with_head=False), values, size)

    def again(self) -> "Start":
        """The same, every bit as it began."""
        with torch.no_grad():
            for value, copy in self.values:
                value.copy_(copy)
                value.grad = None
        return self


@contextmanager
def student_at_start(run: Run, device: torch.device) -> Iterator[Start]:
    """The run's own student for as long as the context lasts, as `make_student` builds it.

    Building and hashing a ResNet18 took 0.11 of the 0.13 s of a frozen one's short run, so a
    process keeps what it has built, one a repeat, and puts it back to its start. A factory is
    called anew: only it knows what else its module remembers.
    """
    if ":" in run.student:
        yield Start.of(run, device)
        return
    file = Path(run.student_weights).expanduser()
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    weights = (run.student_weights, changed)
    kept = _starts(run.student, weights, run.data, run.precision, run.trainable, device)
    # taken out: of two runs at once in this process, each has its own
    start = kept.pop((run.seed, run.repeat), None) or Start.of(run, device)
    try:
        yield start
    finally:
        if start.bytes * (len(kept) + 1) <= START_BYTES:
            kept[run.seed, run.repeat] = start.again()


@lru_cache(maxsize=1)
def _starts(*kind: object) -> dict[tuple[int, int], Start]:
    """Students of one kind that no run has now, by seed and repeat."""
    return {}


def check(run: Run) -> dict[str, str]:
    """Raise InputError, before any work, if the run's data or models will not do.

    Returns the fingerprints of its data, teacher (before any fine-tuning) and student.
    """
    data = load_data(run.data)
    verify(data)
    data.subset(run)
    teacher, student = initial_teacher(run), make_student(run)
    made_of = {"data": data.fingerprint}  # before the models look: that moves running statistics
    made_of |= {"teacher": teacher.fingerprint(), "student": student.fingerprint()}
    views = probe_teacher(run, teacher, student)
    probe(student, views, len(data.classes), whole=run.trainable == "all")
    return made_of


def make_student(run: Run) -> Classifier:
    """The student as this repeat starts it: every configuration of the repeat starts equal."""
    classes = len(load_data(run.data).classes)
    seed = derive_seed("init", run.seed, run.repeat)
    return build(run.student, run.student_weights, classes, seed=seed)


def save_predictions(run: Run, correct: dict[str, Tensor], file: Path) -> None:
    """Write which examples of val and test the trained student gets right."""
    frames = []
    for split, hits in correct.items():
        columns = {"trial_id": run.trial_id, "split": split}
        frames.append(
            pd.DataFrame({**columns, "example": range(len(hits)), "correct": hits.numpy()})
        )
    pd.concat(frames).to_parquet(file, index=False)
