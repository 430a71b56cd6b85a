"""Evaluation transforms: their defaults, and the published accuracy of a checkpoint.

References: the transforms of torchvision and timm on Pillow's images, applied by hand.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import factories
import pytest
import torch
import torchvision
from photos import photo, save
from PIL import Image
from torch import Tensor

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.data.sources import load_data
from kdtune.models.registry import build
from kdtune.models.weights import save_weights
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources
from kdtune.training.recipe import (
    StudyModels,
    describe_weights,
    find_faults,
    resolve,
    transforms_of,
)
from kdtune.training.teachers import initial_teacher

COUNT, WRONG = 8, 2
"""Images of val, and how many of them lie in the folder of the other class."""
NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine textures of several sizes in two classes."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(1)
    for index in range(COUNT):
        height, width = 180 + 7 * (index % 5), 200 + 11 * (index % 4)
        coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
        label = index % 2 if index >= WRONG else 1 - index % 2
        save((image * 255).byte(), root / "val" / "ab"[label] / f"{index:02d}.png")
    for seed, label in enumerate("ab", 1):
        save(photo(seed), root / "train" / label / "one.png")
    return root


def published_transform(name: str) -> Callable[[Image.Image], Tensor]:
    if name.startswith("timm/"):
        import timm
        from timm import data

        config = timm.get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
        return data.create_transform(**data.resolve_data_config(config))
    return torchvision.models.get_model_weights(name).DEFAULT.transforms()


def write_checkpoint(name: str, folder: Path, file: Path) -> Tensor:
    """Write a model that gives image number i of the folder class i % 2, under its own transform.

    Its head interpolates the features of the images, so that it fails on other features. Returns
    the logits by number, as its library computes them.
    """
    transform = published_transform(name)
    images = sorted((folder / "val").glob("*/*"), key=lambda path: path.name)
    inputs = torch.stack([transform(Image.open(path)) for path in images])
    model = build(name, "none", 2, seed=0)
    model.set_mode(False)
    seen: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model.net(inputs)
        hook.remove()
        target = 2.0 * torch.nn.functional.one_hot(torch.arange(COUNT) % 2, 2) - 1
        mean = seen[0].mean(0)
        centred = seen[0] - mean
        gram = centred @ centred.T
        ridge = 1e-6 * gram.trace() / COUNT * torch.eye(COUNT)
        weight = target.T @ torch.linalg.solve(gram + ridge, centred)
        model.head.weight.copy_(weight)
        model.head.bias.copy_(-weight @ mean)
        save_weights(model.net, file)
        return model.net(inputs)


def measure(run: Run) -> tuple[float, Tensor]:
    """Return the teacher's accuracy on val and its logits, by number of the image."""
    run = resolve(run)
    data, teacher = load_data(run), initial_teacher(run, load_data(run))
    teacher.set_mode(False)
    batches = list(Stream(run, data, teacher, None, Resources()).evaluate("val", 0))
    with torch.no_grad():
        logits = torch.cat([teacher(batch.views) for batch in batches])
    files = data.splits["val"].inputs
    assert isinstance(files, tuple)
    order = torch.tensor([int(Path(file).stem) for file in files]).argsort()
    labels = torch.cat([batch.labels for batch in batches])
    return float((logits.argmax(1) == labels).float().mean()), logits[order]


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", pytest.param("timm/test_efficientnet", marks=NEEDS_TIMM)]
)
def test_a_teacher_reaches_its_published_accuracy(name: str, photos: Path, tmp_path: Path) -> None:
    reference = write_checkpoint(name, photos, tmp_path / "published.safetensors")
    weights = str(tmp_path / "published.safetensors")
    run = Run(data=str(photos), teacher=name, teacher_weights=weights, teacher_epochs=0)
    accuracy, logits = measure(run)
    assert accuracy == 1 - WRONG / COUNT
    assert (logits - reference).abs().max() < 0.02  # of 2 between the classes; bytes are rounded
    assert torch.equal(measure(replace(run, augment="none"))[1], logits)
    # and neither of the numbers follows from another transform
    for other in ({"eval_crop": 1.0}, {"teacher_mean": (0.0,), "teacher_std": (1.0,)}):
        assert measure(replace(run, **other))[0] != accuracy
    words = {"bilinear": "bicubic", "bicubic": "bilinear"}
    other_word = words[str(resolve(run).eval_interpolation)]
    assert (measure(replace(run, eval_interpolation=other_word))[1] - logits).abs().max() > 0.05


@pytest.mark.parametrize(
    ("teacher", "weights", "crop", "interpolation"),
    [
        ("mobilenet_v2", "none", 224 / 232, "bilinear"),
        ("mobilenet_v2", "no/mobilenet_v2-b0353104.pth", 224 / 256, "bilinear"),  # the first ones
        pytest.param("timm/test_efficientnet", "none", 160 / 168, "bicubic", marks=NEEDS_TIMM),
        ("cifar_resnet20", "none", 1, "bilinear"),
        ("factories:tiny_teacher", "none", 0.875, "bilinear"),
        ("efficientnet_b0+mobilenet_v2", "none", 224 / 256, "bicubic"),
    ],
)
def test_the_default_is_what_the_teacher_publishes(
    teacher: str, weights: str, crop: float, interpolation: str, photos: Path
) -> None:
    run = resolve(Run(data=str(photos), teacher=teacher, teacher_weights=weights))
    assert (run.eval_crop, run.eval_interpolation) == (crop, interpolation)


def test_each_default_gives_way_alone(photos: Path) -> None:
    run = Run(data=str(photos), teacher="factories:photo_student", teacher_weights="none")
    for change, want in (
        ({"eval_crop": 0.7, "eval_interpolation": "nearest"}, (0.7, "nearest")),
        ({"eval_interpolation": "nearest"}, (0.875, "nearest")),
        ({"data": "fashion"}, (1, "bicubic")),  # images of one size, no larger than the input
    ):
        resolved = resolve(replace(run, **change))
        assert (resolved.eval_crop, resolved.eval_interpolation) == want


@pytest.mark.parametrize(
    ("side", "augment", "crop"), [(64, "crop", 1), (65, "resized-crop", 224 / 232)]
)
def test_image_files_that_are_all_small_are_like_images_of_one_size(
    side: int, augment: str, crop: float, tmp_path: Path
) -> None:
    for seed, place in enumerate(("train/a", "train/b", "val/a", "val/b"), 1):
        save(photo(seed, 20, side if seed == 4 else 32), tmp_path / place / "one.png")
    run = resolve(Run(data=str(tmp_path), teacher="mobilenet_v2", teacher_weights="none"))
    assert (run.augment, run.teacher_augment, run.eval_crop) == (augment, augment, crop)


def test_the_record_has_every_model_and_a_warning_for_each_without_preprocessing(
    photos: Path,
) -> None:
    run = Run(data=str(photos), teacher="mobilenet_v3_small", teacher_weights="none")
    study = Study(run=resolve(run), space={"student": ("factories:bare_student", "cifar_resnet20")})
    data = load_data(study.run)
    record = transforms_of(study, data, StudyModels.of(study, data), ())
    views = {"image_size": 224, "orientation": "exif", "eval_crop": 224 / 256}
    views["eval_interpolation"] = "bilinear"
    assert record["views"] == views
    students = ["student factories:bare_student", "student cifar_resnet20"]
    assert list(record["models"]) == ["teacher mobilenet_v3_small", *students]
    assert record["models"]["student cifar_resnet20"] == {
        **{"size": 32, "channels": 3, "interpolation": "bilinear", "crop": 1.0},
        **{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    }
    assert record["input"] == {"kind": "files", "shape": (3, 224, 224), "dtype": "uint8"}
    own, library = (record["sources"][name] for name in students)
    assert own["file"] == factories.__file__ and len(own["source"]) == 64
    assert (library["file"], library["source"]) == (None, "")
    (warning,) = record["warnings"]
    assert warning.startswith("the model factories:bare_student has no preprocessing")
    known = replace(study, run=replace(study.run, student_std=(0.5,)))
    data = load_data(known.run)
    assert transforms_of(known, data, StudyModels.of(known, data), ())["warnings"] == []


@pytest.mark.parametrize(
    ("values", "space", "words"),
    [
        ({}, {"temperature": (1.0, 20.0)}, ""),
        ({"temperature": 1000.0}, {}, "--temperature 1000 is far above the usual 1 to 20"),
        ({}, {"temperature": Range(1, 1000)}, "has a probability that is larger by only 1%"),
        ({"temperature": 1000.0, "loss": "mse"}, {}, ""),
        ({}, {"teacher_temperature": (1.0, 60.0)}, "--teacher-temperature 60 is far above"),
        (
            {"student_mean": (0.1,)},
            {},
            "normalised with mean 0.1, std 0.229 0.224 0.225 (--student-",
        ),
        ({"student_mean": (0.485, 0.456, 0.406)}, {}, ""),
        ({"student_mean": (0.1,), "student_weights": "none"}, {}, ""),
    ],
)
def test_settings_that_spoil_results_are_named(
    photos: Path, values: dict, space: dict, words: str
) -> None:
    run = Run(data=str(photos), teacher="mobilenet_v2", teacher_weights="none", teacher_epochs=1)
    search = "random" if Range in map(type, space.values()) else "grid"
    run = resolve(replace(run, student="mobilenet_v2", **values))
    study = Study(run=run, space=space, search=search)
    data = load_data(study.run)
    sentences = [*find_faults(study, data), *describe_weights(StudyModels.of(study, data), data)]
    assert len(sentences) == bool(words) and all(words in text for text in sentences)
