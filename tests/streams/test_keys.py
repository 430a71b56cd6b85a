"""Keys of the cache: each part changes the key, and nothing that is searched enters.

A key that lacks a part gives old numbers without a word, so every part is changed here in turn.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdtune.config.fields import searchable
from kdtune.config.run import HYPERPARAMETERS, Run
from kdtune.streams.cache import Key, Keys

CPU = torch.device("cpu")
RUN = Run(train_images=100, trainable="head", batch_norm="train", seed=3, repeat=2)
KEYS = Keys(RUN, "data", 28, CPU, 32)

MAKERS: dict[str, Callable[..., Key]] = {
    "views": lambda k, split="train", epoch=1: k.views(split, epoch, 0, 10),
    "logits": lambda k, split="train", epoch=1: k.logits(split, epoch, "teacher"),
    "features": lambda k, split="train", epoch=1: k.features(split, epoch, "student"),
    "per image": lambda k, split="train", epoch=1: k.features(split, epoch, "student", True),
}

INPUT: list[dict[str, Any]] = [
    *({"data": "other"}, {"size": 32}, {"augment": "resized-crop"}, {"seed": 4}, {"repeat": 3}),
    *({"train_images": 99}, {"train_images": None}, {"sampler": "balanced"}),
]
COMPUTATION: list[dict[str, Any]] = [
    *(
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"inference_batch": 64},
        {"mixup": 0.2},
        {"cutmix": 0.2},
    ),
]


def name(kind: str, split: str = "train", epoch: int = 1, run: Run = RUN, **changes: Any) -> str:
    """The name of a key after changes of the run and of the other fields of `Keys`."""
    own = {field: changes.pop(field) for field in vars(KEYS).keys() & changes.keys()}
    keys = replace(KEYS, run=replace(run, **changes), **own)
    return MAKERS[kind](keys, split, epoch).name


BOTH, FROZEN = {"mixup": 0.5, "cutmix": 1.0}, {"batch_norm": "eval"}
CROP, OTHER_CROP = {"eval_crop": 1.0}, {"eval_crop": 0.9}
LINEAR, CUBIC = {"eval_interpolation": "bilinear"}, {"eval_interpolation": "bicubic"}
EVALUATED = CROP | LINEAR
SPLITS = ["train", "val", "test"]
IMAGES, ALL = ["views", "logits"], ["views", "logits", "features"]
UNMIXED = {"mixup": 0.0, "cutmix": 0.0}
OTHER_ORDERS = [{"epoch": 5}, {"sampler": "balanced"}]
ONE_DRAW = {"train_draw": "study"}
SUBSETS = [{"seed": 9}, {"train_images": 50}]
BATCHES = [{"repeat": 9}, {"batch_size": 9}, {"epoch": 2}]
SEARCHED: dict[str, Any] = {
    **{"loss": "mse", "alpha": 0.9, "temperature": 7.0, "label_smoothing": 0.1, "ema": 0.9},
    **{"class_weights": "balanced"},
    **{"optimizer": "adamw", "lr": 0.5, "momentum": 0.1, "weight_decay": 0.1, "clip_norm": 1.0},
    **{"schedule": "constant", "lr_step_size": 3, "lr_gamma": 0.5, "epochs": 3, "warmup_epochs": 1},
}
OTHER: dict[str, Any] = {
    **{"teacher": "resnet18", "teacher_weights": "none", "teacher_epochs": 3, "teacher_lr": 0.5},
    **{"student": "resnet34", "student_weights": "none", "data": "photos"},
}
"""Fields of a run that enter by what they lead to: fingerprints, and the data set's own size."""


@pytest.mark.parametrize(
    ("kinds", "splits", "base", "enter", "do_not"),
    [
        (ALL, ["train"], {}, [*INPUT, {"epoch": 2}], []),
        (["logits", "features"], ["train"], {}, COMPUTATION, []),
        # of a frozen backbone the batch size and the mode of batch norm do change the numbers
        (["features"], ["train"], {}, [{"batch_size": 33}, FROZEN], []),
        (IMAGES, ["train"], {}, [], [{"batch_size": 7, "batch_norm": "eval", "trainable": "all"}]),
        (MAKERS, ["train"], {"augment": "crop"}, [], [SEARCHED]),
        # views and logits of val are shared by all repeats, and follow its own transform
        (IMAGES, ["val", "test"], {}, [], [*SUBSETS, {"repeat": 5}, {"epoch": 7}]),
        (ALL, ["val", "test"], EVALUATED | FROZEN, [OTHER_CROP, CUBIC], [{"augment": "trivial"}]),
        # of augmented images the interpolation enters where it has an effect
        (["views"], ["train"], EVALUATED | {"augment": "crop"}, [CUBIC], [OTHER_CROP]),
        (["views"], ["train"], EVALUATED | {"augment": "resized-crop"}, [], [CUBIC, OTHER_CROP]),
        # images that are turned, which only new studies of files have
        (
            *(["views"], [*SPLITS, "extra"], {"orientation": "stored"}),
            [{"orientation": "exif", "files": True}],
            [{"orientation": "exif"}, {"files": True}],
        ),
        # without augmentation train is shared by all epochs, and by the repeats of one draw
        (IMAGES, ["train"], {"augment": "none"}, [{"seed": 9}, {"repeat": 1}], OTHER_ORDERS),
        (IMAGES, ["train"], {"augment": "none"} | ONE_DRAW, [{"seed": 9}], [{"repeat": 1}]),
        (MAKERS, ["train"], {}, [ONE_DRAW], []),
        (["views"], ["train"], {"augment": "none"} | EVALUATED, [CUBIC, OTHER_CROP], []),
        (["views"], ["train"], {"augment": "none", "train_images": None}, [], [{"seed": 9}]),
        # features that depend on the batch, and running statistics: of one epoch and repeat
        (["features"], SPLITS, {"augment": "none"}, BATCHES, []),
        (["features"], ["train"], {"augment": "none"} | FROZEN, BATCHES, []),
        (["features"], ["val", "test"], {"augment": "none"} | FROZEN, [], BATCHES),
        (["per image"], ["train"], {"augment": "none"} | FROZEN | ONE_DRAW, [], BATCHES),
        # of val they follow the training images
        (["features"], ["val"], {}, [{"augment": "none"}, {"augment": "trivial"}], []),
        # mixtures: of one mixing, batch size, epoch and repeat
        (
            *(["logits", "features"], ["train"], BOTH | FROZEN),
            [{"mixup": 0.4}, {"mixup": 0.0}, {"cutmix": 0.9}, {"cutmix": 0.0}, *SUBSETS, *BATCHES],
            [{"cutmix": 1}],
        ),
        (["logits"], ["train"], BOTH | {"augment": "none"}, [*SUBSETS, *BATCHES], []),
        (["logits", "features"], ["train"], BOTH | FROZEN, [], [SEARCHED]),  # a pass for all
        (["views"], SPLITS, BOTH, [], [UNMIXED]),
        (ALL, ["val", "test"], BOTH | FROZEN, [], [UNMIXED]),
        (["features"], ["val", "test"], BOTH, [UNMIXED], []),
    ],
)
def test_what_enters_a_key(
    kinds: list[str],
    splits: list[str],
    base: dict[str, Any],
    enter: list[dict[str, Any]],
    do_not: list[dict[str, Any]],
) -> None:
    run = replace(RUN, **base)
    for kind in kinds:
        for split in splits:
            of_run = name(kind, split, run=run)
            changed = [name(kind, split, **{"run": run} | change) for change in enter]
            assert len({of_run, *changed}) == len(changed) + 1, (kind, split)
            for change in do_not:
                assert name(kind, split, **{"run": run} | change) == of_run, (kind, split, change)


def test_all_that_is_searched_is_looked_at() -> None:
    assert set(HYPERPARAMETERS) - set(SEARCHED) <= {
        "batch_size",
        "batch_norm",
        *("trainable", "student", "teacher", "teacher_epochs"),  # fingerprints of models do
        *("augment", "mixup", "cutmix", "extra_share", "train_images", "sampler"),  # other views
        *(name for name, setting in searchable(Run).items() if setting.of_objective),
    }
    run = replace(RUN, augment="crop")
    for kind in MAKERS:
        for field, value in OTHER.items():
            assert name(kind, run=replace(run, **{field: value})) == name(kind, run=run)


@pytest.mark.parametrize("kind", IMAGES)
def test_each_part_that_images_without_labels_depend_on_changes_their_key(kind: str) -> None:
    changes = [{}, *INPUT[1:5], {"extra": "fewer"}]
    every = [name(kind, "extra", **{"extra": "images"} | change) for change in changes]
    assert len(set(every)) == 6
    for change in (INPUT[0], *INPUT[5:]):  # which images have labels does not matter
        assert name(kind, "extra", extra="images", **change) == every[0]
    assert name(kind, extra="images") == name(kind)  # nor do they matter to other splits


def test_models_splits_shards_and_kinds_change_the_key() -> None:
    frozen = replace(KEYS, run=replace(RUN, **FROZEN))
    every = [
        *(make(KEYS, split) for make in list(MAKERS.values())[:3] for split in SPLITS),
        KEYS.logits("val", 1, "b"),
        KEYS.features("val", 1, "b"),
        *(KEYS.views("val", 0, first, count) for first, count in ((10, 10), (0, 11))),
        KEYS.per_image("a"),
        KEYS.per_image("b"),
        frozen.features("train", 0, "a"),
        frozen.features("train", 0, "a", per_image=True),
    ]
    assert len({key.name for key in every}) == len(every)
    assert [key.of_one_repeat for key in every[:9]] == [True, False, False] * 2 + [True] * 3
    mixed = replace(KEYS, run=replace(RUN, **BOTH, augment="none"))
    assert mixed.logits("train", 1, "a").of_one_repeat


@pytest.mark.parametrize(
    ("version", "changed"),
    [
        ("torch.__version__", ALL),
        ("PIL.__version__", ALL),
        ("kdtune.streams.cache.version_of", ALL),  # torchvision; timm in logits and features
        ("torch.get_num_threads", ["logits", "features"]),
        ("torch.backends.cpu.get_cpu_capability", ALL),
        ("kdtune.streams.cache._FORMAT", ALL),
        ("numpy.__version__", []),
    ],
)
def test_versions_and_machine_change_the_key(
    version: str, changed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = replace(KEYS, run=replace(RUN, **BOTH, **FROZEN))
    before = {kind: MAKERS[kind](KEYS).name for kind in ALL}
    of_mixed = MAKERS["logits"](mixed).name
    text = version.endswith("__version__")
    monkeypatch.setattr(version, "99" if text else 99 if "FORMAT" in version else lambda *_: 99)
    fresh = Keys(RUN, "data", 28, CPU, 32)  # the key's parts are computed once
    assert [kind for kind in ALL if MAKERS[kind](fresh).name != before[kind]] == changed
    if version.startswith("numpy"):  # which draws the mixtures
        assert MAKERS["logits"](replace(fresh, run=mixed.run)).name != of_mixed


def test_the_version_of_transformers_is_in_the_keys_of_its_models_alone() -> None:
    for model, kinds in (("teacher", ["logits"]), ("student", ["features"])):
        keys = replace(KEYS, run=replace(RUN, **{model: "resnet50+hf:a"}))
        assert [kind for kind in ALL if "transformers" in MAKERS[kind](keys).parts] == kinds


def test_a_gpu_is_in_the_key_by_its_name_and_its_threads_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def key(device: str) -> Key:
        return replace(KEYS, device=torch.device(device)).logits("val", 0, "teacher")

    for device, ask in (
        ("cuda", "torch.cuda.get_device_name"),
        ("mps", "torch.backends.mps.get_name"),
    ):
        monkeypatch.setattr(ask, lambda: "fast")
        made = key(device)
        assert (made.parts["device"], made.parts["threads"]) == ("fast", None)
        monkeypatch.setattr(ask, lambda: "faster")
        assert len({made.name, key(device).name, key("cpu").name}) == 3
