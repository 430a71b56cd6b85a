"""Models by name, factory and object, against torchvision's own, and laws.

ResNets for CIFAR against the paper's table 6, a forward pass by hand, and published layouts.
"""

import linecache
import random
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import factories
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.models.checks import probe
from kdtune.models.classifier import Classifier, fashion_student
from kdtune.models.code_hash import ObjectSource
from kdtune.models.registry import CLASS_KEYWORDS, build, build_model, call_factory
from kdtune.models.weights import save_weights

TEACHER, STUDENT = "kdtune.models:fashion_teacher", "kdtune.models:fashion_student"


def views(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


VIEWS = views(2, 1, 28, 28)


def failing():
    return nn.Linear("4", 2)  # torch raises it, but the fault is in this line


def wants_more(blocks, widths, num_classes=10, *, norm):
    return nn.Linear(1, num_classes)


made = nn.Linear(3, 10)


def drawing_from_all(classes):
    """Draw weights from the global generators of Python and numpy as well."""
    net = fashion_student(classes)
    net[0].weight.data[0] = random.random()
    net[0].weight.data[1] = np.random.random()  # noqa: NPY002
    return net


def state_equal(a, b):
    a, b = a.net.state_dict(), b.net.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_torchvision_model_is_torchvisions_and_refuses_other_views():
    model = build("mobilenet_v3_small", "none", 7, seed=1)
    own = torchvision.models.mobilenet_v3_small(num_classes=7)
    assert str(model.net) == str(own)
    own.load_state_dict(model.net.state_dict())
    own.eval()
    model.set_mode(False)
    x = views(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), own(model.preprocessing(x)))
    with pytest.raises(InputError, match=r"fashion_student fails on views of shape \[3, 28, 28\]"):
        probe(build(STUDENT, "none", 10, seed=1), views(2, 3, 28, 28), 10, whole=False)
    model = build("squeezenet1_0", "none", 10, seed=1)
    with pytest.raises(InputError, match=r"squeezenet1_0.* classifier.1 is not its last operation"):
        probe(model, views(2, 3, 64, 64), 10, whole=False)


REFUSED = {
    "resnet56": "of torchvision or kdtune; .*; did you mean cifar_resnet56, ",
    "mobilnet_v3_small": "did you mean mobilenet_v3_small",
    "mobilenetv3_large_100": "did you mean timm/mobilenetv3_large_100, ",
    "timm/xyzzyx": r"timm has no model xyzzyx \(Unknown model",
    "net.safetensors": "'net.safetensors' is not .*, and a file of weights is given as --teacher",
    "kdtune.models:fashion_studnet": "fashion_studnet cannot be imported",
    "torch.nn:Flatten": "Flatten must have a Linear or Conv2d layer as its head",
    f"{__name__}:made": "must be a function or class .* but is a Linear. Write a function",
    f"{__name__}:wants_more": "classes .missing a required argument: '.*'.. Write a func",
    "operator:neg": "neg must return a torch.nn.Module, but got int",
    f"{__name__}:failing": r"failing failed: TypeError: .*test_registry.py, line \d+",
}


@pytest.mark.parametrize(("name", "words"), REFUSED.items())
def test_unknown_names_and_unfit_factories_are_refused_in_one_sentence(name, words):
    if "timm" in words:
        pytest.importorskip("timm")
    with pytest.raises(InputError, match=words) as caught:
        build(name, "none", 7, seed=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", f"{__name__}:drawing_from_all"])
def test_weights_follow_from_the_seed_alone(name):
    def states():
        own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
        return own, numpys[1].tolist(), numpys[2], torch.get_rng_state().tolist()

    before = states()
    first = build(name, "none", 10, seed=1)
    assert states() == before
    assert state_equal(first, build(name, "none", 10, seed=1))
    assert not state_equal(first, build(name, "none", 10, seed=2))
    # the settings of torch that a factory changes are restored as well
    build("hostile_models:turns_gradients_off", "none", 3, seed=0)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_head_of_another_size_is_replaced_or_refused(tmp_path):
    file = tmp_path / "ten.safetensors"
    ten = build(STUDENT, "none", 10, seed=1)
    save_weights(ten.net, file)
    assert state_equal(build(STUDENT, str(file), 10, seed=2, replace_head=False), ten)
    seven = build(STUDENT, str(file), 7, seed=2)
    fresh = build(STUDENT, "none", 7, seed=2)
    assert torch.equal(seven.head.weight, fresh.head.weight) and len(seven.head.weight) == 7
    ten.head.weight, ten.head.bias = fresh.head.weight, fresh.head.bias
    assert state_equal(ten, seven)
    with pytest.raises(InputError, match="for 10 classes, but the data has 7") as caught:
        build(STUDENT, str(file), 7, seed=2, replace_head=False)
    assert str(file) in str(caught.value)


def test_modes_decide_what_drifts_and_learns():
    for batch_norm_training in (True, False):
        model = build(STUDENT, "none", 10, seed=1)
        before = model.net[1].running_mean.clone()
        model.set_mode(True, batch_norm_training)
        model(views(8, 1, 28, 28))
        assert model.net.training and model.net[2].training
        assert torch.equal(model.net[1].running_mean, before) != batch_norm_training
        model.set_mode(False, batch_norm_training)
        assert not any(module.training for module in model.modules())
    model.freeze(head=False)
    learns = [name for name, p in model.net.named_parameters() if p.requires_grad]
    assert learns == [f"{model.head_name}.weight", f"{model.head_name}.bias"]
    model.freeze()
    assert not any(p.requires_grad for p in model.parameters())


def test_fingerprint_changes_with_everything_that_logits_depend_on():
    models = [build(STUDENT, "none", 10, seed=1) for _ in range(6)]
    first, weights, statistics, seen, named, layers = models
    assert len({model.fingerprint() for model in models}) == 1
    weights.net[0].weight.data[0, 0, 0, 0] += 1e-4
    statistics.net[1].running_mean[0] += 1e-4
    seen.preprocessing = replace(seen.preprocessing, mean=(0.287,))
    named.name = TEACHER
    layers.net[2] = nn.LeakyReLU()
    assert len({model.fingerprint() for model in models}) == 6
    assert len({model.fingerprint(with_head=False) for model in models}) == 6
    before, body = first.fingerprint(), first.fingerprint(with_head=False)
    first.head.bias.data[3] += 1
    assert first.fingerprint() != before and first.fingerprint(with_head=False) == body


# eps of bfloat16 is 2**-8, of float16 2**-11
@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.02), ("fp16", 0.0025)])
def test_rounded_logits_equal_fp32_logits_up_to_rounding(precision: Any, error: float) -> None:
    model = build(STUDENT, "none", 10, seed=1)
    model.set_mode(False)
    x = views(16, 1, 28, 28)
    with torch.no_grad():
        exact = model(x)
        rounded = model.place(torch.device("cpu"), precision)(x)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < error * exact.abs().max()


def test_a_factory_that_returns_the_same_module_twice_is_refused() -> None:
    name = "hostile_models:shared"
    run = Run(student=name, teacher=name, teacher_weights="none", teacher_epochs=0)
    build_model(run, "student", 3, seed=0, weights="none")
    build_model(run, "teacher", 3, seed=0)  # which is taken as it is
    build_model(run, "teacher", 3, seed=0)
    for role, other in (("student", run), ("teacher", replace(run, teacher_epochs=2))):
        with pytest.raises(InputError, match="a new module in each call, but has returned the sam"):
            build_model(other, role, 3, seed=0, weights="none")


def net_of(outputs, width=3):
    return nn.Linear(width, outputs)


def any_keyword(width=3, **options):
    return net_of(options["num_classes"], width)


def outputs_of(factory):
    *_, head = call_factory(factory, "mine:net", 7).modules()
    assert head.in_features == 3
    return head.out_features


@pytest.mark.parametrize(
    ("factory", "outputs"),
    [
        (lambda k: net_of(k), 7),
        (lambda *values, **options: net_of(*values, **options), 7),
        (any_keyword, 7),
        (partial(any_keyword, num_classes=100), 7),
        (lambda width=3: net_of(10, width), 10),
        (lambda: net_of(10), 10),
    ],
)
def test_the_number_of_classes_is_given_once_or_not_at_all(factory, outputs):
    assert outputs_of(factory) == outputs
    for word in CLASS_KEYWORDS:
        optional = f"lambda width=3, {word}=10: net_of({word}, width)"
        assert outputs_of(eval(optional, globals())) == 7
        assert outputs_of(eval(f"lambda *, {word}: net_of({word})", globals())) == 7


def student(value: Any, seed: int = 0, **values: Any) -> Classifier:
    return build_model(Run(student=value, **values), "student", 10, seed=seed)


def state(net: nn.Module) -> dict[str, Any]:
    """Weights, modes and settings of a module."""
    own = {f"{name} mode": module.training for name, module in net.named_modules()}
    own |= {f"{name} learns": p.requires_grad for name, p in net.named_parameters()}
    return own | {name: value.tolist() for name, value in net.state_dict().items()}


def test_a_module_is_copied_for_each_model_and_never_changed(tmp_path: Path) -> None:
    by_name = build("factories:dropout_student", "none", 10, seed=1)
    of_function = student(lambda k: factories.dropout_student(k), 1)
    assert state_equal(of_function, by_name)
    assert of_function.fingerprint() != by_name.fingerprint()  # which includes the name
    net = factories.dropout_student(10)
    net[0].weight.requires_grad_(False)
    net[1].eval()
    before = state(net)
    first, second = student(net, seed=1), student(net, seed=2)
    assert state(first.net) == before and first.fingerprint() == second.fingerprint()
    probe(first, VIEWS, 10, whole=True)
    first.freeze().double()
    assert state(net) == before == state(second.net)
    wrapper = nn.Sequential()
    wrapper._orig_mod = net  # as that of torch.compile has it
    for wrapped in (nn.DataParallel(net), wrapper):
        assert state(student(wrapped).net) == before
    other = factories.dropout_student(10)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    filled = student(net, student_weights=str(tmp_path / "other.pt"))
    assert torch.equal(filled.head.weight, other.get_submodule(filled.head_name).weight)


SCRIPT = """
    import torch
    from torch import nn
    WIDTH = 4
    class Block(nn.Module):
        scale = 2
        def forward(self, x):
            return act(x) * self.scale
    def act(x):
        return x.relu()  # a comment
    def make(classes):
        return nn.Sequential(nn.Linear(2, WIDTH), Block(), nn.Linear(WIDTH, classes))
    def outer(slope):
        return lambda classes: nn.Sequential(nn.Linear(2, classes), nn.LeakyReLU(slope))
    early = outer(0.1)
"""


def program(text: str, number: int) -> ModuleType:
    """Run a text as a notebook's cell: no module, no file, but its lines can be read."""
    file = f"<cell {number}>"
    text = textwrap.dedent(text)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType("__main__")
    exec(compile(text, file, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("x.relu()", "x.sigmoid()", {"make"}),
        ("WIDTH = 4", "WIDTH = 5", {"make"}),
        ("outer(0.1)", "outer(0.2)", {"early"}),
        ("# a comment", "# another", set()),
    ],
)
def test_code_of_a_script_counts_as_far_as_needed(old: str, new: str, changes: set[str]) -> None:
    assert old in textwrap.dedent(SCRIPT)
    before, after = program(SCRIPT, 0), program(textwrap.dedent(SCRIPT).replace(old, new), 1)
    for name in ("make", "early"):
        pair = [ObjectSource.of(getattr(module, name)) for module in (before, after)]
        assert (pair[0].digest != pair[1].digest) == (name in changes), name
    cell = "import factories\ndef make(classes):\n    return factories.tiny_student(classes)"
    assert ObjectSource.of(program(cell, 2).make).modules == {"factories"}
    net = [ObjectSource.of(module.make(3)) for module in (before, after)]
    block = {"x.relu()", "scale = 2"}
    assert (net[0].digest != net[1].digest) == (old in block)


FILES = {
    "mine/__init__.py": "",
    "mine/models.py": """
        import factories
        import elsewhere_of_mine
        from .layers import act
        from .sizes import WIDTH
        def small(classes):
            return factories.tiny_student(classes)
        def late(classes):
            from .late import unused
    """,
    "mine/layers.py": "from .activations import act\n",
    "mine/activations.py": "def act(x):\n    return x.relu()\n",
    "mine/sizes.py": "WIDTH = 8\n",
    "mine/late.py": "unused = 1\n",
    "mine/unrelated.py": "x = 1\n",
    "site-packages/elsewhere_of_mine.py": "w = 1\n",
}


def fingerprint() -> str:
    """As another process, which reads the files again, would compute it."""
    for name in [n for n in sys.modules if n.partition(".")[0] in ("mine", "elsewhere_of_mine")]:
        del sys.modules[name]
    return build("mine.models:small", "none", 10, seed=1).fingerprint()


def test_edited_imports_change_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would hide edits within a second
    prints = set()
    for root in (tmp_path / "project", tmp_path / "moved"):
        for name, text in FILES.items():
            (root / name).parent.mkdir(exist_ok=True, parents=True)
            (root / name).write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(root / "site-packages")
        monkeypatch.syspath_prepend(root)
        prints.add(fingerprint())
    assert len(prints) == 1
    for name, changes in (
        ("mine/activations.py", True),  # indirectly imported
        ("mine/sizes.py", True),  # a constant, which leaves no trace in the namespace
        ("mine/late.py", True),  # imported inside of a function
        ("mine/__init__.py", True),  # run by every import from the package
        ("mine/unrelated.py", False),
        ("site-packages/elsewhere_of_mine.py", False),  # an installed package
    ):
        before = fingerprint()
        (root / name).write_text(FILES[name] + "z = 1\n")
        # a process that runs the old code keeps the old fingerprint
        assert build("mine.models:small", "none", 10, seed=1).fingerprint() == before
        assert (fingerprint() != before) == changes, name


def test_edits_of_kdtune_do_not_change_its_own_factories(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(TEACHER, "none", 10, seed=1).fingerprint()
    read: Callable[..., bytes] = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: read(file) + b"# edited")
    assert build(TEACHER, "none", 10, seed=1).fingerprint() == before


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_parameters_are_those_of_the_papers_table_6(depth, millions):
    net = build(f"cifar_resnet{depth}", "none", 10, seed=1).net
    digits = 1 if depth == 110 else 2
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, digits) == millions
    weighted = [p for p in net.parameters() if p.ndim > 1]
    assert len(weighted) == depth  # 6n + 1 convolutions and the linear layer


def norm(x, state, name):
    values = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *values)


def by_hand(state, x, blocks):
    """Return the logits of a ResNet with option A, from its state dict in the paper's words."""
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            halves = stage > 1 and block == 0
            shortcut = x
            if halves:
                shortcut = torch.zeros(len(x), width, x.shape[2] // 2, x.shape[3] // 2)
                shortcut[:, width // 4 : width // 4 + width // 2] = x[:, :, ::2, ::2]
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=1 + halves, padding=1)
            y = F.relu(norm(y, state, f"{name}.bn1"))
            y = F.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
            x = F.relu(norm(y, state, f"{name}.bn2") + shortcut)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def randomise(net):
    """Give the batch norm layers statistics and weights that are not 0 and 1."""
    generator = torch.Generator().manual_seed(4)
    for name, value in net.state_dict().items():
        if ("bn" in name or "downsample" in name) and value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))


def test_logits_of_option_a_are_those_by_hand():
    model = build("cifar_resnet20", "none", 10, seed=1)
    randomise(model.net)
    model.set_mode(False)
    views = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        reference = by_hand(model.net.state_dict(), (views / 255 - mean) / std, blocks=3)
        assert torch.allclose(model(views), reference, rtol=1e-4, atol=1e-4)
    assert reference.std() > 0.1  # else the tolerance would prove nothing


def akamaster(state):
    keys = {key: f"module.{key.replace('fc.', 'linear.')}" for key in state}
    return {"state_dict": {keys[key]: state[key] for key in state}, "best_prec1": 91.7}


def repdistiller(state):
    return {"epoch": 240, "model": dict(state), "best_acc": torch.tensor(70.0), "optimizer": {}}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("cifar_resnet20", akamaster),
        ("cifar_resnet20_b", dict),  # chenyaofo's
        ("cifar_resnet8x4_b", repdistiller),
    ],
)
def test_published_layouts_load(tmp_path, name, layout):
    file, net = tmp_path / "weights.th", build(name, "none", 100, seed=1).net
    randomise(net)
    torch.save(layout(net.state_dict()), file)
    filled = build(name, str(file), 100, seed=2, replace_head=False).net.state_dict()
    assert all(torch.equal(value, filled[key]) for key, value in net.state_dict().items())


def test_option_b_has_the_keys_and_numbers_of_its_published_weights():
    models = {k: build("cifar_resnet20_b", "none", k, seed=1) for k in (7, 10, 100)}
    probe(models[7], torch.zeros(2, 1, 28, 28, dtype=torch.uint8), 7, whole=False)  # small and grey
    means = {classes: model.preprocessing.mean[0] for classes, model in models.items()}
    assert means == {7: 0.4914, 10: 0.4914, 100: 0.5071}
    keys = models[10].net.state_dict().keys()
    assert {"layer2.0.downsample.0.weight", "layer3.0.downsample.1.running_mean"} <= keys
    assert not any("layer1.0.downsample" in key for key in keys)
