"""The recipe of a study: what is shown and where it comes from, and what depends on it.

Evaluation transforms against those of torchvision and timm on Pillow's images, applied by hand.
Finished teachers that may have trained on val: one is warned of if and only if its data differ from
the study's and one of the two has a val that is cut from train.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import factories
import pytest
import torch
import torchvision
from factories import tiny_student
from photos import photo, save
from PIL import Image
from tiny_run import TINY
from torch import Tensor

from kdtune.config.cli import parse
from kdtune.config.records import RecipeRow
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.models.registry import build
from kdtune.models.weights import WEIGHTS, FinishedTeacher, read_finished, save_weights
from kdtune.raytune.distillation import prepare
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources
from kdtune.training.recipe import (
    StudyModels,
    describe_config,
    describe_weights,
    find_faults,
    find_other_cuts,
    recipe_rows,
    resolve,
    resolve_study,
    transforms_of,
)
from kdtune.training.teachers import fine_tune, initial_teacher, recorded_recipe


def rows(asked: Study, saved: Study | None = None) -> dict[str, RecipeRow]:
    return {row.setting: row for row in table_of(asked, asked, saved)}


def table_of(asked: Study, merged: Study, saved: Study | None) -> list[RecipeRow]:
    data = StudyData(asked.run)
    study, own = resolve_study(merged, data), data.of(asked.run)
    return recipe_rows(asked, study, saved, own, StudyModels.of(study, own))


def test_sources_on_the_command_line_in_python_and_of_a_saved_study() -> None:
    words = ["--alpha", "0", "0.5", "--batch-size", "64", "--teacher-optimizer", "sgd"]
    found = rows(parse("search", words))
    assert found["alpha"] == RecipeRow("alpha", "0, 0.5", "flag")
    assert found["batch_size"].source == "flag"  # also where it is the default
    assert found["lr"] == RecipeRow("lr", "0.02", "default for --data fashion")
    assert found["loss"] == RecipeRow("loss", "kl", "default")
    momentum = RecipeRow("teacher_momentum", "0.9", "default for random weights")
    assert found["teacher_momentum"] == momentum
    assert found["eval_crop"] == RecipeRow("eval_crop", "1", "default for --data fashion")
    given = found["input of kdtune.models:fashion_teacher"]
    assert given.source == "model's own" and "mean 0.286, std 0.353" in given.value
    study = Study(run=replace(TINY, lr=0.3), repeats=2)
    found = rows(study)
    assert found["lr"].source == found["repeats"].source == "experiment"
    merged = replace(study, repeats=5, run=replace(study.run, teacher_trainable="head"))
    saved = resolve_study(merged, StudyData(study.run))
    sources = {row.setting: row.source for row in table_of(study, merged, saved)}
    assert sources["repeats"] == sources["teacher_trainable"] == "saved study"


def test_what_has_no_effect_or_is_neutral_is_not_shown() -> None:
    words = ["--student", "factories:bare_student", "--ema", "0", "--clip-norm", "0", "1"]
    found = rows(parse("search", words))
    name = "input of factories:bare_student"
    assert found[name] == RecipeRow(name, "mean 0, std 1", "not known")
    hidden = {"dkd_beta", "momentum", "lr_gamma", "samples", "race_level", "teacher_momentum"}
    assert hidden.isdisjoint(found)
    # the value that leaves a run as it is, unless it was given
    assert {"warmup_epochs", "label_smoothing", "mixup"}.isdisjoint(found)
    assert (found["ema"].value, found["clip_norm"].value) == ("0", "0, 1")
    as_they_are = rows(Study(run=replace(TINY, teacher_epochs=0)))
    assert "teacher_lr" not in as_they_are and as_they_are["teacher_epochs"].value == "0"
    small = rows(Study(run=replace(TINY, image_size=20, student_size=24, teacher_size=16)))
    sizes = [small[f"input of {name}"].value[:8] for name in (TINY.student, TINY.teacher)]
    assert sizes == ["size 20 ", "size 16 "]
    run = resolve_study(Study(run=replace(TINY, lr=0.25, ema=0.9, alpha=0.5)), StudyData(TINY)).run
    pairs = dict(pair.split(" ") for pair in describe_config(run).split(", "))
    assert {"student", "clip_norm", "dkd_beta", "lr_gamma"}.isdisjoint(pairs)
    assert {"lr": "0.25", "ema": "0.9", "alpha": "0.5", "loss": "kl"}.items() <= pairs.items()
    assert "loss" not in describe_config(replace(run, alpha=1.0))


def test_weights_for_other_classes_are_said_but_not_those_of_imagenet(tmp_path: Path) -> None:
    file, data = tmp_path / "weights.safetensors", StudyData(TINY)
    study = resolve_study(Study(run=replace(TINY, student_weights=str(file))), data)
    for classes, count in ((7, 1), (10, 0), (1000, 0)):
        save_weights(tiny_student(classes), file)
        prepared = prepare(study, study, None, data)
        said = [text for text in prepared.warnings if "for 7 classes, but the data has 10" in text]
        assert len(said) == count and set(said) <= set(prepared.provenance["warnings"])


SPACE = {"augment": ("crop", "trivial", "none"), "alpha": (0.5, 1.0)}


def test_all_augmentations_have_the_same_teacher_and_the_first_is_in_no_id() -> None:
    study = resolve_study(Study(run=TINY, space=SPACE), StudyData(TINY))
    pairs = {(run.augment, run.alpha) for run in study.runs()}
    assert pairs == set(product(SPACE["augment"], SPACE["alpha"]))
    alone = resolve_study(Study(run=TINY), StudyData(TINY)).run
    recipes = [recorded_recipe(run, load_data(run)) for run in (*study.runs(), alone)]
    assert all(recipe == recipes[0] for recipe in recipes)
    for space in (("none", "crop"), ("trivial", "none")):
        study = resolve_study(Study(run=TINY, space={"augment": space}), StudyData(TINY))
        assert study.run.teacher_augment == "crop"  # as for these data without a search
    run = replace(TINY, teacher_augment="none")
    assert resolve_study(Study(run=run, space=SPACE), StudyData(run)).run.teacher_augment == "none"
    # As before augmentations could be searched: a study that is extended keeps its runs.
    before = resolve_study(Study(run=TINY, space={"alpha": (0.5, 1.0)}), StudyData(TINY))
    after = resolve_study(Study(run=before.run, space=SPACE), StudyData(TINY))
    old, new = ({run.config_id: run for run in study.runs()} for study in (before, after))
    assert old.keys() <= new.keys() and len(new) == 6
    assert {new[config].augment for config in old} == {"crop"}


def test_augmentations_that_cannot_be_searched_are_refused() -> None:
    with pytest.raises(InputError, match="augment must be one of none, crop, resized-crop, tri"):
        Study(run=TINY, space={"augment": ("crop", "strong")})
    with pytest.raises(InputError, match="among values, but got None"):
        Study(run=TINY, space={"augment": (None, "none")})
    text = replace(TINY, data="own_data:text", teacher="factories:tiny_text", student="factories:x")
    with pytest.raises(InputError, match=r"--augment is for images, but .* got --augment trivial"):
        resolve_study(Study(run=text, space={"augment": ("none", "trivial")}), StudyData(text))


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


def test_the_record_has_every_model_and_warns_of_each_without_preprocessing(photos: Path) -> None:
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
def test_settings_that_spoil_results(photos: Path, values: dict, space: dict, words: str) -> None:
    run = Run(data=str(photos), teacher="mobilenet_v2", teacher_weights="none", teacher_epochs=1)
    search = "random" if Range in map(type, space.values()) else "grid"
    run = resolve(replace(run, student="mobilenet_v2", **values))
    study = Study(run=run, space=space, search=search)
    data = load_data(study.run)
    sentences = [*find_faults(study, data), *describe_weights(StudyModels.of(study, data), data)]
    assert len(sentences) == bool(words) and all(words in text for text in sentences)


def write_images(root: Path, *splits: str) -> str:
    for number, split in enumerate(splits):
        for i in range(16):
            save(photo(i + 100 * number, 12, 12), root / split / "ab"[i % 2] / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def cut_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a teacher that was fine-tuned on these data, whose val is cut from train."""
    folder = tmp_path_factory.mktemp("cut")
    own = replace(TINY, data=write_images(folder / "images", "train"), train_images=None)
    own = replace(own, teacher="cifar_resnet20", student="cifar_resnet20")
    list(fine_tune(own, folder / "teacher", Resources()))
    return replace(own, teacher_weights=str(folder / "teacher" / WEIGHTS), teacher_epochs=0)


def warned(cut_run: Run) -> list[str]:
    return find_other_cuts(Study(run=resolve(cut_run)), load_data(cut_run))


def test_another_seed_or_share_or_folds_are_warned_of_everywhere(cut_run: Run) -> None:
    assert warned(cut_run) == []
    assert warned(replace(cut_run, lr=0.5, repeat=3)) == []
    words = f"the teacher cifar_resnet20 ({cut_run.teacher_weights}) was fine-tuned with"
    for other in (replace(cut_run, val_share=0.4), replace(cut_run, seed=1)):
        (sentence,) = warned(other)
        assert sentence.startswith(words) and "--seed and --val-share" in sentence
    study = Study(run=resolve(other))
    prepared = prepare(study, study, None, StudyData(other))
    assert sentence in prepared.provenance["warnings"]
    assert prepared.warnings[0] == sentence
    # Every image of the pool is in val in some repeat, and the teacher has seen most of them.
    (sentence,) = warned(replace(cut_run, folds=2))
    assert "with --folds, a teacher that is fine-tuned for each repeat" in sentence
    (again,) = warned(replace(cut_run, folds=2, teacher_epochs=3))  # its initial weights have, too
    assert again == sentence


def test_it_follows_from_the_two_cuts(cut_run: Run, tmp_path: Path) -> None:
    with_val = replace(cut_run, data=write_images(tmp_path / "other", "train", "val"))
    assert len(warned(with_val)) == 1  # the teacher's val was cut
    model, classes = initial_teacher(with_val, load_data(with_val)), load_data(cut_run).classes
    file = tmp_path / "renamed.safetensors"

    def recorded(own: Run, **record: object) -> list[str]:
        finished = FinishedTeacher(own.teacher, classes, model.preprocessing, **record)
        save_weights(model.net, file, finished.metadata)
        assert read_finished(file) == finished
        return warned(replace(own, teacher_weights=str(file)))

    assert recorded(with_val, data="others") == []
    assert len(recorded(cut_run, data="others")) == 1  # the study's val is cut
    assert recorded(cut_run, data=load_data(cut_run).fingerprint, has_cut_val=True) == []


def test_files_without_the_record_are_not_warned_of(cut_run: Run, tmp_path: Path) -> None:
    finished = read_finished(Path(str(cut_run.teacher_weights)))
    assert finished is not None and finished.has_cut_val
    model, file = initial_teacher(cut_run, load_data(cut_run)), tmp_path / WEIGHTS
    text = finished.metadata["kdtune_teacher"]
    old = text.replace(f'"data": "{finished.data}", ', "").replace('"has_cut_val": true, ', "")
    assert len(old) < len(text) - 40
    save_weights(model.net, file, {"kdtune_teacher": old})
    assert warned(replace(cut_run, seed=1, teacher_weights=str(file))) == []
