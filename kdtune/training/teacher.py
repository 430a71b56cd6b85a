"""Fine-tuning of a teacher: the training loop of a student, without a teacher."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.files import atomic_write, delete_states
from kdtune.config.names import is_output_file
from kdtune.config.run import Run, derive_seed
from kdtune.config.teacher_accuracy import Accuracy
from kdtune.data.sources import load_data
from kdtune.data.views import samples
from kdtune.models.classifier import Classifier
from kdtune.models.ensemble import Model, Teacher
from kdtune.models.finished import RECORD, WEIGHTS, FinishedTeacher
from kdtune.models.probe import check_learns, check_single, probe
from kdtune.models.registry import build_model
from kdtune.models.weights import save_weights
from kdtune.streams.resources import Resources
from kdtune.streams.shards import view_size
from kdtune.streams.stream import Stream
from kdtune.training.checkpoint import Checkpoint
from kdtune.training.evaluation import evaluate
from kdtune.training.loop import train
from kdtune.training.metrics import Epoch
from kdtune.training.optim import milestones
from kdtune.training.output_teacher import load_output_teacher
from kdtune.training.recipe import resolve, untrained
from kdtune.training.teacher_origin import Origin, origin_of, origin_of_saved, teacher_run


def teacher_place(run: Run, member: Run) -> str:
    """Return the folder of a fine-tuned teacher, relative to that of all teachers of a study.

    It is "" for teacher number 0 of those that the study began with.

    Args:
        run: The run that has the teacher or, in an ensemble, the member.
        member: The same run with the member as its teacher.
    """
    begun = {"teacher": run.teacher, "teacher_epochs": run.teacher_epochs, **dict(run.study_values)}
    parts = [f"number-{member.teacher_number}"] if member.teacher_number else []
    if any(getattr(member, name) != begun[name] for name in ("teacher", "teacher_epochs")):
        text = f"{member.teacher}-{member.teacher_epochs}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        parts.insert(0, f"{re.sub(r'[^A-Za-z0-9.]+', '-', text)}-{digest}")
    return "-".join(parts)


def is_ready(run: Run, root: Path) -> bool:
    """Return True if the run's teacher needs no fine-tuning, or all its members are fine-tuned.

    Raises InputError if the files of a teacher are damaged.
    """
    return not missing_teachers(run, run.teacher_members, root)


def missing_teachers(run: Run, members: Iterable[Run], root: Path) -> list[tuple[Run, Path]]:
    """Return the teachers that are not fine-tuned yet, each with its folder.

    Args:
        run: The run that has the teachers, or the base run of their study.
        members: The run with each teacher, see `recipe.numbered` and `Run.teacher_members`.
        root: Folder of all teachers.
    """
    places = [(own, root / teacher_place(run, own)) for own in map(resolve, members)]
    return [
        (own, folder)
        for own, folder in places
        if own.teacher_epochs != 0 and origin_of_saved(own, folder) != origin_of(own)
    ]


def read_record(folder: Path) -> dict[str, Any]:
    """Return what was recorded of the teacher that was fine-tuned in a folder; {} if nothing."""
    with suppress(OSError, ValueError, RecursionError):  # none, or damaged
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}


def describe_training(run: Run) -> str:
    """Return the line that says how the run's teacher is being fine-tuned."""
    own, data = teacher_run(run), load_data(run)
    model = untrained(own, "student")
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.net, model.head)]
    layers = f"all layers, {counts[0]:,} parameters"
    if own.trainable == "head":
        layers = f"only the head {model.head_name}, {counts[1]:,} of {counts[0]:,} parameters"
    schedule: str = own.schedule
    if own.schedule == "multistep":
        after = ", ".join(str(number) for number in milestones(own) if number < own.epochs)
        schedule += f", × {own.lr_gamma:g} after epochs {after}" if after else ""
    what = "examples" if data.kind == "tensors" else "images"
    epochs = f"{own.epochs} epoch{'s' * (own.epochs > 1)}"
    decay = f", weight decay {own.weight_decay:g}" if own.weight_decay else ""
    return (
        f"Training the teacher {own.student}{_which(run)}: {epochs}; {layers}; batch norm "
        f"{own.batch_norm}; {own.optimizer}, lr {own.lr:g} ({schedule}){decay}; batch size "
        f"{own.batch_size}; {len(data.subset(own)):,} {what}, augmentation {own.augmentation}; the "
        f"{own.teacher_keep} epoch is kept."
    )


def _which(run: Run) -> str:
    """Return which teacher a run has, after its name; "" if there is one for all repeats."""
    if run.folds:
        return f" of repeat {run.teacher_number} (its own train and val)"
    return f" number {run.teacher_number} of {run.teachers}" * (run.teachers > 1)


def fine_tune(
    run: Run,
    folder: Path,
    resources: Resources,
    on_save: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Epoch]:
    """Fine-tune the run's teacher; yield an epoch at a time, and write its files at the end.

    An interrupted fine-tuning resumes from the checkpoint in the folder.

    Args:
        run: The run; its teacher is no ensemble.
        folder: Of the teacher.
        resources: Device, cache and loader workers.
        on_save: Called after each save of the checkpoint.
        say: Is given a line with the accuracy before the training, and one with that after it; and
            one if the checkpoint cannot be used.

    Raises:
        InputError: The folder holds another teacher, which results may depend on.
        Diverged: A loss or another metric became NaN or infinite.
    """
    own, data, origin = teacher_run(run), load_data(run), origin_of(run)
    if origin_of_saved(run, folder) not in (None, origin):
        raise InputError(
            f"{folder} holds another teacher (other data, model or recipe); give this one another "
            f"name (--name OTHER) or folder (--out FOLDER)"
        )
    before, words = _accuracy_before(run, resources)
    say(f"Accuracy on val before: {words}.")
    model = initial_network(run).place(resources.device, run.precision)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(asdict(origin), sort_keys=True).encode()).hexdigest()
    file = folder / f"{digest[:8]}.checkpoint.pt"
    keeps_best = own.teacher_keep == "best"
    checkpoint = Checkpoint(
        *(file, on_save, keeps_best, digest), say=lambda line: say(f"warning: {line}")
    )
    epochs = []
    for epoch in train(own, model, Stream(own, data, model, None, resources), checkpoint):
        epochs.append(epoch)
        yield epoch
    kept = epochs[-1]
    if checkpoint.best is not None:
        model.net.load_state_dict(checkpoint.best.weights)
        kept = epochs[checkpoint.best.number]
    finished = FinishedTeacher(
        own.student,
        data.classes,
        model.preprocessing,
        data.fingerprint,
        has_cut_val=data.cut is not None or data.fold is not None,
    )
    save_weights(model.net, folder / WEIGHTS, finished.metadata)
    _write_record(folder, own, origin, finished, epochs, kept, before)
    delete_states(file)
    say(
        f"Accuracy on val after epoch {kept.number}: {100 * (kept.splits['val']['acc'] or 0):.1f}%."
    )


def _accuracy_before(run: Run, resources: Resources) -> tuple[Accuracy | None, str]:
    """Return the accuracy of the run's teacher on val before it is fine-tuned, also in words.

    It is None if the weights of its head are random, since it is then that of chance.
    """
    if run.weights_of("teacher") == "none" and ":" not in run.teacher:
        return None, "not measured, since the weights are random"
    model = initial_network(run).place(resources.device, run.precision)
    if model.has_new_head:
        return None, "not measured, since the head is new"
    own = teacher_run(run)
    logits_only = replace(resources, teacher_features=False)  # no student learns from this teacher
    before = evaluate(own, Teacher.of([model]), logits_only, ["val"])["val"]
    return before, str(before)


def _write_record(
    folder: Path,
    own: Run,
    origin: Origin,
    finished: FinishedTeacher,
    epochs: Sequence[Epoch],
    kept: Epoch,
    before: Accuracy | None,
) -> None:
    """Write teacher.json: what the teacher was made of, its history and the epoch kept."""
    record: dict[str, Any] = {"run": asdict(own), "classes": finished.classes}
    record |= {"data": origin.data, "weights": origin.weights, "epochs": own.epochs}
    record |= {"preprocessing": asdict(finished.preprocessing), "kept_epoch": kept.number}
    record |= {"acc_before": None if before is None else before.share}
    record["history"] = [
        {"epoch": epoch.number} | {split: values["acc"] for split, values in epoch.splits.items()}
        for epoch in epochs
    ]
    record |= {split: metrics for split, metrics in kept.splits.items() if split != "train"}
    with atomic_write(folder / RECORD) as part:
        part.write_text(json.dumps(record, indent=2), encoding="utf-8")


def load_teacher(run: Run, folder: Path) -> Model:
    """Return the run's teacher (no ensemble), fine-tuned in `folder` or with the given weights.

    Raises InputError if given weights, which are used unchanged, do not fit the data.
    """
    if run.teacher_epochs == 0:
        return initial_teacher(run)
    classes, weights = len(load_data(run).classes), str(folder / WEIGHTS)
    return build_model(run, "teacher", classes, seed=0, replace_head=False, weights=weights)


def initial_teacher(run: Run) -> Model:
    """Return the teacher before any fine-tuning; without fine-tuning its head must fit the data.

    A teacher that is a file of outputs is read.
    """
    if is_output_file(run.teacher):
        return load_output_teacher(run)
    return initial_network(run)


def initial_network(run: Run) -> Classifier:
    """Build the teacher, which is a network, before any fine-tuning."""
    classes = len(load_data(run).classes)
    seed = derive_seed("init", run.seed, run.teacher_repeat)
    fresh = run.teacher_epochs != 0
    return build_model(run, "teacher", classes, seed=seed, replace_head=fresh)


def probe_teacher(run: Run, teacher: Model, student: Classifier | None = None) -> Tensor:
    """Raise InputError, before any work, if the teacher cannot process the study's images.

    Returns the images it was given, at the size for both models: uint8 [2, C, H, W]. A file of
    outputs processes none.
    """
    data = load_data(run)
    views = samples(data, run, view_size(run, data, teacher, student))
    if isinstance(teacher, Classifier):
        whole = run.teacher_trainable != "head"
        probe(teacher, views, len(data.classes), whole=whole)
        if run.teacher_epochs:
            check_learns(teacher, views, whole=whole)
            own = teacher_run(run)
            if whole and own.batch_norm == "train":
                count, sizes = len(data.subset(own)), [own.batch_size]
                check_single(teacher, views, count, sizes, "--teacher-batch-size")
    return views
