"""Fine-tuning of a teacher: the training loop of a student, without a teacher."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtune.config.effects import keyword_parameters
from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write
from kdtune.config.migrations import migrate_run
from kdtune.config.run import TEACHER_REPEAT, Run, derive_seed
from kdtune.data.sources import load_data
from kdtune.data.views import samples
from kdtune.models.checkpoints import check_whole
from kdtune.models.classifier import Classifier, probe
from kdtune.models.registry import build_model
from kdtune.models.weights import save_weights
from kdtune.streams.resources import Resources
from kdtune.streams.shards import view_size
from kdtune.streams.stream import Stream
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.loop import train
from kdtune.training.metrics import Epoch
from kdtune.training.objectives import OBJECTIVES
from kdtune.training.recipe import resolve

WEIGHTS = "teacher.safetensors"
RECORD = "teacher.json"
COMPARED_BY_CONTENT = ("data", "teacher_weights", "student_weights")
"""Fields of a run that are paths: a teacher stays the same where its files have moved."""
RECIPE = (
    *("trainable", "batch_norm", "optimizer", "lr", "momentum", "weight_decay", "schedule"),
    *("lr_step_size", "lr_gamma", "epochs", "batch_size", "augment", "train_images"),
)
"""Fields of a run for which the teacher has its own, teacher_*."""
PREPROCESSING = ("mean", "std", "size", "interpolation")


def teacher_run(run: Run) -> Run:
    """Return the run that fine-tunes the teacher (no ensemble) by its own recipe, as a student."""
    run = resolve(run)
    taken = {name for function in OBJECTIVES.values() for name in keyword_parameters(function)}
    unused: dict[str, Any] = {f.name: f.default for f in fields(Run) if f.name in taken}
    own: dict[str, Any] = {name: getattr(run, f"teacher_{name}") for name in RECIPE}
    own |= {f"student_{name}": getattr(run, f"teacher_{name}") for name in PREPROCESSING}
    return replace(
        run,
        **unused,
        **own | {"epochs": max(1, own["epochs"])},
        student=run.teacher,
        student_weights=run.weights_of("teacher"),
        teacher_weights=run.weights_of("teacher"),
        loss="kl",
        alpha=1.0,
        repeat=TEACHER_REPEAT,
        study_values=(),
    )


def teacher_recipe(run: Run) -> dict[str, Any]:
    """Return all that a run's teacher depends on, by name, but for the contents of files.

    Hyperparameters without effect on it are None, so they distinguish no teachers.
    """
    own = teacher_run(run)
    names = ["seed", "precision", "image_size", "train_images", "teacher_keep"]
    names += [f"student_{name}" for name in PREPROCESSING]
    if own.teacher_keep == "best":  # val decides which epoch is kept
        names += ["eval_crop", "eval_interpolation"]
    return {name: getattr(own, name) for name in names} | {"augment": own.augmentation} | own.config


def teacher_place(run: Run, member: Run) -> str:
    """Return the folder of a fine-tuned teacher, relative to that of all teachers of a study.

    It is "" for the teacher that the study began with.

    Args:
        run: The run that has the teacher or, in an ensemble, the member.
        member: The same run with the member as its teacher.
    """
    begun = {"teacher": run.teacher, "teacher_epochs": run.teacher_epochs, **dict(run.study_values)}
    if all(getattr(member, name) == begun[name] for name in ("teacher", "teacher_epochs")):
        return ""
    text = f"{member.teacher}-{member.teacher_epochs}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', text)}-{digest}"


@dataclass(frozen=True)
class _Origin:
    """Everything that a fine-tuned teacher depends on."""

    recipe: dict[str, Any]
    data: str
    """Fingerprint of the data."""
    weights: str
    """Content hash of the file of its initial weights, or "default" or "none"."""


def is_ready(run: Run, root: Path) -> bool:
    """Return True if the run's teacher needs no fine-tuning, or all its members are fine-tuned.

    Raises InputError if the files of a teacher are damaged.
    """
    return not missing_teachers(run, run.teachers, root)


def missing_teachers(run: Run, members: Iterable[Run], root: Path) -> list[tuple[Run, Path]]:
    """Return the teachers that are not fine-tuned yet, each with its folder.

    Args:
        run: The run that has the teachers, or the base run of their study.
        members: The run with each teacher, see `recipe.teachers` and `Run.teachers`.
        root: Folder of all teachers.
    """
    places = [(own, root / teacher_place(run, own)) for own in map(resolve, members)]
    return [
        (own, folder)
        for own, folder in places
        if own.teacher_epochs != 0 and _origin_of_saved(own, folder) != _origin(own)
    ]


def _origin(run: Run) -> _Origin:
    """Return what the run's teacher must be made of."""
    weights = _weights_hash(run.weights_of("teacher"))
    return _Origin(teacher_recipe(run), load_data(run).fingerprint, weights)


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
        made_by = Run(**migrate_run(record["run"]))
        weights = _recorded_weights(record.get("weights"), made_by.weights_of("teacher"), run)
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
    own = run.weights_of("teacher")
    same_name = Path(weights).name == Path(own).name
    if same_name and (recorded is None or not Path(own).expanduser().is_file()):
        return _weights_hash(own)
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
    own = resolve(run)
    return f"Training the teacher {own.teacher}: {own.teacher_epochs} epochs."


def fine_tune(
    run: Run, folder: Path, resources: Resources, on_save: Callable[[], None] = lambda: None
) -> Iterator[Epoch]:
    """Fine-tune the run's teacher; yield an epoch at a time, and write its files at the end.

    An interrupted fine-tuning resumes from the checkpoint in the folder; `on_save` is called after
    each save of it. Raises InputError if the folder holds another teacher, since results may depend
    on that one.
    """
    own, data, origin = teacher_run(run), load_data(run), _origin(run)
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
    """Build the run's teacher (no ensemble), fine-tuned in `folder` or with the given weights.

    Raises InputError if given weights, which are used unchanged, do not fit the data.
    """
    if run.teacher_epochs == 0:
        return initial_teacher(run)
    classes, weights = len(load_data(run).classes), str(folder / WEIGHTS)
    return build_model(run, "teacher", classes, seed=0, replace_head=False, weights=weights)


def initial_teacher(run: Run) -> Classifier:
    """Build the teacher before any fine-tuning; without fine-tuning its head must fit the data."""
    classes = len(load_data(run).classes)
    seed = derive_seed("init", run.seed, TEACHER_REPEAT)
    fresh = run.teacher_epochs != 0
    return build_model(run, "teacher", classes, seed=seed, replace_head=fresh)


def probe_teacher(run: Run, teacher: Classifier, student: Classifier | None = None) -> Tensor:
    """Raise InputError, before any work, if the teacher cannot process the study's images.

    Returns the images it was given, at the size for both models: uint8 [2, C, H, W].
    """
    data = load_data(run)
    views = samples(data, run, view_size(run, data, teacher, student))
    probe(teacher, views, len(data.classes), whole=run.teacher_trainable != "head")
    return views
