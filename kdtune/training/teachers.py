"""Teachers: fine-tuning, identity, accuracy, and files of their outputs."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kdtune.config.fields import OF_STUDENT, OUTPUT_SUFFIXES, is_output_file, searchable
from kdtune.config.files import write_text
from kdtune.config.records import Accuracy, Alternative, TeacherAccuracy, TeacherKey
from kdtune.config.run import RECIPE, TEACHER_REPEAT, Run, derive_seed, migrate_run
from kdtune.config.study import Study
from kdtune.config.text import DAMAGED, InputError, first_line
from kdtune.data.dataset import Data
from kdtune.data.folder import small_side
from kdtune.data.sources import StudyData
from kdtune.data.views import check_augmentation, probe_views
from kdtune.models import outputs
from kdtune.models.checks import check_last_batch, other_inputs, probe
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Model, Teacher
from kdtune.models.registry import PREPROCESSING, build_model
from kdtune.models.weights import RECORD, WEIGHTS, FinishedTeacher, check_whole, save_weights
from kdtune.streams.cache import Cache
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources, view_size
from kdtune.training.epoch import Epoch, file_names
from kdtune.training.loop import Checkpoint, milestones, train
from kdtune.training.recipe import OF_INPUT, numbered, resolve, untrained, whole_teachers

# Accuracy of a teacher on the splits of the data, over the stream that the runs share.


MAX_TRAIN_IMAGES = 500
"""Training images whose accuracy is measured if no run needs the teacher's logits of them. 500 give
a share of 90 % to 3 points; a ResNet50 took 0.15 s an image on a core."""


class Answers(NamedTuple):
    """The classes that a teacher names for the examples of a split, int64 [N], and the labels."""

    classes: Tensor
    labels: Tensor
    of: int | None = None
    """Examples of the split, if these are only some of them."""

    @property
    def accuracy(self) -> Accuracy:
        """Their accuracy."""
        correct, largest = (self.classes == self.labels).sum(), self.labels.bincount().max()
        return Accuracy(len(self.labels), int(correct), int(largest), self.of)


def evaluate(
    run: Run, data: Data, teacher: Teacher, resources: Resources, splits: Sequence[str]
) -> dict[str, Answers]:
    """Return the answers of a teacher on those of the splits that the data have.

    Args:
        run: Names the student, whose input size decides that of the views.
        data: The run's data.
        teacher: On the device of the resources; it is frozen.
        resources: Device, cache and loader workers.
        splits: Names of splits. Of train only images that the run's student learns from are taken,
            without augmentation: all, or `MAX_TRAIN_IMAGES` of them (but one of each class),
            evenly over the classes, if runs need other logits.

    Raises:
        InputError: Some of its logits are NaN or infinite.
    """
    answers = {}
    for split in filter(data.splits.__contains__, splits):
        sample = run
        if split == "train":
            sample = _measured(run, data, teacher, MAX_TRAIN_IMAGES)
        logits, labels = logits_of_split(sample, data, teacher, resources, split)
        wrong = ~logits.isfinite().all(1)  # the argmax of NaN is no prediction
        if wrong.any():
            raise InputError(
                f"the teacher {run.teacher} must return finite logits, but they are NaN or "
                f"infinite for {int(wrong.sum()):,} of {len(wrong):,} examples of {split} (first: "
                f"number {int(wrong.int().argmax())}); check its weights, and these examples"
            )
        total = len(data.subset(run)) if sample is not run else None
        answers[split] = Answers(logits.argmax(1), labels, total)
    return answers


def _measured(run: Run, data: Data, teacher: Teacher, most: int) -> Run:
    """Return the run, with fewer training images if all would take long for this alone."""
    count, most = len(data.subset(run)), max(most, len(data.classes))
    if data.fold is not None:
        most = min(most, data.fold.smallest_train)
    is_whole = teacher.outputs is not None or count <= most
    return run if is_whole else replace(run, train_images=most)


def logits_of_split(
    run: Run, data: Data, teacher: Teacher, resources: Resources, split: str
) -> tuple[Tensor, Tensor]:
    """Return the logits of a teacher, float32 [N, K], and the labels, int64 [N], of a split.

    They are in the split's own order; the arguments are those of `evaluate`.
    """
    student = untrained(run, data, "student")  # only its input size matters
    unmixed = replace(run, trainable="all", mixup=0.0, cutmix=0.0, extra=None, extra_share=0.0)
    unmixed = replace(unmixed, largest_train_images=None)  # the images of this run alone
    used = resources
    if split == "train" and run.augmentation != "none":  # no run needs these views
        unmixed = replace(unmixed, augment="none")
        used = replace(resources, cache=Cache(gigabytes=0), teacher_features=False)
    return Stream(unmixed, data, student, teacher, used).teacher_logits(split)


# Changes with which a teacher is right on more images: hints at another order of its classes, or at
# another input than the one that it was trained with.


SURE = 0.9
"""Accuracy on train from which the input of a teacher is not doubted."""
MAX_PROBED = 200
"""Images of train that a doubtful teacher sees with its input and with each other one."""
MAX_PROBED_PHOTOS = 50
"""The same of larger image files, each of which a ResNet50 sees seven times, in 0.15 s a core."""
MAX_EXCHANGED = 3
"""Exchanged classes that are named."""


def _find_alternatives(
    run: Run, data: Data, teacher: Teacher, resources: Resources, answers: Mapping[str, Answers]
) -> Iterator[Alternative]:
    """Yield changes with which a teacher is right on other images of train than it is.

    Its input is changed only if it is used as it is, since fine-tuning adapts it, and has learned.
    """
    train, names = answers["train"], data.classes
    order, moved = _likely_order(answers["val"], len(names))
    if moved:
        exchanged = [f"its class {order[k]} for images of {names[k]}" for k in moved]
        change = ", ".join(exchanged[:MAX_EXCHANGED]) + ", ..." * (len(moved) > MAX_EXCHANGED)
        right = train.classes == train.labels
        yield Alternative.of("classes", change, right, train.classes == order[train.labels])
    is_random = ":" not in run.teacher and run.weights_of("teacher") == "none"
    is_sure = run.teacher_epochs != 0 or is_random or train.accuracy.share >= SURE
    if is_sure or len(teacher.members) != 1 or data.kind == "tensors":
        return
    is_large = data.photos and small_side(data) is None
    most = MAX_PROBED_PHOTOS if is_large else MAX_PROBED
    sample = _measured(run, data, teacher, most)
    uncached = replace(resources, cache=Cache(gigabytes=0))
    model, rights = teacher.members[0], {}
    for change in chain([""], other_inputs(model)):
        logits, labels = logits_of_split(sample, data, Teacher.of([model]), uncached, "train")
        rights[change] = logits.argmax(1) == labels
    best = max(rights, key=lambda change: int(rights[change].sum()))
    yield Alternative.of("input", best, rights[""], rights[best])


def _likely_order(val: Answers, classes: int) -> tuple[Tensor, list[int]]:
    """Return the teacher's class for each class of the data that suits val best.

    Returns:
        int64 [K], and the classes of the data that are not at their number, the most frequent
        first.
    """
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    counts.index_put_((val.labels, val.classes), torch.tensor(1), accumulate=True)
    order = torch.arange(classes)
    if bool((counts.amax(1) > counts.diagonal()).any()):  # else no order is better
        from scipy.optimize import linear_sum_assignment  # imported where it is rarely needed

        order = torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])
    gains = counts[torch.arange(classes), order] * (order != torch.arange(classes))
    return order, [int(k) for k in gains.argsort(descending=True) if gains[k] > 0]


# Identity of a teacher: the training that makes it, and whether a saved teacher was made so.


def fine_tuning_run(run: Run) -> Run:
    """Return the run that fine-tunes the teacher (no ensemble) by its own recipe, as a student.

    Args:
        run: The run, resolved.
    """
    of_student = {n for n, setting in searchable(Run).items() if setting.commands == OF_STUDENT}
    reset = (of_student | {"extra"}) - {"student", "alpha"}
    values: dict[str, Any] = {f.name: f.default for f in fields(Run) if f.name in reset}
    values |= {name: getattr(run, f"teacher_{name}") for name in RECIPE}
    values |= {f"student_{name}": getattr(run, f"teacher_{name}") for name in PREPROCESSING}
    if run.teacher_train_images == "same":
        values["train_images"] = run.train_images  # and as many steps as that of the most images
    else:
        values |= {"train_draw": "study", "largest_train_images": None}  # it is of several runs
    return replace(
        run,
        **values | {"epochs": max(1, values["epochs"])},
        student=run.teacher,
        student_weights=run.weights_of("teacher"),
        teacher_weights=run.weights_of("teacher"),
        alpha=1.0,
        repeat=run.teacher_repeat,
        study_values=(),
    )


def recorded_recipe(run: Run, data: Data) -> dict[str, Any]:
    """Return every setting that a resolved run's teacher depends on; `Origin` has the files.

    Hyperparameters without effect on it are None, so they distinguish no teachers.
    """
    fit = fine_tuning_run(run)
    names = ["seed", "precision", "image_size", "train_images", "teacher_keep"]
    names += [f"student_{name}" for name in PREPROCESSING]
    if fit.augmentation != "resized-crop":
        names.append("eval_interpolation")
    if fit.teacher_keep == "best" or fit.augmentation == "none":
        names += ["eval_crop", "eval_interpolation"]  # val decides, or train is resized like it
    if fit.schedule == "multistep":
        names.append("lr_milestones")
    recipe = {name: getattr(fit, name) for name in names} | {"augment": fit.augmentation}
    # older records do not name it, and it has no effect on other data
    if fit.orientation != "stored" and data.kind == "files":
        recipe["orientation"] = fit.orientation
    if fit.repeat_of_draw is not None:
        recipe["train_draw"] = "repeat"
    if fit.passes > 1:
        recipe["passes"] = fit.passes
    if fit.repeat != TEACHER_REPEAT:  # older records have none: theirs is teacher number 0
        recipe["repeat"] = fit.repeat
    return recipe | fit.config


@dataclass(frozen=True)
class Origin:
    """Everything that a fine-tuned teacher depends on."""

    recipe: dict[str, Any]
    data: str
    """Fingerprint of the data."""
    weights: str
    """Content hash of the file of its initial weights, or "default" or "none"."""

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def origin_of(run: Run, data: Data) -> Origin:
    """Return what the teacher of a resolved run must be made of."""
    weights = _weights_hash(run.weights_of("teacher"))
    return Origin(recorded_recipe(run, data), data.fingerprint, weights)


def origin_of_saved(run: Run, data: Data, folder: Path) -> Origin | None:
    """Return what the teacher in a folder was made of; None if there is no teacher.

    Raises InputError if it is damaged.
    """
    if not ((folder / RECORD).exists() and (folder / WEIGHTS).exists()):
        return None
    try:
        record = read_record(folder)
        check_whole(folder / WEIGHTS)
        # fields that were added after the record was written had their defaults
        made_by = _without_default(resolve(Run(**migrate_run(record["run"]))), run, data)
        weights = _recorded_weights(record.get("weights"), made_by.weights_of("teacher"), run)
        return Origin(recorded_recipe(made_by, data), record["data"], weights)
    except (OSError, *DAMAGED) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"the teacher in {folder} is damaged ({reason}); remove that folder, and the same "
            f"command fine-tunes it again"
        ) from None


def _without_default(made_by: Run, run: Run, data: Data) -> Run:
    """Return the run that made a teacher, with no interpolation if that is the model's default.

    Records of older versions have the default; newer ones have an interpolation only if it was
    given.
    """
    if run.teacher_interpolation is not None or made_by.teacher_interpolation is None:
        return made_by
    published = untrained(run, data, "teacher").preprocessing.interpolation
    same = published == made_by.teacher_interpolation
    return replace(made_by, teacher_interpolation=None) if same else made_by


def _recorded_weights(recorded: str | None, weights: str, run: Run) -> str:
    """Return the content hash of the initial weights that a saved teacher was made from.

    Where there is nothing to compare, a file of the same name counts as the same: kdtune 0.1
    recorded no hash, and a finished teacher does not need the file any more.
    """
    current = run.weights_of("teacher")
    same_name = Path(weights).name == Path(current).name
    if same_name and (recorded is None or not Path(current).expanduser().is_file()):
        return _weights_hash(current)
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


# Fine-tuning of a teacher: the training loop of a student, without a teacher.


def teacher_folder(run: Run, member: Run) -> str:
    """Return the folder of a fine-tuned teacher, relative to that of all teachers of a study.

    It is "" for the study's first teacher, number 0.

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
    if run.largest_train_images is not None and member.teacher_images is not None:
        parts.append(f"images-{member.train_images}")
    return "-".join(parts)


def is_ready(run: Run, root: Path, data: StudyData | None = None) -> bool:
    """Return True if the run's teacher needs no fine-tuning, or all its members are fine-tuned.

    Raises InputError if the files of a teacher are damaged.
    """
    data = data or StudyData(run)
    run = resolve(run, data=data)
    return not missing_teachers(run, run.teacher_members, root, data)


def missing_teachers(
    run: Run, members: Iterable[Run], root: Path, data: StudyData
) -> list[tuple[Run, Path]]:
    """Return the teachers that are not fine-tuned yet, each with its folder.

    Args:
        run: The run that has the teachers, or the base run of their study, resolved.
        members: The run with each teacher, see `recipe.numbered` and `Run.teacher_members`.
        root: Folder of all teachers.
        data: The data of the study.
    """
    missing = []
    for member in members:
        folder = root / teacher_folder(run, member)
        if member.teacher_epochs != 0:
            of_member = data.of(member)  # with folds, each repeat has other data
            if origin_of_saved(member, of_member, folder) != origin_of(member, of_member):
                missing.append((member, folder))
    return missing


def read_record(folder: Path) -> dict[str, Any]:
    """Return what was recorded of the teacher that was fine-tuned in a folder."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def describe_training(run: Run, data: Data) -> str:
    """Return the line that says how a resolved run's teacher is being fine-tuned."""
    fit = fine_tuning_run(run)
    name = ", ".join(filter(None, (fit.student, _describe_number(run))))
    if run.repeat:  # it differs from that of repeat 0 in its data and random numbers alone
        return f"Training the teacher {name}."
    model = untrained(fit, data, "student")
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.net, model.head)]
    layers = f"all layers, {counts[0]:,} parameters"
    if fit.trainable == "head":
        layers = f"only the head {model.head_name}, {counts[1]:,} of {counts[0]:,} parameters"
    schedule: str = fit.schedule
    if fit.schedule == "multistep":
        after = ", ".join(str(number) for number in milestones(fit) if number < fit.epochs)
        schedule += f", × {fit.lr_gamma:g} after epochs {after}" if after else ""
    noun = "examples" if data.kind == "tensors" else "images"
    epochs = f"{fit.epochs} epoch{'s' * (fit.epochs > 1)}"
    decay = f", weight decay {fit.weight_decay:g}" if fit.weight_decay else ""
    return (
        f"Training the teacher {name}: {epochs}; {layers}; batch norm {fit.batch_norm}; "
        f"{fit.optimizer}, lr {fit.lr:g} ({schedule}){decay}; batch size {fit.batch_size}; "
        f"{len(data.subset(fit)):,} {noun}, augmentation {fit.augmentation}; the "
        f"{fit.teacher_keep} epoch is kept."
    )


SHORT_EPOCH = 0.05
"""Seconds; epochs of a head on stored features take less, and lines of them tell little."""


def fine_tune(
    run: Run,
    folder: Path,
    resources: Resources,
    on_save: Callable[[], None] = lambda: None,
    write: Callable[[str], None] = lambda line: None,
    data: StudyData | None = None,
) -> Iterator[Epoch]:
    """Fine-tune the run's teacher; yield an epoch at a time, and write its files at the end.

    An interrupted fine-tuning resumes from the checkpoint in the folder.

    Args:
        run: The run; its teacher is no ensemble.
        folder: Of the teacher.
        resources: Device, cache and loader workers.
        on_save: Called after each save of the checkpoint.
        write: Is given lines: the accuracy before the training, that after it, and a warning if the
            checkpoint cannot be used.
        data: The data of the run's study; None reads them.

    Raises:
        InputError: The folder holds another teacher, which results may depend on.
        Diverged: A loss or another metric became NaN or infinite.
    """
    data = data or StudyData(run)
    run = resolve(run, data=data)
    fit, of_run = fine_tuning_run(run), data.of(run)
    origin = origin_of(run, of_run)
    if origin_of_saved(run, of_run, folder) not in (None, origin):
        raise InputError(
            f"{folder} holds another teacher (other data, model or recipe); give this one another "
            f"name (--name OTHER) or folder (--out FOLDER)"
        )
    before = _accuracy_before(run, of_run, resources)
    if before:
        write(f"Accuracy on val before: {before}.")
    model = initial_network(run, of_run).place(resources.device, run.precision)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(
        folder / f"{origin.digest[:8]}.checkpoint.pt",
        on_save,
        keeps_best=fit.teacher_keep == "best",
        owner=origin.digest,
        write=lambda line: write(f"warning: {line}"),
    )
    if checkpoint.file.exists():
        write("Epochs that --check or an earlier call has trained are shown once more.")
    epochs = []
    for epoch in train(fit, model, Stream(fit, of_run, model, None, resources), checkpoint):
        epochs.append(epoch)
        yield epoch
    kept = epochs[-1]
    if checkpoint.best is not None:
        model.net.load_state_dict(checkpoint.best.weights)
        kept = epochs[checkpoint.best.number]
    _save_teacher(folder, model, of_run, fit, origin, before, epochs, kept)
    checkpoint.file.unlink(missing_ok=True)
    acc = 100 * (kept.splits["val"]["acc"] or 0)
    write(f"Accuracy on val after epoch {kept.number}: {acc:.1f}%.")


def epoch_lines(run: Run, epoch: Epoch) -> list[str]:
    """Return the line about an epoch of a run's teacher; none if it is short and not the last."""
    is_last = epoch.number + 1 == run.teacher_epochs
    return [str(epoch)] if is_last or epoch.seconds >= SHORT_EPOCH else []


def _save_teacher(
    folder: Path,
    model: Classifier,
    data: Data,
    fit: Run,
    origin: Origin,
    before: Accuracy | None,
    epochs: Sequence[Epoch],
    kept: Epoch,
) -> None:
    """Write a teacher's weights, and teacher.json: how it was trained, and its accuracy."""
    has_cut_val = data.cut is not None or data.fold is not None
    finished = FinishedTeacher(
        model.name, data.classes, model.preprocessing, data.fingerprint, has_cut_val
    )
    save_weights(model.net, folder / WEIGHTS, finished.metadata)
    record = {
        "run": asdict(fit),
        "classes": data.classes,
        "data": origin.data,
        "weights": origin.weights,
        "epochs": fit.epochs,
        "preprocessing": asdict(model.preprocessing),
        "kept_epoch": kept.number,
        "acc_before": None if before is None else before.share,
        "history": [
            {"epoch": e.number} | {split: values["acc"] for split, values in e.splits.items()}
            for e in epochs
        ],
    }
    record |= {split: metrics for split, metrics in kept.splits.items() if split != "train"}
    # last, since a folder without the record counts as one without a teacher
    write_text(folder / RECORD, json.dumps(record, indent=2))


def _accuracy_before(run: Run, data: Data, resources: Resources) -> Accuracy | None:
    """Return the accuracy of the run's teacher on val before it is fine-tuned.

    It is None if the head has random weights, since the accuracy would be that of chance.
    """
    # a factory may load weights itself, even with "none"
    if run.weights_of("teacher") == "none" and ":" not in run.teacher:
        return None
    model = initial_network(run, data).place(resources.device, run.precision)
    if model.has_new_head:
        return None
    logits_only = replace(resources, teacher_features=False)  # no student learns from this teacher
    answers = evaluate(fine_tuning_run(run), data, Teacher.of([model]), logits_only, ["val"])
    return answers["val"].accuracy


def load_teacher(run: Run, data: Data, folder: Path) -> Model:
    """Return the run's teacher (no ensemble), fine-tuned in `folder` or with the given weights.

    Raises InputError if given weights, which are used unchanged, do not fit the data.
    """
    if run.teacher_epochs == 0:
        return initial_teacher(run, data)
    classes, weights = len(data.classes), str(folder / WEIGHTS)
    return build_model(run, "teacher", classes, seed=0, replace_head=False, weights=weights)


def initial_teacher(run: Run, data: Data) -> Model:
    """Return the teacher before any fine-tuning; without fine-tuning its head must fit the data.

    A teacher that is a file of outputs is read.
    """
    if is_output_file(run.teacher):
        return load_output_teacher(run, data)
    return initial_network(run, data)


def initial_network(run: Run, data: Data) -> Classifier:
    """Build the teacher, which is a network, before any fine-tuning."""
    seed = derive_seed("init", run.seed, run.teacher_repeat)
    fresh = run.teacher_epochs != 0
    return build_model(run, "teacher", len(data.classes), seed=seed, replace_head=fresh)


def probe_teacher(
    run: Run, data: Data, teacher: Model, student: Classifier | None = None
) -> Tensor:
    """Raise InputError, before any work, if the teacher cannot process the study's images.

    Returns the images it was given, at the size for both models: uint8 [2, C, H, W]. A file of
    outputs processes none.
    """
    size = view_size(run, data, teacher, student)
    views = probe_views(data, run, size)
    if isinstance(teacher, Classifier):
        whole = run.teacher_trainable != "head"
        learns = run.teacher_epochs != 0
        probe(teacher, views, len(data.classes), whole=whole, learns=learns)
        if learns:
            tuning = fine_tuning_run(run)
            check_augmentation(tuning, data, view_size(tuning, data, teacher))
            if whole and tuning.batch_norm == "train":
                count, sizes = len(data.subset(tuning)), [tuning.batch_size]
                check_last_batch(teacher, views, count, sizes, "--teacher-batch-size")
    return views


# Accuracy of the teachers on train, val and test, measured once before any student is trained.


_SPLITS = ("train", "val", "test")


def with_members(teachers: Sequence[Run]) -> list[Run]:
    """Return a run for each teacher that is measured: an ensemble follows its members."""
    expanded = [each for run in teachers for each in (*run.teacher_members, run)]
    return list({key_of(each): each for each in expanded}.values())


def key_of(run: Run) -> TeacherKey:
    """Return what tells the run's teacher from the others of its study."""
    return TeacherKey(run.teacher, run.teacher_epochs or 0, run.teacher_number, run.teacher_images)


def find_unmeasured(
    base_run: Run,
    teachers: Sequence[Run],
    root: Path,
    recorded: Sequence[TeacherAccuracy],
    data: StudyData,
) -> list[Run]:
    """Return the teachers without a recorded accuracy, or with one of other images or weights.

    Args:
        base_run: The run that has the teachers, or the base run of their study.
        teachers: The run with each teacher, see `with_members`.
        root: Folder of all teachers, which are ready.
        recorded: Accuracies that were measured before.
        data: The data of the study.
    """
    measured = {record.key: record.fingerprint for record in recorded}
    return [
        run for run in teachers if measured.get(key_of(run)) != _load(base_run, run, root, data)[2]
    ]


def measure_accuracy(
    base_run: Run, teachers: Sequence[Run], root: Path, resources: Resources, data: StudyData
) -> list[TeacherAccuracy]:
    """Return the accuracy of teachers, see `find_unmeasured`; `resources` names device and cache.

    The logits of val and test are those that the runs need, and come from the same cache.
    """
    measured = []
    for run in teachers:
        of_run, teacher, fingerprint = _load(base_run, run, root, data)
        for model in teacher.models:
            model.place(resources.device, base_run.precision)
        is_tuned = run.teacher_epochs and len(run.teacher_members) == 1
        record = read_record(root / teacher_folder(base_run, run)) if is_tuned else {}
        answers = evaluate(run, of_run, teacher, resources, _SPLITS)
        measured.append(
            TeacherAccuracy(
                teacher=run.teacher,
                epochs=run.teacher_epochs or 0,
                weights=", ".join(weights_of_members(base_run, run, root)),
                classes=len(of_run.classes),
                splits={split: own.accuracy for split, own in answers.items()},
                fingerprint=fingerprint,
                acc_before=record.get("acc_before"),
                acc_after=record.get("val", {}).get("acc"),
                number=run.teacher_number,
                images=run.teacher_images,
                which=_describe_number(run),
                like_probabilities=teacher.outputs is not None
                and teacher.outputs.like_probabilities,
                alternatives=tuple(_find_alternatives(run, of_run, teacher, resources, answers)),
            )
        )
    return measured


def _describe_number(run: Run) -> str:
    """Return which of several equal teachers a run has, in words; "" if there is one."""
    if (run.folds or run.draws_for_teacher) and run.teacher_epochs:
        return f"repeat {run.teacher_number}"
    return f"number {run.teacher_number} of {run.teachers}" * (run.teachers > 1)


def _load(base_run: Run, run: Run, root: Path, study_data: StudyData) -> tuple[Data, Teacher, str]:
    """Return the data and the teacher of a run, on the CPU, and the fingerprint of both.

    These 16 hex digits change with everything that the accuracies depend on.
    """
    data = study_data.of(run)
    teacher = Teacher.of(_load_members(base_run, run, data, root))
    names = ["image_size", "eval_crop", "eval_interpolation", "teacher_interpolation"]
    names += ["train_images", "seed", "precision", "student", "student_size"]
    parts = [data.fingerprint, *teacher.fingerprints]
    parts += [str(getattr(run, name)) for name in names]
    # earlier versions did not name these
    parts += ["exif"] * (run.orientation != "stored" and data.kind == "files")
    parts += ["draw of the repeat"] * (run.repeat_of_draw is not None)
    return data, teacher, hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _load_members(base_run: Run, run: Run, data: Data, root: Path) -> list[Model]:
    """Return the models of a run's teacher, on the CPU: one, or an ensemble's members."""
    members = run.teacher_members
    return [
        load_teacher(member, data, root / teacher_folder(base_run, member)) for member in members
    ]


def weights_of_members(base_run: Run, run: Run, root: Path) -> list[str]:
    """Return where the weights of the members of a teacher are.

    Args:
        base_run: The run that has the teacher, or the base run of its study.
        run: The run with this teacher.
        root: Folder of all teachers.
    """
    return [
        str(root / teacher_folder(base_run, member) / WEIGHTS)
        if run.teacher_epochs
        else member.weights_of("teacher")
        for member in run.teacher_members
    ]


# The teacher of a file of outputs: its rows matched with the examples of the data.


def load_output_teacher(run: Run, data: Data) -> outputs.OutputTeacher:
    """Return the run's teacher, which is a file.

    Raises:
        InputError: The file cannot be read, its classes are others, or its ids are not those of the
            examples: of train those that the student learns from, all of val and all of test.
    """
    table = outputs.read_outputs(Path(run.weights_of("teacher")).expanduser(), data.classes)
    by_file = any(part.split is None for part in table.parts)
    _check_ids(run, data, table, by_file)
    splits = [split for split in _SPLITS if split in data.splits]
    if by_file:  # relative to the folder of the data, without a leading ./
        root = f"{Path(data.root).as_posix()}/"
        files = [Path(str(name)).as_posix() for part in table.parts for name in part.ids]
        rows = [file.removeprefix(root) for file in files]
        examples = {split: list(file_names(data, split) or ()) for split in splits}
    else:
        rows = [f"{part.split} {i}" for part in table.parts for i in part.ids]
        examples = {s: [f"{s} {i}" for i in range(len(data.splits[s]))] for s in splits}
    every = run.repeat_of_draw is not None  # any repeat may draw any of them
    seen = range(len(examples["train"])) if every else data.subset(run).tolist()
    needed = [examples["train"][i] for i in seen]
    needed += [name for split in splits[1:] for name in examples[split]]
    have, want = pd.Index(rows), pd.Index([name for names in examples.values() for name in names])
    for faults, requirement in (
        (have[~have.isin(want)], "have rows for examples of the data alone, but has others"),
        (have[have.duplicated()], "have one row for each example, but has more"),
        (
            pd.Index(needed).difference(have, sort=False),
            "have a row for each example of val and test, and for those of train that the student "
            "learns from"
            + " in any repeat (--train-draw study needs those of one draw alone)" * every
            + ", but lacks some",
        ),
    ):
        if len(faults):
            shown = ", ".join(faults[:3]) + ", ..." * (len(faults) > 3)
            raise InputError(f"{table.file} must {requirement}: {len(faults):,} ({shown})")
    row = have.get_indexer(want)
    logits = np.full((len(want), len(data.classes)), np.nan, dtype=np.float32)
    logits[row >= 0] = np.concatenate([part.logits for part in table.parts])[row[row >= 0]]
    parts = torch.from_numpy(logits).split([len(examples[split]) for split in splits])
    by_split = dict(zip(splits, parts, strict=True))
    return outputs.OutputTeacher(run.teacher, table.digest, by_split, table.record)


def _check_ids(run: Run, data: Data, table: outputs.OutputTable, by_file: bool) -> None:
    """Raise InputError unless the ids of the rows can tell which examples of the data these are."""
    record, requirement = table.record, None
    if by_file:
        if data.kind != "files" or not all(part.split is None for part in table.parts):
            requirement = (
                f"name all examples by split and index (example) or, if those of --data {run.data} "
                f"are files, all by file"
            )
    elif data.fold is not None or (record is None and data.cut is not None):
        requirement = (
            "name the examples by file, since their index depends on how val is cut from train; "
            "else give data with a val folder, and leave out --folds"
        )
    elif record is not None and record.data != data.fingerprint:
        requirement = (
            f"be of the same data as the study (fingerprint {data.fingerprint}); write the file "
            f"again (python -m kdtune.teacher --dump)"
        )
    if requirement is not None:
        raise InputError(f"{table.file} must {requirement}")


# Writing a teacher's outputs into a file, which is then a teacher without its network.


def check_dump(study: Study, file: Path) -> None:
    """Raise InputError, before any work, if the study's teacher cannot be written into a file.

    Args:
        study: The study, resolved.
        file: The file.
    """
    if file.suffix not in OUTPUT_SUFFIXES or not file.absolute().parent.is_dir():
        kinds = " or ".join(OUTPUT_SUFFIXES)
        raise InputError(f"--dump must be a {kinds} file in a folder that exists, but got {file}")
    runs = numbered(study, whole_teachers(study))
    if len(runs) > 1 or study.run.folds is not None:
        names = ", ".join(dict.fromkeys(run.teacher for run in runs))
        raise InputError(
            f"--dump writes the outputs of one teacher, but the study has {len(runs)} ({names}); "
            f"give one teacher and --teachers 1, and leave out --folds"
        )


def with_views_of_teacher(run: Run, data: Data) -> Run:
    """Return the run with views of its teacher's input size, whatever its student's is."""
    if data.kind == "tensors" or run.image_size is not None:
        return run
    members = [untrained(member, data, "teacher") for member in run.teacher_members]
    return replace(run, image_size=view_size(run, data, *members))


def dump_teacher(
    run: Run, root: Path, resources: Resources, file: Path, data: Data
) -> dict[str, int]:
    """Write the logits of the run's teacher on train, val and test, without augmentation.

    The views have the teacher's input size unless the run says another. The images of train that
    the student learns from are passed through the network as a run would, and then all of train:
    the last bits of logits may depend on the other images of their batch.

    Args:
        run: The run, resolved.
        root: Folder of all teachers; the run's is ready.
        resources: Device, cache and loader workers.
        file: A .parquet or .npz file.
        data: The run's data.

    Returns:
        The number of examples of each split.
    """
    models = _load_members(run, run, data, root)
    teacher = Teacher.of([model.place(resources.device, run.precision) for model in models])
    views = {}
    if data.kind != "tensors":
        run = with_views_of_teacher(run, data)
        views = {name: getattr(run, name) for name in ("image_size", *OF_INPUT)}
    splits = {
        split: outputs.SplitOutputs(
            _whole_split(run, data, teacher, resources, split).numpy(), file_names(data, split)
        )
        for split in data.splits
    }
    record = outputs.OutputsRecord(run.teacher, data.fingerprint, data.cut is not None, views)
    outputs.write_outputs(file, splits, data.classes, record)
    return {split: len(of_split.logits) for split, of_split in splits.items()}


def _whole_split(
    run: Run, data: Data, teacher: Teacher, resources: Resources, split: str
) -> Tensor:
    """Return the logits of all examples of a split, float32 [N, K], in its own order."""
    seen, _ = logits_of_split(run, data, teacher, resources, split)
    if split != "train" or run.train_images is None:
        return seen
    whole, _ = logits_of_split(replace(run, train_images=None), data, teacher, resources, split)
    whole = whole.clone()
    whole[data.subset(run)] = seen
    return whole
