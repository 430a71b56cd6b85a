"""Keys of the cache: each part changes the key, and nothing that is searched enters.

A key that lacks a part gives old numbers without a word, so every part is changed here in turn.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from kdtune.config.fields import searchable
from kdtune.config.run import HYPERPARAMETERS, Run
from kdtune.streams import cache as keys
from kdtune.streams.cache import Key, Keys

CPU = torch.device("cpu")
RUN = Run(train_images=100, trainable="head", seed=3, repeat=2)
KEYS = Keys(RUN, "data", 28, CPU, 32)

MAKERS: dict[str, Callable[..., Key]] = {
    "views": lambda k, split="train", epoch=1: k.views(split, epoch, 0, 10),
    "logits": lambda k, split="train", epoch=1: k.logits(split, epoch, "teacher"),
    "features": lambda k, split="train", epoch=1: k.features(split, epoch, "student"),
    "per image": lambda k, split="train", epoch=1: k.features(split, epoch, "student", True),
}

INPUT = {
    "data": {"data": "other"},
    "size": {"size": 32},
    "augment": {"run": replace(RUN, augment="resized-crop")},
    "subset": {"run": replace(RUN, train_images=99)},
    "all images": {"run": replace(RUN, train_images=None)},
    "seed": {"run": replace(RUN, seed=4)},
    "repeat": {"run": replace(RUN, repeat=3)},
}
COMPUTATION = {
    "precision": {"run": replace(RUN, precision="bf16")},
    "inference batch": {"inference_batch": 64},
}
MIXED = {
    "mixup": {"run": replace(RUN, mixup=0.2)},
    "cutmix": {"run": replace(RUN, cutmix=0.2)},
}
PASS = {
    "batch size": {"run": replace(RUN, batch_size=33)},
    "mode of batch norm": {"run": replace(RUN, batch_norm="eval")},
}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(("views", change) for change in INPUT.values()),
        *(
            (kind, change)
            for kind in ("logits", "features")
            for change in (*INPUT.values(), *COMPUTATION.values(), *MIXED.values())
        ),
        *(("features", change) for change in PASS.values()),
    ],
)
def test_each_part_of_the_run_changes_the_key(kind: str, change: dict[str, Any]) -> None:
    make = MAKERS[kind]
    assert make(replace(KEYS, **change)).name != make(KEYS).name


@pytest.mark.parametrize("kind", ["views", "logits"])
def test_each_part_that_images_without_labels_depend_on_changes_their_key(kind: str) -> None:
    own, make = replace(KEYS, extra="images"), MAKERS[kind]
    changes = [INPUT[name] for name in ("size", "augment", "seed", "repeat")] + [{"extra": "fewer"}]
    every = [make(replace(own, **change), "extra") for change in ({}, *changes)]
    assert len({key.name for key in every}) == 6
    for change in (INPUT["subset"], INPUT["data"]):  # which images have labels does not matter
        assert make(replace(own, **change), "extra").name == every[0].name


@pytest.mark.parametrize("kind", ["views", "logits", "features"])
def test_split_and_epoch_change_the_key(kind: str) -> None:
    make = MAKERS[kind]
    every = [make(KEYS), make(KEYS, epoch=2), make(KEYS, "val"), make(KEYS, "test")]
    assert len({key.name for key in every}) == 4


def test_models_shards_and_kinds_change_the_key() -> None:
    frozen = replace(KEYS, run=replace(RUN, batch_norm="eval"))
    every = [
        *(KEYS.logits("val", 0, teacher) for teacher in ("a", "b")),
        *(KEYS.features("val", 0, student) for student in ("a", "b")),
        *(KEYS.views("val", 0, first, count) for first, count in ((0, 10), (10, 10), (0, 11))),
        KEYS.per_image("a"),
        KEYS.per_image("b"),
        frozen.features("train", 0, "a"),
        frozen.features("train", 0, "a", per_image=True),
    ]
    assert len({key.name for key in every}) == len(every)


@pytest.mark.parametrize(
    ("version", "changed"),
    [
        ("torch.__version__", {"views", "logits", "features"}),
        ("torchvision.__version__", {"views", "logits", "features"}),
        ("PIL.__version__", {"views", "logits", "features"}),
        ("kdtune.streams.cache.timm_version", {"logits", "features"}),
        ("torch.get_num_threads", {"logits", "features"}),
        ("torch.backends.cpu.get_cpu_capability", {"views", "logits", "features"}),
        ("kdtune.streams.cache._FORMAT", {"views", "logits", "features"}),
    ],
)
def test_versions_and_machine_change_the_key(
    version: str, changed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {kind: make(KEYS).name for kind, make in MAKERS.items() if kind != "per image"}
    text = version.endswith("__version__")
    monkeypatch.setattr(version, "99" if text else 99 if "FORMAT" in version else lambda: 99)
    fresh = Keys(RUN, "data", 28, CPU, 32)  # the key's parts are computed once
    assert {kind for kind in before if MAKERS[kind](fresh).name != before[kind]} == changed


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


def test_the_version_of_timm_is_that_of_its_package() -> None:
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        assert keys.timm_version() is None
    else:
        assert f"'{keys.timm_version()}'" in Path(spec.origin).with_name("version.py").read_text()


def test_features_of_val_follow_the_training_images_of_drifting_statistics() -> None:
    names = set()
    for change in ({}, {"augment": "none"}, {"augment": "trivial"}, {"mixup": 0.2}):
        run = replace(RUN, **change)
        names.add(replace(KEYS, run=run).features("val", 1, "student").name)
    assert len(names) == 4


BOTH = replace(RUN, mixup=0.5, cutmix=1.0)


@pytest.mark.parametrize("augment", ["crop", "none"])
@pytest.mark.parametrize("kind", ["logits", "features"])
def test_mixed_images_are_of_one_mixing_batch_size_epoch_and_repeat(
    kind: str, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, make = replace(BOTH, augment=augment, batch_norm="eval"), MAKERS[kind]
    own = make(replace(KEYS, run=run))
    assert own.of_one_repeat
    changes = [{"mixup": 0.4}, {"mixup": 0.0}, {"cutmix": 0.9}, {"cutmix": 0.0}, {"repeat": 9}]
    changes += [{"batch_size": 9}, {"seed": 9}, {"train_images": 50}]
    others = [make(replace(KEYS, run=replace(run, **change))).name for change in changes]
    others.append(make(replace(KEYS, run=run), epoch=2).name)
    monkeypatch.setattr("numpy.__version__", "9.9")  # numpy draws the mixture
    others.append(make(replace(KEYS, run=run)).name)
    assert len({own.name, *others}) == len(others) + 1
    assert make(replace(KEYS, run=replace(run, mixup=1))).name == (
        make(replace(KEYS, run=replace(run, mixup=1.0))).name
    )


def test_mixing_enters_neither_views_nor_what_is_never_mixed() -> None:
    for run, split in ((BOTH, "train"), (replace(BOTH, batch_norm="eval"), "val")):
        unmixed = replace(run, mixup=0.0, cutmix=0.0)
        kinds = ["views"] if split == "train" else ["views", "logits", "features"]
        for kind in kinds:
            keys = (replace(KEYS, run=each) for each in (run, unmixed))
            assert len({MAKERS[kind](k, split).name for k in keys}) == 1, (kind, split)
    # running statistics follow the training batches
    drifting = [replace(KEYS, run=r).features("val", 1, "s") for r in (BOTH, RUN)]
    assert drifting[0].name != drifting[1].name


OTHER = {
    "teacher": "resnet18",
    "teacher_weights": "none",
    "teacher_epochs": 3,
    "teacher_lr": 0.5,
    "student": "resnet34",
    "student_weights": "none",
    "data": "photos",
}
"""Fields of a run that enter by what they lead to: fingerprints, and the data set's own size."""

SEARCHED = {
    "loss": "mse",
    "alpha": 0.9,
    "temperature": 7.0,
    "optimizer": "adamw",
    "lr": 0.5,
    "momentum": 0.1,
    "weight_decay": 0.1,
    "schedule": "constant",
    "lr_step_size": 3,
    "lr_gamma": 0.5,
    "epochs": 3,
    "warmup_epochs": 1,
    "clip_norm": 1.0,
    "ema": 0.9,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_nothing_that_is_searched_enters(kind: str) -> None:
    # of a frozen backbone the batch size and the mode of batch norm do change the numbers
    assert set(HYPERPARAMETERS) - set(SEARCHED) <= {
        "batch_size",
        "batch_norm",
        *("trainable", "student", "teacher", "teacher_epochs"),  # fingerprints of models do
        *("augment", "mixup", "cutmix", "extra_share"),  # make other views
        *(name for name, setting in searchable(Run).items() if setting.of_objective),
    }
    run = replace(RUN, augment="crop", **SEARCHED)
    with_augment = replace(RUN, augment="crop")
    for changed in (run, *(replace(with_augment, **{k: v}) for k, v in OTHER.items())):
        key = MAKERS[kind](replace(KEYS, run=changed))
        assert key.name == MAKERS[kind](replace(KEYS, run=with_augment)).name
    if kind in ("views", "logits"):
        passes = replace(RUN, batch_size=7, batch_norm="eval", trainable="all")
        assert MAKERS[kind](replace(KEYS, run=passes)).name == MAKERS[kind](KEYS).name


@pytest.mark.parametrize("split", ["val", "test"])
def test_views_and_logits_of_val_are_shared_by_all_repeats(split: str) -> None:
    others = [replace(RUN, repeat=5), replace(RUN, seed=9), replace(RUN, train_images=50)]
    for make in (MAKERS["views"], MAKERS["logits"]):
        for run in others:
            assert make(replace(KEYS, run=run), split, 7).name == make(KEYS, split, 0).name
        assert not make(KEYS, split).of_one_repeat


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("kind", ["views", "logits", "features"])
def test_crop_and_interpolation_of_val_enter_and_its_augmentation_does_not(
    kind: str, split: str
) -> None:
    run = replace(RUN, eval_crop=1.0, eval_interpolation="bilinear", batch_norm="eval")
    name = MAKERS[kind](replace(KEYS, run=run), split).name
    for change in ({"eval_crop": 0.9}, {"eval_interpolation": "bicubic"}):
        assert MAKERS[kind](replace(KEYS, run=replace(run, **change)), split).name != name
    other = replace(KEYS, run=replace(run, augment="resized-crop"))
    assert MAKERS[kind](other, split).name == name


def test_of_augmented_images_the_interpolation_enters_where_it_has_an_effect() -> None:
    for augment, enters in (("crop", True), ("resized-crop", False)):
        run = replace(RUN, augment=augment)
        own, other = (
            MAKERS["views"](
                replace(KEYS, run=replace(run, eval_interpolation=word, eval_crop=crop))
            )
            for word, crop in (("bilinear", 1.0), ("bicubic", 0.9))
        )
        assert (own.name != other.name) == enters


def test_without_augmentation_train_is_shared_by_all_epochs_and_repeats() -> None:
    run = replace(RUN, augment="none")
    same, other = (replace(KEYS, run=replace(run, repeat=repeat)) for repeat in (0, 1))
    for kind in ("views", "logits"):
        assert MAKERS[kind](same, epoch=0).name == MAKERS[kind](other, epoch=5).name
    for change in ({"eval_crop": 0.9}, {"eval_interpolation": "bicubic"}):
        resized = replace(KEYS, run=replace(run, **change))
        assert MAKERS["views"](resized).name != MAKERS["views"](same).name
    subset = replace(KEYS, run=replace(run, seed=9))  # the seed draws the subset
    assert MAKERS["views"](subset).name != MAKERS["views"](same).name
    whole = [replace(KEYS, run=replace(run, seed=s, train_images=None)) for s in (3, 9)]
    assert MAKERS["views"](whole[0]).name == MAKERS["views"](whole[1]).name


def test_features_that_depend_on_the_batch_are_of_one_epoch_and_repeat() -> None:
    for mode, own_val in (("train", True), ("eval", False)):
        run = replace(RUN, augment="none", batch_norm=mode)
        for change in ({"repeat": 9}, {"batch_size": 9}):
            a, b = replace(KEYS, run=run), replace(KEYS, run=replace(run, **change))
            assert a.features("train", 0, "s").name != b.features("train", 0, "s").name
            assert (a.features("val", 0, "s") != b.features("val", 0, "s")) == own_val
        assert a.features("train", 0, "s").name != a.features("train", 1, "s").name
        assert (a.features("val", 0, "s") != a.features("val", 1, "s")) == own_val
    assert a.features("train", 0, "s", True).name == b.features("train", 3, "s", True).name
