"""Fine-tuning of a teacher: the same loop as a student's, without a teacher."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write
from kdtune.config.run import TEACHER_REPEAT, Run, derive_seed
from kdtune.data.sources import load_data
from kdtune.data.views import samples
from kdtune.models.classifier import Classifier, probe
from kdtune.models.registry import build
from kdtune.models.weights import check_whole, save_weights
from kdtune.streams.resources import Resources
from kdtune.streams.stream import Stream, view_size
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.loop import train
from kdtune.training.metrics import Epoch

WEIGHTS = "teacher.safetensors"


RECORD = "teacher.json"


def teacher_run(run: Run) -> Run:
    """The run that makes the teacher of this run: plain training of all its layers on all of train.

    Its recipe (optimiser, schedule, batch size, ...) is the run's, but for epochs and lr.
    """
    return replace(
        run,
        student=run.teacher,
        student_weights=run.teacher_weights,
        trainable="all",
        batch_norm="train",
        train_images=None,
        loss="kl",
        alpha=1.0,
        temperature=1.0,
        lr=run.teacher_lr,
        epochs=max(1, run.teacher_epochs),
        repeat=TEACHER_REPEAT,
    )


def is_ready(run: Run, folder: Path) -> bool:
    """Whether `folder` holds the teacher of this run, or the run takes one as it is.

    Raises InputError where what it holds is damaged.
    """
    return run.teacher_epochs == 0 or _made_by(folder) == _asked(run)


def _asked(run: Run) -> tuple[dict[str, Any], str]:
    """The recipe and the data that a run's teacher is to be made by."""
    return asdict(teacher_run(run)), load_data(run.data).fingerprint


def _made_by(folder: Path) -> tuple[dict[str, Any], str] | None:
    """Those of the teacher in a folder; None where there is none."""
    if not ((folder / RECORD).exists() and (folder / WEIGHTS).exists()):
        return None
    try:
        record = json.loads((folder / RECORD).read_text())
        check_whole(folder / WEIGHTS)
        # fields that are younger than the record have their defaults
        return asdict(Run(**record["run"])), record["data"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"the teacher in {folder} is damaged ({error}); remove that folder, and the same "
            f"command fine-tunes it again"
        ) from None


def fine_tune(
    run: Run, folder: Path, resources: Resources, sent: Callable[[], None] = lambda: None
) -> Iterator[Epoch]:
    """Fine-tune the run's teacher, an epoch at a time; writes its weights and record at the end.

    A run that was interrupted goes on from its last state, kept in the folder; `sent` is called
    when there is a new one. Raises InputError where the folder holds another teacher, since
    results may hang on it.
    """
    own, data = teacher_run(run), load_data(run.data)
    if _made_by(folder) not in (None, _asked(run)):
        raise InputError(
            f"{folder} holds another teacher (other data, model or recipe); give this one another "
            f"name (--name OTHER) or folder (--out FOLDER)"
        )
    model = initial_teacher(run).place(resources.device, run.precision)
    folder.mkdir(parents=True, exist_ok=True)
    identity = hashlib.sha256(f"{own} {data.fingerprint}".encode()).hexdigest()[:8]
    checkpoint = Checkpoint(folder / f"{identity}.checkpoint.pt", sent)
    last = None
    for last in train(own, model, Stream(own, data, model, None, resources), checkpoint):
        yield last
    assert last is not None
    save_weights(model.net, folder / WEIGHTS)
    record: dict[str, Any] = {"run": asdict(own), "classes": data.classes, "data": data.fingerprint}
    record |= {"preprocessing": asdict(model.preprocessing), "epochs": own.epochs}
    record |= {split: metrics for split, metrics in last.splits.items() if split != "train"}
    with atomic_write(folder / RECORD) as aside:
        aside.write_text(json.dumps(record, indent=2), encoding="utf-8")
    checkpoint.file.unlink(missing_ok=True)


def load_teacher(run: Run, folder: Path) -> Classifier:
    """The teacher of this run: the fine-tuned one in `folder`, or that of the given weights.

    Raises InputError where weights taken as they are do not fit the data.
    """
    if run.teacher_epochs == 0:
        return initial_teacher(run)
    return build(
        run.teacher,
        str(folder / WEIGHTS),
        len(load_data(run.data).classes),
        seed=0,
        replace_head=False,
    )


def initial_teacher(run: Run) -> Classifier:
    """The teacher as it is given, before any fine-tuning; with none to come its head must fit."""
    classes = len(load_data(run.data).classes)
    seed = derive_seed("init", run.seed, TEACHER_REPEAT)
    fresh = run.teacher_epochs > 0
    return build(run.teacher, run.teacher_weights, classes, seed=seed, replace_head=fresh)


def probe_teacher(run: Run, teacher: Classifier, student: Classifier | None = None) -> Tensor:
    """Raise InputError, before any work, if the teacher cannot look at the views of the study.

    Returns what it was shown, at the size that suits the student, too: uint8 [2, C, H, W].
    """
    data = load_data(run.data)
    views = samples(data, run, view_size(run, data, teacher, student))
    probe(teacher, views, len(data.classes), whole=True)
    return views
