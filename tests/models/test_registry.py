"""Models against torchvision's and timm's own constructors and transforms, and laws.

The laws: weights are a function of (name, seed); the logits of the features are those of the views;
frozen layers do not learn; a fingerprint changes with everything that the logits depend on.
"""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2 import functional as F

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.models.checks import probe
from kdtune.models.classifier import Classifier, Preprocessing, fashion_student
from kdtune.models.registry import MAX_SUGGESTIONS, build, build_model
from kdtune.models.weights import save_weights

TEACHER, STUDENT = "kdtune.models:fashion_teacher", "kdtune.models:fashion_student"
TIMM = "timm/test_efficientnet"


def views(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def one_class_more(classes):
    return fashion_student(classes + 1)


def headless(classes):
    return nn.Flatten()


def drawing_from_all(classes):
    """Draw weights from the global generators of Python and numpy as well."""
    net = fashion_student(classes)
    net[0].weight.data[0] = random.random()
    net[0].weight.data[1] = np.random.random()  # noqa: NPY002
    return net


def state_equal(a, b):
    a, b = a.net.state_dict(), b.net.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_torchvision_model_is_torchvisions():
    model = build("mobilenet_v3_small", "none", 7, seed=1)
    own = torchvision.models.mobilenet_v3_small(num_classes=7)
    assert str(model.net) == str(own)
    own.load_state_dict(model.net.state_dict())
    own.eval()
    model.set_mode(False)
    x = views(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), own(model.preprocessing(x)))


def test_timm_model_is_timms():
    timm = pytest.importorskip("timm")
    model = build(TIMM, "none", 7, seed=1)
    own = timm.create_model("test_efficientnet", num_classes=7)
    assert str(model.net) == str(own)
    config = own.pretrained_cfg
    shape = config["input_size"]
    assert (model.preprocessing.channels, model.preprocessing.size) == (shape[0], shape[1])
    assert model.preprocessing.mean == config["mean"] and model.preprocessing.std == config["std"]


def test_similar_names_of_all_libraries_are_suggested_the_best_first():
    pytest.importorskip("timm")
    for name, words in {
        "resnet56": "of torchvision or kdtune, .*; did you mean cifar_resnet56, cifar_resnet56_b, ",
        "resnet181": "did you mean resnet18, ",
        "ResNet-50": "did you mean resnet50, ",
        "mobilenetv3_large_100": "did you mean timm/mobilenetv3_large_100, ",
        "efficientnet_lite2": "did you mean timm/tf_efficientnet_lite2, ",
        "timm/resnet18x": "timm has no model resnet18x; did you mean timm/resnet18, ",
        "timm/resnet18.a0_in0k": "timm has no model resnet18.a0_in0k; did you mean timm/resnet18, ",
        "timm/xyzzyx": r"timm has no model xyzzyx \(Unknown model",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            build(name, "none", 7, seed=1)
        assert (
            str(caught.value).count(",") <= MAX_SUGGESTIONS
        )  # one of the sentence, others between


def test_suggestions_do_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="did you mean cifar_resnet56, cifar_resnet56_b, resnet50"):
        build("resnet56", "none", 7, seed=1)
    with pytest.raises(InputError, match=r"'xyzzy' is not .* module:factory$"):
        build("xyzzy", "none", 7, seed=1)


def test_a_file_given_as_a_model_is_said(tmp_path):
    (tmp_path / "resnet50").touch()
    for name in (str(tmp_path / "resnet50"), "resnet50-0676ba61.pth", "timm/model.safetensors"):
        with pytest.raises(
            InputError, match=f"name an architecture, but got the file {name}. Give"
        ):
            build(name, "none", 7, seed=1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mobilnet_v3_small", "did you mean mobilenet_v3_small"),
        ("kdtune.models:fashion_studnet", "fashion_studnet cannot be imported"),
        ("no_such_module:net", "no_such_module:net cannot be imported"),
        (
            "torchvision.models:resnet18",
            "models of torchvision are given by name; use resnet18 for torchvision.models:resnet18",
        ),
        (f"{__name__}:headless", "headless must have a Linear or Conv2d layer as its head"),
    ],
)
def test_unknown_names_and_unfit_factories_are_refused_in_one_sentence(name, words):
    with pytest.raises(InputError, match=words) as caught:
        build(name, "none", 7, seed=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("net = 1 / 0\n", r"imported: ZeroDivisionError: division by zero \(.*mine.py, line 1\)$"),
        ("def net(k):\n    return k +\n", r"imported: SyntaxError: .* \(.*mine.py, line 2\)$"),
        # torch raises it, but the fault is in the user's line
        (
            "from torch import nn\n\ndef net(k):\n    return nn.Linear('4', k)\n",
            r"mine:net, called as net\(7\), failed: TypeError: .* \(.*mine.py, line 4\)$",
        ),
    ],
)
def test_an_error_in_a_factory_names_the_users_line(tmp_path, monkeypatch, text, words):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(InputError, match=words):
        build("mine:net", "none", 7, seed=1)


@pytest.mark.parametrize("name", [STUDENT, "mobilenet_v3_small", f"{__name__}:drawing_from_all"])
def test_weights_follow_from_the_seed_alone(name):
    def draw():
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

    def seed(number):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)  # noqa: NPY002

    seed(8)
    undisturbed = draw()
    seed(8)
    first = build(name, "none", 10, seed=1)
    assert draw() == undisturbed
    seed(9)
    assert state_equal(first, build(name, "none", 10, seed=1))
    assert not state_equal(first, build(name, "none", 10, seed=2))


def test_head_of_another_size_is_replaced_or_refused(tmp_path):
    file = tmp_path / "ten.safetensors"
    ten = build(STUDENT, "none", 10, seed=1)
    save_weights(ten.net, file)
    assert state_equal(build(STUDENT, str(file), 10, seed=2, replace_head=False), ten)
    seven = build(STUDENT, str(file), 7, seed=2)
    fresh = build(STUDENT, "none", 7, seed=2)
    assert torch.equal(seven.head.weight, fresh.head.weight) and len(seven.head.weight) == 7
    old, new = ten.net.state_dict(), seven.net.state_dict()
    body = [key for key in old if not key.startswith(ten.head_name)]
    assert len(body) == len(old) - 2 and all(torch.equal(old[key], new[key]) for key in body)
    with pytest.raises(InputError, match="for 10 classes, but the data has 7") as caught:
        build(STUDENT, str(file), 7, seed=2, replace_head=False)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (2, 3, 64, 64)),
        ("mobilenet_v3_small", (2, 3, 64, 64)),
        (TEACHER, (2, 1, 28, 28)),
        (STUDENT, (2, 1, 28, 28)),
    ],
)
def test_logits_of_the_features_are_those_of_the_views(name, shape):
    model = build(name, "none", 10, seed=1)
    model.set_mode(False)
    x = views(*shape)
    with torch.no_grad():
        logits, features = model(x), model.features(x)
        assert torch.equal(model.classify(features), logits)
    assert logits.shape == (2, 10) and logits.dtype == features.dtype == torch.float32
    assert features.shape == (2, model.head.in_features)
    assert not torch.equal(logits[0], logits[1])
    assert not model.head._forward_pre_hooks


def test_probe_accepts_models_that_fit():
    for name, shape in ((STUDENT, (2, 1, 28, 28)), ("squeezenet1_0", (2, 3, 64, 64))):
        model = build(name, "none", 10, seed=1)
        probe(model, views(*shape), 10, whole=name != STUDENT)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("squeezenet1_0", (2, 3, 64, 64), "classifier.1 is not its last operation"),
        (f"{__name__}:one_class_more", (2, 1, 28, 28), r"logits \[B, 10\], .* got \[2, 11\]\. Let"),
        (STUDENT, (2, 3, 28, 28), r"fails on views of shape \[3, 28, 28\]"),
    ],
)
def test_probe_refuses_in_one_sentence(name, shape, words):
    model = build(name, "none", 10, seed=1)
    with pytest.raises(InputError, match=words) as caught:
        probe(model, views(*shape), 10, whole=False)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_norm_training", [True, False])
def test_set_mode_decides_whether_running_statistics_drift(batch_norm_training):
    model = build(STUDENT, "none", 10, seed=1)
    before = model.net[1].running_mean.clone()
    model.set_mode(True, batch_norm_training)
    model(views(8, 1, 28, 28))
    assert model.net.training and model.net[2].training
    assert torch.equal(model.net[1].running_mean, before) != batch_norm_training
    model.set_mode(False, batch_norm_training)
    assert not any(module.training for module in model.modules())


def test_freeze_leaves_the_head_or_nothing_to_learn():
    model = build("mobilenet_v3_small", "none", 10, seed=1)
    model.freeze(head=False)
    learns = [name for name, p in model.net.named_parameters() if p.requires_grad]
    assert learns == [f"{model.head_name}.weight", f"{model.head_name}.bias"]
    model.freeze()
    assert not any(p.requires_grad for p in model.parameters())


def test_preprocessing_is_torchvisions():
    x = views(2, 3, 224, 224)
    own = build("resnet18", "none", 10, seed=1).preprocessing
    reference = torchvision.models.ResNet18_Weights.DEFAULT.transforms(resize_size=224)
    assert torch.allclose(own(x), reference(x), rtol=0, atol=1e-6)


def test_preprocessing_repeats_grey_and_shrinks_only():
    own = Preprocessing(size=32, channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    grey = views(2, 1, 20, 20)
    assert torch.equal(own(grey), own(grey.repeat(1, 3, 1, 1)))
    assert own(grey).shape == (2, 3, 20, 20)
    large = views(2, 3, 80, 80)
    shrunk = F.resize(large.float() / 255, [32, 32], antialias=True)
    reference = F.normalize(shrunk, list(own.mean), list(own.std))
    assert torch.allclose(own(large), reference, rtol=0, atol=1e-6)
    assert torch.equal(Preprocessing()(grey), grey / 255)


def test_fingerprint_changes_with_everything_that_logits_depend_on():
    def fresh():
        return build(STUDENT, "none", 10, seed=1)

    first, weights, statistics, seen = fresh(), fresh(), fresh(), fresh()
    assert first.fingerprint() == fresh().fingerprint()
    weights.net[0].weight.data[0, 0, 0, 0] += 1e-4
    statistics.net[1].running_mean[0] += 1e-4
    seen.preprocessing = replace(seen.preprocessing, mean=(0.287,))
    named, layers = fresh(), fresh()
    named.name = TEACHER
    layers.net[2] = nn.LeakyReLU()
    models = (first, weights, statistics, seen, named, layers)
    assert len({model.fingerprint() for model in models}) == len(models)
    assert len({model.fingerprint(with_head=False) for model in models}) == len(models)


def test_fingerprint_without_the_head_ignores_it():
    first, other = build(STUDENT, "none", 10, seed=1), build(STUDENT, "none", 10, seed=1)
    other.head.bias.data[3] += 1
    assert first.fingerprint() != other.fingerprint()
    assert first.fingerprint(with_head=False) == other.fingerprint(with_head=False)


def test_bf16_logits_equal_fp32_logits_up_to_rounding():
    model = build(STUDENT, "none", 10, seed=1)
    model.set_mode(False)
    x = views(16, 1, 28, 28)
    with torch.no_grad():
        exact = model(x)
        rounded = model.place(torch.device("cpu"), "bf16")(x)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.02 * exact.abs().max()  # eps of bfloat16 is 2**-8


def test_a_factory_that_returns_the_same_module_twice_is_refused() -> None:
    shared = {"student": "hostile_models:shared", "teacher": "hostile_models:shared"}
    run = Run(**shared, student_weights="none", teacher_weights="none", teacher_epochs=0)
    first = build_model(run, "student", 3, seed=0)
    with pytest.raises(InputError, match="a new module in each call, but has returned the same"):
        build_model(run, "student", 3, seed=0)
    assert isinstance(first, Classifier)
    build_model(run, "teacher", 3, seed=0)  # which is taken as it is
    build_model(run, "teacher", 3, seed=0)
    with pytest.raises(InputError, match="a new module in each call"):
        build_model(replace(run, teacher_epochs=2), "teacher", 3, seed=0)


def test_settings_of_torch_that_a_factory_changes_are_restored() -> None:
    build("hostile_models:turns_gradients_off", "none", 3, seed=0)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_a_command_whose_factory_exits_has_not_succeeded(tmp_path: Path) -> None:
    """The exit code of the factory, 0, is not that of the command."""
    (tmp_path / "mine.py").write_text("import sys\n\ndef net(classes):\n    sys.exit(0)\n")
    flags = ["--student", "mine:net", "--student-weights", "none", "--out", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "kdtune.distill", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2 and ended.stderr.startswith("error: mine:net, called as net(")
    assert "Traceback" not in ended.stderr
