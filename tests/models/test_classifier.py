"""Classifiers: preprocessing against torchvision and timm, and by hand; inputs; fingerprints."""

import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.models.checks import probe
from kdtune.models.classifier import (
    Classifier,
    Preprocessing,
    fashion_student,
    preprocessing_of,
    published_by_timm,
    published_by_torchvision,
)
from kdtune.models.registry import build, build_model

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OWN = f"{__name__}:with_dict"
BARE = f"{__name__}:without"


def with_dict(classes: int) -> nn.Module:
    net = fashion_student(classes)
    net.preprocessing = {"mean": 0.25, "std": [0.5], "size": (28, 28), "crop": 0.8}
    return net


def without(classes: int) -> nn.Module:
    net = fashion_student(classes)
    del net.preprocessing
    return net


def test_a_view_is_scaled_and_normalised_by_hand() -> None:
    view = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    seen = Preprocessing(mean=(0.0, 0.1, 0.5), std=(1.0, 0.1, 0.25))(view)
    assert torch.allclose(seen.flatten(), torch.tensor([0.0, 1.0, 2.0]))


def test_larger_views_are_shrunk_with_the_interpolation() -> None:
    view = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    view[..., 2:, :] = 255  # an edge between two pixels of the result
    assert Preprocessing(2, interpolation="nearest")(view).flatten().tolist() == [0, 0, 1, 1]
    # a triangle of two pixels: weights 3/7, 3/7 and 1/7 beyond the edge
    soft = Preprocessing(2)(view).flatten()
    assert torch.allclose(soft, torch.tensor([1 / 7, 1 / 7, 6 / 7, 6 / 7]))
    sharp = Preprocessing(2, interpolation="bicubic")(view).flatten()
    assert sharp.min() >= 0 and sharp.max() <= 1  # Pillow clips what overshoots
    assert 0 < sharp[0] < soft[0]


def test_every_torchvision_transform_is_read() -> None:
    """The crop gives back the size that the shorter side is resized to, by rounding."""
    names = torchvision.models.list_models(torchvision.models)
    assert len(names) > 70
    for name in names:
        for weights in torchvision.models.get_model_weights(name):
            seen, own = weights.transforms(), published_by_torchvision(name, weights.url)
            assert own.size == seen.crop_size[0] and own.crop is not None
            assert round(own.size / own.crop) == seen.resize_size[0]
            assert own.interpolation == seen.interpolation.value
            assert list(own.mean) == list(seen.mean) and list(own.std) == list(seen.std)


def test_preprocessing_of_timm_is_that_of_its_transform() -> None:
    data, timm = pytest.importorskip("timm.data"), pytest.importorskip("timm")
    for name in ("resnet18.a1_in1k", "tf_efficientnet_lite2", "resnet50.ram_in1k"):
        config = timm.get_pretrained_cfg(name).to_dict()
        own = published_by_timm(config)
        resize = data.create_transform(**data.resolve_data_config(config)).transforms[0]
        exact = math.floor(own.size / config["crop_pct"])
        assert round(own.size / own.crop) == resize.size == exact
        assert own.interpolation == resize.interpolation.value
    # timm pads where the crop is larger than the image
    assert published_by_timm(config | {"crop_pct": 1.15}).crop == 1
    assert published_by_timm(config | {"interpolation": "lanczos"}).interpolation == "bicubic"
    net = timm.create_model("test_efficientnet", num_classes=3)  # needs no attribute
    model = build("timm/test_efficientnet", "none", 3, seed=0)
    assert str(model.net) == str(net) and preprocessing_of(net, "mine:net") == model.preprocessing
    config = net.pretrained_cfg
    assert model.preprocessing.mean == config["mean"] and model.preprocessing.std == config["std"]
    assert model.preprocessing.size == config["input_size"][1]


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"mean": 0.5, "std": 0.5}, Preprocessing(None, None, (0.5,), (0.5,))),
        (
            torchvision.transforms._presets.ImageClassification(crop_size=64, resize_size=80),
            Preprocessing(64, 3, **IMAGENET, crop=0.8),
        ),
        (
            {**IMAGENET, "input_size": (3, 64, 64), "crop_pct": 0.8, "interpolation": "bicubic"},
            Preprocessing(64, 3, **IMAGENET, interpolation="bicubic", crop=0.8),
        ),
        (None, None),
    ],
)
def test_what_a_module_may_have(attribute: object, expected: Preprocessing | None) -> None:
    assert preprocessing_of(SimpleNamespace(preprocessing=attribute), "mine:net") == expected


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ({"means": 0.5}, "unexpected keyword argument 'means'"),
        ({"mean": (123.7, 116.3, 103.5)}, r"mean must lie in \[0, 1\], but got mean=\(123.7, "),
        ({"mean": (0.5, 0.5), "channels": 3}, "mean must be one number, or one for each of 3 chan"),
        ({"size": (224, 192)}, r"size must be a whole number.*, but got size=\(224, 192\)"),
        ({"crop": 1.2}, r"crop must lie in \(0, 1\], but got crop=1.2"),
        ((0.5, 0.5), "must be a mapping, not tuple"),
    ],
)
def test_a_wrong_attribute_gets_one_sentence(attribute: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        preprocessing_of(SimpleNamespace(preprocessing=attribute), "mine:net")
    text = str(caught.value)
    assert text.startswith("the preprocessing of mine:net is not valid (") and "\n" not in text
    assert "give a dict such as" in text


def test_flags_replace_the_models_own_numbers() -> None:
    run = Run(student="mobilenet_v3_small", teacher=OWN, teacher_weights="none")
    values = {"mean": (0.1,), "std": (0.2,), "size": 64, "interpolation": "nearest"}
    for role in ("student", "teacher"):
        changed = replace(run, **{f"{role}_{name}": value for name, value in values.items()})
        old, new = (build_model(r, role, 10, seed=0, weights="none") for r in (run, changed))
        assert new.preprocessing == replace(old.preprocessing, **values)
    wrong = replace(run, student_mean=(0.1, 0.2))
    with pytest.raises(InputError, match=r"^student_mean must be one number, or .* 3 channels"):
        build_model(wrong, "student", 10, seed=0, weights="none")


def test_numbers_must_be_given_and_fit_the_channels_of_the_data() -> None:
    grey = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)

    def check(run: Run) -> None:
        probe(build_model(run, "student", 10, seed=0, weights="none"), grey, 10, whole=True)

    with pytest.raises(InputError, match=r"with_dict fails on views of .* 1 channels, but got 3"):
        check(Run(student=OWN, student_mean=(0.1, 0.2, 0.3)))
    words = r"without has no preprocessing, .* to \[0, 1\].*--teacher-mean.*--student-std"
    with pytest.warns(UserWarning, match=words):
        check(Run(student=BARE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(Run(student=BARE, student_mean=(0.0,)))
        check(Run(student=OWN))


def test_identity_is_that_of_version_0_1_unless_the_interpolation_differs() -> None:
    own = Preprocessing(224, 3, (0.5,), (0.5,))
    assert own.identity == "Preprocessing(size=224, channels=3, mean=(0.5,), std=(0.5,))"
    assert replace(own, crop=0.9).identity == own.identity  # it changes the views, not the model
    assert replace(own, interpolation="bicubic").identity != own.identity


@pytest.mark.parametrize(
    "views", [torch.rand(2, 3, 8, 8), torch.ones(2, 4, 8, 8, dtype=torch.uint8)]
)
def test_other_tensors_are_given_as_they_are(views: Tensor) -> None:
    class Recording(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x
            return super().forward(x.float().flatten(1).mean(1, keepdim=True))

    net = Recording(1, 2)
    model = Classifier("own", net, Preprocessing(size=4, channels=3, mean=(0.5,), std=(0.5,)))
    model.place(torch.device("cpu"), "fp32")(views)
    assert net.seen.dtype == views.dtype and torch.equal(net.seen, views)
