"""A trained student as a torch module, and its predictions of image files."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from kdtune.config.records import StudentsRecord
from kdtune.config.run import Orientation
from kdtune.config.text import InputError
from kdtune.data.dataset import decode
from kdtune.data.folder import IMG_EXTENSIONS
from kdtune.data.views import Resizing
from kdtune.models.classifier import Preprocessing

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
