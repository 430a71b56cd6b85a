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

INPUT: list[dict[str, Any]] = [
    *({"data": "other"}, {"size": 32}, {"augment": "resized-crop"}, {"seed": 4}, {"repeat": 3}),
    *({"train_images": 99}, {"train_images": None}),
]
COMPUTATION: list[dict[str, Any]] = [
    *({"precision": "bf16"}, {"inference_batch": 64}, {"mixup": 0.2}, {"cutmix": 0.2}),
]
PASS: list[dict[str, Any]] = [{"batch_size": 33}, {"batch_norm": "eval"}]


def name(kind: str, split: str = "train", epoch: int = 1, run: Run = RUN, **changes: object) -> str:
    """The name of a key after changes of the run and of the other fields of `Keys`."""
    own = {field: changes.pop(field) for field in vars(KEYS).keys() & changes.keys()}
    keys = replace(KEYS, run=replace(run, **changes), **own)  # type: ignore[arg-type]
    return MAKERS[kind](keys, split, epoch).name


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(("views", change) for change in INPUT),
        *(("logits", change) for change in INPUT + COMPUTATION),
        *(("features", change) for change in INPUT + COMPUTATION + PASS),
    ],
)
def test_each_part_of_the_run_changes_the_key(kind: str, change: dict[str, Any]) -> None:
    assert name(kind, **change) != name(kind)


@pytest.mark.parametrize("kind", ["views", "logits"])
def test_each_part_that_images_without_labels_depend_on_changes_their_key(kind: str) -> None:
    changes = [{}, *INPUT[1:5], {"extra": "fewer"}]
    every = [name(kind, "extra", **{"extra": "images"} | change) for change in changes]
    assert len(set(every)) == 6
    for change in (INPUT[0], *INPUT[5:]):  # which images have labels does not matter
        assert name(kind, "extra", extra="images", **change) == every[0]
    assert name(kind, extra="images") == name(kind)  # nor do they matter to other splits


@pytest.mark.parametrize("kind", ["views", "logits", "features"])
def test_split_and_epoch_change_the_key(kind: str) -> None:
    places = (("train", 1), ("train", 2), ("val", 1), ("test", 1))
    assert len({name(kind, *place) for place in places}) == 4


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
    changes: list[dict[str, Any]] = [
        {},
        {"augment": "none"},
        {"augment": "trivial"},
        {"mixup": 0.2},
    ]
    assert len({name("features", "val", **change) for change in changes}) == 4


BOTH = replace(RUN, mixup=0.5, cutmix=1.0)


@pytest.mark.parametrize("augment", ["crop", "none"])
@pytest.mark.parametrize("kind", ["logits", "features"])
def test_mixed_images_are_of_one_mixing_batch_size_epoch_and_repeat(
    kind: str, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(BOTH, augment=augment, batch_norm="eval")
    own = name(kind, run=run)
    assert MAKERS[kind](replace(KEYS, run=run)).of_one_repeat
    changes = [{"mixup": 0.4}, {"mixup": 0.0}, {"cutmix": 0.9}, {"cutmix": 0.0}, {"repeat": 9}]
    changes += [{"batch_size": 9}, {"seed": 9}, {"train_images": 50}]
    others = [name(kind, run=run, **change) for change in changes]
    others.append(name(kind, epoch=2, run=run))
    assert name(kind, run=run, mixup=1) == name(kind, run=run, mixup=1.0)
    monkeypatch.setattr("numpy.__version__", "9.9")  # numpy draws the mixture
    others.append(name(kind, run=run))
    assert len({own, *others}) == len(others) + 1


def test_mixing_enters_neither_views_nor_what_is_never_mixed() -> None:
    unmixed = {"mixup": 0.0, "cutmix": 0.0}
    assert name("views", run=BOTH) == name("views", run=BOTH, **unmixed)
    frozen = replace(BOTH, batch_norm="eval")
    for kind in ("views", "logits", "features"):
        assert name(kind, "val", run=frozen) == name(kind, "val", run=frozen, **unmixed), kind
    # running statistics follow the training batches
    assert name("features", "val", run=BOTH) != name("features", "val")


OTHER = {
    **{"teacher": "resnet18", "teacher_weights": "none", "teacher_epochs": 3, "teacher_lr": 0.5},
    **{"student": "resnet34", "student_weights": "none", "data": "photos"},
}
"""Fields of a run that enter by what they lead to: fingerprints, and the data set's own size."""

SEARCHED = {
    **{"loss": "mse", "alpha": 0.9, "temperature": 7.0, "label_smoothing": 0.1, "ema": 0.9},
    **{"optimizer": "adamw", "lr": 0.5, "momentum": 0.1, "weight_decay": 0.1, "clip_norm": 1.0},
    **{"schedule": "constant", "lr_step_size": 3, "lr_gamma": 0.5, "epochs": 3, "warmup_epochs": 1},
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
    own = replace(RUN, augment="crop")
    runs = [replace(own, **SEARCHED), *(replace(own, **{n: value}) for n, value in OTHER.items())]
    assert {name(kind, run=run) for run in runs} == {name(kind, run=own)}
    if kind in ("views", "logits"):
        assert name(kind, batch_size=7, batch_norm="eval", trainable="all") == name(kind)


@pytest.mark.parametrize("split", ["val", "test"])
def test_views_and_logits_of_val_are_shared_by_all_repeats(split: str) -> None:
    for kind in ("views", "logits"):
        for change in ({"repeat": 5}, {"seed": 9}, {"train_images": 50}):
            assert name(kind, split, 7, **change) == name(kind, split, 0)
        assert not MAKERS[kind](KEYS, split).of_one_repeat


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("kind", ["views", "logits", "features"])
def test_crop_and_interpolation_of_val_enter_and_its_augmentation_does_not(
    kind: str, split: str
) -> None:
    run = replace(RUN, eval_crop=1.0, eval_interpolation="bilinear", batch_norm="eval")
    for change in ({"eval_crop": 0.9}, {"eval_interpolation": "bicubic"}):
        assert name(kind, split, run=run, **change) != name(kind, split, run=run)
    assert name(kind, split, run=run, augment="resized-crop") == name(kind, split, run=run)


@pytest.mark.parametrize(("augment", "enters"), [("crop", True), ("resized-crop", False)])
def test_of_augmented_images_the_interpolation_enters_where_it_has_an_effect(
    augment: str, enters: bool
) -> None:
    own = name("views", augment=augment, eval_interpolation="bilinear", eval_crop=1.0)
    other = name("views", augment=augment, eval_interpolation="bicubic", eval_crop=0.9)
    assert (own != other) == enters


def test_without_augmentation_train_is_shared_by_all_epochs_and_repeats() -> None:
    run = replace(RUN, augment="none")
    for kind in ("views", "logits"):
        assert name(kind, epoch=0, run=run) == name(kind, epoch=5, run=run, repeat=1)
    # the seed draws the subset
    for change in ({"eval_crop": 0.9}, {"eval_interpolation": "bicubic"}, {"seed": 9}):
        assert name("views", run=run, **change) != name("views", run=run)
    whole = {name("views", run=run, seed=seed, train_images=None) for seed in (3, 9)}
    assert len(whole) == 1


def test_features_that_depend_on_the_batch_are_of_one_epoch_and_repeat() -> None:
    for mode, own_val in (("train", True), ("eval", False)):
        run = replace(RUN, augment="none", batch_norm=mode)
        for other in ({"repeat": 9}, {"batch_size": 9}, {"epoch": 2}):
            assert name("features", run=run) != name("features", run=run, **other)
            of_val = name("features", "val", run=run), name("features", "val", run=run, **other)
            assert (of_val[0] != of_val[1]) == own_val
    assert name("per image", run=run, epoch=0) == name("per image", run=run, epoch=3, batch_size=9)
