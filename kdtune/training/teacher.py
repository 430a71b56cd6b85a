"""Fine-tuning of a teacher: the training loop of a student, without a teacher."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtune.config.effects import keyword_parameters
from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write
from kdtune.config.hyperparameters import HYPERPARAMETERS
from kdtune.config.run import TEACHER_REPEAT, Run, derive_seed
from kdtune.data.sources import load_data
from kdtune.data.views import samples
from kdtune.models.checkpoints import check_whole
from kdtune.models.classifier import Classifier, probe
from kdtune.models.registry import build
from kdtune.models.weights import save_weights
from kdtune.streams.resources import Resources
from kdtune.streams.shards import view_size
from kdtune.streams.stream import Stream
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.loop import train
from kdtune.training.metrics import Epoch
from kdtune.training.objectives import OBJECTIVES

WEIGHTS = "teacher.safetensors"
RECORD = "teacher.json"
COMPARED_BY_CONTENT = ("data", "teacher_weights", "student_weights")
"""Fields of a run that are paths: a teacher stays the same where its files have moved."""


def teacher_run(run: Run) -> Run:
    """Return the run that fine-tunes the teacher: all layers, on all of train, no distillation.

    Optimiser, schedule, batch size and the rest of the recipe are the run's; epochs and lr are the
    teacher's own.
    """
    taken = {name for function in OBJECTIVES.values() for name in keyword_parameters(function)}
    unused: dict[str, Any] = {f.name: f.default for f in fields(Run) if f.name in taken}
    return replace(
        run,
        **unused,
        student=run.teacher,
        student_weights=run.teacher_weights,
        trainable="all",
        batch_norm="train",
        train_images=None,
        loss="kl",
        alpha=1.0,
        lr=run.teacher_lr,
        epochs=max(1, run.teacher_epochs),
        repeat=TEACHER_REPEAT,
    )


def teacher_recipe(run: Run) -> dict[str, Any]:
    """Return all that a run's teacher depends on, by name, but for the contents of files.

    Hyperparameters without effect on it are None, so they distinguish no teachers.
    """
    own = teacher_run(run)
    names = [field.name for field in fields(Run) if field.name not in HYPERPARAMETERS]
    kept = {name: getattr(own, name) for name in names if name not in COMPARED_BY_CONTENT}
    kept["augment"] = own.augmentation  # None stands for a default
    return kept | own.config


@dataclass(frozen=True)
class _Origin:
    """Everything that a fine-tuned teacher depends on."""

    recipe: dict[str, Any]
    data: str
    """Fingerprint of the data."""
    weights: str
    """Content hash of the file of its initial weights, or "default" or "none"."""


def is_ready(run: Run, folder: Path) -> bool:
    """Return True if `folder` holds this run's teacher, or the run uses given weights unchanged.

    Raises InputError if the teacher in the folder is damaged.
    """
    return run.teacher_epochs == 0 or _origin_of_saved(run, folder) == _origin(run)


def _origin(run: Run) -> _Origin:
    """Return what the run's teacher must be made of."""
    weights = _weights_hash(run.teacher_weights)
    return _Origin(teacher_recipe(run), load_data(run.data).fingerprint, weights)


def _origin_of_saved(run: Run, folder: Path) -> _Origin | None:
    """Return what the teacher in a folder was made of; None if there is no teacher.

    Raises InputError if it is damaged.
    """
    if not ((folder / RECORD).exists() and (folder / WEIGHTS).exists()):
        return None
    try:
        record = json.loads((folder / RECORD).read_text())
        check_whole(folder / WEIGHTS)
        # fields that were added after the record was written had their defaults
        made_by = Run(**record["run"])
        weights = _recorded_weights(record.get("weights"), made_by.teacher_weights, run)
        return _Origin(teacher_recipe(made_by), record["data"], weights)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"the teacher in {folder} is damaged ({error}); remove that folder, and the same "
            f"command fine-tunes it again"
        ) from None


def _recorded_weights(recorded: str | None, weights: str, run: Run) -> str:
    """Return the content hash of the initial weights that a saved teacher was made from.

    Where there is nothing to compare, a file of the same name counts as the same: kdtune 0.1
    recorded no hash, and a finished teacher does not need the file any more.
    """
    same_name = Path(weights).name == Path(run.teacher_weights).name
    if same_name and (recorded is None or not Path(run.teacher_weights).expanduser().is_file()):
        return _weights_hash(run.teacher_weights)
    return recorded or _weights_hash(weights)


def _weights_hash(weights: str) -> str:
    """Return the content hash of a file of weights; "default", "none" or a missing file by name."""
    file = Path(weights).expanduser()
    if weights in ("default", "none") or not file.is_file():
        return file.name
    stat = file.stat()
    return _file_hash(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _file_hash(file: Path, size: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file; size and time make an edited file another entry."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_training(run: Run) -> str:
    """Return the line that says that the run's teacher is being fine-tuned."""
    return f"Training the teacher {run.teacher}: {run.teacher_epochs} epochs."


def fine_tune(
    run: Run, folder: Path, resources: Resources, on_save: Callable[[], None] = lambda: None
) -> Iterator[Epoch]:
    """Fine-tune the run's teacher; yield an epoch at a time, and write its files at the end.

    An interrupted fine-tuning resumes from the checkpoint in the folder; `on_save` is called after
    each save of it. Raises InputError if the folder holds another teacher, since results may depend
    on that one.
    """
    own, data, origin = teacher_run(run), load_data(run.data), _origin(run)
    if _origin_of_saved(run, folder) not in (None, origin):
        raise InputError(
            f"{folder} holds another teacher (other data, model or recipe); give this one another "
            f"name (--name OTHER) or folder (--out FOLDER)"
        )
    model = initial_teacher(run).place(resources.device, run.precision)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(asdict(origin), sort_keys=True).encode()).hexdigest()
    checkpoint = Checkpoint(folder / f"{digest[:8]}.checkpoint.pt", on_save)
    last = None
    for last in train(own, model, Stream(own, data, model, None, resources), checkpoint):
        yield last
    assert last is not None
    save_weights(model.net, folder / WEIGHTS)
    record: dict[str, Any] = {"run": asdict(own), "classes": data.classes, "data": data.fingerprint}
    record |= {"weights": origin.weights, "preprocessing": asdict(model.preprocessing)}
    record |= {"epochs": own.epochs}
    record |= {split: metrics for split, metrics in last.splits.items() if split != "train"}
    with atomic_write(folder / RECORD) as part:
        part.write_text(json.dumps(record, indent=2), encoding="utf-8")
    checkpoint.file.unlink(missing_ok=True)


def load_teacher(run: Run, folder: Path) -> Classifier:
    """Build the run's teacher: the fine-tuned one in `folder`, or that of the given weights.

    Raises InputError if given weights, which are used unchanged, do not fit the data.
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
    """Build the teacher before any fine-tuning; without fine-tuning its head must fit the data."""
    classes = len(load_data(run.data).classes)
    seed = derive_seed("init", run.seed, TEACHER_REPEAT)
    fresh = run.teacher_epochs > 0
    return build(run.teacher, run.teacher_weights, classes, seed=seed, replace_head=fresh)


def probe_teacher(run: Run, teacher: Classifier, student: Classifier | None = None) -> Tensor:
    """Raise InputError, before any work, if the teacher cannot process the study's images.

    Returns the images it was given, at the size for both models: uint8 [2, C, H, W].
    """
    data = load_data(run.data)
    views = samples(data, run, view_size(run, data, teacher, student))
    probe(teacher, views, len(data.classes), whole=True)
    return views
