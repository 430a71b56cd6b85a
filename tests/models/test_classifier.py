"""Classifiers: preprocessing against torchvision and timm, and by hand; inputs; fingerprints.

Checks of models on views, in one sentence each, and costs by hand; see hostile_models.py.
"""

import math
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.models import checks
from kdtune.models.checks import count_flops, measure_cost, probe
from kdtune.models.classifier import (
    Classifier,
    Preprocessing,
    fashion_student,
    preprocessing_of,
    published_by_timm,
    published_by_torchvision,
)
from kdtune.models.registry import build, build_model
from kdtune.models.weights import save_weights

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


def test_views_are_scaled_normalised_and_shrunk_by_hand() -> None:
    view = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    seen = Preprocessing(mean=(0.0, 0.1, 0.5), std=(1.0, 0.1, 0.25))(view)
    assert torch.allclose(seen.flatten(), torch.tensor([0.0, 1.0, 2.0]))
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


VIEWS = torch.randint(0, 256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
FEW = torch.arange(20, dtype=torch.uint8).view(2, 1, 2, 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lazy", "layers and weights of .* cannot be read: .* uninitialized parameter"),
        ("of_batch", "must return the same logits for an example in any batch in eval mode"),
        ("pairs", "one tensor of floating-point numbers, but returns a tuple"),
        ("one_logit_in_training", r"logits \[B, 3\].* in train mode, but returns .* \[2, 1\];"),
        ("not_a_number", r"logits \[B, 3\].* data, but returns some that are NaN or infinite"),
        ("nan_in_training", "in train mode, but returns some that are NaN or infinite"),
        ("frozen", "cannot learn: its logits have no gradient .* parameters; call net"),
        ("detached", "cannot learn: its logits have no gradient"),
        ("exits", r"exits failed: it calls sys\.exit\(0\) .*line \d+\); leave"),
    ],
)
def test_a_model_that_cannot_work_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        probe(build(f"hostile_models:{name}", "none", 3, seed=0), VIEWS, 3, whole=True)
    assert f"hostile_models:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_an_input_that_is_changed_in_place_is_refused() -> None:
    class Halves(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5))

    with pytest.raises(InputError, match="must leave its input as it is"):
        probe(Classifier("mine:net", Halves(4, 3), None), torch.ones(2, 4), 3, whole=True)


def classifier(*layers: nn.Module) -> Classifier:
    return Classifier("made", nn.Sequential(*layers), Preprocessing())


class Sequences(nn.Module):
    """From views [B, 1, T, D] to the mean of the outputs of a layer for sequences."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x[:, 0])
        return (out[0] if isinstance(out, tuple) else out).mean(1)


def test_costs_of_a_linear_layer_and_an_ensemble(tmp_path: Path) -> None:
    members = [classifier(nn.Flatten(), nn.Linear(10, 5)) for _ in range(3)]
    cost = measure_cost(members[:1], "student", FEW, threads=1)
    assert (cost.role, cost.model, cost.params) == ("student", "made", 10 * 5 + 5)
    assert cost.flops == 2 * 10 * 5
    assert 0 < cost.latency_ms < 1000 and 0 < (cost.latency32_ms or 0) < 1000
    assert cost.latency_ms_iqr is not None and cost.latency_ms_iqr >= 0
    save_weights(members[0].net, tmp_path / "student.safetensors")
    assert cost.bytes == (tmp_path / "student.safetensors").stat().st_size
    cost = measure_cost(members, "teacher", FEW)
    assert (cost.model, cost.params, cost.flops) == ("made+made+made", 3 * 55, 3 * 100)


class Slow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.03)
        return x


def test_the_latencies_of_a_model_take_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 times 30 ms do not fit into it; a single pass is timed in any case."""
    slow = classifier(nn.Flatten(), Slow(), nn.Linear(10, 5))
    cost = measure_cost([slow], "student", FEW)
    assert cost.latency_ms > 30 and cost.latency_ms_iqr is not None
    assert cost.latency32_ms is None and cost.latency32_ms_iqr is None
    monkeypatch.setattr(checks, "MAX_SECONDS", 0.05)
    cost = measure_cost([slow], "student", FEW)
    assert cost.latency_ms > 30 and cost.latency_ms_iqr is None and cost.flops == 2 * 10 * 5


def test_threads_and_statistics_are_left_and_operations_without_a_count_have_no_flops() -> None:
    model = classifier(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(10, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    measure_cost([model], "teacher", FEW, threads=2)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @torch.library.custom_op("kdtune_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x + x

    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return twice(x)

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError

    for module in (Foreign(), Failing()):
        assert count_flops(classifier(nn.Flatten(), module, nn.Linear(10, 5)), FEW) is None


class Asking(nn.Module):
    """A layer that needs the values of its input, so that shapes alone are not enough."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("layers", "shape", "multiply_adds"),
    [
        ([nn.Flatten(), Asking(), nn.Linear(10, 5)], (2, 5), 50),
        # 4 filters of 1 x 3 x 3 at 2 x 5 positions
        ([nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(40, 2)], (2, 5), 360 + 80),
        # 4 gates of 3 units from 5 inputs and 3 units, at 2 steps: one fused operation of oneDNN
        ([Sequences(nn.LSTM(5, 3, batch_first=True)), nn.Linear(3, 2)], (2, 5), 2 * 12 * 8 + 6),
        # Two tokens of 4 numbers: projections in and out, two matrix products, two layers, a head.
        # In eval mode PyTorch computes it in one operation, which the counter does not know.
        (
            [Sequences(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)), nn.Linear(4, 3)],
            (2, 4),
            2 * 4 * 12 + 2 * 4 * 4 + 2 * (2 * 2 * 4) + 2 * (2 * 4 * 8) + 4 * 3,
        ),
    ],
)
def test_flops_by_hand(layers: list[nn.Module], shape: tuple[int, int], multiply_adds: int) -> None:
    views = torch.zeros(1, 1, *shape, dtype=torch.uint8)
    assert count_flops(classifier(*layers).eval(), views) == 2 * multiply_adds
    assert torch.backends.mha.get_fastpath_enabled()


OF_EACH_KIND = """cifar_resnet20 resnet18 mobilenet_v3_small timm/tf_efficientnet_lite0
timm/vit_tiny_patch16_224 kdtune.models:fashion_teacher factories:photo_student"""


@pytest.mark.parametrize("name", OF_EACH_KIND.split())
def test_flops_are_counted_from_shapes(name: str) -> None:
    net, counter, kinds = build(name, "none", 10, seed=0), FlopCounterMode(display=False), set()
    views = torch.zeros((1, net.preprocessing.channels or 1, 224, 224), dtype=torch.uint8)

    def forward(x: Tensor) -> Tensor:
        kinds.add(type(x))
        return net(x)

    net.set_mode(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # the counter knows no other
        net(views)
    assert count_flops(forward, views) == counter.get_total_flops() > 0
    assert kinds == {FakeTensor}
    assert torch.equal(net(views), net(views))  # the model has kept no tensor without values
