"""Trained students: torch modules from images to probabilities, their predictions and loading."""

import glob
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdtune.config.fields import HUB, OBJECT, Role, is_named_data, is_object
from kdtune.config.files import PROVENANCE, STUDENTS, STUDY, student_file
from kdtune.config.objects import Passed
from kdtune.config.records import InputRecord, StudentsRecord, read_students_record
from kdtune.config.run import Orientation, Run
from kdtune.config.study import Study
from kdtune.config.text import InputError, first_line, shown
from kdtune.data.dataset import decode
from kdtune.data.folder import IMG_EXTENSIONS
from kdtune.data.sources import SOURCES
from kdtune.data.views import Resizing, eval_resizing
from kdtune.models.classifier import Classifier, Preprocessing
from kdtune.models.registry import build, build_model
from kdtune.models.weights import differences
from kdtune.storage.records import read_provenance

if TYPE_CHECKING:
    from kdtune.results.results import Results

# A trained student as a torch module, from images to probabilities.


@dataclass(frozen=True)
class StudentInput:
    """What a student takes."""

    shape: tuple[int, ...] | None = None
    """Shape of one example: (C, S, S) of an image; None if it is not known."""
    dtype: torch.dtype | None = None
    """Type of its numbers, uint8 for images; None if it is not known."""
    resizing: Resizing | None = None
    """From an image of any size to the square that the study used; None: not images."""
    preprocessing: Preprocessing | None = None
    """From the square to the network's input; None: not images."""
    orientation: Orientation | None = None
    """Whether an image is rotated and mirrored as its EXIF data say; None: it is."""


class TrainedStudent(nn.Module):
    """A student that a study has trained, from uint8 images to probabilities.

    It is in eval mode and in float32, also if the study ran in bfloat16, and its weights are frozen
    (`requires_grad_(True)` lets them be trained). `net` is the plain network of timm, torchvision
    or the user's factory; its state dict is the content of the file of weights.

        >>> import torch
        >>> student = kdtune.load_student("runs/tiny")
        >>> images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)    # or student.view(...)[None]
        >>> student(images).shape
        torch.Size([2, 10])

    Attributes:
        net: the network.
        name: as the user of the study named the model.
        classes: names of the K classes.
        input: what the student takes; see `StudentInput`.
        repeat: the student's repeat in the study.
        record: the content of students.json.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, input: StudentInput, repeat: int, record: StudentsRecord):
        super().__init__()
        self.net, self.name, self.classes = net, record.model.name, record.classes
        self.input, self.repeat, self.record = input, repeat, record
        steps = input.preprocessing or Preprocessing()
        for key in ("mean", "std"):  # buffers, so that a traced graph has them as constants
            values = torch.tensor(getattr(steps, key)).view(1, -1, 1, 1)
            self.register_buffer(key, values, persistent=False)
        self.eval().requires_grad_(False)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """From a view to the network's input: mean, std, size; None if it takes no images."""
        return self.input.preprocessing

    @property
    def image_size(self) -> int | None:
        """Side of a view in pixels; None if the student takes no images."""
        shape = self.input.shape
        return shape[-1] if self.input.resizing is not None and shape else None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metrics of the study, on its val and test.

        `configuration` has those of the configuration: mean accuracy over its repeats, with the
        interval and what it holds for. That is what to expect of any of its students. `student` has
        those of this student alone, by split and name.
        """
        metrics = (s.metrics for s in self.record.students if s.repeat == self.repeat)
        return {"configuration": self.record.configuration, "student": next(metrics, {})}

    def extra_repr(self) -> str:
        """Return what distinguishes the student, for `print`."""
        size = f"image_size={self.image_size}, " if self.image_size else ""
        return f"{self.name!r}, {size}classes={len(self.classes)}, repeat={self.repeat}"

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities of the classes, float32 [B, K]; see `logits`."""
        return self.logits(images).softmax(1)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of the classes, float32 [B, K].

        Args:
            images: uint8 [B, C, H, W] of any size. A batch of `image_size` x `image_size` is taken
                as it is; others are resized and cropped as the study did with val and test. If the
                data of the study were no images, tensors like one of its batches.

        Raises:
            InputError: The batch has other dimensions, channels or numbers.
        """
        self._check(images)
        resizing, steps = self.input.resizing, self.input.preprocessing
        if resizing is None or steps is None:
            return self.net(images).float()  # type: ignore[no-any-return]
        size = self.image_size
        if size is not None and tuple(images.shape[-2:]) != (size, size):
            images = resizing(images, size)
        return self.net(steps.normalized(images, self.mean, self.std)).float()  # type: ignore[no-any-return]

    def view(self, image: Image.Image | str | Path) -> Tensor:
        """Return an image as the study's views of val and test, uint8 [C, image_size, image_size].

        An image is rotated as its EXIF data say, unless the study read its images as they are
        stored (`Run.orientation`), as those of earlier versions did. Palettes and transparency
        become RGB, or grey if the data of the study were; 16 bits become 8.

        Args:
            image: an image of Pillow, or its file.

        Raises:
            InputError: The file is not an image, or the student does not take images.
        """
        size = self.image_size
        if self.input.resizing is None or size is None or self.input.shape is None:
            raise InputError(
                f"view must be given to a student of images, but the data of the study of "
                f"{self.name} were none; give the student tensors like one of its batches"
            )
        mode: Literal["L", "RGB"] = "L" if self.input.shape[0] == 1 else "RGB"
        decoded = decode(image, self.input.orientation, mode)
        return self.input.resizing(decoded, size)

    def _check(self, inputs: Tensor) -> None:
        """Raise InputError unless inputs are a batch of what the student takes."""
        shape, dtype, hint = self.input.shape, self.input.dtype, ""
        if shape is None:
            return
        name, like, fits = "inputs", [*map(str, shape)], tuple(inputs.shape[1:]) == shape
        if self.input.resizing is not None:
            name, like = "images", [str(shape[0]), "H", "W"]
            fits = inputs.ndim == 4 and inputs.shape[1] == shape[0] and min(inputs.shape[2:]) > 0
            hint = "; student.view(image) makes one of an image or its file"
        if not fits or inputs.dtype != dtype:
            raise InputError(
                f"{name} must be {dtype} [{', '.join(['B', *like])}], as the study's data were, "
                f"neither scaled nor normalised, but got {inputs.dtype} {list(inputs.shape)}{hint}"
            )


# Predictions of image files, in batches.


@dataclass(frozen=True)
class Prediction:
    """Prediction of one image."""

    file: Path
    probabilities: Tensor | None
    """Probability of each class, float32 [K], on the CPU; None if the file cannot be read."""
    fault: str = ""
    """Why it cannot be read, as a sentence."""


def predict_files(
    student: TrainedStudent, files: Sequence[Path], batch_size: int
) -> Iterator[Prediction]:
    """Yield the prediction of each file, in order.

    Images are decoded in threads while the student predicts the batch before.

    Args:
        student: On the device where it is to predict.
        files: Image files. One that cannot be read does not stop the others.
        batch_size: Images that are predicted at once.
    """

    def view(file: Path) -> Tensor | str:
        try:
            return student.view(file)
        except InputError as error:
            return str(error)

    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with ThreadPoolExecutor() as pool:
        decoding = ([pool.submit(view, file) for file in batch] for batch in batches)
        views = next(decoding, [])
        for batch in batches:
            following = next(decoding, [])
            made = [view.result() for view in views]
            images = [view for view in made if isinstance(view, Tensor)]
            rows: Iterator[Tensor] = iter(())
            if images:
                with torch.inference_mode():
                    rows = iter(student(torch.stack(images).to(student.mean.device)).cpu())
            for file, decoded in zip(batch, made, strict=True):
                if isinstance(decoded, Tensor):
                    yield Prediction(file, next(rows))
                else:
                    yield Prediction(file, None, decoded)
            views = following


# Image files by name, in folders and of patterns.


def find_images(names: Sequence[str]) -> list[Path]:
    """Return image files, each once, in the order of the names and sorted within each.

    Args:
        names: Files (of any suffix), folders, whose files with a suffix of an image are taken at
            any depth, and patterns (*, ?, [...], ** for folders at any depth).

    Raises:
        InputError: There is no such file or folder, or no image in it or of the pattern.
    """
    images: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        is_pattern = glob.has_magic(name) and not path.exists()
        matches = sorted(glob.glob(str(path), recursive=True)) if is_pattern else [path]
        of_name = list[Path]()
        for match in map(Path, matches):
            # as torchvision's ImageFolder, at any depth
            inside = (f for f in match.rglob("*") if f.name.lower().endswith(IMG_EXTENSIONS))
            of_name += sorted(filter(Path.is_file, inside)) if match.is_dir() else [match]
        if not of_name or not of_name[0].exists():
            raise InputError(
                f"IMAGE must be an image file, a folder that holds images "
                f"({', '.join(IMG_EXTENSIONS)}) or a pattern that matches some, but got {name}"
            )
        images |= dict.fromkeys(of_name)
    return list(images)


# Input of students whose students.json does not record it, as earlier versions wrote it.
#
# It then follows from the run, the models by name and the weights.


def _with_input(record: StudentsRecord, weights: Mapping[str, Tensor]) -> StudentsRecord:
    """Return a record of an earlier version with `input` and `preprocessing` as of this one.

    Args:
        record: Without `input`, perhaps without `preprocessing`.
        weights: State dict of one student.

    Returns:
        The record; without `input` if the data may be other tensors.

    Raises:
        InputError: The size of the views is not known.
    """
    run = record.configured_run
    is_named = is_named_data(run.data)
    if record.preprocessing is None and ":" in run.data and not run.data.startswith("torchvision:"):
        return record
    steps = record.preprocessing or _recipe_steps(run, len(record.classes))
    convolution = next((value for value in weights.values() if value.ndim == 4), None)
    is_grey = is_named and convolution is not None and convolution.shape[1] == 1
    size = int(steps["image_size"])
    shape = (1 if is_grey else 3, size, size)
    view = InputRecord("images" if is_named else "files", shape, "uint8")
    return replace(record, input=view, preprocessing=steps)


def _recipe_steps(run: Run, classes: int) -> dict[str, Any]:
    """Return the preprocessing of a run of version 0.1, which recorded none."""
    models: list[tuple[Run, Role]] = [(run, "student")]
    models += [(member, "teacher") for member in run.teacher_members]
    student, *teachers = (
        build_model(of, role, classes, seed=0, weights="none").preprocessing for of, role in models
    )
    size = run.image_size or max(steps.size or 0 for steps in (student, *teachers))
    if not size and run.data in SOURCES:
        size = SOURCES[run.data]().splits["train"].inputs.shape[-1]  # type: ignore[union-attr]
    if not size:
        raise InputError(
            f"the image size of these students is not known, since an earlier version of kdtune "
            f"wrote them; load {run.student} and the weights with plain PyTorch"
        )
    crop, interpolation = run.eval_crop, run.eval_interpolation
    views = {"image_size": size, "eval_crop": crop, "eval_interpolation": interpolation}
    return views | asdict(student)


# Where a study's students are: the study's folder, its students/, one file, an object store.


@dataclass(frozen=True)
class Students:
    """A folder of students, and what is known of them."""

    folder: Path
    """Holds students.json and files of weights; of an object store only those that were asked
    for."""
    record: StudentsRecord
    """With the names of the classes."""
    repeats: tuple[int, ...]
    """Repeats that have a file of weights, ascending."""
    named: int | None = None
    """The repeat whose file the user named."""
    uri: str | None = None
    """The study on an object store, if it is on one."""


def find_students(source: str | Path) -> Students:
    """Return the students of a study or folder.

    Args:
        source: A study's folder, the URI of a study on a store, a folder students/ or a file in it.

    Raises:
        InputError: There is none, or it has no students.
    """
    if "://" in str(source):
        from kdtune.storage.mirror import fetch_students  # obstore takes long to import

        uri = str(source).rstrip("/").removesuffix(f"/{STUDENTS}")
        folder, names = fetch_students(uri)
        return _read(folder, [Path(name).name for name in names], uri=uri)
    path = Path(source).expanduser()
    named = _repeat(path.name) if path.is_file() else None
    if named is not None:
        path = path.parent
    elif (path / STUDY).is_file():
        path = path / STUDENTS
        if not path.is_dir():
            raise InputError(
                f"{path.parent} has no folder {STUDENTS}/, which is written when a study of "
                f"distillation is complete, unless it was run with --keep none; repeat the study's "
                f"command"
            )
    return _read(path, [file.name for file in path.iterdir()] if path.is_dir() else [], named=named)


def _read(
    folder: Path, names: list[str], uri: str | None = None, named: int | None = None
) -> Students:
    """Return the students of a folder that has files of these names."""
    repeats = sorted(repeat for name in names if (repeat := _repeat(name)) is not None)
    if not repeats:
        raise InputError(
            f"STUDENT must be a study's folder, its {STUDENTS}/, an s3:// place of a study or a "
            f"file in {STUDENTS}/ ({student_file(0)}), but {uri or folder} is none"
        )
    record = read_students_record(folder)
    record = replace(record, classes=_classes(folder, record))
    return Students(folder, record, tuple(repeats), named, uri)


def _classes(folder: Path, record: StudentsRecord) -> tuple[str, ...]:
    """Return the names of the classes, which records of earlier versions lack."""
    named: Iterable[Any] = record.classes
    if not named and folder.name == STUDENTS and (folder.parent / PROVENANCE).is_file():
        named = read_provenance(folder.parent).get("classes", ())
    if not named and record.configured_run.data in SOURCES:
        named = SOURCES[record.configured_run.data]().classes
    if named:
        return tuple(map(str, named))
    raise InputError(
        f"the names of the classes are not known, since an earlier version of kdtune wrote "
        f"{folder} and the study is not around it; put the folder {STUDENTS}/ back into the "
        f"study's folder"
    )


def _repeat(name: str) -> int | None:
    """Return the repeat of a file of weights in students/; None for other files."""
    number = name.removeprefix("repeat-").removesuffix(".safetensors")
    is_student = number.isdecimal() and student_file(int(number)) == name
    return int(number) if is_student else None


# Loading of trained students.


OF_VIEWS = ("image_size", "orientation", "eval_crop", "eval_interpolation")
"""Entries of the record's preprocessing that turn an image into a view."""


def load_student(
    place: "str | Path | Study | Results", repeat: int | None = None, module: Any = None
) -> TrainedStudent:
    """Load a trained student of a study's best configuration, ready to predict.

    Without `repeat` it is the student of the lowest repeat. All students of the configuration are
    draws of one recipe. To take the one with the highest accuracy would select among them, and its
    accuracy on val or test would no longer be what to expect of it on new images. So the choice is
    fixed in advance, and what to expect is the mean over the repeats: see `TrainedStudent.metrics`.

    Args:
        place: A study's folder, its place on an object store (s3://BUCKET/PREFIX/NAME), a folder
            students/, also one that was copied out of the study, or one of its files. Or the study
            itself, or its results.
        repeat: The student's repeat. Default: that of the file, else the lowest one.
        module: The module or function that was passed to the study as its student; only for a
            study that has its student from Python, "object:NAME".

    Returns:
        The student in eval mode on the CPU, with all its weights loaded.

    Example:
        >>> student = kdtune.load_student("runs/tiny")
        >>> student.repeat, student.image_size, len(student.classes)
        (0, 28, 10)

    Raises:
        InputError: There are no such students, a file is damaged, or the model cannot be built.
    """
    source: Any = place
    if isinstance(place, Study):
        source = place.uri or place.folder
    elif not isinstance(place, str | Path):
        if not isinstance(getattr(place, "study", None), Study):
            raise InputError(
                f"place must be a study, its results or a path, but got {shown(place)}"
            )
        is_here = (place.folder / STUDENTS).is_dir() or place.study.uri is None
        source = place.folder if is_here else place.study.uri
    students = find_students(source)
    if repeat is None:
        repeat = students.repeats[0] if students.named is None else students.named
    record = students.record
    passed = None if module is None else Passed(module)
    if passed is None and isinstance(place, Study):
        passed = place.run.objects.passed.get(record.model.name)
    file, state = _read_weights(students, repeat)
    model = _build(record, state, file, passed)
    if record.input is None:
        record = _with_input(record, state)
    return TrainedStudent(model.net, _student_input(record), repeat, record)


def describe_code(folder: str | Path) -> str:
    """Return which code `load_student` will import, as a sentence; "" if only kdtune's own.

    Who has written the students' record has chosen the module. Python looks for it where it looks
    for all modules, which is never the study's folder unless the user is in there.
    """
    name = find_students(folder).record.model.name
    home = name.partition(":")[0]
    is_library = ":" not in name or name.startswith(HUB)
    if is_library or is_object(name) or home.partition(".")[0] == "kdtune":
        return ""
    return f"The student is built by {name}, as its record says, so the module {home} is imported."


def _read_weights(students: Students, repeat: int) -> tuple[Path, Mapping[str, Tensor]]:
    """Return the file of a repeat and its state dict.

    Raises:
        InputError: There is no such file, or its SHA-256 is not the recorded one.
    """
    if repeat not in students.repeats:
        raise InputError(
            f"repeat must be one of {', '.join(map(str, students.repeats))}, which "
            f"{students.uri or students.folder} holds, but got repeat={repeat}"
        )
    file = students.folder / student_file(repeat)
    if students.uri is not None and not file.exists():
        from kdtune.storage.mirror import fetch_file

        fetch_file(students.uri, f"{STUDENTS}/{file.name}", students.folder.parent)
    recorded = next((s.sha256 for s in students.record.students if s.repeat == repeat), "")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        state: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(file, first_line(error)) from None
    if recorded and recorded != digest:
        raise _damaged(file, "its content is not what the study wrote, by its SHA-256")
    return file, state


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(
        f"{file} is damaged ({reason}); copy the file again, or choose another repeat"
    )


def _build(
    record: StudentsRecord, state: Mapping[str, Tensor], file: Path, passed: Passed | None
) -> Classifier:
    """Return the model with the weights.

    Raises:
        InputError: A library, the module of a factory or the object is missing, or the weights do
            not fit.
    """
    recorded, name = record.model, record.model.name
    if is_object(name) and passed is None:
        raise InputError(
            f"the student is built by {name}, which was passed in Python; pass it again: "
            f"kdtune.load_student(..., module={name.removeprefix(OBJECT)}). Commands take "
            f"no objects: for them, put its function into a module, and name that (module:function)"
        )
    home = name.partition(":")[0]
    file_then = f", in the study the file {recorded.file}," if recorded.file else ""
    remedy = (
        f"The module {home}{file_then} and the modules that it imports must be as they were: put "
        f"them back, and add the folder of {home} to PYTHONPATH."
    )
    try:
        classes, config = len(record.classes), recorded.source
        model = build(name, "none", classes, seed=0, passed=passed, config=config)
    except InputError as error:
        if ":" not in name or name.startswith(HUB):
            raise
        raise InputError(f"{str(error).rstrip('.')}. {remedy}") from None
    has_changed = bool(recorded.source) and model.source != recorded.source
    if faults := differences(model.net.state_dict(), state):
        cause = "Give the file that the study wrote, under its own name."
        if has_changed:
            cause = f"The source of {name} has changed. {remedy}"
        raise InputError(f"{file} does not fit {name} ({'; '.join(faults)}). {cause}")
    if has_changed:
        warnings.warn(
            f"the source of {name} has changed since the study, so predictions may differ. "
            f"{remedy}",
            stacklevel=3,
        )
    model.net.load_state_dict(state, strict=False)
    return model


def _student_input(record: StudentsRecord) -> StudentInput:
    """Return what a student takes."""
    view, steps, run = record.input, record.preprocessing, record.configured_run
    if view is None:
        return StudentInput()
    dtype = getattr(torch, view.dtype)
    if view.kind == "tensors" or steps is None:
        return StudentInput(view.shape, dtype)
    fields = {key: value for key, value in steps.items() if key not in OF_VIEWS}
    resizing = eval_resizing(run, files=view.kind == "files")
    return StudentInput(view.shape, dtype, resizing, Preprocessing(**fields), run.orientation)
